"""A trained model for use elsewhere: one function a format, each of which writes files that have been compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from segshift.errors import ConfigError, RunError
from segshift.models.network import TrainedModel, describe_model, load_model, model_folder, save_model
from segshift.models.segmenter import Segmenter, upsample
from segshift.scan import evaluating

Format = Literal["onnx", "torch-export", "model", "huggingface"]
TOLERANCE = 1e-4
"""Largest difference from torch's class scores that a file may have, as a share of the largest score (at least 1)."""

COARSE = 32
"""What every side is a multiple of, for networks that cannot be traced for all sizes."""


@dataclass(frozen=True)
class ExportConfig:
    """What is exported."""

    format: Format = "onnx"
    native_stride: bool = False
    """Class scores at the network's own stride, instead of the image's size."""

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ConfigError(f"format = {self.format!r}; expected one of {', '.join(get_args(Format))}")
        if self.format in ("model", "huggingface") and self.native_stride:
            raise ConfigError(f"native_stride = True; expected False with format {self.format}: it holds weights alone")


class Exported(NamedTuple):
    """What was written."""

    files: tuple[Path, ...]
    difference: float
    """Largest difference from torch's class scores, as a share of the largest of them (at least 1)."""
    sizes: tuple[tuple[int, int, int], ...] = ()
    """(batch, height, width) of the images that it was compared on."""
    multiple: int = 1
    """Heights and widths that it takes are multiples of this."""


class ScoresOf(nn.Module):
    """A segmentation network as a function: images (b, 3, h, w), RGB in [0, 1], to class scores (b, k, h, w)."""

    def __init__(self, network: Segmenter, native_stride: bool = False) -> None:
        """`native_stride`: the scores as the network gives them, not brought to the image's size."""
        super().__init__()
        self.network, self.native_stride = network, native_stride

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k _ _"]:
        # Not the network's own forward: what it says of wrong input cannot be part of a traced program.
        logits = self.network.encode_decode((image - self.network.mean) / self.network.std).logits
        if self.native_stride:
            return logits
        return upsample(logits, (image.shape[2], image.shape[3]), self.network.align_corners)


def export(
    run: Path | str, out: Path | str, config: ExportConfig | None = None, module: nn.Module | None = None
) -> Exported:
    """Write a trained model below `out`; `run` is a run's folder or that of a saved model. `module`: the user's own,
    where the run is of one.

    Raises RunError where a file cannot be read or written, or would compute something else than the model does;
    ConfigError where a library is missing or the network cannot be put into this format.
    """
    config = config or ExportConfig()
    trained = load_model(run, module=module)
    return FORMATS[config.format](_Job(Path(run), Path(out), trained, config.native_stride))


class _Job(NamedTuple):
    run: Path
    out: Path
    trained: TrainedModel
    native_stride: bool


def _model(job: _Job) -> Exported:
    """`model.json` and `model.safetensors`, written again."""
    out, (network, space, short_side) = job.out, job.trained
    if out.exists() and model_folder(job.run).resolve() == out.resolve():
        raise ConfigError(f"out = {out}, where the model lies that is to be exported; expected another folder")
    weights = network.state_dict()
    save_model(out, describe_model(job.run).network, weights, space, short_side)
    found = load_file(out / "model.safetensors")
    if any(not torch.equal(found[name], weights[name]) for name in weights):
        raise RunError(f"{out / 'model.safetensors'}: holds other weights than were written; check the disk")
    return Exported((out / "model.json", out / "model.safetensors"), 0.0)


def _onnx(job: _Job) -> Exported:
    from segshift.export_onnx import write

    return write(job.trained, job.out / "model.onnx", job.native_stride)


def _torch_export(job: _Job) -> Exported:
    from segshift.export_program import write

    return write(job.trained, job.out / "model.pt2", job.native_stride)


def _huggingface(job: _Job) -> Exported:
    """What `save_pretrained` writes, with the classes' names and how images are normalised."""
    from segshift.models import huggingface

    huggingface.save(job.trained.network, job.trained.space.classes, job.out)
    return Exported(tuple(job.out / name for name in ("config.json", "model.safetensors")), 0.0)


FORMATS: Mapping[Format, Callable[[_Job], Exported]] = {
    "onnx": _onnx,
    "torch-export": _torch_export,
    "model": _model,
    "huggingface": _huggingface,
}


