"""A network as a program: traced for images of any size, and compared with torch wherever it was written to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError, RunError
from segshift.models.network import TrainedModel
from segshift.models.segmenter import Segmenter, upsample
from segshift.scan import evaluating

TOLERANCE = 1e-4
"""Largest difference from torch's class scores that a file may have, as a share of the largest score (at least 1)."""

COARSE = 32
"""What every side is a multiple of, for networks that cannot be traced for all sizes."""


class Exported(NamedTuple):
    """What was written."""

    files: tuple[Path, ...]
    difference: float
    """Largest difference from torch's class scores, as a share of the largest of them (at least 1)."""
    sizes: tuple[tuple[int, int, int], ...] = ()
    """(batch, height, width) of the images that it was compared on."""
    multiple: int = 1
    """Heights and widths that it takes are multiples of this."""


class Traced(NamedTuple):
    """A network as a program of torch.export."""

    program: torch.export.ExportedProgram
    native_stride: bool
    multiple: int
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
