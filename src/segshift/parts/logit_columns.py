"""What need not be looked at of an image's upsampled logits, because two rows of logits decide all rows between them.

Between two neighbouring rows, upsampled logits are straight lines. In a column where the same class k is the largest
at both ends it is so all along, and sum_c exp(l_c - l_k), which is 1 / p_k, is convex: p_k is nowhere below the
smaller of its two ends, and nowhere above 1 over the sum of each class's smaller exponential. Where these bounds
settle what is asked (is p_k above a threshold, is it in a range), none of the pixels in between is computed; the others
are, by the same operations as in `logit_bands`, to the same bits. Between a seventh and a quarter of the work remains.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor

from segshift.parts.logit_bands import BAND_BYTES, Band, Labels, Upsampled, balanced, exponentials, first_one
from segshift.parts.threads import one_thread
from segshift.types import IGNORE

LEAST_FACTOR = 4
"""Rows of pixels a row of logits, below which looking at the ends spares too little."""


class Ends(NamedTuple):
    """What holds for all pixels between two rows of logits, in each column."""

    label: UInt8[Tensor, "h width"]
    """The most probable class, where `sure`."""
    sure: Bool[Tensor, "h width"]
    least: Float32[Tensor, "h width"]
    """Its probability is at least this, rounding included."""
    most: Float32[Tensor, "h width"]


class Part(NamedTuple):
    """Pixels that were computed: r rows of n columns, not of one place."""

    at: Int64[Tensor, "r n"]
    """Where they are in the flattened image."""
    band: Band


class Columns:
    """The columns of an image between each row of its logits (h of them) and the next; the last row has none."""

    def __init__(self, low: Float[Tensor, "k h w"], size: tuple[int, int], align_corners: bool) -> None:
        up = Upsampled(low, size, align_corners)
        self.wide, self.share, self.width = up.wide, up.share, size[1]
        self.above = up.above
        """Between which rows each row of pixels lies: from this one on."""
        self._pixels = torch.bincount(self.above, minlength=self.wide.shape[1])
        self._first = self._pixels.cumsum(0) - self._pixels
        # Rounding of a logit, relative to its exponential, twice over; and of the sums.
        self.slack = 1e-5 + 4 * torch.finfo(torch.float32).eps * float(self.wide.abs().amax())

    def ends(self) -> Ends:
        """The bounds; a NaN makes nothing sure."""
        k, height, width = self.wide.shape
        step = max(1, BAND_BYTES // (4 * k * width))
        return Ends(*map(torch.cat, zip(*(self._ends_of(top, top + step) for top in range(0, height, step)))))

    def _ends_of(self, top: int, end: int) -> Ends:
        """Of the rows top to end - 1."""
        relative = self.wide[:, top : end + 1].clone()
        count = min(end, self.wide.shape[1]) - top
        if relative.shape[1] == count:  # the last row has no next one: all below it is as it is
            relative = torch.cat((relative, relative[:, -1:]), dim=1)
        prob, scratch = exponentials(relative), torch.empty_like(relative)
        # A class that is as likely but for rounding may be the largest in between.
        alone = torch.mul(relative, 1 + self.slack, out=scratch).floor_().sum(0) == 1
        label = first_one(torch.floor(relative, out=scratch))
        sure = (label[:-1] == label[1:]) & alone[:-1] & alone[1:]
        smaller = torch.minimum(relative[:, :-1], relative[:, 1:], out=scratch[:, :-1])
        least = torch.minimum(prob[:-1], prob[1:]) * (1 - self.slack)
        return Ends(label[:-1], sure, least, smaller.sum(0).reciprocal_() * (1 + self.slack))

    def computed(self, wanted: Bool[Tensor, "h width"]) -> Iterator[Part]:
        """The pixels of the columns asked for, in parts that fit the caches."""
        flat = self.wide.flatten(1)
        below = (torch.arange(len(self._pixels)) + 1).clamp_max_(len(self._pixels) - 1)
        for rows in self._pixels.unique().tolist():
            above, column = (wanted & (self._pixels == rows)[:, None]).nonzero(as_tuple=True)
            step = max(1, BAND_BYTES // (4 * len(flat) * max(rows, 1)))
            for start in range(0, len(above) if rows else 0, step):
                a, x = above[start : start + step], column[start : start + step]
                row = self._first[a] + torch.arange(rows)[:, None]
                shape = len(flat), len(a)  # gather, for index_select along a second axis is many times slower
                upper = flat.gather(1, (a * self.width + x).expand(shape))[:, None]
                lower = flat.gather(1, (below[a] * self.width + x).expand(shape))[:, None]
                relative = torch.lerp(upper, lower, self.share[row])
                confidence = exponentials(relative)
                yield Part(row * self.width + x, Band(slice(0), relative, torch.empty_like(relative), confidence))


def pays(low: Float[Tensor, "k h w"], size: tuple[int, int]) -> bool:
    """Whether looking at the ends first is worth it: on a processor, where there is much in between."""
    return low.device.type == "cpu" and size[0] >= LEAST_FACTOR * low.shape[1]


@one_thread()
def confidences_within(
    low: Float[Tensor, "k h w"],
    least: Float32[Tensor, " k"],
    most: Float32[Tensor, " k"],
    size: tuple[int, int],
    align_corners: bool,
) -> tuple[Float32[Tensor, " n"], UInt8[Tensor, " n"]]:
    """Confidence and label, as of `top1`, of at least all pixels with least_c <= confidence <= most_c of their label c.

    Others may be among them. In no particular order.
    """
    columns = Columns(low, size, align_corners)
    ends = columns.ends()
    label = ends.label.int()
    floor, ceiling = (bound.index_select(0, label.flatten()).view(label.shape) for bound in (least, most))
    outside = ends.sure & ((ends.most < floor) | (ends.least > ceiling))
    parts = [(part.band.confidence.flatten(), part.band.label().flatten()) for part in columns.computed(~outside)]
    if not parts:
        return torch.empty(0), torch.empty(0, dtype=torch.uint8)
    confidence, labels = zip(*parts)
    return torch.cat(confidence), torch.cat(labels)


@one_thread()
def balanced_labels(
    low: Float[Tensor, "k h w"], thresholds: Float[Tensor, " k"], size: tuple[int, int], align_corners: bool
) -> Labels:
    """CBST's Eq. 8: to the bit what `logit_bands.balanced_labels` gives of one map without a prior."""
    theta = thresholds.to(torch.float32)
    columns = Columns(low, size, align_corners)
    ends = columns.ends()
    own = theta.index_select(0, ends.label.flatten().int()).view(ends.label.shape)
    kept = ends.least >= own
    # Another class passes only where it has the least of all thresholds, and the most probable one leaves it as much.
    fewest = float(theta.min())
    alone = (ends.least > 1 - fewest + columns.slack) | (ends.most < fewest)
    settled = ends.sure & (kept | (ends.most < own)) & alone
    label = ends.label.where(kept, IGNORE).index_select(0, columns.above).view(-1)
    predicted = ends.label.index_select(0, columns.above).view(-1)
    for part in columns.computed(~settled):
        found = balanced(part.band, theta)
        label[part.at], predicted[part.at] = found.label, found.predicted
    return Labels(label.view(size), predicted.view(size))