def metadata(trained: TrainedModel, traced: Traced) -> dict[str, str]:
    """What must be known to use an exported model; values other than text are JSON."""
    network, space = trained.network, trained.space
    content: dict[str, Any] = {
        "classes": list(space.classes),
        "colors": [list(color) for color in space.colors],
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "short_side": trained.short_side,
        "minimum_size": network.minimum_size,
        "multiple_of": traced.multiple,
        "stride": network.stride if traced.native_stride else 1,
    }
    text = {
        "label_space": space.name,
        "input": "image (batch, 3, height, width), float32, RGB in [0, 1]; it is normalised inside",
        "output": "logits (batch, classes, height, width), float32; the label is the largest",
    }
    return {f"segshift.{name}": value for name, value in text.items()} | {
        f"segshift.{name}": json.dumps(value) for name, value in content.items()
    }


def examples(network: Segmenter, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images to trace with, and two of other sizes to compare on: of one, of two, oblong; sides are multiples of
    `multiple`, and odd where that is 1."""
    side = max(64, -(-2 * network.minimum_size // COARSE) * COARSE)
    more, few = (33, 7) if multiple == 1 else (COARSE, 2 * COARSE)
    rng = torch.Generator().manual_seed(0)
    shapes = ((2, 3, side, side + 32), (1, 3, side + more, 2 * side), (3, 3, side, side + few))
    first, second, third = (torch.rand(shape, generator=rng) for shape in shapes)
    return first, second, third


def compared(
    what: Path, trained: TrainedModel, traced: Traced, run: Callable[[Tensor], Tensor]
) -> tuple[float, tuple[tuple[int, int, int], ...]]:
    """The largest difference of `run`'s class scores from torch's, and the (batch, height, width) of the images.

    RunError, naming the file `what`, where it is larger than `TOLERANCE`, or a score is no number.
    """
    worst, sizes = 0.0, []
    scores = ScoresOf(trained.network, traced.native_stride)
    for image in examples(trained.network, traced.multiple)[1:]:
        with evaluating(scores):
            expected = scores(image)
        found = run(image)
        shape = (image.shape[0], image.shape[2], image.shape[3])
        if found.shape != expected.shape:
            raise RunError(f"{what}: gives scores of shape {tuple(found.shape)}, torch of {tuple(expected.shape)}")
        difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
        if not difference <= TOLERANCE:
            raise RunError(
                f"{what}: differs from torch by {difference:.1e} of the largest class score, on an image of "
                f"{shape[1]}x{shape[2]}; expected at most {TOLERANCE:.0e}. Nothing was written; another version of the "
                "library may do it"
            )
        worst = max(worst, difference)
        sizes.append(shape)
    return worst, tuple(sizes)


class Traced(NamedTuple):
    """A network as a program of torch.export."""

    program: torch.export.ExportedProgram
    native_stride: bool
    multiple: int
    """Heights and widths that it takes are multiples of this."""


def trace(trained: TrainedModel, native_stride: bool, cure: str) -> Traced:
    """The network as a program, for batches and images of any size it can take.

    Where a network treats sides that do not divide evenly in a way of their own (pooling that rounds up), it takes
    multiples of 32. ConfigError with `cure` where the network cannot be traced.
    """
    scores, reasons = ScoresOf(trained.network, native_stride), []
    for multiple in (1, COARSE):
        least = -(-max(trained.network.minimum_size, 2) // multiple)
        height, width = (torch.export.Dim(name, min=least) for name in ("height", "width"))
        if multiple > 1:
            height, width = multiple * height, multiple * width
        shapes = {"image": {0: torch.export.Dim("batch"), 2: height, 3: width}}
        with evaluating(scores):
            try:
                image = examples(trained.network, multiple)[0]
                found = torch.export.export(scores, (image,), dynamic_shapes=shapes)
                return Traced(found, native_stride, multiple)
            except Exception as error:  # whatever the tracer meets in a network that is not ours
                reasons.append(error)
    reason = str(reasons[-1]).strip().partition("\n")[0][:300]
    raise ConfigError(f"{type(trained.network).__name__}: torch.export cannot follow it ({reason}); {cure}") from (
        reasons[-1]
    )


def unwritable(trained: TrainedModel, what: str, error: BaseException) -> ConfigError:
    """The error of a network that was traced, and that `what` has no form for."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return ConfigError(
        f"{type(trained.network).__name__}: has no form in {what} ({lines[0].strip():.300}); use --format model"
    )
