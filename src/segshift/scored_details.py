"""What scoring keeps beside the confusion matrix: figures of each image, and how far confidences can be believed.

Both look at the labels of test images, and nothing is chosen by them but the pictures that a report shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from jaxtyping import Float64, Integer, UInt8
from torch import Tensor

from segshift.checkpoint import atomic_write
from segshift.errors import RunError
from segshift.evaluate import confusion
from segshift.json_shape import require
from segshift.parts.logit_bands import Average, Upsampled
from segshift.taxonomy import IGNORE

BINS = 15
"""Bins of equal width that confidences are sorted into."""
EVERY = 4
"""Confidences are looked at in every fourth row and column: a sixteenth of the pixels, exact where it looks."""
_CURE = "delete the file, and the report goes without what stands in it"


class _Image(TypedDict):
    name: str
    pixels: int
    right: int
    miou: float | None


class _Calibration(TypedDict):
    every: int
    pixels: list[int]
    confidence: list[float]
    right: list[int]


class _Content(TypedDict):
    images: list[_Image]
    calibration: _Calibration


@dataclass(frozen=True, eq=False)
class Details:
    """Of one model on one labelled test set."""

    names: Sequence[str]
    images: Float64[Tensor, "n 3"]
    """Each image's counted pixels, those that are right, and its own mean IoU (over the classes that occur in its
    truth; nan where none does)."""
    bins: Float64[Tensor, "bins 3"]
    """Of each bin of confidence: pixels, the sum of their confidences, those that are right."""
    every: int = EVERY
    """The bins hold the pixels of every so many rows and columns."""

    @property
    def miou(self) -> list[float]:
        """Mean IoU of each image on its own; nan where nothing counts."""
        return self.images[:, 2].tolist()

    @property
    def accuracy(self) -> list[float]:
        """Share of right pixels of each image."""
        return (self.images[:, 1] / self.images[:, 0]).tolist()

    @property
    def confidence(self) -> list[float]:
        """Mean confidence of each bin; nan of an empty one."""
        return (self.bins[:, 1] / self.bins[:, 0]).tolist()

    @property
    def right(self) -> list[float]:
        """Share of right pixels of each bin; nan of an empty one."""
        return (self.bins[:, 2] / self.bins[:, 0]).tolist()

    @property
    def ece(self) -> float:
        """Expected calibration error: |confidence - share right|, a mean over the bins weighted by their pixels."""
        return float((self.bins[:, 1] - self.bins[:, 2]).abs().sum() / self.bins[:, 0].sum())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values (nan becomes None); `read_details` reads them back."""
        rows = zip(self.names, self.images.tolist(), strict=True)
        return {
            "what": "oracle: from the labels of the test images; nothing was chosen by it but pictures to look at",
            "images": [
                {"name": name, "pixels": int(n), "right": int(right), "miou": None if math.isnan(miou) else miou}
                for name, (n, right, miou) in rows
            ],
            "calibration": {
                "every": self.every,
                "pixels": [int(n) for n in self.bins[:, 0]],
                "confidence": self.bins[:, 1].tolist(),
                "right": [int(n) for n in self.bins[:, 2]],
            },
        }


class Look(Protocol):
    """Who looks on while a set is scored."""

    def see(self, index: int, maps: Sequence[Tensor], truth: UInt8[Tensor, "h w"], label: UInt8[Tensor, "h w"]) -> None:
        """One image: the network's low-resolution logits (k, _, _) of each view, truth and predicted label, both over
        the model's classes."""
        ...


