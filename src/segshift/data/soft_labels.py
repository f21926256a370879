"""Soft pseudo-labels on disk: the low-resolution logits a round began with, cut where a training crop asks for them.

`RUN/round-N/soft-labels/NAME.safetensors` holds the logits of an image's views in float16, and how they become
probabilities; `index.json` is written last and says that all images are there. Class probabilities at full size would
be 159 MB for 19 classes at 1024x2048; the logits at stride 8 are 1.2 MB a view, and a crop reads its own cells alone.
A file is sealed, and its seal is checked when a process first looks at it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float16, Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segshift.data.file_digests import FileDigests, names_below, require_written
from segshift.errors import RunError, TrainingError
from segshift.paths import inside
from segshift.sealed import ENTRY, open_json, seal_json, seal_tensors, text_of
from segshift.types import Features, Geometry
from segshift.whole_files import atomic_write, discard


class SoftLabels:
    """The soft pseudo-labels of one round, in `folder`. It keeps no file open, so loader processes may share it."""

    def __init__(self, folder: Path, num_classes: int, n: int) -> None:
        self.folder, self.num_classes, self.round = folder, num_classes, n
        self.written: set[str] = set()
        """Images that this process has written since the last `finish`."""
        self.digests = FileDigests()
        """Of their files."""
        self._proved: dict[str, str] = {}
        """What the files say that this process has found whole, by image."""

    @property
    def complete(self) -> bool:
        """Whether all images of the round are there."""
        return self._index.is_file()

    def path(self, name: str) -> Path:
        """The file of an image. Raises DataError for a name that leads out of the folder."""
        return inside(self.folder, name, ".safetensors")

    def write(self, found: Features) -> None:
        """Keep the logits of an image's views. The first write opens the round again if it was complete.

        Raises TrainingError where float16 cannot hold a logit, RunError where the disk refuses.
        """
        if found.name in self.written:
            raise ValueError(f"soft labels of {found.name!r} are written twice in round {self.round}; expected once")
        shapes = [tuple(logits.shape) for logits in found.maps]
        if not shapes or any(shape[0] != self.num_classes for shape in shapes):
            raise ValueError(f"logits of {found.name!r} have shapes {shapes}; expected ({self.num_classes}, h, w) each")
        views = {str(i): to_half(logits, found.name).cpu().contiguous() for i, logits in enumerate(found.maps)}
        how = {"size": found.size, "align_corners": found.align_corners, "average": found.average}
        if not self.written:
            discard(self._index)
        content = seal_tensors(views, json.dumps(how))
        atomic_write(self.path(found.name), content)
        self.written.add(found.name)
        self.digests = self.digests.with_file(found.name, content)
        self._proved.pop(found.name, None)

    def finish(self, digests: FileDigests) -> None:
        """Close the round: `digests` are of what all processes wrote together; nothing is said where that is none.

        To be called when every process has written its images; each writes the same bytes.
        """
        if digests.files:
            index = {"round": self.round, "images": digests.files, "classes": self.num_classes}
            atomic_write(self._index, seal_json(index | {"files": digests.to_json()}))
        self.written, self.digests = set(), FileDigests()

    def verify(self, names: Sequence[str] | None = None) -> None:
        """RunError, naming a file where one can be named, unless the files are those that the round wrote.

        `names` are the images asked for, and other files are passed over; None: all that lie in the folder. Soft
        labels written before there were digests pass. All files are read.
        """
        try:
            index = open_json(self._index.read_text(encoding="utf-8"), "files")
            written = FileDigests.from_json(index["files"]) if "files" in index else None
        except FileNotFoundError as error:
            raise self._damaged(self._index, "does not exist") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(self._index, f"cannot be read ({error})") from error
        if written is not None:
            names = names_below(self.folder, ".safetensors") if names is None else names
            files = {name: self.path(name) for name in names}
            require_written(self.folder, written, files, self._prove, self._cure)

    def _prove(self, name: str) -> None:
        """RunError unless the file of an image is whole and sealed."""
        path = self.path(name)
        try:
            text_of(path.read_bytes())
        except (OSError, ValueError) as error:
            raise self._damaged(path, f"cannot be read ({error})") from error

    def cut(self, name: str, geometry: Geometry, device: torch.device | None = None) -> Float32[Tensor, "k h w"]:
        """Class probabilities of an image, seen through a training crop: its size, resized, cropped and flipped.

        They are those of `scan.average_views` at the resized size; 0 for every class where the crop is padding.
        Computed on `device` (None: the processor). Raises RunError where the file is gone or damaged.
        """
        height, width = geometry.size
        bottom = min(geometry.top + height, geometry.resized[0])
        right = min(geometry.left + width, geometry.resized[1])
        spans = ((geometry.top, bottom), (geometry.left, right))
        prob = self._read(name, lambda file, how: self._average(file, how, geometry, spans, device))
        if not bool(torch.isfinite(prob.sum())):
            raise self._damaged(self.path(name), "holds logits that are no finite numbers")
        below, beside = geometry.top + height - bottom, geometry.left + width - right
        if not below and not beside:
            return prob
        return torch.nn.functional.pad(prob, (beside, 0, 0, below) if geometry.flip else (0, beside, 0, below))

    def _average(
        self, file: Any, how: dict[str, Any], geometry: Geometry, spans: tuple[Span, Span], device: torch.device | None
    ) -> Tensor:
        """The mean over the views, of softmaxes or logits, in the spans (rows, columns) of the resized image."""
        total, views = None, file.keys()
        for view in views:
            cells = file.get_slice(view)
            k, *shape = cells.get_shape()
            if k != self.num_classes:
                raise ValueError(f"has {k} classes, expected {self.num_classes}")
            rows, columns = (
                _axis(shape[i], geometry.resized[i], spans[i], how["align_corners"], flip=i == 1 and geometry.flip)
                for i in (0, 1)
            )
            needed = cells[:, rows.cells, columns.cells].to(device).float()
            full = rows.weights.to(device) @ (needed @ columns.weights.T.to(device))
            full = full.softmax(0) if how["average"] == "probabilities" else full
            total = full if total is None else total.add_(full)
        if total is None:
            raise ValueError("has no logits")
        total = total.div_(len(views)) if len(views) > 1 else total
        return total if how["average"] == "probabilities" else total.softmax(0)

    def _read(self, name: str, look: Callable[[Any, dict[str, Any]], Tensor]) -> Tensor:
        """What is seen in an image's file, opened, and in what it says of its views. The file is whole."""
        path = self.path(name)
        try:
            with safe_open(path, framework="pt") as file:
                entry = file.metadata()[ENTRY]
                if entry.startswith("{"):  # written before files were sealed
                    return look(file, json.loads(entry))
                if name not in self._proved:
                    self._proved[name] = text_of(path.read_bytes())
                return look(file, json.loads(self._proved[name]))
        except FileNotFoundError as error:
            raise self._damaged(path, "does not exist") from error
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise self._damaged(path, f"cannot be read ({error})") from error

    def _damaged(self, path: Path, found: str) -> RunError:
        return RunError(
            f"{path}: {found}; expected the soft pseudo-labels that round {self.round} began with. {self._cure}"
        )

    @property
    def _cure(self) -> str:
        return f"Resume the run from the start of round {self.round}: they are then written again"

    @property
    def _index(self) -> Path:
        return self.folder / "index.json"


