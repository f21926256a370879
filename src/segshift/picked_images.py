"""The test images a report shows by their scores: worst, best, and where adaptation lost most. Chosen by test labels.

While a model is scored, its labels are kept, small; once the adapted model is scored too, the images to show are known,
and theirs are laid beside image and truth.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from segshift import checkpoint
from segshift.checkpoint import atomic_write
from segshift.data.dataset import LabelledDataset
from segshift.data.protocols import ScoredAs, scored_space
from segshift.data.resizing import resize_image, resize_label
from segshift.painting import png
from segshift.predict import save_panels
from segshift.scan import Views
from segshift.scored_details import Details, DetailsCounter, read_details, write_details

SHOWN = 3
"""Images of each kind: worst, best, lost most."""
FOLDER = Path("evaluation") / "picked"
"""Of a run: NAME/image.png, truth.png, warmup.png, final.png of each picked image."""
_KEPT = Path("evaluation") / "predicted"
"""Of a run, while it lasts: labels by the image's index, as the bytes of PNG files, in one file of each process."""
_WIDEST = 640
"""Pixels; wider pictures are kept smaller."""
_MOST = 1000
"""Images whose labels are kept; of more, evenly spread ones."""


class Picked(NamedTuple):
    """Indices into the test images."""

    worst: tuple[int, ...]
    """By the adapted model's mean IoU of the image alone, the lowest first."""
    best: tuple[int, ...]
    """The highest first."""
    lost: tuple[int, ...]
    """Where it is lowest against the source-only model's, and below it; the greatest loss first."""

    @property
    def all(self) -> list[int]:
        return sorted({*self.worst, *self.best, *self.lost})


def pick(final: Details, warmup: Details | None, shown: int = SHOWN) -> Picked:
    """Which images to show; no image is both worst and best. Those without a counted pixel are none of them."""
    step = _step(len(final.names))
    known = [i for i in range(0, len(final.names), step) if not math.isnan(final.miou[i])]
    order = sorted(known, key=lambda i: (final.miou[i], i))
    worst = order[: min(shown, (len(order) + 1) // 2)]
    best = order[::-1][: min(shown, len(order) // 2)]
    if warmup is None or list(warmup.names) != list(final.names):
        return Picked(tuple(worst), tuple(best), ())
    change = {i: final.miou[i] - warmup.miou[i] for i in known}
    lost = [i for i in sorted(known, key=lambda i: (change[i], i)) if change[i] < 0]
    return Picked(tuple(worst), tuple(best), tuple(lost[:shown]))


class Watching:
    """Looks on while the test images are scored, on each process: counts details and keeps labels."""

    def __init__(
        self, run: Path, which: str, model: nn.Module, test: LabelledDataset, short_side: int | None, views: Views
    ) -> None:
        """`which`: the file's name in RUN/evaluation, such as warmup or final. The rest is as for `predict.score`."""
        self._run, self._which, self._test = run, which, test
        self._scored = (model, test, short_side, views)
        self._table = torch.from_numpy(test.classes.table) if isinstance(test, ScoredAs) else None
        classes, align = len(scored_space(test)), bool(model.align_corners)
        self._counter = DetailsCounter(len(test.names), classes, self._table, align, views.average)
        self._step = _step(len(test.names))
        self._labels: dict[str, Tensor] = {}

    def see(self, index: int, maps: Sequence[Tensor], truth: UInt8[Tensor, "h w"], label: UInt8[Tensor, "h w"]) -> None:
        """One image: its low-resolution logits of each view, truth and predicted label, over the model's classes."""
        table = self._table
        merged = (truth, label) if table is None else (table[truth.long()], table[label.long()])
        self._counter.see(index, maps, *merged)
        if self._which in ("warmup", "final") and index % self._step == 0:
            small = resize_label(label, _fitted(label.shape[0], label.shape[1]))
            self._labels[str(index)] = torch.frombuffer(bytearray(png(small.numpy())), dtype=torch.uint8)

    def finish(self, merge: Callable[[Tensor], Tensor], first: bool) -> None:
        """After the last image, on every process: the first one writes the details and the panels that are evenly
        spread over the images, and of `final` the pictures that are picked by their scores."""
        if self._labels:  # no two processes have an image in common
            checkpoint.save(self._run / _KEPT / f"{self._which}-{min(map(int, self._labels)):06d}", self._labels)
        # The sum waits for all processes, and so for their files.
        details = self._counter.details(self._test.names, merge)
        if not first:
            return
        write_details(self._run, self._which, details)
        save_panels(self._run / "evaluation" / "panels", *self._scored, self._which)
        if self._which == "final":
            save_picked(self._run, self._test, details)


def save_picked(run: Path, test: LabelledDataset, final: Details) -> None:
    """Pictures of the picked images, in place of those of an earlier scoring."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    kept = {which: _kept(run, which) for which in ("warmup", "final")}
    for index in pick(final, read_details(run, "warmup")).all:
        place = picture_folder(run, test.names[index])
        image, truth = test.image(index), test.label(index)
        size = _fitted(truth.shape[0], truth.shape[1])
        image = resize_image(image, size)
        atomic_write(place / "image.png", png(image.permute(1, 2, 0).numpy()))
        atomic_write(place / "truth.png", png(resize_label(truth, size).numpy()))
        for which, labels in kept.items():
            if str(index) in labels:
                atomic_write(place / f"{which}.png", labels[str(index)].numpy().tobytes())


def picture_folder(run: Path, name: str) -> Path:
    """Where the pictures of a test image are."""
    return run / FOLDER / name.replace("/", "__")


def forget(run: Path) -> None:
    """Remove the labels that were kept to choose from."""
    shutil.rmtree(run / _KEPT, ignore_errors=True)


def _kept(run: Path, which: str) -> dict[str, Tensor]:
    """The labels that all processes kept, by the image's index."""
    found: dict[str, Tensor] = {}
    for file in sorted((run / _KEPT).glob(f"{which}-*")):
        found.update(checkpoint.load(file))
    return found


def _step(images: int) -> int:
    return max(1, math.ceil(images / _MOST))


def _fitted(height: int, width: int) -> tuple[int, int]:
    """A size no wider than `_WIDEST`."""
    if width <= _WIDEST:
        return height, width
    return max(1, round(height * _WIDEST / width)), _WIDEST
