"""What every method with one network and one optimiser shares; a method adds its `step` and its rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from segshift.parts.augment import ColourAugmentation, augment_images
from segshift.parts.batch_norm import Policy, set_batch_norm
from segshift.parts.losses import upsampled_cross_entropy
from segshift.parts.optimizers import Optimizer
from segshift.types import Batch, Domain, Images, LabelStore, Losses, OptimizerAndSchedule, Scan


class SingleNetwork:
    """One segmentation network, one optimiser, no other state: the plainest `types.Method`, without its `step`."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, steps: int, seed: int) -> None:
        self.model, self.seed = model, seed
        self._optimizer = optimizer.build(model, steps)

    @property
    def num_classes(self) -> int:
        """Classes of the network."""
        return int(getattr(self.model, "num_classes"))  # noqa: B009 (a module's attributes have no type)

    def players(self) -> Mapping[str, nn.Module]:
        return {"model": self.model}

    def optimizers(self) -> Mapping[str, OptimizerAndSchedule]:
        return {"model": self._optimizer}

    def begin_round(self, n: int, scan: Scan, source: Any, store: LabelStore) -> None:
        """Nothing changes between rounds."""

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        raise NotImplementedError(f"{type(self).__name__} defines what a step minimises")

    def end_step(self, t: int) -> None:
        """Nothing follows a step."""

    def end_round(self, n: int, scan: Scan, store: LabelStore) -> None:
        """There is nothing to show."""

    def measured(self) -> Mapping[str, Tensor]:
        """Nothing beside the losses."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore beside the network."""

    def segmentation_loss(
        self, images: Images, domain: Domain, t: int, policy: Policy, augment: ColourAugmentation | None
    ) -> Tensor:
        """One domain's term of CBST Eq. 1-3: cross-entropy with its labels, truth or pseudo.

        The forward runs under the BatchNorm policy, on strongly augmented colours where `augment` is given.
        """
        set_batch_norm(self.model, policy, domain)
        logits = self.model(augment_images(images, t, self.seed, augment)).logits
        return upsampled_cross_entropy(logits, images.label, bool(self.model.align_corners))
