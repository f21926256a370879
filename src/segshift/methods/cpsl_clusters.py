"""Pixel-level self-labelling of CPSL (green in Fig. 1): optimal transport over sampled pixels and a memory bank.

Every process gathers the sampled pixels of all and computes the same transport, so banks and δ_pseudo are the same on
each; a process's loss is over its own pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.methods.cpsl_bank import FeatureBank
from segshift.methods.cpsl_head import SelfLabellingHead
from segshift.methods.cpsl_sampling import class_counts, class_distribution, moving_average, sample_pixels
from segshift.methods.cpsl_transport import marginal_error, self_labelling_loss, sinkhorn
from segshift.parts.processes import gather_by_slot
from segshift.parts.self_training import check_choice
from segshift.scan import unwrapped
from segshift.types import IGNORE

IMAGES_IN_BANK = 128
"""65,536 features are those of 128 images at M = 512 (§4.1)."""
_KEYS = 8
"""Keeps the random numbers of the sampled pixels apart from others of the stream."""


BankStart = Literal["full", "start"]
Partition = Literal["aligned", "equal"]
Sampling = Literal["class_balanced", "random"]


@dataclass(frozen=True)
class ClusterConfig:
    """How target pixels are clustered; §4.1 of the paper has the values."""

    temperature: float = 0.08
    """τ of Eq. 4: small, and P_SL decides; large, and P_ST does."""
    epsilon: float = 0.05
    """ε of Eq. 6."""
    iterations: int = 3
    """Of Sinkhorn's; the paper gives no number, its release 3."""
    bank: int = 65_536
    """Features in the memory bank; 128 samples of each image where the images are small."""
    bank_from: BankStart = "full"
    """full: the bank joins the transport when it is full. start: as far as it is filled."""
    samples: int = 512
    """M: pixels sampled from each image; a quarter of its feature map where that is less."""
    floor: int = 0
    """Samples that each class of an image gets at least. 0: Eq. 9, which may leave a rare class without any."""
    sampling: Sampling = "class_balanced"
    """class_balanced: Eq. 8 and 9. random: any pixels (w/o CB)."""
    partition: Partition = "aligned"
    """aligned: classes get their share of the labels, Eq. 12. equal: all get the same (w/o CB)."""
    distribution_momentum: float = 0.99
    """The momentum of Eq. 11 (alpha), which the paper does not give. 1: δ_pseudo stays as it began (released)."""

    def __post_init__(self) -> None:
        for name, kind in (("bank_from", BankStart), ("sampling", Sampling), ("partition", Partition)):
            check_choice(name, getattr(self, name), get_args(kind))
        for name in ("temperature", "epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a number above 0")
        for name, least in (("iterations", 1), ("samples", 1), ("bank", 0), ("floor", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a whole number of at least {least}")
        check_share("distribution_momentum", self.distribution_momentum)


def check_share(name: str, value: float) -> None:
    """Raise ConfigError where an option is not from 0 to 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} = {value}; expected a share from 0 to 1")


class PixelClusters:
    """The memory bank and δ_pseudo, and the loss that they give the self-labelling head."""

    def __init__(self, config: ClusterConfig, num_classes: int, seed: int) -> None:
        self.config, self.seed = config, seed
        self.delta: Float[Tensor, " k"] = torch.full((num_classes,), 1 / num_classes)
        """δ_pseudo: Eq. 10, then Eq. 11."""
        self.bank: FeatureBank | None = None
        """None before the first step, which tells how many pixels an image gives."""
        self.error: Float[Tensor, ""] = torch.zeros(())
        """How far the class marginals of the last transport are from those asked for (L1)."""

    def loss(
        self,
        head: nn.Module,
        features: Float[Tensor, "b h w d"],
        label: Int[Tensor, "b height width"],
        slots: Sequence[int],
        t: int,
    ) -> Float[Tensor, ""]:
        """L_SL, Eq. 5, on pixels sampled from each image; gradients reach the head, and features that have them.

        `features` are normalised, `label` is Eq. 1 at the crop's size, `slots` the images' places in the global batch.
        Each call is a step: it moves δ_pseudo and fills the bank.
        """
        found = class_distribution(label, len(self.delta))
        self._follow(gather_by_slot(found, slots))
        own, labelled = self._sampled(features, label, found, slots, t)
        everyone = gather_by_slot(own.detach(), slots)
        if self.bank is None:
            self.bank = FeatureBank(min(self.config.bank, IMAGES_IN_BANK * own.shape[1]), own.shape[2])
        assigned = self._transport(head, everyone.flatten(0, 1)).view(*everyone.shape[:2], -1)
        wanted = assigned[torch.tensor(slots, device=assigned.device)]
        return self_labelling_loss(head(own), wanted, self.config.temperature, labelled)

    def _follow(self, found: Float[Tensor, "b k"]) -> None:
        self.delta = moving_average(self.delta.to(found.device), found, self.config.distribution_momentum)

    def _sampled(
        self,
        features: Float[Tensor, "b h w d"],
        label: Int[Tensor, "b height width"],
        found: Float[Tensor, "b k"],
        slots: Sequence[int],
        t: int,
    ) -> tuple[Float[Tensor, "b m d"], Bool[Tensor, "b m"]]:
        """M pixels of each image's feature map, Eq. 9, or any; and whether each has a label (padding is drawn last)."""
        height, width, channels = features.shape[1:]
        samples = min(self.config.samples, max(1, height * width // 4))
        counts = class_counts(found, samples, self.config.floor)
        if self.config.sampling == "random":
            counts = torch.zeros_like(counts)
        grid = F.interpolate(label[:, None].float(), (height, width), mode="nearest-exact")[:, 0].long()
        chosen = sample_pixels(grid, counts, self._keys(slots, height * width, t).to(features.device), samples)
        labelled = grid.flatten(1).gather(1, chosen) != IGNORE
        return features.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, channels)), labelled

    def _keys(self, slots: Sequence[int], pixels: int, t: int) -> Float[Tensor, "b n"]:
        drawn = [generator(self.seed, Stream.TARGET, _KEYS, t, slot).random(pixels, np.float32) for slot in slots]
        return torch.from_numpy(np.stack(drawn))

    @torch.no_grad()
    def _transport(self, head: nn.Module, current: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Q_cur: the part of the transport over batch and bank (Eq. 6, 12) that is the batch's."""
        config, bank = self.config, self.bank
        assert bank is not None
        joined = bank.full or config.bank_from == "start"
        aligned = config.partition == "aligned"
        marginal = self.delta if aligned else torch.full_like(self.delta, 1 / len(self.delta))
        scorer = unwrapped(head)
        assert isinstance(scorer, SelfLabellingHead)
        scores = scorer.scores(current)
        if joined and bank.size:
            # Scores are joined, not features: those of the bank would be copied at every step.
            scores = torch.cat((scores, scorer.scores(bank.to(current.device).features())))
        assigned = sinkhorn(scores, marginal, config.epsilon, config.iterations)
        self.error = marginal_error(assigned, marginal)
        bank.add(current)
        return assigned[: len(current)]

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta.cpu(), "bank": {} if self.bank is None else self.bank.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.delta = state["delta"].clone()
        self.bank = None
        if state["bank"]:
            self.bank = FeatureBank.restored(state["bank"])
