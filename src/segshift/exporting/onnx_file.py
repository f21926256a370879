"""A trained model as ONNX, compared with torch in ONNX Runtime before the file takes its place."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segshift.exporting.tracing import Exported, Traced, compared, metadata, trace, unwritable
from segshift.extras import optional
from segshift.models.network import TrainedModel
from segshift.whole_files import atomic_file


def write(trained: TrainedModel, path: Path, native_stride: bool) -> Exported:
    """Write `image` -> `logits`, with batch, height and width left open, and what must be known to use it in the
    metadata. Raises as `export.export` does."""
    optional("onnx", "onnx", "export to ONNX")
    optional("onnxscript", "onnx", "export to ONNX")
    runtime = optional("onnxruntime", "onnx", "export to ONNX")
    traced = trace(trained, native_stride, "use --format model")
    found = _converted(trained, traced)
    found.model.metadata_props.update(metadata(trained, traced))
    with atomic_file(path) as temporary:
        found.save(str(temporary))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])

        def run(image: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])

        difference, sizes = compared(path, trained, traced, run)
    return Exported((path,), difference, sizes, traced.multiple)


def _converted(trained: TrainedModel, traced: Traced) -> Any:
    """The network in ONNX's newest opset that torch writes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter warns of its own insides
            return torch.onnx.export(
                traced.program,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},  # names of what is open
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise unwritable(trained, "ONNX", error.__cause__ or error) from error
