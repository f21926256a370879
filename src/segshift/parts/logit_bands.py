"""From a network's low-resolution logits to confidences and labels at the image's size, without the softmax map.

Rows are made in bands that stay in the processor's cache. All that leaves a band is the confidence, 1 over the sum of
exp(logit - largest logit), and the label. On a GPU the image is one band.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from segshift.parts.threads import one_thread
from segshift.types import IGNORE

Maps = Tensor | Sequence[Tensor]
"""Low-resolution logits (k, h, w) of an image, or several (of flips, undone, and scales) to be averaged."""

Prior = Float32[Tensor, "k h w"] | None
"""q_n(c) of CBST's Eq. 9 on a grid of its own: a class's frequency at a place, resized bilinearly to the image."""

Average = Literal["probabilities", "logits"]
"""What is averaged over several maps, at full size: their softmaxes, or themselves."""

_LEAST = torch.finfo(torch.float32).tiny

BAND_BYTES = 2 << 20
"""One band of all classes: small enough for the caches, large enough that the calls on it cost little."""

_SIXTEEN = 16

_SLACK = 1e-5
"""Relative rounding of a probability here, and of what the probabilities of a pixel sum to."""


class Band(NamedTuple):
    """Some rows of an image at full size. The next band overwrites the tensors."""

    rows: slice
    relative: Float32[Tensor, "k rows width"]
    """p_c / max p: exactly 1 for the most probable class; of potentials that are all 0, 0."""
    scratch: Float32[Tensor, "k rows width"]
    """Of no meaning: room to work in."""
    confidence: Float32[Tensor, "rows width"]
    """max p."""

    def label(self) -> UInt8[Tensor, "rows width"]:
        """The most probable class, of equal ones the first. Overwrites the scratch."""
        return first_one(torch.floor(self.relative, out=self.scratch))


class ProbBand(NamedTuple):
    """Some rows of an image's class probabilities. The next band may overwrite the tensors."""

    rows: slice
    prob: Float[Tensor, "k rows width"]
    confidence: Float[Tensor, "rows width"]
    """max_c p_c."""
    label: UInt8[Tensor, "rows width"]
    """argmax_c p_c, of equal ones the first."""


class Labels(NamedTuple):
    """CBST's Eq. 8 of some pixels, and what they are predicted as."""

    label: UInt8[Tensor, "*shape"]
    predicted: UInt8[Tensor, "*shape"]
    """argmax_c p_c, or of the potentials; IGNORE where those are all 0."""


def probability_bands(
    logits: Maps, size: tuple[int, int], align_corners: bool = False, average: Average = "probabilities"
) -> Iterator[ProbBand]:
    """Class probabilities at `size` (height, width), band by band: those of the softmax map but for rounding (1e-5)."""
    for band in row_bands(logits, size, align_corners, average):
        label = band.label()
        yield ProbBand(band.rows, band.relative.mul_(band.confidence), band.confidence, label)


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
    for band in row_bands(logits, size, align_corners, average, prior):
        confidence[band.rows], label[band.rows] = band.confidence, band.label()
    return confidence, label if prior is None else label.where(confidence > 0, IGNORE)


@one_thread()
def most_probable(
    logits: Maps, size: tuple[int, int], align_corners: bool = False, average: Average = "probabilities"
) -> UInt8[Tensor, "height width"]:
    """The label of `top1` at `size` (height, width), up to classes as likely but for rounding.

    Of one map, the largest logit is the largest probability: no exponential is taken.
    """
    maps = _as_list(logits)
    if len(maps) > 1:
        return top1(maps, size, align_corners, average)[1]
    up = Upsampled(maps[0], size, align_corners)
    label = torch.empty(size, dtype=torch.uint8, device=up.wide.device)
    for rows, full, _ in _room(len(up.wide), size, label.device):
        up.fill(full, rows.start)
        # 1 for the largest, and for what differs from it by less than a rounding of 1; below 1 for all others.
        label[rows] = first_one(full.sub_(full.amax(0)).add_(1).clamp_min_(0).floor_())
    return label


