"""What the tests of several networks share: descent, random weights under published names, no internet."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segshift.models.segmenter import Segmenter


def descend(
    model: Segmenter, image: Tensor, label: Tensor, steps: int, lr: float, momentum: float = 0.0
) -> list[float]:
    """The cross-entropy before each step of SGD on one batch; `label` has the size of the logits."""
    optimizer = torch.optim.SGD(model.parameter_groups(lr), momentum=momentum)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(image).logits, label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class RandomWeights:
    """A checkpoint of random tensors, drawn in the order they are asked for."""

    def __init__(self, seed: int) -> None:
        self.state: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def conv(self, name: str, inputs: int, outputs: int, kernel: int, gain: float = 2.0) -> None:
        """A convolution whose outputs have `gain` times the inputs' variance."""
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=self._generator)
        self.state[f"{name}.weight"] = weight * (gain / (inputs * kernel**2)) ** 0.5

    def bias(self, name: str, channels: int, scale: float = 1.0) -> None:
        self.state[f"{name}.bias"] = scale * torch.randn(channels, generator=self._generator)

    def norm(self, name: str, channels: int) -> None:
        """A BatchNorm with statistics of its own."""
        for kind in ("weight", "running_var"):
            self.state[f"{name}.{kind}"] = 0.5 + torch.rand(channels, generator=self._generator)
        for kind in ("bias", "running_mean"):
            self.state[f"{name}.{kind}"] = 0.1 * torch.randn(channels, generator=self._generator)


def caffe_images(rgb: Tensor) -> Tensor:
    """What Caffe's releases are given for images in [0, 1]: BGR in [0, 255] less the mean."""
    return rgb.flip(1) * 255 - torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm cannot download."""

    def create_model(*_: Any, pretrained: bool, **__: Any) -> nn.Module:
        assert pretrained
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", create_model)
