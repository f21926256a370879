"""The confidence of a pixel (its largest class probability) and its label, from whatever a scan offers.

The fast way there from a network's logits is in `logit_bands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64, Integer, UInt8
from torch import Tensor

from segshift.errors import ConfigError, DataError
from segshift.models.segmenter import upsample
from segshift.parts.logit_bands import ProbBand
from segshift.parts.threads import one_thread
from segshift.types import IGNORE, Prediction, Predictions

_BAND_PIXELS = 1 << 14
"""One band of all classes in float64: 2.5 MB at 19 classes, small enough for the caches."""


class Confidence(NamedTuple):
    """What order statistics need of a prediction."""

    name: str
    confidence: Float32[Tensor, "h w"]
    """max_c p_c."""
    label: UInt8[Tensor, "h w"]
    """argmax_c p_c; IGNORE where every p_c is 0."""


def of_prediction(prediction: Prediction) -> Confidence:
    """Confidence and label from the probabilities; IGNORE where all are 0 (potentials under a prior may be)."""
    confidence, label = prediction.prob.float().max(0)
    return Confidence(prediction.name, confidence, label.to(torch.uint8).where(confidence > 0, IGNORE))


class Weighted:
    """Predictions whose probabilities are multiplied by a prior: the potentials q_n(c) p_n(c) of CBST's Eq. 9.

    The prior is resized (bilinear) to each prediction's size.
    """

    def __init__(self, predictions: Predictions, prior: Float32[Tensor, "k h w"]) -> None:
        self._predictions, self._prior = predictions, prior

    def __iter__(self) -> Iterator[Prediction]:
        for prediction in self._predictions:
            size = (prediction.prob.shape[1], prediction.prob.shape[2])
            prior = upsample(self._prior[None], size, align_corners=False)[0]
            yield prediction._replace(prob=prediction.prob * prior.to(prediction.prob))

    def merge(self, partial: Tensor) -> Tensor:
        """As of what is weighted."""
        merge = getattr(self._predictions, "merge", None)
        return partial if merge is None else merge(partial)


def weighted(scan: Predictions, prior: Float32[Tensor, "k h w"]) -> Predictions:
    """The scan under a prior; one that has a method `weighted` of its own is asked for that."""
    own = getattr(scan, "weighted", None)
    return Weighted(scan, prior) if own is None else own(prior)


def confidences(scan: Predictions, num_classes: int | None = None) -> Iterator[Confidence]:
    """Confidence and label of each image of a scan, in its order.

    A scan that has a method `confidences()`, an iterator of (name, confidence float32 (h, w), label integer
    (h, w)), is asked for that; from any other, the probabilities are read.
    Raises DataError naming the image where a probability is NaN, ConfigError where a label is not below
    `num_classes`.
    """
    faster = getattr(scan, "confidences", None)
    for name, confidence, label in faster() if faster else map(of_prediction, scan):
        yield _checked(name, confidence, label, num_classes)


@one_thread()
def _checked(name: str, confidence: Tensor, label: Tensor, num_classes: int | None) -> Confidence:
    if confidence.isnan().any():
        raise DataError(
            f"prediction of {name}: a class probability is NaN; expected numbers from 0 to 1. "
            "The network's weights are likely NaN or infinite: go back to an earlier checkpoint"
        )
    largest = int(label.where(label != IGNORE, 0).max())
    if num_classes is not None and largest >= num_classes:
        raise ConfigError(f"num_classes: {num_classes}; but the prediction of {name} has class {largest}")
    return Confidence(name, confidence, label.to(torch.uint8))


class Banded(NamedTuple):
    """The class probabilities of an image in bands of rows: what takes each pixel by itself needs no whole map."""

    name: str
    size: tuple[int, int]
    """(h, w)."""
    classes: int
    bands: Callable[[], Iterator[ProbBand]]
    """Makes them, from the top; each call anew."""


def banded(scan: Predictions) -> Iterator[Banded]:
    """Each image of a scan, in its order.

    A scan that has a method `banded()`, an iterator of `Banded`, is asked for that; of any other, the probabilities are
    cut.
    """
    own = getattr(scan, "banded", None)
    return map(_cut, scan) if own is None else own()


def _cut(prediction: Prediction) -> Banded:
    prob = prediction.prob

    def bands() -> Iterator[ProbBand]:
        step = max(1, _BAND_PIXELS // prob.shape[2])
        for top in range(0, prob.shape[1], step):
            rows = slice(top, top + step)
            part = prob[:, rows]
            confidence, label = part.max(0)
            yield ProbBand(rows, part, confidence, label.to(torch.uint8))

    return Banded(prediction.name, (prob.shape[1], prob.shape[2]), len(prob), bands)


@one_thread()
def strided(label: Integer[Tensor, "h w"], stride: int) -> Int64[Tensor, " n"]:
    """Indices into the flattened image of every stride-th pixel of each class, in raster order.

    A class starts with its first pixel. The result goes class by class.
    """
    # Sorted by class, those of a class still in raster order.
    classes, order = label.flatten().sort(stable=True)
    counts = torch.bincount(classes).tolist()
    ends = accumulate(counts)
    return torch.cat([order[end - count : end : stride] for count, end in zip(counts, ends) if count])