@one_thread()
def balanced_labels(
    logits: Maps,
    thresholds: Float[Tensor, " k"],
    size: tuple[int, int],
    align_corners: bool = False,
    average: Average = "probabilities",
    prior: Prior = None,
) -> Labels:
    """CBST's Eq. 8 at `size` without the softmax map: argmax_c p_c/θ_c where that is at least 1, else IGNORE.

    With a prior, p is the potential q p, as Eq. 9 asks; where all potentials are 0, IGNORE.

    Thresholds (above 0) found from `top1` keep exactly the pixels they were counted from: both see the same
    bits. Against the softmax map, a label can differ where p_c/θ_c is within rounding (1e-5) of 1 or of another's.
    """
    theta = thresholds.to(_as_list(logits)[0].device, torch.float32)
    label = torch.empty(size, dtype=torch.uint8, device=theta.device)
    predicted = torch.empty_like(label)
    for band in row_bands(logits, size, align_corners, average, prior):
        found = balanced(band, theta, sums_to_1=prior is None)
        label[band.rows], predicted[band.rows] = found.label, found.predicted
    return Labels(label, predicted)


def balanced(band: Band, theta: Float32[Tensor, " k"], sums_to_1: bool = True) -> Labels:
    """Eq. 8 of some pixels; `sums_to_1`: their probabilities do, as potentials under a prior do not."""
    best = band.label()
    if not sums_to_1:
        return Labels(_balanced_everywhere(band, theta), best.where(band.confidence > 0, IGNORE))
    label = _above(band, theta, best)
    least = float(theta.min())
    # A class beside the most probable one passes only where it has θ_c, and what is left by that one is enough.
    if least <= 0.5 * (1 + _SLACK):
        _balance_contested(band, theta, least, label)
    return Labels(label, best)


def _above(band: Band, theta: Tensor, best: UInt8[Tensor, "rows width"]) -> UInt8[Tensor, "rows width"]:
    """The most probable class where its probability reaches its threshold."""
    return best.where(band.confidence >= _of(theta, best), IGNORE)


def _balance_contested(band: Band, theta: Tensor, least: float, label: UInt8[Tensor, "rows width"]) -> None:
    """Mends `label` where the most probable class leaves enough for another one to pass too."""
    contested = ((band.confidence >= least * (1 - _SLACK)) & (band.confidence <= 1 - least + _SLACK)).flatten()
    at = contested.nonzero()[:, 0]
    if 2 * len(at) > label.numel():  # picking them out would cost more than it spares
        label.copy_(_balanced_everywhere(band, theta))
        return
    relative = band.relative.flatten(1).index_select(1, at)[:, None]
    found = Band(band.rows, relative, torch.empty_like(relative), band.confidence.flatten()[at][None])
    label.view(-1)[at] = _balanced_everywhere(found, theta)[0]


def _balanced_everywhere(band: Band, theta: Tensor) -> UInt8[Tensor, "rows width"]:
    """Eq. 8 with every class looked at. Overwrites the scratch."""
    ratio = torch.mul(band.relative, theta.reciprocal()[:, None, None], out=band.scratch)
    # Under a prior all ratios of a pixel may be 0: divided by the least float, they stay 0.
    best = first_one(ratio.div_(ratio.amax(0).clamp_min_(_LEAST)).floor_())
    # x / y >= 1 is x >= y in floating point too; p itself is compared, not its product with a rounded 1/θ.
    prob = band.relative.gather(0, best[None].long())[0].mul_(band.confidence)
    return best.where(prob >= _of(theta, best), IGNORE)


def _of(theta: Float32[Tensor, " k"], label: UInt8[Tensor, "rows width"]) -> Float32[Tensor, "rows width"]:
    return theta.index_select(0, label.flatten().int()).view(label.shape)


def _as_list(maps: Maps) -> list[Tensor]:
    return [maps] if isinstance(maps, Tensor) else list(maps)


def first_one(ones: Float32[Tensor, "k h w"]) -> UInt8[Tensor, "h w"]:
    """The first class whose entry is 1 where the others are 0 or 1; the last where none is. Overwrites its argument."""
    k = len(ones)  # weights k .. 1: the largest product is the first class (much faster than argmax)
    largest = ones.mul_(torch.arange(k, 0, -1, device=ones.device, dtype=torch.float32)[:, None, None]).amax(0)
    return (k - largest).clamp_max_(k - 1).to(torch.uint8)


