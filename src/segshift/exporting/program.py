"""A trained model as a program of torch.export: `torch.export.load(file).module()` runs it without Segshift."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import torch

from segshift.exporting.tracing import Exported, compared, metadata, trace, unwritable
from segshift.models.network import TrainedModel
from segshift.whole_files import atomic_write


def write(trained: TrainedModel, path: Path, native_stride: bool) -> Exported:
    """Write the program once it has been read again and compared. What must be known to use it is its extra file
    `segshift.json`. Raises as `export.export` does."""
    traced = trace(trained, native_stride, "use --format model, and the network's own code")
    buffer = io.BytesIO()
    described = {"segshift.json": json.dumps(metadata(trained, traced))}
    with warnings.catch_warnings():
        # Of weights that are views of others, which it then writes in full.
        warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)
        try:
            torch.export.save(traced.program, buffer, extra_files=described)
        except Exception as error:  # whatever it meets in a network that is not ours
            raise unwritable(trained, "torch.export", error) from error
    buffer.seek(0)
    again = torch.export.load(buffer).module()
    with torch.no_grad():
        difference, sizes = compared(path, trained, traced, again)
    atomic_write(path, buffer.getvalue())
    return Exported((path,), difference, sizes, traced.multiple)
