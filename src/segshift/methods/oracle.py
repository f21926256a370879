"""Supervised training on both domains (CBST Eq. 1): the upper bound. It sees target labels, hence "oracle"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from segshift.parts.augment import ColourAugmentation
from segshift.parts.batch_norm import Policy, check_policy
from segshift.parts.optimizers import Optimizer
from segshift.parts.single_network import SingleNetwork
from segshift.types import Batch, Losses, MethodConfig


@dataclass(frozen=True)
class OracleConfig(MethodConfig):
    """Supervised training on source and target labels."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    batch_norm: Policy = "target"
    """The oracle is judged on the target, so its statistics are the target's."""
    augment: ColourAugmentation | None = None
    """Strong colour augmentation of the target images, as the method it bounds has it."""

    needs_oracle: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.batch_norm)

    def build(self, model: nn.Module, steps: int, seed: int) -> Oracle:
        return Oracle(model, self, steps, seed)


class Oracle(SingleNetwork):
    """min_w - sum y_s log p(w, I_s) - sum y_t log p(w, I_t): CBST Eq. 1, each sum a mean over labelled pixels."""

    def __init__(self, model: nn.Module, config: OracleConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.config = config

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        policy = self.config.batch_norm
        yield {"source": self.segmentation_loss(batch.source, "source", t, policy, None)}
        yield {"target (oracle)": self.segmentation_loss(batch.target, "target", t, policy, self.config.augment)}