def row_bands(
    logits: Maps,
    size: tuple[int, int],
    align_corners: bool = False,
    average: Average = "probabilities",
    prior: Prior = None,
) -> Iterator[Band]:
    """The image at full size, band by band from the top. With a prior, p is the potential q p."""
    share = None if prior is None else Upsampled(prior.to(_as_list(logits)[0].device), size, align_corners=False)
    maps = [Upsampled(low, size, align_corners) for low in _as_list(logits)]
    for rows, room, scratch in _room(len(maps[0].wide), size, maps[0].wide.device):
        top = rows.start
        full = maps[0].fill(room, top)
        if average == "logits":
            for other in maps[1:]:
                full += other.fill(scratch, top)
            full /= len(maps)
        confidence = exponentials(full)
        if average == "probabilities" and len(maps) > 1:
            full *= confidence
            for other in maps[1:]:
                confidence = exponentials(other.fill(scratch, top))
                full.addcmul_(scratch, confidence)
            largest = full.amax(0)
            full /= largest
            confidence = largest / len(maps)
        if share is not None:
            full *= share.fill(scratch, top)
            largest = full.amax(0)
            full /= largest.where(largest > 0, 1.0)
            confidence = confidence * largest
        yield Band(rows, full, scratch, confidence)


def _room(k: int, size: tuple[int, int], device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """The bands of an image: rows, and two tensors (k, rows, width) to fill."""
    height, width = size
    step = height if device.type != "cpu" else max(1, BAND_BYTES // (4 * k * width))
    band, spare = torch.empty(2, k, step, width, device=device)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        yield rows, band[:, : rows.stop - top], spare[:, : rows.stop - top]


def exponentials(logits: Float32[Tensor, "k h w"]) -> Float32[Tensor, "h w"]:
    """Overwrites logits by exp(logit - largest), that is p_c / max p, and returns max p."""
    return _total(logits.sub_(logits.amax(0)).exp_()).reciprocal_()


def _total(terms: Float32[Tensor, "k h w"]) -> Float32[Tensor, "h w"]:
    """The sum over classes, in one order wherever a pixel stands: the bits must not depend on the band.

    Torch's own sum takes another order at the end of a row of memory. This one is its order elsewhere: sixteens of
    classes, and the rest before them.
    """
    whole = len(terms) - len(terms) % _SIXTEEN
    sums = [_in_order(terms[first : first + _SIXTEEN]) for first in range(0, whole, _SIXTEEN)]
    if whole < len(terms):
        rest = _in_order(terms[whole:])
        return rest.add_(_in_order(sums)) if sums else rest
    return _in_order(sums)


def _in_order(terms: Iterable[Tensor]) -> Tensor:
    first, *others = terms
    total = first.clone()
    for other in others:
        total += other
    return total


class Upsampled:
    """Logits upsampled bilinearly along their rows at once (they are few rows yet), down the columns on demand."""

    def __init__(
        self, low: Float[Tensor, "k h w"], size: tuple[int, int], align_corners: bool, grouped: bool | None = None
    ) -> None:
        """`grouped`: rows between the same two rows of logits in one operation; None: on a processor alone."""
        low = low.float()
        left, right, share = _neighbours(low.shape[2], size[1], align_corners, low.device)
        wide = (*low.shape[:2], size[1])
        self.wide = torch.lerp(low.gather(2, left.expand(wide)), low.gather(2, right.expand(wide)), share)
        self.above, self.below, self.share = _neighbours(low.shape[1], size[0], align_corners, low.device)
        self._grouped = low.device.type == "cpu" if grouped is None else grouped
        if self._grouped:
            self._above_list, self._below_list = self.above.tolist(), self.below.tolist()

    def fill(self, out: Float32[Tensor, "k rows width"], top: int) -> Float32[Tensor, "k rows width"]:
        """Rows top, top + 1, ... into `out`."""
        end = top + out.shape[1]
        if not self._grouped:  # a few large operations, where each costs a launch
            upper = self.wide.index_select(1, self.above[top:end])
            return torch.lerp(upper, self.wide.index_select(1, self.below[top:end]), self.share[top:end, None], out=out)
        for above, group in groupby(range(top, end), self._above_list.__getitem__):
            rows = list(group)
            first, stop = rows[0], rows[-1] + 1
            upper, lower = self.wide[:, above, None], self.wide[:, self._below_list[first], None]
            torch.lerp(upper, lower, self.share[first:stop, None], out=out[:, first - top : stop - top])
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
