"""Class-balanced sampling of CPSL and the class distribution of its pseudo-labels, Eq. 8 to 11. Pure functions.

All shapes are known beforehand and nothing waits for the device. Shapes: b images, k classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32, Int64, Integer
from torch import Tensor

from segshift.errors import ConfigError


def class_distribution(labels: Integer[Tensor, "b h w"], num_classes: int) -> Float32[Tensor, "b k"]:
    """δ_n of Eq. 8: each class's share of an image's labelled pixels. Zeros for an image without any.

    Pixels that are IGNORE (padding), or of no class, do not count.
    """
    counts = _pixels(labels.flatten(1), num_classes)[:, :-1]
    return counts / counts.sum(1, keepdim=True).clamp_min(1)


def initial_distribution(pixels: Integer[Tensor, " k"]) -> Float32[Tensor, " k"]:
    """δ_pseudo at the start, Eq. 10, from the number of pixels of each class over the whole target (Y_ST).

    Counts of parts of the target, or of processes, are added up before. All classes get the same where nothing is
    labelled.
    """
    total = pixels.sum()
    return (pixels.double() / total).where(total > 0, 1 / len(pixels)).float()


def moving_average(before: Float[Tensor, " k"], found: Float[Tensor, "b k"], alpha: float) -> Float[Tensor, " k"]:
    """δ_pseudo after a step, Eq. 11, image after image: alpha δ_pseudo + (1 - alpha) δ_n.

    A row of zeros, an image without labels, is passed over.
    """
    for row in found:
        before = torch.where(row.any(), alpha * before + (1 - alpha) * row, before)
    return before


def class_counts(distribution: Float[Tensor, "*b k"], samples: int, floor: int = 0) -> Int64[Tensor, "*b k"]:
    """M_c of Eq. 9, the pixels to be sampled of each class, by largest remainder; they sum to `samples` exactly.

    Each class gets ⌊M δ_c⌋, and those with the largest remainders (the smaller class id where they tie) one more. The
    paper stops at the former and draws the rest at random; then classes with M δ_c < 1 may stay without any.
    `floor`: every class with a share gets at least so many, or an equal number where M does not suffice; those with
    more give, in proportion to what they have above it. A distribution of zeros gives zeros; others are normalised.
    Raises ConfigError where `samples` or `floor` is negative.
    """
    if samples < 0 or floor < 0:
        raise ConfigError(f"samples = {samples}, floor = {floor}; expected numbers of pixels of at least 0")
    shape = distribution.shape
    distribution = distribution.reshape(-1, shape[-1])
    present = distribution > 0
    wanted = torch.where(present.any(1), samples, 0)
    counts = _largest_remainder(distribution, wanted)
    if floor:
        least = (wanted // present.sum(1).clamp_min(1)).clamp_max(floor)[:, None] * present
        missing = (least - counts).clamp_min(0)
        above = (counts - least).clamp_min(0)
        counts = counts + missing - _largest_remainder(above, missing.sum(1))
    return counts.reshape(shape)


def _largest_remainder(weights: Tensor, total: Int64[Tensor, " b"]) -> Int64[Tensor, "b k"]:
    """`total` units a row, shared in proportion to the weights; a weight of 0 gets none."""
    weights = weights.double()
    quota = total[:, None] * (weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny))
    share = quota.floor()
    remainder = (quota - share).where(weights > 0, -1.0)
    order = remainder.argsort(dim=1, descending=True, stable=True)
    left = total - share.sum(1).long()
    one_more = torch.arange(weights.shape[1], device=weights.device) < left[:, None]
    return share.long().scatter_add(1, order, one_more.long())


def sample_pixels(
    labels: Integer[Tensor, "b h w"], counts: Int64[Tensor, "b k"], keys: Float[Tensor, "b n"], samples: int
) -> Int64[Tensor, "b m"]:
    """The sampled pixels of each image as flat indices y·w + x, all different: counts[c] of each class c.

    `keys`: a random number for each of the n = h·w pixels; those of a class with the smallest are taken. Where a class
    has too few pixels, or the counts sum to less than `samples`, other pixels make up for it at random; those that
    are IGNORE come last. m is `samples`, or n where that is less.
    """
    classes = counts.shape[1]
    by_key = keys.argsort(dim=1, stable=True)
    label = _class_or_none(labels.flatten(1), classes).gather(1, by_key)
    by_class = label.argsort(dim=1, stable=True)
    ordered = label.gather(1, by_class)
    pixels = _pixels(label, classes)
    place = torch.arange(label.shape[1], device=label.device) - (pixels.cumsum(1) - pixels).gather(1, ordered)
    none = torch.zeros_like(counts[:, :1])
    chosen = place < torch.cat((counts, none), 1).gather(1, ordered)
    turn = torch.where(chosen, 0, torch.where(ordered < classes, 1, 2))
    turn = torch.empty_like(turn).scatter_(1, by_class, turn)
    return by_key.gather(1, turn.argsort(dim=1, stable=True)[:, :samples])


def _pixels(labels: Integer[Tensor, "b n"], num_classes: int) -> Int64[Tensor, "b k1"]:
    """Pixels of each class; in the last column those of none."""
    labels = _class_or_none(labels, num_classes)
    counts = torch.zeros(len(labels), num_classes + 1, dtype=torch.int64, device=labels.device)
    return counts.scatter_add_(1, labels, torch.ones_like(labels))


def _class_or_none(labels: Tensor, num_classes: int) -> Int64[Tensor, "b n"]:
    """int64 labels, `num_classes` for IGNORE (and whatever else is above the classes)."""
    return labels.long().clamp_max(num_classes)
