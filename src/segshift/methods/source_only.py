"""Source-only training: the first term of CBST Eq. 1, the warm-up that everything else is measured against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from segshift.errors import ConfigError
from segshift.parts.augment import ColourAugmentation
from segshift.parts.optimizers import Optimizer
from segshift.parts.single_network import SingleNetwork
from segshift.types import Batch, Domain, Losses, MethodConfig


@dataclass(frozen=True)
class SourceOnlyConfig(MethodConfig):
    """Supervised training on the source."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    augment: ColourAugmentation | None = None
    """Strong colour augmentation of the source images."""
    batch_norm: Literal["source", "frozen"] = "source"
    """source: statistics of the images at hand, and a running mean of them; frozen: as the weights came with them."""

    def __post_init__(self) -> None:
        if self.batch_norm not in ("source", "frozen"):
            raise ConfigError(
                f"batch_norm = {self.batch_norm!r}; expected source or frozen: no target image is seen here"
            )

    @property
    def domains(self) -> tuple[Domain, ...]:
        return ("source",)

    def build(self, model: nn.Module, steps: int, seed: int) -> SourceOnly:
        return SourceOnly(model, self, steps, seed)


class SourceOnly(SingleNetwork):
    """min_w - sum y_s log p(w, I_s): CBST Eq. 1 without its target term."""

    def __init__(self, model: nn.Module, config: SourceOnlyConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.config = config

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        yield {"source": self.segmentation_loss(batch.source, "source", t, self.config.batch_norm, self.config.augment)}
