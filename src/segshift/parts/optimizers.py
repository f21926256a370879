"""The optimiser settings that papers state: kind, learning rate, head multiplier, weight decay, schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, PolynomialLR

from segshift.errors import ConfigError
from segshift.types import OptimizerAndSchedule

_FASTEST = 1e6
"""Largest learning rate that is taken for a wish; float32 overflows some way above it."""


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
    decay: tuple[float, int] | None = None
    """(rate, steps): lr rate^(t / steps) instead of the poly schedule, and `power` is not looked at: the exponential
    decay of TensorFlow, with its words (decay_rate, decay_steps)."""

    def __post_init__(self) -> None:
        if self.kind not in ("sgd", "adam", "adamw"):
            raise ConfigError(f"kind = {self.kind!r}; expected sgd, adam or adamw")
        for name in ("lr", "head_multiplier"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a positive number")
        if self.lr * self.head_multiplier > _FASTEST:
            raise ConfigError(
                f"lr = {self.lr}, head_multiplier = {self.head_multiplier}; expected a product of at most "
                f"{_FASTEST:g}: no training survives a larger rate"
            )
        for name in ("momentum", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected 0 <= {name} < 1")
        if self.decay is not None and not (0 < self.decay[0] <= 1 and self.decay[1] >= 1):
            raise ConfigError(f"decay = {self.decay}; expected (rate, steps): 0 < rate <= 1, and at least 1 step")
        if self.weight_decay < 0 or self.power < 0:
            raise ConfigError(f"weight_decay = {self.weight_decay}, power = {self.power}; expected numbers >= 0")

    def build(self, network: nn.Module, steps: int) -> OptimizerAndSchedule:
        """For a Segmenter (backbone and head groups) or any other network (one group), over `steps` steps.

        On a GPU the whole update is one kernel. On a CPU, where torch's fused kernels round differently and an update
        is a hundredth of a step, each weight has its own (benchmarks/step.py).
        """
        if hasattr(network, "parameter_groups"):
            groups = network.parameter_groups(self.lr, self.head_multiplier)  # pyright: ignore[reportCallIssue]
        else:
            groups = [{"params": list(network.parameters()), "lr": self.lr}]
        fused = all(parameter.device.type == "cuda" for parameter in network.parameters()) or None
        if self.kind == "sgd":
            optimizer: optim.Optimizer = optim.SGD(
                groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused
            )
        else:
            adam, betas = optim.AdamW if self.kind == "adamw" else optim.Adam, (self.momentum, self.beta2)
            optimizer = adam(groups, lr=self.lr, betas=betas, weight_decay=self.weight_decay, fused=fused)
        optimizer.register_load_state_dict_post_hook(_lay_out_like_weights)
        return OptimizerAndSchedule(optimizer, self._schedule(optimizer, steps))

    def _schedule(self, optimizer: optim.Optimizer, steps: int) -> LRScheduler:
        """Both kinds multiply the rate at hand, so that a method may change it in between."""
        if self.decay is None:
            return PolynomialLR(optimizer, total_iters=steps, power=self.power)
        rate, period = self.decay
        return ExponentialLR(optimizer, gamma=rate ** (1 / period))


def _lay_out_like_weights(optimizer: optim.Optimizer) -> None:
    """Give what was loaded for a weight the weight's own strides, which fused kernels take for granted.

    A checkpoint has none: a 1x1 kernel is contiguous in every memory format, and comes back with other strides.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
