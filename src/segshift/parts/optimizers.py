"""The optimiser settings that papers state: kind, learning rate, head multiplier, decay, poly schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn, optim
from torch.optim.lr_scheduler import PolynomialLR

from segshift.errors import ConfigError
from segshift.types import OptimizerAndSchedule


@dataclass(frozen=True)
class Optimizer:
    """One network's optimiser. `power` 0 is a constant learning rate."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 2.5e-4
    head_multiplier: float = 10.0
    """The classification head's learning rate over the backbone's."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    power: float = 0.9
    """Exponent of the poly schedule lr (1 - t / T)^power."""
    beta2: float = 0.999
    """Decay of Adam's mean of squared gradients; `momentum` is that of the gradients. SGD has none."""

    def __post_init__(self) -> None:
        if self.kind not in ("sgd", "adam", "adamw"):
            raise ConfigError(f"kind = {self.kind!r}; expected sgd, adam or adamw")
        for name in ("lr", "head_multiplier"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a positive number")
        for name in ("momentum", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected 0 <= {name} < 1")
        if self.weight_decay < 0 or self.power < 0:
            raise ConfigError(f"weight_decay = {self.weight_decay}, power = {self.power}; expected numbers >= 0")

    def build(self, network: nn.Module, steps: int) -> OptimizerAndSchedule:
        """For a Segmenter (backbone and head groups) or any other network (one group), over `steps` steps."""
        if hasattr(network, "parameter_groups"):
            groups = network.parameter_groups(self.lr, self.head_multiplier)  # pyright: ignore[reportCallIssue]
        else:
            groups = [{"params": list(network.parameters()), "lr": self.lr}]
        if self.kind == "sgd":
            optimizer: optim.Optimizer = optim.SGD(
                groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
        else:
            adam = optim.AdamW if self.kind == "adamw" else optim.Adam
            optimizer = adam(groups, lr=self.lr, betas=(self.momentum, self.beta2), weight_decay=self.weight_decay)
        return OptimizerAndSchedule(optimizer, PolynomialLR(optimizer, total_iters=steps, power=self.power))
