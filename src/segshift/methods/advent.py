"""AdvEnt and MinEnt: less entropy on the target, by a discriminator or directly.

Vu, Jain, Bucher, Cord, Pérez: ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation,
CVPR 2019. §3.1 is MinEnt, §3.2 AdvEnt, whose alternation is AdaptSegNet's (`parts.adversarial`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import DataError
from segshift.parts.adversarial import Adversarial, AdversarialConfig, at_least_float32, check_weights
from segshift.parts.batch_norm import Policy, check_policy, set_batch_norm
from segshift.parts.losses import ALL_ROWS, PixelMean, share_of_mean, upsampled_means
from segshift.parts.optimizers import Optimizer
from segshift.parts.single_network import SingleNetwork
from segshift.types import Batch, Losses, MethodConfig

SMALLEST = 1e-30
"""Below it, log p is taken as log of this: -p log p is 0 at p = 0, and its slope finite."""


def entropy_map(prob: Float[Tensor, "*b k h w"]) -> Float[Tensor, "*b k h w"]:
    """-p log2 p / log2 C per class (§3.2: weighted self-information, over the entropy of a uniform distribution).

    `prob` sums to 1 over classes. Each value lies in [0, log2(e) / (e log2 C)]; their sum over classes is the
    normalised entropy of §3.1, in [0, 1]. 0 at p = 0, with a finite gradient. float32 or better. DataError for C = 1.
    """
    classes = prob.shape[-3]
    if classes < 2:
        raise DataError(f"prob has shape {tuple(prob.shape)}: {classes} class; expected at least 2, (..., k, h, w)")
    prob = at_least_float32(prob)
    return prob * torch.log2(prob.clamp_min(SMALLEST)) / -math.log2(classes)


def minent_loss(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, ""]:
    """The entropy of the predictions in [0, 1] (§3.1): the mean over pixels of the entropy map's sum over classes.

    `logits` at the image's size. The paper prints the sum over an image's pixels; the mean is what its release
    minimises and what λ = .001 belongs to. Over the pixels of all processes.
    """
    mean = _mean_entropy(logits[:, 0])
    return share_of_mean(mean.total(logits, ALL_ROWS), mean.pixels)


def _mean_entropy(pixels: Tensor) -> PixelMean:
    """Over as many pixels as a tensor has numbers."""

    def total(logits: Tensor, rows: slice) -> Tensor:
        del rows  # all of them count alike
        return entropy_map(at_least_float32(logits).softmax(1)).sum()

    return PixelMean(total, torch.full((), pixels.numel(), dtype=torch.int64, device=pixels.device))


@dataclass(frozen=True)
class AdvEntConfig(AdversarialConfig):
    """Cross-entropy on the source, and target entropy maps that a discriminator takes for the source's."""

    def build(self, model: nn.Module, steps: int, seed: int) -> AdvEnt:
        return AdvEnt(model, self, steps, seed)


class AdvEnt(Adversarial):
    """§3.2: the discriminator is shown entropy maps, on which the domains differ most."""

    def shown(self, prob: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """I = -P log P, normalised."""
        return entropy_map(prob)


@dataclass(frozen=True)
class MinEntConfig(MethodConfig):
    """Cross-entropy on the source, and the entropy of the target's predictions."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    weight: float = 0.001
    """λ_ent."""
    batch_norm: Policy = "frozen"

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        check_policy(self.batch_norm)

    def build(self, model: nn.Module, steps: int, seed: int) -> MinEnt:
        return MinEnt(model, self, steps, seed)


class MinEnt(SingleNetwork):
    """§3.1: L_seg(x_s, y_s) + λ_ent L_ent(x_t)."""

    def __init__(self, model: nn.Module, config: MinEntConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.config = config

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        """Source labels, then the target's entropy. Labels of the target are not looked at."""
        policy = self.config.batch_norm
        yield {"source": self.segmentation_loss(batch.source, "source", t, policy, None)}
        set_batch_norm(self.model, policy, "target")
        image = batch.target.image
        size, align = (image.shape[2], image.shape[3]), bool(self.model.align_corners)
        found = upsampled_means(self.model(image).logits, size, align, {"entropy": _mean_entropy(image[:, 0])})
        yield {"entropy": self.config.weight * found["entropy"]}
