"""The confidence of a pixel (its largest class probability) and its label, from whatever a scan offers.

Also the fast way there from a network's low-resolution logits, at the image's size, without the softmax map:
rows are made in bands that stay in the processor's cache, and all that leaves a band is the confidence, 1 over
the sum of exp(logit - largest logit), and the label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, Int64, Integer, UInt8
from torch import Tensor

from segshift.errors import ConfigError, DataError
from segshift.models.segmenter import upsample
from segshift.parts.threads import one_thread
from segshift.types import IGNORE, Prediction, Predictions


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


@one_thread()
def strided(label: Integer[Tensor, "h w"], stride: int) -> Int64[Tensor, " n"]:
    """Indices into the flattened image of every stride-th pixel of each class, in raster order.

    A class starts with its first pixel. The result goes class by class.
    """
    flat = label.flatten()
    return torch.cat([(flat == c).nonzero()[::stride, 0] for c in flat.unique()])


Maps = Tensor | Sequence[Tensor]
"""Low-resolution logits (k, h, w) of an image, or several (of flips, undone, and scales) to be averaged."""

Prior = Float32[Tensor, "k h w"] | None
"""q_n(c) of CBST's Eq. 9 on a grid of its own: a class's frequency at a place, resized bilinearly to the image."""

Average = Literal["probabilities", "logits"]
"""What is averaged over several maps, at full size: their softmaxes, or themselves."""

_LEAST = torch.finfo(torch.float32).tiny

_BAND_BYTES = 2 << 20
"""One band of all classes: small enough for the caches, large enough that the calls on it cost little."""


@one_thread()
def top1(
    logits: Maps,
    size: tuple[int, int],
    align_corners: bool = False,
    average: Average = "probabilities",
    prior: Prior = None,
) -> tuple[Float32[Tensor, "height width"], UInt8[Tensor, "height width"]]:
    """Confidence and label at `size` (height, width) of softmax(bilinear upsampling of the logits).

    Of equal probabilities the first class is taken. The confidence differs from that of the softmax map by
    rounding alone (relatively below 1e-5 for logits within ±30); the label, where two probabilities are as near.
    With a prior, both are of the potential q_c p_c (Eq. 9); where all potentials are 0: confidence 0, label IGNORE.
    """
    confidence = torch.empty(size, device=_as_list(logits)[0].device)
    label = torch.empty(size, dtype=torch.uint8, device=confidence.device)
    for rows, relative, scratch, band_confidence in _bands(logits, size, align_corners, average, prior):
        confidence[rows] = band_confidence
        label[rows] = _first_one(torch.floor(relative, out=scratch))
    return confidence, label if prior is None else label.where(confidence > 0, IGNORE)


@one_thread()
def balanced_labels(
    logits: Maps,
    thresholds: Float[Tensor, " k"],
    size: tuple[int, int],
    align_corners: bool = False,
    average: Average = "probabilities",
    prior: Prior = None,
) -> UInt8[Tensor, "height width"]:
    """CBST's Eq. 8 at `size` without the softmax map: argmax_c p_c/θ_c where that is at least 1, else IGNORE.

    With a prior, p is the potential q p, as Eq. 9 asks; where all potentials are 0, IGNORE.

    Thresholds (above 0) found from `top1` keep exactly the pixels they were counted from: both see the same
    bits. Against the softmax map, a label can differ where p_c/θ_c is within rounding (1e-5) of 1 or of another's.
    """
    theta = thresholds.to(_as_list(logits)[0].device, torch.float32)
    if prior is None and bool((theta > 0.5).all()):
        # A class that passes has more than half of the probability: it is the most probable one.
        confidence, label = top1(logits, size, align_corners, average)
        return label.where(confidence >= theta.index_select(0, label.flatten().int()).view(size), IGNORE)
    label = torch.empty(size, dtype=torch.uint8, device=theta.device)
    weight = theta.reciprocal()[:, None, None]
    for rows, relative, scratch, band_confidence in _bands(logits, size, align_corners, average, prior):
        ratio = torch.mul(relative, weight, out=scratch)
        # Under a prior all ratios of a pixel may be 0: divided by the least float, they stay 0.
        best = _first_one(ratio.div_(ratio.amax(0).clamp_min_(_LEAST)).floor_())
        # x / y >= 1 is x >= y in floating point too; p itself is compared, not its product with a rounded 1/θ.
        prob = relative.gather(0, best[None].long())[0].mul_(band_confidence)
        kept = prob >= theta.index_select(0, best.flatten().int()).view_as(prob)
        label[rows] = best.where(kept, IGNORE)
    return label


def _as_list(maps: Maps) -> list[Tensor]:
    return [maps] if isinstance(maps, Tensor) else list(maps)


def _first_one(ones: Float32[Tensor, "k h w"]) -> UInt8[Tensor, "h w"]:
    """The first class whose entry is 1 where the others are 0 or 1; the last where none is. Overwrites its argument."""
    k = len(ones)  # weights k .. 1: the largest product is the first class (much faster than argmax)
    largest = ones.mul_(torch.arange(k, 0, -1, device=ones.device, dtype=torch.float32)[:, None, None]).amax(0)
    return (k - largest).clamp_max_(k - 1).to(torch.uint8)


def _bands(
    logits: Maps, size: tuple[int, int], align_corners: bool, average: Average, prior: Prior
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Row bands at full size: (rows, p_c / max p (k, rows, width), scratch of that shape, max p (rows, width)).

    The largest class of a pixel has exactly 1. The tensors are overwritten by the next band. With a prior, p is
    the potential q p instead, and where all potentials are 0, p_c / max p is 0.
    """
    share = None if prior is None else _Upsampled(prior.to(_as_list(logits)[0].device), size, align_corners=False)
    maps = [_Upsampled(low, size, align_corners) for low in _as_list(logits)]
    k, device = len(maps[0].wide), maps[0].wide.device
    height, width = size
    step = height if device.type != "cpu" else max(1, _BAND_BYTES // (4 * k * width))
    band, spare = torch.empty(2, k, step, width, device=device)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        full, scratch = band[:, : rows.stop - top], spare[:, : rows.stop - top]
        maps[0].fill(full, top)
        if average == "logits":
            for other in maps[1:]:
                full += other.fill(scratch, top)
            full /= len(maps)
        confidence = _exponentials(full)
        if average == "probabilities" and len(maps) > 1:
            full *= confidence
            for other in maps[1:]:
                confidence = _exponentials(other.fill(scratch, top))
                full.addcmul_(scratch, confidence)
            largest = full.amax(0)
            full /= largest
            confidence = largest / len(maps)
        if share is not None:
            full *= share.fill(scratch, top)
            largest = full.amax(0)
            full /= largest.where(largest > 0, 1.0)
            confidence = confidence * largest
        yield rows, full, scratch, confidence


def _exponentials(logits: Float32[Tensor, "k h w"]) -> Float32[Tensor, "h w"]:
    """Overwrites logits by exp(logit - largest), that is p_c / max p, and returns max p."""
    return logits.sub_(logits.amax(0)).exp_().sum(0).reciprocal_()


class _Upsampled:
    """Logits upsampled bilinearly along their rows at once (they are few rows yet), down the columns on demand."""

    def __init__(self, low: Float[Tensor, "k h w"], size: tuple[int, int], align_corners: bool) -> None:
        low = low.float()
        left, right, share = _neighbours(low.shape[2], size[1], align_corners, low.device)
        wide = (*low.shape[:2], size[1])
        self.wide = torch.lerp(low.gather(2, left.expand(wide)), low.gather(2, right.expand(wide)), share)
        above, below, self.share = _neighbours(low.shape[1], size[0], align_corners, low.device)
        self.above, self.below = above.tolist(), below.tolist()

    def fill(self, out: Float32[Tensor, "k rows width"], top: int) -> Float32[Tensor, "k rows width"]:
        """Rows top, top + 1, ... into `out`."""
        for above, group in groupby(range(top, top + out.shape[1]), self.above.__getitem__):
            rows = list(group)
            first, end = rows[0], rows[-1] + 1
            upper, lower = self.wide[:, above, None], self.wide[:, self.below[first], None]
            torch.lerp(upper, lower, self.share[first:end, None], out=out[:, first - top : end - top])
        return out


def _neighbours(old: int, new: int, align_corners: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `new` pixels on a line of `old`: the one before, the one after, the share of the latter."""
    at = torch.arange(new, dtype=torch.float32, device=device)
    if align_corners:
        at *= (old - 1) / max(new - 1, 1)
    else:
        at = ((at + 0.5) * (old / new) - 0.5).clamp_min(0)
    before = at.floor().clamp_max(old - 1)
    return before.long(), (before + 1).clamp_max(old - 1).long(), at - before
