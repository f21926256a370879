"""What methods share that train on pseudo-labels of the target alone, and may keep a warm-up's losses beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.parts.augment import ColourAugmentation, augment_images
from segshift.parts.batch_norm import Policy, check_policy, set_batch_norm
from segshift.parts.losses import PixelMean, upsampled_means
from segshift.parts.optimizers import Optimizer
from segshift.parts.single_network import SingleNetwork
from segshift.types import Batch, Domain, Images, Losses, Method, MethodConfig, OptimizerAndSchedule


class SelfTrainingConfig(MethodConfig):
    """Options that every such method has; each declares them as fields, with its own defaults and words."""

    batch_norm: Policy
    augment: ColourAugmentation | None
    optimizer: Optimizer
    retain: MethodConfig | None
    """A warm-up whose losses are kept. Its own optimiser of the network is not used."""

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The target alone, unless a warm-up that sees the source is kept."""
        return ("target",) if self.retain is None else ("source", "target")


def check_self_training(config: SelfTrainingConfig, *refused: type[MethodConfig]) -> None:
    """Raise ConfigError for an unknown BatchNorm policy, or where what is kept has labels of the target itself.

    `refused`: methods that train on pseudo-labels, beside those of this kind.
    """
    check_policy(config.batch_norm)
    kept = config.retain
    if kept is not None and (kept.needs_oracle or isinstance(kept, (SelfTrainingConfig, *refused))):
        raise ConfigError(
            f"retain = {type(kept).__name__}; expected a warm-up, which has no labels of the target, true "
            "or pseudo: source-only, AdaptSegNet, AdvEnt, MinEnt or the style gap"
        )


def check_choice(name: str, value: str, expected: Sequence[str]) -> None:
    """Raise ConfigError where a field's value is none of those expected."""
    if value not in expected:
        raise ConfigError(f"{name} = {value!r}; expected one of {', '.join(expected)}")


class SelfTraining(SingleNetwork, ABC):
    """Trains on the target's pseudo-labels; a method adds its rounds and what a step minimises on the target.

    With `retain`, that warm-up's players beside the network (discriminators) are this method's too, by their names.
    """

    def __init__(self, model: nn.Module, config: SelfTrainingConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.thresholds: list[float] = []
        """Those of the last round, one a class."""
        self._batch_norm: Policy = config.batch_norm
        self._augment = config.augment
        self._retained: Method | None = None
        self._optimizers = {"model": self._optimizer}
        if config.retain is not None:
            self._retained = config.retain.build(model, steps, seed)
            self._optimizers = {**self._retained.optimizers(), **self._optimizers}
            for name, player in self._retained.players().items():
                setattr(self, name, player)

    def players(self) -> Mapping[str, nn.Module]:
        return {name: getattr(self, name) for name in self._optimizers}

    def optimizers(self) -> Mapping[str, OptimizerAndSchedule]:
        return self._optimizers

    @abstractmethod
    def target_losses(self, images: Images, t: int) -> Losses:
        """What is minimised on target images with their pseudo-labels."""

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        """The target's losses; then the steps of the warm-up kept."""
        yield self.target_losses(batch.target, t)
        if self._retained is not None:
            for name, player in self.players().items():
                setattr(self._retained, name, player)  # as the engine has wrapped it
            yield from self._retained.step(batch, t)

    def target_means(self, images: Images, t: int, means: Mapping[str, PixelMean]) -> dict[str, Tensor]:
        """Means over pixels of target images, of their logits at the size of their labels.

        The forward runs in strong colours and under the BatchNorm policy.
        """
        set_batch_norm(self.model, self._batch_norm, "target")
        logits = self.model(augment_images(images, t, self.seed, self._augment)).logits
        height, width = images.label.shape[1:]
        return upsampled_means(logits, (height, width), bool(self.model.align_corners), means)

    def end_step(self, t: int) -> None:
        if self._retained is not None:
            self._retained.end_step(t)

    def state_dict(self) -> dict[str, Any]:
        retained = {} if self._retained is None else self._retained.state_dict()
        return {"thresholds": self.thresholds, "retained": retained}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.thresholds = list(state["thresholds"])
        if self._retained is not None:
            self._retained.load_state_dict(state["retained"])
