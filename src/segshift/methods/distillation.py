"""Knowledge distillation of an adapted network into a student that starts from other weights.

CPSL (Li et al., CVPR 2022, §4.2) does two rounds of it "following [50]": ProDA (Zhang et al., CVPR 2021, "Distillation
to self-supervised model"). The student learns from the source's labels, from the teacher's confident pixels of the
target as hard labels, and from the teacher's probabilities of all of them. That it starts anew is not this method's
affair: `phase.Phase.restart` names its weights, put in after the teacher was scanned. The released code feeds the
divergence the student's softmax where its logarithm belongs; here it is the one printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.parts.augment import ColourAugmentation, augment_images
from segshift.parts.batch_norm import Policy, check_policy, set_batch_norm
from segshift.parts.losses import cross_entropy_mean, mean_over, region_mean, upsampled_means
from segshift.parts.optimizers import Optimizer
from segshift.parts.single_network import SingleNetwork
from segshift.types import IGNORE, Batch, FeatureScan, Images, LabelStore, Losses, MethodConfig, Scan


def hard_labels(prob: Float[Tensor, "b k h w"], confidence: float) -> Int[Tensor, "b h w"]:
    """The most probable class where its probability is above `confidence`, else IGNORE.

    Padding, where every class has probability 0, is IGNORE at any `confidence` of at least 0.
    """
    largest, label = prob.max(1)
    return label.masked_fill(largest <= confidence, IGNORE)


def distillation_loss(
    logits: Float[Tensor, "b k h w"], teacher: Float[Tensor, "b k h w"], valid: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """KL(teacher || student) = sum_c q_c (log q_c - log p_c), p the student's softmax of `logits`.

    `teacher` holds the probabilities q. The mean is over the valid pixels of all processes; 0 with gradient 0 where
    there is none.
    """
    return region_mean(_divergence(logits, teacher), valid)


def _divergence(logits: Float[Tensor, "b k h w"], teacher: Float[Tensor, "b k h w"]) -> Float[Tensor, "b h w"]:
    return (torch.xlogy(teacher, teacher) - teacher * logits.log_softmax(1)).sum(1)


def _sgd() -> Optimizer:
    return Optimizer("sgd", lr=6e-4, head_multiplier=10.0, weight_decay=2e-4)


@dataclass(frozen=True)
class DistillationConfig(MethodConfig):
    """A student of the network as it was when the round began. CPSL prints none of these figures."""

    confidence: float = 0.95
    """Target pixels whose most probable class is above this have it as hard label (ProDA's command)."""
    kl_weight: float = 1.0
    """β: of the divergence from the teacher on all target pixels (ProDA)."""
    batch_norm: Policy = "both"
    """A student that starts anew has no statistics worth freezing. both: each domain's batches by their own, as in
    ProDA's release."""
    augment: ColourAugmentation | None = None
    """Strong colours on the target view."""
    optimizer: Optimizer = field(default_factory=_sgd)
    """ProDA's: SGD at 6e-4, ten times that for the head."""

    def __post_init__(self) -> None:
        check_policy(self.batch_norm)
        if not 0 <= self.confidence < 1:
            raise ConfigError(f"confidence = {self.confidence}; expected 0 <= confidence < 1 (ProDA: 0.95)")
        if not 0 <= self.kl_weight < float("inf"):
            raise ConfigError(f"kl_weight = {self.kl_weight}; expected a number of at least 0 (ProDA: 1)")

    def build(self, model: nn.Module, steps: int, seed: int) -> Distillation:
        return Distillation(model, self, steps, seed)


class Distillation(SingleNetwork):
    """l = l_ce(p_s, y_s) + l_ce(p_t, hard labels) + β KL(teacher || p_t), as ProDA prints it.

    The teacher is the network as the scan found it. Its logits stay on disk, and each step gets its probabilities on
    its crops: nothing of it is kept in memory, and its hard labels are those of the very probabilities distilled.
    """

    def __init__(self, model: nn.Module, config: DistillationConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.config = config

    def begin_round(self, n: int, scan: Scan, source: Any, store: LabelStore) -> None:
        """Keep the teacher's logits of every target image, and (to be counted and looked at) its hard labels."""
        assert isinstance(scan, FeatureScan), "distillation needs the network's logits, not its predictions alone"
        confidence = self.config.confidence
        for found in scan.features():
            store.write_soft(found)
            prob = scan.probabilities(found, found.size)
            store.write(found.name, hard_labels(prob[None], confidence)[0], prob.argmax(0))
        store.finish({"confidence": [confidence] * self.num_classes})

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        yield {"source": self.segmentation_loss(batch.source, "source", t, self.config.batch_norm, None)}
        yield self._target_losses(batch.target, t)

    def _target_losses(self, images: Images, t: int) -> Losses:
        config, teacher = self.config, images.soft
        assert teacher is not None, "the round's soft labels are written in begin_round"
        set_batch_norm(self.model, config.batch_norm, "target")
        logits = self.model(augment_images(images, t, self.seed, config.augment)).logits
        means = {"target": cross_entropy_mean(hard_labels(teacher, config.confidence))}
        if config.kl_weight > 0:
            means["distillation"] = mean_over(teacher.sum(1) > 0, _divergence, teacher)
        size = teacher.shape[2], teacher.shape[3]
        losses = upsampled_means(logits, size, bool(self.model.align_corners), means)
        if config.kl_weight > 0:
            losses["distillation"] = config.kl_weight * losses["distillation"]
        return losses