def to_half(logits: Float[Tensor, "k h w"], name: str) -> Float16[Tensor, "k h w"]:
    """Logits as they are kept; one that float16 cannot hold is an error naming the image."""
    half = logits.detach().to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        largest = float(logits.abs().max())
        raise TrainingError(
            f"image {name}: largest logit {largest:g}; expected finite numbers below 65504. The network has diverged: "
            "go back to an earlier checkpoint, or lower the learning rate"
        )
    return half


Span = tuple[int, int]
"""First pixel, and the one after the last."""


class _Axis(NamedTuple):
    """How the pixels of a span are made of the cells of a map, along one side."""

    cells: slice
    """The cells that are needed."""
    weights: Float32[Tensor, "pixels cells"]
    """Of each cell in each pixel: bilinear, so two at most are not 0."""


def _axis(cells: int, length: int, span: Span, align_corners: bool, flip: bool) -> _Axis:
    """Bilinear interpolation of `cells` to `length` pixels, for a span of them; in float32, as torch computes it.

    As a dense matrix: on a processor two small products take half the time of gathering and mixing neighbours.
    """
    pixel = torch.arange(*span, dtype=torch.float32)
    if align_corners:
        place = pixel * ((cells - 1) / (length - 1) if length > 1 else 0.0)
    else:
        place = ((pixel + 0.5) * (cells / length) - 0.5).clamp_(min=0)
    low = place.long().clamp_(max=cells - 1)
    high = (low + 1).clamp_(max=cells - 1)
    share = place - low
    first, end = int(low[0]), int(high[-1]) + 1
    weights = torch.zeros(len(pixel), end - first)
    weights.scatter_add_(1, (low - first)[:, None], (1 - share)[:, None])
    weights.scatter_add_(1, (high - first)[:, None], share[:, None])
    return _Axis(slice(first, end), weights.flip(0) if flip else weights)
