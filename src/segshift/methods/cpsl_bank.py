"""The memory bank of CPSL: the features of earlier batches that stand beside the current one (§3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from segshift.errors import ConfigError


class FeatureBank:
    """The last `capacity` features, float32 on their device, as a ring: what comes in overwrites the oldest.

    Nothing is shifted, so `add` costs what it adds; how far it is filled is known without asking the device. With
    several processes, each calls `add` with the samples of all in the same order, and all hold the same bank.
    """

    def __init__(self, capacity: int, width: int) -> None:
        """`capacity`: features it holds, 0 for none (the paper: 65,536). `width`: channels of one.

        Raises ConfigError where they make no sense.
        """
        if capacity < 0 or width < 1:
            raise ConfigError(f"bank of {capacity} features of {width} channels; expected at least 0 of at least 1")
        self.capacity, self.width = capacity, width
        self._rows: Float32[Tensor, "capacity d"] | None = None
        self._size = 0
        self._next = 0
        """Where the next feature goes."""

    @property
    def size(self) -> int:
        """Features it holds now."""
        return self._size

    @property
    def full(self) -> bool:
        return self._size == self.capacity

    @torch.no_grad()
    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Take in features, the last one as the newest; they bring no gradient. The bank moves to their device."""
        rows = self.to(features.device)._allocated(features.device)
        features = features[max(0, len(features) - self.capacity) :]
        before_end = min(len(features), self.capacity - self._next)
        rows[self._next : self._next + before_end] = features[:before_end]
        rows[: len(features) - before_end] = features[before_end:]
        self._size = min(self.capacity, self._size + len(features))
        self._next = (self._next + len(features)) % max(1, self.capacity)

    def features(self) -> Float32[Tensor, "size d"]:
        """What it holds, in no order of age; not a copy: the next `add` writes into it. Empty before the first."""
        return torch.empty(0, self.width) if self._rows is None else self._rows[: self._size]

    def to(self, device: torch.device) -> FeatureBank:
        """The bank itself, moved to a device: one that was restored lies on the CPU until then."""
        if self._rows is not None and self._rows.device != device:
            self._rows = self._rows.to(device)
        return self

    def _allocated(self, device: torch.device) -> Tensor:
        if self._rows is None:
            self._rows = torch.empty(self.capacity, self.width, device=device)
        return self._rows

    def state_dict(self) -> dict[str, Any]:
        return {"capacity": self.capacity, "next": self._next, "features": self.features()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> FeatureBank:
        """The bank whose `state_dict` this is."""
        features = state["features"]
        bank = cls(state["capacity"], features.shape[1])
        bank.add(features)
        bank._next = state["next"]
        return bank
