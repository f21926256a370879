"""The pseudo-labels of one round on disk: `RUN/round-N/pseudo-labels/NAME.png` and `RUN/round-N/statistics.json`.

Every process writes the images it was given; `finish` sums the counts over all of them. The statistics are written
last, so a round without them was cut short and is to be written again. They hold digests of the labels, by which
`verify` finds one that is not the round's own.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, Integer, UInt8
from PIL import Image
from torch import Tensor

from segshift import checkpoint
from segshift.background import Behind
from segshift.data.file_digests import FileDigests, names_below, require_written
from segshift.data.files import read_label
from segshift.data.image_header import allowed_so_far
from segshift.data.soft_labels import SoftLabels
from segshift.errors import DataError, RunError, TrainingError
from segshift.paths import inside
from segshift.sealed import open_json, seal_json
from segshift.types import IGNORE, Features, Geometry
from segshift.whole_files import atomic_write, discard

LABELS, PREDICTIONS, SOFT = "pseudo-labels", "predictions", "soft-labels"
"""Folders of a round; a view may have none of these names."""


def _identity(partial: Tensor) -> Tensor:
    return partial


class PseudoLabels:
    """The store of one round; a `LabelStore` for the method that writes it, and what the sampler reads.

    `folder` is named round-N, and stands beside those of the phase's other rounds. `merge` sums an int64 tensor over
    all processes (the identity for one process).
    `keep_predictions`: also keep what each pixel was predicted as, in `predictions/NAME.png` (mining reads it).
    """

    def __init__(
        self,
        folder: Path | str,
        num_classes: int,
        merge: Callable[[Tensor], Tensor] | None = None,
        keep_predictions: bool = False,
    ) -> None:
        self.folder = Path(folder)
        found = re.fullmatch(r"round-(\d+)", self.folder.name)
        if found is None:
            raise RunError(f"{self.folder}: is no folder of a round; expected a name such as round-1")
        self.round = int(found[1])
        self.num_classes = num_classes
        self._keep_predictions = keep_predictions
        self._merge = merge or _identity
        self._soft = self._soft_of(self.round)
        self._behind = Behind()
        self._reset()

    def _reset(self) -> None:
        self._written: set[str] = set()
        self._digests = {LABELS: FileDigests(), PREDICTIONS: FileDigests()}
        self._pixels, self._unlabelled = 0, 0
        self._kept = torch.zeros(self.num_classes, dtype=torch.int64)
        self._predicted = torch.zeros(self.num_classes, dtype=torch.int64)
        self._with_prediction = 0

    @property
    def finished(self) -> bool:
        """Whether the round was written to its end."""
        return self._statistics_file.is_file()

    def path(self, name: str) -> Path:
        """The file of an image's pseudo-label. This and the like raise DataError for a name that leads elsewhere."""
        return inside(self.folder / LABELS, name, ".png")

    def prediction_path(self, name: str) -> Path:
        """The file of what an image's pixels were predicted as."""
        return inside(self.folder / PREDICTIONS, name, ".png")

    def write(self, name: str, label: Integer[Tensor, "h w"], predicted: Integer[Tensor, "h w"] | None = None) -> None:
        """Keep a pseudo-label: class ids, 255 where nothing was selected, at the image's working size.

        `predicted` is each pixel's most probable class, selected or not (255: none); it is counted. The first write
        opens the round again if it was finished. The file is written while the caller goes on: where the disk refuses,
        one of the next writes raises RunError, or `finish` does.
        """
        if name in self._written:
            raise ValueError(f"pseudo-label {name!r} is written twice in round {self.round}; expected once an image")
        label = self._checked(label.cpu(), f"pseudo-label {name!r}")
        if not self._written:
            discard(self._statistics_file)
        self._behind.do(self._keep_file, LABELS, name, self.path(name), label)
        self._written.add(name)
        counts = torch.bincount(label.reshape(-1), minlength=256)[: self.num_classes]
        self._pixels += label.numel()
        self._kept += counts
        self._unlabelled += not counts.any()
        if predicted is not None:
            predicted = self._checked(predicted.cpu(), f"prediction {name!r}")
            self._predicted += torch.bincount(predicted.reshape(-1), minlength=256)[: self.num_classes]
            self._with_prediction += 1
            if self._keep_predictions:
                self._behind.do(self._keep_file, PREDICTIONS, name, self.prediction_path(name), predicted)

    def _keep_file(self, kind: str, name: str, path: Path, label: Tensor) -> None:
        content = _png(label)
        atomic_write(path, content)
        self._digests[kind] = self._digests[kind].with_file(name, content)

    def write_soft(self, found: Features) -> None:
        """Keep an image's logits in float16, in `soft-labels`; `finish` closes them too. Errors as of `write`."""
        self._soft.write(found)

    def soft_labels(self) -> SoftLabels | None:
        """The newest complete soft labels up to this round, of the folders beside this one; None where none are."""
        rounds = (self._soft_of(n) for n in range(self.round, 0, -1))
        return next((soft for soft in rounds if soft.complete), None)

    def read_soft(
        self, name: str, size: tuple[int, int], device: torch.device | None = None
    ) -> Float32[Tensor, "k h w"]:
        """Class probabilities of a whole image at `size` (h, w), of the newest soft labels up to this round.

        They are computed on `device` (None: the processor).
        Within a round that is not finished, those it has written count. Raises RunError where there are none.
        """
        soft = self._soft if name in self._soft.written else self.soft_labels()
        if soft is None:
            raise RunError(f"{self._soft.folder}: holds no soft pseudo-labels, nor do earlier rounds. {self._cure}")
        return soft.cut(name, Geometry(size, 0, 0, size, flip=False), device)

    def _soft_of(self, n: int) -> SoftLabels:
        return SoftLabels(self.folder.with_name(f"round-{n}") / SOFT, self.num_classes, n)

    def view_path(self, kind: str, name: str) -> Path:
        """The file of a label map that is only looked at. Raises ValueError where `kind` is no name for a folder."""
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", kind) is None or kind in (LABELS, PREDICTIONS, SOFT):
            raise ValueError(f"a view is of kind {kind!r}; expected letters and digits, such as self-labelling")
        return inside(self.folder / kind, name, ".png")

    def write_view(self, kind: str, name: str, label: Integer[Tensor, "h w"]) -> None:
        """Keep one more label map of an image (ids, or 255), before or after `finish`; one that is there is replaced.

        Nothing trains on it. Raises RunError where the disk refuses.
        """
        atomic_write(self.view_path(kind, name), _png(self._checked(label.cpu(), f"{kind} view of {name!r}")))

    def read_view(self, kind: str, name: str) -> UInt8[Tensor, "h w"]:
        """A label map that `write_view` kept. RunError where the file is gone or damaged."""
        return self._read(self.view_path(kind, name), f"the {kind} view of image {name!r}")

    def _checked(self, label: Tensor, what: str) -> Tensor:
        wrong = label[(label < 0) | ((label >= self.num_classes) & (label != IGNORE))]
        if wrong.numel():
            found = wrong.unique().tolist()
            raise ValueError(f"{what} holds ids {found}; expected 0 to {self.num_classes - 1}, or 255")
        return label

    def finish(self, thresholds: Mapping[str, Sequence[float] | Tensor]) -> None:
        """Close the round: sum the counts over processes (all must call it), then write the statistics.

        `thresholds` are named lists of k numbers. Raises TrainingError where one of them is no finite number, RunError
        where a label could not be written.
        """
        self._behind.wait()
        numbers = {key: [float(value) for value in values] for key, values in thresholds.items()}
        _require_finite(numbers, self.folder)
        head = torch.tensor([self._pixels, len(self._written), self._unlabelled, self._with_prediction])
        digests = [torch.tensor(found.to_int64()) for found in (*self._digests.values(), self._soft.digests)]
        parts = [head, self._kept, self._predicted, *digests]
        merged = self._merge(torch.cat(parts)).split([len(part) for part in parts])
        (pixels, images, unlabelled, with_prediction), kept, predicted = (part.tolist() for part in merged[:3])
        labels, predictions, soft = (FileDigests.from_int64(part.tolist()) for part in merged[3:])
        files = {kind: found.to_json() for kind, found in ((LABELS, labels), (PREDICTIONS, predictions)) if found.files}
        statistics = {
            "round": self.round,
            "images": images,
            "unlabelled_images": unlabelled,
            "pixels": pixels,
            "kept": sum(kept),
            "coverage": sum(kept) / max(pixels, 1),
            "kept_per_class": kept,
            "predicted": predicted if with_prediction else None,
            "thresholds": numbers,
            "files": files,
        }
        # The merge is over when every process has written its labels, so this file says that all are there; each
        # process writes the same bytes.
        self._soft.finish(soft)
        atomic_write(self._statistics_file, seal_json(statistics))
        self._reset()

    def statistics(self) -> dict[str, Any]:
        """What `finish` wrote: counts, coverage, thresholds, digests. RunError where the round was not finished."""
        path = self._statistics_file
        try:
            return open_json(path.read_text(encoding="utf-8"), "files")
        except FileNotFoundError as error:
            raise RunError(f"{path}: does not exist: round {self.round} was not finished. {self._cure}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(
                f"{path}: cannot be read ({error}); expected the statistics of a round. {self._cure}"
            ) from error

    def verify(self, names: Sequence[str] | None = None) -> None:
        """RunError, naming a file where one can be named, unless labels and predictions are those the round wrote.

        `names` are the images asked for, and other files are passed over; None: all that lie in the folder. The round
        is finished. Labels written before there were digests pass. All files are read.
        """
        for kind, written in self._written_files().items():
            folder = self.folder / kind
            present = names_below(folder, ".png") if names is None else names
            files = {name: inside(folder, name, ".png") for name in present}
            read = self.read if kind == LABELS else self.read_prediction
            require_written(folder, written, files, read, self._cure)

    def _written_files(self) -> dict[str, FileDigests]:
        found = self.statistics().get("files", {})
        try:
            return {kind: FileDigests.from_json(found[kind]) for kind in (LABELS, PREDICTIONS) if kind in found}
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{self._statistics_file}: files are {found!r:.80}; expected the digests of a round. {self._cure}"
            ) from error

    def verify_soft(self, names: Sequence[str] | None = None) -> None:
        """The same of the soft labels that this round wrote."""
        self._soft.verify(names)

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors beside the rounds, in NAME.safetensors: what holds for all of them."""
        checkpoint.save(self._kept_file(name), dict(tensors))

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """What was kept under a name; None where nothing was. RunError where the file is damaged."""
        path = self._kept_file(name)
        try:
            return checkpoint.load(path) if path.exists() else None
        except RunError as error:
            raise RunError(f"{path}: is damaged. Delete it and resume the run: it is then made again") from error

    def _kept_file(self, name: str) -> Path:
        return self.folder.parent / f"{name}.safetensors"

    def read(self, name: str) -> UInt8[Tensor, "h w"]:
        """The pseudo-label of an image. RunError where the file is gone or damaged."""
        return self._read(self.path(name), f"the pseudo-label of image {name!r}")

    def read_prediction(self, name: str) -> UInt8[Tensor, "h w"]:
        """What the pixels of an image were predicted as, 255 for none. RunError where the file is gone or damaged."""
        return self._read(self.prediction_path(name), f"what the pixels of image {name!r} were predicted as")

    def _read(self, path: Path, what: str) -> Tensor:
        try:
            label = read_label(path, allowed_so_far())
        except DataError as error:
            raise RunError(f"{error}. It is {what}. {self._cure}") from error
        foreign = label[(label >= self.num_classes) & (label != IGNORE)]
        if foreign.numel():
            raise RunError(
                f"{path}: holds ids {foreign.unique().tolist()}; expected 0 to {self.num_classes - 1}, or {IGNORE}."
                f" {self._cure}"
            )
        return label

    @property
    def _statistics_file(self) -> Path:
        return self.folder / "statistics.json"

    @property
    def _cure(self) -> str:
        return f"Resume the run from the start of round {self.round}: its pseudo-labels are then written again"


def _png(label: Tensor) -> bytes:
    file = io.BytesIO()
    # Level 1: half the default's time, for files a third larger (10 kB at 360 x 480).
    Image.fromarray(label.to(torch.uint8).numpy()).save(file, "png", compress_level=1)
    return file.getvalue()


def _require_finite(thresholds: Mapping[str, list[float]], folder: Path) -> None:
    for key, values in thresholds.items():
        wrong = {i: value for i, value in enumerate(values) if not math.isfinite(value)}
        if wrong:
            raise TrainingError(f"{folder}: thresholds {key} are {wrong} (by class id); expected finite numbers")
