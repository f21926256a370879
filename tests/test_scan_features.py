"""A scan's features: what the network shows, anew each time; and the same images through another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_scan import CLASSES, VIEWS, Noise, Probe, segmenter
from torch import Tensor, nn

from segshift.data.resizing import resize_image
from segshift.data.transforms import to_float
from segshift.errors import ConfigError
from segshift.scan import LogitScan, Views
from segshift.types import FeatureScan, Output


@pytest.fixture(scope="module")
def network() -> Any:
    return segmenter()


@pytest.mark.parametrize("views", VIEWS)
def test_features_are_what_the_network_shows(network: Any, views: Views, tmp_path: Path) -> None:
    images = Noise()
    scan = LogitScan(network, images, tmp_path / "scan", None, views)
    assert isinstance(scan, FeatureScan)
    network.eval()
    for index, (found, prediction) in enumerate(zip(scan.features(), scan, strict=True)):
        image = images.image(index)
        size = (round(image.shape[1] * views.scales[0]), round(image.shape[2] * views.scales[0]))
        with torch.no_grad():
            expected = network(to_float(resize_image(image, size))[None])
        assert (found.name, found.size) == (prediction.name, tuple(image.shape[1:]))
        assert (found.align_corners, found.average) == (False, views.average)
        assert len(found.maps) == len(views.scales) * (2 if views.flip else 1)
        assert all(logits.dtype == torch.float16 for logits in found.maps)
        assert torch.equal(found.maps[0], expected.logits[0].half())
        assert torch.equal(found.embedding, expected.embedding[0])
        assert torch.equal(scan.probabilities(found, found.size), prediction.prob)
        assert scan.probabilities(found, (5, 9)).shape == (CLASSES, 5, 9)


def test_features_run_the_network_anew_and_keep_nothing(network: Any, tmp_path: Path) -> None:
    modes = [module.training for module in network.modules()]
    scan = LogitScan(network, Noise(), tmp_path / "scan", None)
    for _ in scan.features():
        assert torch.is_grad_enabled()  # whoever looks on may compute as ever
        assert [module.training for module in network.modules()] == modes
    assert not (tmp_path / "scan").exists()
    weight = network.classifier.weight.detach().clone()
    first = [found.maps[0] for found in scan.features()]
    with torch.no_grad():
        network.classifier.weight.mul_(2)
    again = [found.maps[0] for found in scan.features()]
    with torch.no_grad():
        network.classifier.weight.copy_(weight)
    assert not any(map(torch.equal, first, again))


def test_features_of_each_process_and_in_another_order(network: Any, tmp_path: Path) -> None:
    scan = LogitScan(network, Noise(5), tmp_path / "scan", None, rank=1, world=2)
    assert [found.name for found in scan.features()] == ["image_1", "image_3"]
    assert [found.name for found in scan.reordered((4, 0, 3, 1, 2), 1).features()] == ["image_0", "image_1"]


def test_a_prior_weighs_what_features_gave(network: Any, tmp_path: Path) -> None:
    prior = torch.rand(CLASSES, 3, 4, generator=torch.Generator().manual_seed(0))
    scan = LogitScan(network, Noise(2), tmp_path / "scan", None).weighted(prior)
    for found, prediction in zip(scan.features(), scan, strict=True):
        assert torch.equal(scan.probabilities(found, found.size), prediction.prob)


def test_a_network_without_embedding_is_named(tmp_path: Path) -> None:
    scan = LogitScan(Probe(), Noise(), tmp_path / "scan", None)
    with pytest.raises(ConfigError, match=r"Probe: shows no features under its classifier.*expected a network"):
        next(scan.features())


def test_the_same_images_through_another_network(network: Any, tmp_path: Path) -> None:
    """Each has its own logits, whichever is looked at first; closing the first closes all."""
    first = Probe(gain=3.0)
    scan = LogitScan(first, Noise(), tmp_path / "scan", None, Views(flip=True), rank=1, world=2)
    others = [scan.through(network), scan.through(Wrapper(Probe(gain=-3.0, align_corners=True)))]
    inner = others[1].through(first)
    assert first.calls == 0
    found = [[(p.name, p.prob) for p in each] for each in (others[1], scan, inner, others[0])]
    expected = [
        [(p.name, p.prob) for p in LogitScan(model, Noise(), tmp_path / "apart", None, Views(flip=True), 1, 2)]
        for model in (Probe(gain=-3.0, align_corners=True), first, first, network)
    ]
    for one, other in zip(found, expected, strict=True):
        assert [name for name, _ in one] == [name for name, _ in other] == ["image_1", "image_3"]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))
    assert [found.name for found in others[0].features()] == ["image_1", "image_3"]
    assert len(list((tmp_path / "scan").iterdir())) == 4
    scan.close()
    assert [path.name for path in tmp_path.iterdir()] == ["apart"]


class Wrapper(nn.Module):
    """As a distributed network is wrapped: not to be called by one process alone."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> Output:
        raise AssertionError("the wrapper was called")
