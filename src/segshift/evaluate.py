"""Scores from a confusion matrix: per-class IoU, mean IoU over named subsets, pixel accuracies, tables.

Rules, the same wherever a figure of Segshift comes from:
- one confusion matrix over the whole data set; nothing is averaged per image;
- a class in neither truth nor prediction has no IoU (nan);
- a mean runs over the classes that occur in the truth; a class that is predicted but occurs nowhere in the truth has
  IoU 0 in the per-class list and is in no mean (its pixels still lower the classes they were taken from);
- a mean over a subset averages IoUs of the whole matrix: predictions outside the subset count as errors.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64, Integer, UInt8
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from segshift import taxonomy
from segshift.errors import ConfigError, DataError
from segshift.json_shape import misfit
from segshift.paths import printable
from segshift.taxonomy import IGNORE, LabelSpace

Label = Integer[Tensor, "h w"]


def confusion(label_pairs: Iterable[tuple[Label, Label]], num_classes: int) -> Int64[Tensor, "k k"]:
    """Count pixels of (truth, prediction) pairs, rows = truth, columns = prediction; truth 255 is not counted.

    Raises DataError where a pair differs in size, or a counted pixel has an id outside 0 .. num_classes-1 in the
    truth or in the prediction, or there is no pair at all; pairs are numbered from 1.
    """
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    number = 0
    for number, (truth, predicted) in enumerate(label_pairs, start=1):
        if truth.shape != predicted.shape:
            raise DataError(
                f"image {number}: truth has size {tuple(truth.shape)}, prediction {tuple(predicted.shape)}; "
                "expected equal sizes: resize the prediction to the truth's size"
            )
        if truth.dtype != torch.uint8 or predicted.dtype != torch.uint8:
            _require_ids(number, truth, predicted, num_classes)
        counts = _pairs_of_bytes(truth.to(torch.uint8), predicted.to(torch.uint8))
        known = counts[:num_classes, :num_classes]
        if known.sum() != counts[:IGNORE].sum():
            _require_ids(number, truth, predicted, num_classes)
        matrix += known.cpu()
    if number == 0:
        raise DataError("there is no image to score; expected at least 1 pair of truth and prediction")
    return matrix


_CHUNK = 1 << 18
"""Pixels that are counted at a time: their pairs (1 MB) stay in the processor's cache, whatever the image's size."""


def _pairs_of_bytes(truth: UInt8[Tensor, "h w"], predicted: UInt8[Tensor, "h w"]) -> Int64[Tensor, "256 256"]:
    """Pixels of each pair of bytes, ignored and unknown ids too: so no mask is made, and each pixel is read once."""
    counts = torch.zeros(1 << 16, dtype=torch.int64, device=truth.device)
    pair = torch.empty(min(_CHUNK, truth.numel()), dtype=torch.int32, device=truth.device)
    for rows, columns in zip(truth.flatten().split(_CHUNK), predicted.flatten().split(_CHUNK)):
        index = pair[: len(rows)].copy_(rows).mul_(256).add_(columns)
        counts += torch.bincount(index, minlength=1 << 16)
    return counts.view(256, 256)


def _require_ids(number: int, truth: Label, predicted: Label, num_classes: int) -> None:
    """DataError naming the first counted pixel whose id is none of 0 .. num_classes-1."""
    counted = truth != IGNORE
    for what, label in (("truth", truth), ("prediction", predicted)):
        ids = label[counted]
        outside = ids[(ids < 0) | (ids >= num_classes)]
        if outside.numel():
            raise DataError(
                f"image {number}: {what} holds id {int(outside[0])} ({outside.numel()} pixels outside the label "
                f"space); expected 0 to {num_classes - 1}, or {IGNORE} for ignored: check the classes of the data"
            )


@dataclass(frozen=True, eq=False)
class Scores:
    """Figures of one model on one labelled test set, all fractions of 1 (nan where there is nothing to divide)."""

    space: LabelSpace
    confusion: Int64[Tensor, "k k"]
    """Pixels; rows = truth, columns = prediction."""
    images: int

    def __post_init__(self) -> None:
        k = len(self.space)
        if tuple(self.confusion.shape) != (k, k) or bool((self.confusion < 0).any()):
            raise DataError(
                f"confusion matrix of shape {tuple(self.confusion.shape)} for {k} classes of {self.space.name}; "
                f"expected ({k}, {k}) pixel counts, none negative"
            )

    @property
    def occurs(self) -> tuple[bool, ...]:
        """Which classes have a pixel in the truth: those a mean runs over."""
        return tuple((self.confusion.sum(1) > 0).tolist())

    @property
    def iou(self) -> Float64[Tensor, "k"]:
        """Intersection over union a class: nan without a pixel in truth and prediction, 0 when only predicted."""
        hits = self.confusion.diagonal()
        return _ratio(hits, self.confusion.sum(0) + self.confusion.sum(1) - hits)

    @property
    def class_accuracy(self) -> Float64[Tensor, "k"]:
        """Pixel accuracy a class, CPSL Eq. 15: p_ii / Σ_j p_ij; nan for a class without truth."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def pixel_accuracy(self) -> float:
        """Share of all counted pixels that are right."""
        return float(_ratio(self.confusion.trace(), self.confusion.sum()))

    @property
    def mean_pixel_accuracy(self) -> float:
        """CPSL Eq. 16: the mean of Eq. 15, here over the classes that occur in the truth."""
        return float(self.class_accuracy.nanmean())

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted by each class's share of the truth's pixels."""
        share = _ratio(self.confusion.sum(1), self.confusion.sum())
        return float((share * self.iou.nan_to_num()).sum())

    @property
    def miou(self) -> dict[str, float]:
        """Mean IoU of every named subset of the label space."""
        return {subset: self.mean_iou(subset) for subset in self.space.subsets}

    def counted(self, subset: str = "all") -> tuple[int, ...]:
        """Ids of the subset's classes that occur in the truth. Raises ConfigError for an unknown subset."""
        if subset not in self.space.subsets:
            known = ", ".join(self.space.subsets)
            raise ConfigError(f"subset {subset!r} is not in label space {self.space.name}; expected one of {known}")
        return tuple(i for i in self.space.subsets[subset] if self.occurs[i])

    def mean_iou(self, subset: str = "all") -> float:
        """Mean IoU over `counted(subset)`; nan where none of them occurs."""
        return float(self.iou[list(self.counted(subset))].mean())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values (nan becomes None); `from_dict` reads it back."""
        return {
            "space": self.space.to_dict(),
            "confusion": self.confusion.tolist(),
            "images": self.images,
            "iou": {name: _number(v) for name, v in zip(self.space.classes, self.iou.tolist(), strict=True)},
            "miou": {subset: _number(v) for subset, v in self.miou.items()},
            "pixel_accuracy": _number(self.pixel_accuracy),
            "mean_pixel_accuracy": _number(self.mean_pixel_accuracy),
            "frequency_weighted_iou": _number(self.frequency_weighted_iou),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], origin: str = "scores") -> Scores:
        """Scores from `to_dict`'s form: the figures are computed again from the confusion matrix.

        Raises DataError naming `origin` (the file) where a part is missing or malformed.
        """
        missing = [key for key in ("space", "confusion", "images") if key not in content]
        if missing:
            raise DataError(
                f"{origin}: {', '.join(missing)} missing; expected scores as `segshift evaluate` writes them"
            )
        space, _ = taxonomy.from_dict(content["space"], origin)
        shapes = {"confusion": list[list[int]], "images": int}
        wrong = next((said for key, hint in shapes.items() if (said := misfit(content[key], hint, key))), "")
        try:
            if wrong:
                raise DataError(wrong)
            matrix = torch.tensor(content["confusion"], dtype=torch.int64)
            return cls(space, matrix, int(content["images"]))
        except (TypeError, ValueError, OverflowError, RuntimeError, DataError) as error:
            raise DataError(f"{origin}: confusion or images cannot be read ({error}); score the model again") from error


def _ratio(part: Tensor, whole: Tensor) -> Float64[Tensor, "..."]:
    """part / whole in float64; nan where whole is 0."""
    return part.double() / torch.where(whole > 0, whole.double(), torch.nan)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def percent(value: float | None) -> str:
    """One decimal of a fraction in percent; a dash for nothing."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def subset_title(scores: Sequence[Scores], subset: str) -> str:
    """`mIoU all (18 of 19 classes)`: which classes a mean is over, never left open."""
    return f"mIoU {subset} {_classes(scores, subset)}"


