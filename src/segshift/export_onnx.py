"""A trained model as ONNX, compared with torch in ONNX Runtime before the file takes its place."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segshift.errors import ConfigError
from segshift.export import Exported, compared, metadata, program
from segshift.extras import optional
from segshift.models.network import TrainedModel
from segshift.whole_files import atomic_file


def write(trained: TrainedModel, path: Path, native_stride: bool) -> Exported:
    """Write `image` -> `logits`, with batch, height and width left open, and what must be known to use it in the
    metadata. Raises as `export.export` does."""
    for module in ("onnx", "onnxscript"):
        optional(module, "onnx", "export to ONNX")
    runtime = optional("onnxruntime", "onnx", "export to ONNX")
    found = _converted(trained, native_stride)
    found.model.metadata_props.update(metadata(trained, native_stride))
    with atomic_file(path) as temporary:
        found.save(str(temporary))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])

        def run(image: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])

        difference, sizes = compared(path, trained, native_stride, run)
    return Exported((path,), difference, sizes)


def _converted(trained: TrainedModel, native_stride: bool) -> Any:
    """The network in ONNX's newest opset that torch writes."""
    exported = program(trained, native_stride, "use --format model")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter warns of its own insides
            return torch.onnx.export(
                exported, input_names=["image"], output_names=["logits"], dynamo=True, verbose=False
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise ConfigError(f"{type(trained.network).__name__}: has no form in ONNX ({reason})") from error
