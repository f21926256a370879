"""AdaptSegNet: adversarial alignment of softmax maps.

Tsai, Hung, Schulter, Sohn, Yang, Chandraker: Learning to Adapt Structured Output Space for Semantic Segmentation,
CVPR 2018. Eq. 1 (one level) and Eq. 5 (multi-level); with the least-squares loss it is the warm-up of IAST (Mei et
al., ECCV 2020, Eq. 2). Losses and alternation are in `parts.adversarial`.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from segshift.parts.adversarial import Adversarial, AdversarialConfig


@dataclass(frozen=True)
class AdaptSegNetConfig(AdversarialConfig):
    """Cross-entropy on the source, and target softmax maps that a discriminator takes for the source's."""

    def build(self, model: nn.Module, steps: int, seed: int) -> AdaptSegNet:
        return AdaptSegNet(model, self, steps, seed)


class AdaptSegNet(Adversarial):
    """min_G L_seg(I_s) + λ_adv L_adv(I_t), the discriminator trained against it (Eq. 1 to 4; multi-level: Eq. 5)."""

    def shown(self, prob: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """P = softmax(G(I)): the probabilities themselves."""
        return prob