def summary(scores: Scores) -> str:
    """All means in one line: `mIoU all (19 classes) 38.2, mIoU synthia16 (16 classes) 41.0`."""
    return ", ".join(f"{subset_title([scores], name)} {percent(value)}" for name, value in scores.miou.items())


def _classes(scores: Sequence[Scores], subset: str) -> str:
    size = len(scores[0].space.subsets[subset])
    counts = sorted({len(s.counted(subset)) for s in scores})
    number = str(size) if counts == [size] else f"{' or '.join(map(str, counts))} of {size}"
    return f"({number} class{'' if size == 1 else 'es'})"


def compare(rows: Mapping[str, Scores], space: LabelSpace) -> Table:
    """A table with a column for each entry of `rows` and a line for each class and mean, in percent.

    The best of a line is bold; entries whose name starts with "oracle" looked at target labels and do not compete.
    Raises ConfigError when `rows` is empty or an entry has other classes than `space`.
    """
    if not rows:
        raise ConfigError("rows is empty; expected at least one name with its scores")
    for name, scores in rows.items():
        if scores.space.classes != space.classes:
            raise ConfigError(f"scores {name!r} are over {scores.space.name}, the table over {space.name}; score again")
    title = f"IoU in percent, {_images(rows)}, label space {space.name}"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("class", no_wrap=True)
    for name in rows:
        table.add_column(Text(printable(name)), justify="right")

    competes = [not name.startswith("oracle") for name in rows]
    for i, name in enumerate(space.classes):
        table.add_row(Text(printable(name)), *_best_bold([float(s.iou[i]) for s in rows.values()], competes))
    table.add_section()
    every = list(rows.values())
    for subset in space.subsets:
        cells = _best_bold([s.mean_iou(subset) for s in every], competes)
        table.add_row(Text(printable(subset_title(every, subset))), *cells)
    table.add_section()
    table.add_row("pixel accuracy", *_best_bold([s.pixel_accuracy for s in every], competes))
    table.add_row(
        "mean pixel accuracy, all",  # over the classes that the line of mIoU all counts
        *_best_bold([s.mean_pixel_accuracy for s in every], competes),
    )
    table.add_row("frequency-weighted IoU", *_best_bold([s.frequency_weighted_iou for s in every], competes))
    return table


def plain(table: Table, width: int = 160) -> str:
    """The table as text without colours or control codes, for files and pipes."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None, legacy_windows=False)
    console.print(table)
    written = console.file
    assert isinstance(written, io.StringIO)
    return "".join(line.rstrip() + "\n" for line in written.getvalue().splitlines())


def _images(rows: Mapping[str, Scores]) -> str:
    counts = sorted({s.images for s in rows.values()})
    return f"{' or '.join(map(str, counts))} image{'' if counts == [1] else 's'}"


def _best_bold(values: Sequence[float], competes: Sequence[bool]) -> list[Text]:
    """Cells of one line; bold where the printed figure is the best of those that compete (if there are two)."""
    printed = [percent(v) for v in values]
    rivals = [float(p) for p, c in zip(printed, competes, strict=True) if c and p != "-"]
    best = f"{max(rivals):.1f}" if len(rivals) > 1 else None
    return [Text(p, style="bold" if c and p == best else "") for p, c in zip(printed, competes, strict=True)]