class DetailsCounter:
    """Counts `Details` while a set is scored, on one process of several."""

    def __init__(
        self,
        images: int,
        classes: int,
        table: Tensor | None = None,
        align_corners: bool = False,
        average: Average = "probabilities",
    ) -> None:
        """`classes`: those scored; `table` (256,): from the model's ids to them, or to 255, where they are merged."""
        self._images = torch.zeros(images, 3, dtype=torch.float64)
        self._bins = torch.zeros(BINS, 3, dtype=torch.float64)
        self._classes, self._table = classes, table
        self._align_corners, self._average = align_corners, average

    def see(
        self,
        index: int,
        maps: Sequence[Tensor],
        truth: Integer[Tensor, "h w"],
        label: Integer[Tensor, "h w"],
    ) -> None:
        """One image: the network's low-resolution logits (k, h, w) of each view, truth and predicted label.

        Both labels are over the scored classes.
        """
        matrix = confusion([(truth, label)], self._classes)
        hits, counted = matrix.diagonal().double(), matrix.sum(1).double()
        iou = hits / (counted + matrix.sum(0) - hits)
        self._images[index] = torch.stack((counted.sum(), hits.sum(), iou[counted > 0].mean()))
        rows, columns = slice(EVERY // 2, None, EVERY), slice(EVERY // 2, None, EVERY)
        true, seen = truth[rows, columns].cpu(), label[rows, columns].cpu()
        size = (truth.shape[0], truth.shape[1])
        confidence = self._confidence(maps, size, seen)
        known = true != IGNORE
        self._add(confidence[known].double(), (true == seen)[known])

    def _add(self, confidence: Tensor, right: Tensor) -> None:
        number = (confidence * BINS).long().clamp_(0, BINS - 1)
        for column, values in enumerate((torch.ones_like(confidence), confidence, right.double())):
            self._bins[:, column] += torch.bincount(number, values, minlength=BINS)

    def _confidence(self, maps: Sequence[Tensor], size: tuple[int, int], seen: UInt8[Tensor, "h w"]) -> Tensor:
        """The probability of the predicted class at the pixels looked at, at the image's own size."""
        rows = [_rows(low, size, self._align_corners) for low in maps]
        if self._average == "logits":
            prob = torch.stack(rows).mean(0).softmax(0)
        else:
            prob = torch.stack([logits.softmax(0) for logits in rows]).mean(0)
        if self._table is not None:  # a merged class is as probable as those it is made of
            whole = prob.new_zeros(256, *prob.shape[1:])
            prob = whole.index_add_(0, self._table[: len(prob)].long(), prob)
        return prob.gather(0, seen[None].long())[0]

    def details(self, names: Sequence[str], merge: Callable[[Tensor], Tensor] | None = None) -> Details:
        """What has been seen, on all processes: `merge` sums over them."""
        join = merge or (lambda tensor: tensor)
        return Details(names, join(self._images), join(self._bins))


def _rows(low: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Logits at full size of every `EVERY`-th row and column alone: (k, rows, columns) on the processor."""
    up = Upsampled(low, size, align_corners)
    at = torch.arange(EVERY // 2, size[0], EVERY, device=up.wide.device)
    wide = up.wide[:, :, EVERY // 2 :: EVERY]
    upper, lower = wide.index_select(1, up.above[at]), wide.index_select(1, up.below[at])
    return torch.lerp(upper, lower, up.share[at, None]).cpu()


def details_file(run: Path, which: str) -> Path:
    """RUN/evaluation/WHICH.details.json."""
    return run / "evaluation" / f"{which}.details.json"


def write_details(run: Path, which: str, details: Details) -> None:
    """Keep the details of a model of the run: `warmup`, `final`."""
    atomic_write(details_file(run, which), json.dumps(details.to_dict()).encode())


def read_details(run: Path, which: str) -> Details | None:
    """What `write_details` wrote; None for a run that kept none. RunError where it is damaged."""
    path = details_file(run, which)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {_CURE}") from error
    require(content, _Content, str(path), _CURE)
    images, calibration = content["images"], content["calibration"]
    counts = [calibration[key] for key in ("pixels", "confidence", "right")]
    if len({len(each) for each in counts}) > 1 or not counts[0]:
        raise RunError(f"{path}: calibration has {[len(each) for each in counts]} bins; expected as many; {_CURE}")
    figures = [[e["pixels"], e["right"], math.nan if e["miou"] is None else e["miou"]] for e in images]
    return Details(
        tuple(e["name"] for e in images),
        torch.tensor(figures, dtype=torch.float64).reshape(-1, 3),
        torch.tensor(counts, dtype=torch.float64).T.contiguous(),
        calibration["every"],
    )
