"""The discriminator: its layers as published, its sizes, and what is said of too small maps."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from segshift.errors import ConfigError, DataError
from segshift.models.discriminators import Discriminator


def test_layers_of_the_published_discriminator() -> None:
    network = Discriminator(19)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [tuple(layer.weight.shape) for layer in convolutions] == [
        (outputs, inputs, 4, 4) for inputs, outputs in pairwise((19, 64, 128, 256, 512, 1))
    ]
    # 16 weights a pair of channels, and the biases.
    assert sum(p.numel() for p in network.parameters()) == 16 * (19 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 961


def test_it_is_its_layers_and_nothing_more() -> None:
    """By hand from its own weights: no normalisation, no sigmoid, a slope of .2 below zero, none behind the last."""
    torch.manual_seed(0)
    network = Discriminator(3, 2)
    maps = torch.randn(2, 3, 64, 96)
    *hidden, last = zip(*[iter(network.parameters())] * 2, strict=True)
    expected = maps
    for weight, bias in hidden:
        expected = functional.conv2d(expected, weight, bias, stride=2, padding=1)
        expected = torch.where(expected > 0, expected, 0.2 * expected)
    expected = functional.conv2d(expected, *last, stride=2, padding=1)
    torch.testing.assert_close(network(maps), expected, rtol=0, atol=0)
    torch.testing.assert_close(network(maps.to(memory_format=torch.channels_last)), expected, rtol=0, atol=0)


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(32, 140), st.integers(32, 140))
def test_a_score_for_32_pixels(batch: int, height: int, width: int) -> None:
    assert Discriminator(2, 1)(torch.rand(batch, 2, height, width)).shape == (batch, 1, height // 32, width // 32)


def test_gradients_reach_every_weight() -> None:
    network = Discriminator(3, 4)
    maps = torch.rand(1, 3, 32, 32, requires_grad=True)
    network(maps).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    assert maps.grad is not None
    assert maps.grad.any()


def test_wrong_input_is_an_error() -> None:
    with pytest.raises(DataError, match=r"maps of 31 x 64 pixels; expected sides of at least 32.*larger crops"):
        Discriminator(2, 1)(torch.rand(1, 2, 31, 64))
    for arguments in ((0, 64), (19, 0)):
        with pytest.raises(ConfigError, match=f"in_channels = {arguments[0]}, width = {arguments[1]}; expected"):
            Discriminator(*arguments)
