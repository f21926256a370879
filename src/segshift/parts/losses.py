"""Losses that two or more papers share, and the one place where class scores are brought to the size of labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from segshift.models.segmenter import upsample
from segshift.parts.banded import Term, banded_sums
from segshift.parts.processes import sum_over_processes, world_size
from segshift.types import IGNORE

FULL_SIZE_BYTES = 32 << 20
"""Class scores at the image's size, as float32, up to which they are made at once: trainings whose results are kept
(MiniCity 11 MB, CamVid 13 MB) keep the bits that they have always had. Bands take 0.6 of the time there already, and
0.4 beyond 32 MB, where scores leave the caches and what they take of memory begins to matter (benchmarks/step.py)."""

ALL_ROWS = slice(None)


def share_of_mean(total: Float[Tensor, ""], count: Int[Tensor, ""]) -> Float[Tensor, ""]:
    """A process's part of the mean over a region: its sum divided by the pixels of *all* processes.

    Distributed training averages gradients over processes, so the part is scaled by their number: the
    average is then the gradient of the one global mean. Over an empty region it is 0, with gradient 0.
    """
    everywhere = sum_over_processes(count)
    return total * world_size() / everywhere.clamp(min=1)


def region_mean(values: Float[Tensor, "..."], region: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean of the values inside a region; 0 where the region is empty."""
    return share_of_mean((values * region).sum(), region.sum())


def cross_entropy(logits: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """-y log p, the mean over labelled pixels (CBST Eq. 1: source term or target term). IGNORE pixels drop out.

    The papers print the sum over pixels; the mean is what every released implementation optimises, and what
    makes a learning rate independent of the crop.
    """
    mean = cross_entropy_mean(label)
    return share_of_mean(mean.total(logits, ALL_ROWS), mean.pixels)


# --- of scores at another size ---------------------------------------------------------------------------------------


class PixelMean(NamedTuple):
    """A loss that is a mean over pixels: what is summed, and over how many pixels of this process."""

    total: Term
    pixels: Int[Tensor, ""]


def cross_entropy_mean(label: Int[Tensor, "b h w"], count: Int[Tensor, ""] | None = None) -> PixelMean:
    """`cross_entropy`, as a mean to be taken. `count`: what the sum is divided by; None: the labelled pixels."""

    def total(scores: Tensor, rows: slice) -> Tensor:
        return F.cross_entropy(scores, label[:, rows], ignore_index=IGNORE, reduction="sum")

    return PixelMean(total, (label != IGNORE).sum() if count is None else count)


def mean_over(region: Bool[Tensor, "b h w"], values: Callable[..., Tensor], *maps: Tensor) -> PixelMean:
    """The mean of values(scores, *maps), (b, h, w), inside a region, as a mean to be taken; 0 where it is empty.

    `maps`: constants of the image's size, (b, h, w) or (b, c, h, w); like the scores, `values` gets rows of them.
    """

    def total(scores: Tensor, rows: slice) -> Tensor:
        return (values(scores, *(one[..., rows, :] for one in maps)) * region[:, rows]).sum()

    return PixelMean(total, region.sum())


def upsampled_means(
    scores: Float[Tensor, "b k h w"], size: tuple[int, int], align_corners: bool, means: Mapping[str, PixelMean]
) -> dict[str, Tensor]:
    """Means over pixels of functions of `scores` brought to `size` (height, width), all of one upsampling.

    In float32 or better. Beyond `FULL_SIZE_BYTES` in bands (`parts.banded`), which differs in the last bits. Of all
    processes, as `share_of_mean` says.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    terms = [mean.total for mean in means.values()]
    images, classes = scores.shape[:2]
    if 4 * images * classes * size[0] * size[1] <= FULL_SIZE_BYTES:
        full = upsample(scores, size, align_corners)
        sums = [term(full, ALL_ROWS) for term in terms]
    else:
        sums = banded_sums(scores, size, align_corners, terms)
    return {name: share_of_mean(total, mean.pixels) for (name, mean), total in zip(means.items(), sums, strict=True)}


def upsampled_cross_entropy(
    scores: Float[Tensor, "b k h w"], label: Int[Tensor, "b height width"], align_corners: bool
) -> Float[Tensor, ""]:
    """`cross_entropy` of `scores` brought to the labels' size."""
    size = label.shape[1], label.shape[2]
    return upsampled_means(scores, size, align_corners, {"": cross_entropy_mean(label)})[""]
