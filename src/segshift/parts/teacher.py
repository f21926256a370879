"""A momentum network: the moving average of the weights of one that is trained (mean teacher, Tarvainen & Valpola).

It is always in evaluation mode and never has gradients. It is no player: what it is follows from the student and its
own tensors, which a method keeps in its `state_dict`. Each process has a whole one, also where the weights of the
student are shared out: these are gathered at each step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.parts.sharded import whole
from segshift.scan import unwrapped


def check_momentum(momentum: float) -> None:
    """Raise ConfigError where it is no share of the average that stays."""
    if not 0 <= momentum <= 1:
        raise ConfigError(f"momentum = {momentum}; expected 0 (the network itself) to 1 (never moves), such as 0.999")


class Teacher:
    """The moving average of a network. `momentum`: the share that stays at a step; 0 follows the student at once."""

    def __init__(self, student: nn.Module, momentum: float) -> None:
        check_momentum(momentum)
        self.momentum = momentum
        self.network = copy.deepcopy(unwrapped(student)).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Any:
        """What the momentum network says, without gradients."""
        return self.network(*inputs)

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """After an optimiser step: weights move towards the student's, buffers (BatchNorm statistics) become its."""
        student = unwrapped(student)
        weights: list[Tensor] = list(self.network.parameters())
        towards: list[Tensor] = [whole(weight) for weight in student.parameters()]
        torch._foreach_lerp_(weights, towards, 1 - self.momentum)
        for own, other in zip(self.network.buffers(), student.buffers(), strict=True):
            own.copy_(other)

    def restart(self, student: nn.Module) -> None:
        """Become the student as it is now."""
        self.network.load_state_dict({name: whole(t) for name, t in unwrapped(student).state_dict().items()})

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(state))
