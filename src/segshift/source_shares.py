"""How often each class stands in the source's labels: what pseudo-labels of the target are laid beside in a report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch

from segshift.checkpoint import atomic_write
from segshift.data.dataset import LabelledDataset
from segshift.errors import RunError
from segshift.json_shape import require
from segshift.taxonomy import LabelSpace

FILE = "source-classes.json"
MOST = 200
"""Labels that are counted; of more, evenly spread ones."""
_CURE = "delete the file and resume the run, which counts again"


class _Content(TypedDict):
    labels: int
    of: int
    pixels: dict[str, int]


@dataclass(frozen=True)
class SourceShares:
    """Of the source's labels that were counted."""

    labels: int
    """How many were."""
    of: int
    """Labels of the source."""
    shares: dict[str, float | None]
    """Class -> share of the pixels that have a class; None where no pixel has any."""


def write_source_shares(run: Path, source: LabelledDataset | None, space: LabelSpace, most: int = MOST) -> None:
    """Count up to `most` labels, evenly spread over the source, into the run's folder.

    Nothing is done where that is done already, nor without a source.
    """
    if source is None or (run / FILE).is_file():
        return
    count = len(source.names)
    chosen = sorted({i * count // min(most, count) for i in range(min(most, count))})
    pixels = torch.zeros(256, dtype=torch.int64)
    for index in chosen:
        pixels += torch.bincount(source.label(index).flatten(), minlength=256)
    counted = dict(zip(space.classes, pixels[: len(space)].tolist(), strict=True))
    content = {"labels": len(chosen), "of": count, "pixels": counted}
    atomic_write(run / FILE, json.dumps(content, indent=1).encode())


def read_source_shares(run: Path, space: LabelSpace) -> SourceShares | None:
    """What `write_source_shares` counted; None for a run that kept none. RunError where it is damaged."""
    path = run / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {_CURE}") from error
    require(content, _Content, str(path), _CURE)
    pixels = content["pixels"]
    missing = [name for name in space.classes if name not in pixels]
    if missing:
        raise RunError(f"{path}: pixels has no {', '.join(missing)}; {_CURE}")
    total = sum(pixels[name] for name in space.classes)
    shares = {name: pixels[name] / total if total else None for name in space.classes}
    return SourceShares(content["labels"], content["of"], shares)
