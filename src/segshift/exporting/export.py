"""A trained model for use elsewhere: one function a format, each of which writes files that have been compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from safetensors.torch import load_file
from torch import nn

from segshift.errors import ConfigError, RunError
from segshift.exporting.tracing import Exported
from segshift.models.network import TrainedModel, describe_model, load_model, model_folder, save_model

Format = Literal["onnx", "torch-export", "model", "huggingface"]


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
    from segshift.exporting.onnx_file import write

    return write(job.trained, job.out / "model.onnx", job.native_stride)


def _torch_export(job: _Job) -> Exported:
    from segshift.exporting.program import write

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
