"""The discriminators of maps and of styles: layers as published, sizes, and what is said of too small inputs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from segshift.errors import ConfigError, DataError
from segshift.models.discriminators import Discriminator, StyleDiscriminator, StyleKind


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
    stride: Any = 64
    with pytest.raises(ConfigError, match=r"stride = 64; expected 32 .*or 16"):
        Discriminator(19, 64, stride)


@settings(max_examples=10)
@given(st.integers(32, 100), st.integers(32, 100))
def test_a_score_for_16_pixels(height: int, width: int) -> None:
    scores = Discriminator(2, 1, 16)(torch.rand(1, 2, height, width))
    assert scores.shape == (1, 1, height // 16 - 1, width // 16 - 1)


# --- of styles -----------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize("kind", ["mlp", "conv1d"])


def test_layers_of_the_style_discriminators() -> None:
    mlp, convolutions = StyleDiscriminator(48), StyleDiscriminator(48, "conv1d")
    assert [tuple(p.shape) for p in mlp.parameters()][::2] == [(64, 48), (64, 64), (64, 64), (1, 64)]
    found = [layer for layer in convolutions.modules() if isinstance(layer, nn.Conv1d)]
    assert [tuple(layer.weight.shape) for layer in found] == [(64, 1, 4), (128, 64, 4), (256, 128, 4), (1, 256, 4)]


@both
def test_a_style_discriminator_is_its_layers_and_nothing_more(kind: StyleKind) -> None:
    torch.manual_seed(0)
    network = StyleDiscriminator(40, kind, 3)
    style = torch.randn(5, 40)
    *hidden, last = zip(*[iter(network.parameters())] * 2, strict=True)

    def layer(x: torch.Tensor, weight: Any, bias: Any) -> torch.Tensor:
        return functional.linear(x, weight, bias) if kind == "mlp" else functional.conv1d(x, weight, bias, 2, 1)

    expected = style if kind == "mlp" else style[:, None]
    for weight, bias in hidden:
        expected = layer(expected, weight, bias)
        expected = torch.where(expected > 0, expected, 0.2 * expected)
    torch.testing.assert_close(network(style), layer(expected, *last).flatten(1), rtol=0, atol=0)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(16, 80))
def test_scores_of_a_style(batch: int, channels: int) -> None:
    style = torch.rand(batch, channels)
    assert StyleDiscriminator(channels, "mlp", 2)(style).shape == (batch, 1)
    assert StyleDiscriminator(channels, "conv1d", 1)(style).shape == (batch, channels // 16)
    assert StyleDiscriminator(1, "mlp", 2)(style[:, :1]).shape == (batch, 1)


@both
def test_gradients_reach_every_weight_of_a_style_discriminator(kind: StyleKind) -> None:
    torch.manual_seed(0)
    network = StyleDiscriminator(16, kind, 8)
    style = torch.rand(4, 16, requires_grad=True)
    network(style).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())
    assert style.grad is not None
    assert style.grad.any(0).all()  # every channel is looked at


@both
def test_a_style_discriminator_learns_to_tell_two_distributions_apart(kind: StyleKind) -> None:
    torch.manual_seed(0)
    network, rng = StyleDiscriminator(16, kind, 8), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    centre = torch.linspace(0, 1, 16)
    labels = torch.tensor([0.0, 1.0]).repeat_interleave(32)[:, None]

    def styles() -> torch.Tensor:
        return torch.cat([centre, centre + 0.5]).view(2, 1, 16).expand(2, 32, 16).reshape(64, 16) + 0.1 * torch.randn(
            64, 16, generator=rng
        )

    for _ in range(40):
        optimizer.zero_grad()
        scores = network(styles())
        functional.binary_cross_entropy_with_logits(scores, labels.expand_as(scores)).backward()
        optimizer.step()
    assert ((network(styles()).mean(1, keepdim=True) > 0) == labels.bool()).float().mean() > 0.95


def test_a_wrong_style_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"conv1d: a stage of 15 channels; expected at least 16.*kind = 'mlp'"):
        StyleDiscriminator(15, "conv1d")
    with pytest.raises(ConfigError, match=r"mlp: a stage of 0 channels; expected at least 1"):
        StyleDiscriminator(0)
    kind: Any = "lstm"
    with pytest.raises(ConfigError, match=r"kind = 'lstm'; expected mlp or conv1d"):
        StyleDiscriminator(16, kind)
    with pytest.raises(ConfigError, match=r"width = 0; expected at least 1"):
        StyleDiscriminator(16, "mlp", 0)
    with pytest.raises(DataError, match=r"styles of 17 channels; expected 16"):
        StyleDiscriminator(16)(torch.rand(2, 17))
