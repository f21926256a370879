"""Losses that two or more papers share."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from segshift.parts.processes import sum_over_processes, world_size
from segshift.types import IGNORE


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
    total = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    return share_of_mean(total, (label != IGNORE).sum())
