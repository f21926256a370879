"""Scores without labels: golden values by hand, bounds, what must not change them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segshift.data.data_config import DataConfig
from segshift.data.dataset import Unlabelled
from segshift.data.held_out import held_out_split, open_held_out
from segshift.errors import ConfigError
from segshift.label_free import (
    NAMES,
    evenly,
    information,
    mean_entropy,
    preference,
    scores_of,
    soft_neighbourhood_density,
)
from segshift.models.small import SmallNet
from segshift.taxonomy import unnamed

CERTAIN = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
MIXED = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])


def densities(prob: np.ndarray, temperature: float) -> float:
    """Soft neighbourhood density, pixel by pixel and neighbour by neighbour."""
    found = []
    for i, p in enumerate(prob):
        others = [q for j, q in enumerate(prob) if j != i]
        weights = [math.exp(p @ q / math.sqrt((p @ p) * (q @ q)) / temperature) for q in others]
        shares = [w / sum(weights) for w in weights]
        found.append(-sum(s * math.log(s) for s in shares if s > 0))
    return sum(found) / len(found)


def test_certain_predictions_of_two_classes() -> None:
    assert mean_entropy(CERTAIN) == 0
    assert information(CERTAIN) == pytest.approx(math.log(2))
    assert soft_neighbourhood_density(CERTAIN) == 0  # each has one neighbour


def test_predictions_that_know_nothing() -> None:
    flat = torch.full((5, 4), 0.25)
    assert mean_entropy(flat) == pytest.approx(1)
    assert information(flat) == pytest.approx(0, abs=1e-12)
    assert soft_neighbourhood_density(flat) == pytest.approx(math.log(4))


def test_golden_values() -> None:
    rows = MIXED.double().numpy()
    each = [-sum(p * math.log(p) for p in row if p > 0) for row in rows]
    whole = -sum(p * math.log(p) for p in rows.mean(0))
    assert mean_entropy(MIXED) == pytest.approx(sum(each) / 4 / math.log(3))
    assert information(MIXED) == pytest.approx(whole - sum(each) / 4)
    assert soft_neighbourhood_density(MIXED) == pytest.approx(densities(rows, 0.05))
    assert soft_neighbourhood_density(MIXED, 1.0) == pytest.approx(densities(rows, 1.0))


def test_density_is_the_same_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segshift.label_free._ROWS", 7)
    prob = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert soft_neighbourhood_density(prob, 0.5) == pytest.approx(densities(prob.double().numpy(), 0.5))


def test_one_pixel_has_no_neighbour() -> None:
    with pytest.raises(ConfigError, match="1 pixels; expected at least 2"):
        soft_neighbourhood_density(MIXED[:1])


@st.composite
def predictions(draw: st.DrawFn) -> Tensor:
    n, k = draw(st.integers(2, 30)), draw(st.integers(2, 6))
    sharp = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 1e4]))
    logits = torch.randn(n, k, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))
    return (sharp * logits).softmax(1)


@settings(max_examples=60)
@given(predictions())
def test_bounds_and_order(prob: Tensor) -> None:
    n, k = prob.shape
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    for figure, most in ((mean_entropy, 1), (information, math.log(k)), (soft_neighbourhood_density, math.log(n - 1))):
        assert 0 <= figure(prob) <= most
        assert figure(prob[order]) == pytest.approx(figure(prob), abs=1e-9)
    assert information(prob) <= math.log(k) * (1 - mean_entropy(prob)) + 1e-9
    repeated = torch.cat([prob, prob])
    assert information(repeated) == pytest.approx(information(prob), abs=1e-9)


@given(st.integers(1, 500), st.integers(1, 60))
def test_evenly_spread(count: int, most: int) -> None:
    found = evenly(count, most)
    assert len(found) == min(count, most) and found == sorted(set(found))
    assert found[0] >= 0 and found[-1] < count
    if 1 < most < count:
        assert found[0] == 0 and found[-1] == count - 1
        gaps = np.diff(found)
        assert gaps.max() - gaps.min() <= 1


class Noise:
    """Five images of random colours, and labels."""

    space = unnamed(3)

    def __init__(self, order: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
        self.names, self.order = tuple(f"image_{i}" for i in range(len(order))), order

    def image(self, index: int) -> Tensor:
        random = torch.Generator().manual_seed(self.order[index])
        return torch.randint(0, 255, (3, 24, 32), generator=random, dtype=torch.uint8)

    def label(self, index: int) -> Tensor:
        return (self.image(index)[0] // 100).clamp(max=2)

    def fingerprint(self) -> str:
        return ""


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet(width=4, dilations=(1,)).build(3)


def test_a_network_is_scored_and_left_as_it_was(network: nn.Module) -> None:
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = scores_of(network, Unlabelled(Noise()), None, Noise(), most=3)
    assert found.images == 3 and network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert 0 < found.entropy <= 1 and 0 < found.information < math.log(3) and found.source is not None
    assert set(found.to_dict()) == set(NAMES)
    assert scores_of(network, Unlabelled(Noise()), None, Noise(), most=3) == found


def test_the_order_of_images_changes_nothing(network: nn.Module) -> None:
    one, other = (scores_of(network, Unlabelled(Noise(order))) for order in ((0, 1, 2, 3, 4), (3, 0, 4, 2, 1)))
    assert one.source is None
    for name in ("entropy", "information", "snd"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)


def test_only_the_images_asked_for_are_read(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    image = Noise.image
    monkeypatch.setattr(Noise, "image", lambda self, index: read.append(index) or image(self, index))
    scores_of(network, Unlabelled(Noise()), most=2)
    assert read == [0, 4]


def test_less_entropy_is_preferred() -> None:
    assert preference("entropy", 0.1) > preference("entropy", 0.2)
    assert preference("snd", 0.1) < preference("snd", 0.2)


def test_held_out_source(domains: tuple[Path, Path]) -> None:
    config = DataConfig(str(domains[0]), str(domains[1]))
    split = held_out_split(config)
    assert split is not None and split != config.source_split
    found = open_held_out(config)
    assert found is not None and len(found.names) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"source": None},
        {"source_split": None},
        {"labelled_share": 0.5},
        {"target": "same"},
    ],
)
def test_no_source_is_held_out(domains: tuple[Path, Path], options: dict[str, Any]) -> None:
    """Never the images that are trained on, nor those that are scored in the end."""
    options = {name: str(domains[0]) if value == "same" else value for name, value in options.items()}
    words: dict[str, Any] = {"source": str(domains[0]), "target": str(domains[1])} | options
    config = DataConfig(**words)
    assert held_out_split(config) is None and open_held_out(config) is None
