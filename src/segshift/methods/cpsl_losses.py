"""Losses and labels of CPSL as pure functions: Eq. 1 and 13, and what its release has in their place.

Eq. 2, 3 and 13 print sums over pixels. Each is the mean over its pixels here (of all processes), which λ_1 and λ_2
need to mean the same on every crop.
"""

from __future__ import annotations

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor

from segshift.parts.losses import region_mean
from segshift.types import IGNORE

LOG_CLAMP = 1e-4
"""What a zero of a one-hot label counts as in reverse cross-entropy (released)."""


def rectify(
    p_sl: Float[Tensor, "*b k h w"], p_st: Float[Tensor, "*b k h w"], confidence: float = 0.0
) -> Int[Tensor, "*b h w"]:
    """Rectified pseudo-labels Ŷ, Eq. 1: argmax_c P_SL · P_ST. IGNORE where no class has mass (padding).

    `confidence`: IGNORE too where the winner has a smaller share of the product's sum over classes (an option of the
    release; the paper labels every pixel).
    """
    product = p_sl * p_st
    best, label = product.max(-3)
    labelled = (best > 0) & (best >= confidence * product.sum(-3))
    return label.masked_fill(~labelled, IGNORE)


def symmetric_kl(
    weak: Float[Tensor, "b k h w"], strong: Float[Tensor, "b k h w"], region: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """L_REG, Eq. 13: KL(P_w || P_s) + KL(P_s || P_w), both given as logits; the mean over the region's pixels.

    0 with gradient 0 over an empty region.
    """
    return region_mean(symmetric_divergence(strong, weak), region)


def symmetric_divergence(strong: Float[Tensor, "b k h w"], weak: Float[Tensor, "b k h w"]) -> Float[Tensor, "b h w"]:
    """Eq. 13 of each pixel."""
    log_weak, log_strong = weak.log_softmax(1), strong.log_softmax(1)
    # Both divergences in one: sum_c (p_w - p_s) (log p_w - log p_s).
    return ((log_weak.exp() - log_strong.exp()) * (log_weak - log_strong)).sum(1)


def one_way_kl(
    weak: Float[Tensor, "b k h w"], strong: Float[Tensor, "b k h w"], region: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """KL(P_w || P_s), both given as logits; the mean over the region's pixels.

    The release's consistency, where the logits are those of the self-labelling head (prototype space).
    """
    return region_mean(divergence_from(strong, weak), region)


def divergence_from(strong: Float[Tensor, "b k h w"], weak: Float[Tensor, "b k h w"]) -> Float[Tensor, "b h w"]:
    """KL(P_w || P_s) of each pixel."""
    log_weak = weak.log_softmax(1)
    return (log_weak.exp() * (log_weak - strong.log_softmax(1))).sum(1)


def symmetric_cross_entropy(
    logits: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"], forward: float = 0.1, reverse: float = 1.0
) -> Float[Tensor, ""]:
    """Cross-entropy and reverse cross-entropy (Wang et al. 2019), the release's loss on the target.

    Reverse: -sum_c p_c log y_c with log 0 clamped to log 1e-4, so that it is (1 - p_y) log 1e4. The mean over labelled
    pixels; IGNORE pixels drop out.
    """
    return region_mean(both_cross_entropies(logits, label, forward, reverse), label != IGNORE)


def both_cross_entropies(
    logits: Float[Tensor, "b k h w"], label: Int[Tensor, "b h w"], forward: float = 0.1, reverse: float = 1.0
) -> Float[Tensor, "b h w"]:
    """`symmetric_cross_entropy` of each pixel; of no meaning where the label is IGNORE."""
    of_label = logits.log_softmax(1).gather(1, label.masked_fill(label == IGNORE, 0)[:, None])[:, 0]
    reversed_loss = -math.log(LOG_CLAMP) * (1 - of_label.exp())
    return -forward * of_label + reverse * reversed_loss
