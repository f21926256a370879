"""Algorithm 1 of IAST over a data set: images by name, in a drawn order, shared out over any number of processes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.test_iast_selector import CLASSES, maps, options
from tests.test_scan import CLASSES as SCAN_CLASSES
from tests.test_scan import Noise, Probe
from torch import Tensor, nn

from segshift.methods.iast import _drawn
from segshift.methods.iast_selector import InstanceAdaptiveSelector, select_all
from segshift.models.small import SmallNet
from segshift.scan import LogitScan, Views
from segshift.types import Prediction


def predictions(images: Sequence[Tensor]) -> list[Prediction]:
    return [Prediction(f"{number:02}", prob) for number, prob in enumerate(images)]


@given(maps(), options, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_a_data_set_is_its_images_by_name(images: list[Tensor], chosen: dict[str, Any], unit: int, random: Any) -> None:
    selector, plain = InstanceAdaptiveSelector(CLASSES, **chosen), InstanceAdaptiveSelector(CLASSES, **chosen)
    shuffled = predictions(images)
    random.shuffle(shuffled)
    found = list(select_all(shuffled, selector, unit))
    expected = [label for at in range(0, len(images), unit) for label in plain.select_unit(images[at : at + unit])]
    assert [image.name for image in found] == [f"{number:02}" for number in range(len(images))]
    for image, label, prob in zip(found, expected, images, strict=True):
        assert torch.equal(image.label.long(), label)
        assert torch.equal(image.predicted.long(), prob.argmax(0))
    assert torch.equal(selector.thresholds, plain.thresholds)


@dataclass
class Meeting:
    """Processes that add up tensors: threads that wait for one another."""

    world: int
    parts: list[Any] = field(default_factory=list)
    merges: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts, self.merges = [None] * self.world, [0] * self.world
        self.barrier = threading.Barrier(self.world)

    def merge(self, rank: int, partial: Tensor) -> Tensor:
        self.parts[rank] = partial.clone()
        self.barrier.wait(10)
        total = torch.stack(self.parts).sum(0)
        self.barrier.wait(10)
        self.merges[rank] += 1
        return total

    def run(self, work: Any) -> None:
        """`work(rank)` on every process."""
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Part:
    """A process's share of predictions; a `SharedScan`."""

    def __init__(self, images: list[Prediction], rank: int, meeting: Meeting) -> None:
        self.images, self.rank, self.world, self.meeting = images, rank, meeting.world, meeting
        self.total = len(images)

    def __iter__(self) -> Any:
        return iter(self.images)

    def reordered(self, order: Sequence[int], unit: int = 1) -> list[Prediction]:
        return [self.images[i] for at, i in enumerate(order) if at // unit % self.world == self.rank]

    def merge(self, partial: Tensor) -> Tensor:
        return self.meeting.merge(self.rank, partial)


def on_processes(scan_of: Any, world: int, classes: int, unit: int, order: Any, **chosen: Any) -> tuple[Any, Any]:
    """Labels by name, and the thresholds, on which all processes must agree; scan_of(rank, meeting)."""
    meeting = Meeting(world)
    selectors = [InstanceAdaptiveSelector(classes, **chosen) for _ in range(world)]
    labels: dict[str, Any] = {}

    def work(rank: int) -> None:
        for image in select_all(scan_of(rank, meeting), selectors[rank], unit, order):
            labels[image.name] = image.label.tolist()

    meeting.run(work)
    assert len(set(meeting.merges)) == 1
    theta = [selector.thresholds.tolist() for selector in selectors]
    assert theta == [theta[0]] * world
    return labels, theta[0]


class MetScan(LogitScan):
    """The scan of one of the processes that meet."""

    def __init__(self, meeting: Meeting, rank: int, network: nn.Module, images: Noise, folder: Path) -> None:
        folder = folder / str(meeting.world)
        super().__init__(network, images, folder, None, Views(flip=True), rank, meeting.world)
        self._meeting = meeting

    def merge(self, partial: Tensor) -> Tensor:
        return self._meeting.merge(self.rank, partial)


@given(maps(), options, st.integers(1, 4), st.integers(1, 3), st.booleans())
@settings(max_examples=40)
def test_any_number_of_processes_agrees(
    images: list[Tensor], chosen: dict[str, Any], world: int, unit: int, by_name: bool
) -> None:
    scan = predictions(images)
    order: Any = range if by_name else partial(_drawn, 5, 1)
    selector = InstanceAdaptiveSelector(CLASSES, **chosen)
    labels = {image.name: image.label.tolist() for image in select_all(scan, selector, unit, order)}
    found = on_processes(lambda rank, meeting: Part(scan, rank, meeting), world, CLASSES, unit, order, **chosen)
    assert found == (labels, selector.thresholds.tolist())


@pytest.mark.parametrize(("unit", "by_name"), [(1, True), (2, True), (2, False)])
def test_a_scan_of_a_network(unit: int, by_name: bool, tmp_path: Path) -> None:
    """Shared out by whole units, through the network's own logits: the same bits on 1, 2 and 3 processes."""
    torch.manual_seed(0)
    network: Any = SmallNet(width=4).build(SCAN_CLASSES)
    torch.nn.init.normal_(network.classifier.weight, std=1.5)
    network.eval()
    images, order = Noise(7), range if by_name else partial(_drawn, 5, 1)

    def scan_of(rank: int, meeting: Meeting) -> Any:
        return MetScan(meeting, rank, network, images, tmp_path)

    variant = "paper" if unit == 1 else "released"
    found = [on_processes(scan_of, world, SCAN_CLASSES, unit, order, variant=variant) for world in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == 7
    # A plain list of its predictions serves: softmax maps differ from confidences by rounding alone.
    selector = InstanceAdaptiveSelector(SCAN_CLASSES, variant=variant)
    listed = list(scan_of(0, Meeting(1)))
    for image in select_all(listed, selector, unit, order):
        assert np.mean(image.label.numpy() != found[0][0][image.name]) < 0.01
    assert selector.thresholds.tolist() == pytest.approx(found[0][1], abs=1e-3 if unit == 2 else 1e-5)
    assert len(set(found[0][1])) > 2


def test_a_scan_in_another_order_predicts_nothing_twice(tmp_path: Path) -> None:
    images, probe = Noise(5), Probe()
    scan = LogitScan(probe, images, tmp_path / "scan", None)
    names = [image.name for image in scan.reordered([3, 0, 4, 1])]
    assert names == ["image_3", "image_0", "image_4", "image_1"]
    assert probe.calls == 4
    assert [image.name for image in scan] == list(images.names)  # the fifth is new
    assert [image.name for image in scan.weighted(torch.ones(3, 2, 2)).reordered([2], 2)] == ["image_2"]
    assert probe.calls == 5
    shares = [LogitScan(probe, images, tmp_path, None, None, rank, 2).reordered(range(5), 2) for rank in range(2)]
    assert [list(share.indices) for share in shares] == [[0, 1, 4], [2, 3]]
    assert scan.total == shares[0].total == 5
    scan.close()
    assert not (tmp_path / "scan").exists()


def test_a_drawn_order() -> None:
    orders = [_drawn(seed, n, 20) for seed, n in ((0, 1), (0, 2), (1, 1), (0, 1))]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] == orders[3] != list(range(20))
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    scan = predictions([torch.rand(CLASSES, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(20)])
    thetas = []
    for order in (range, partial(_drawn, 0, 1)):
        selector = InstanceAdaptiveSelector(CLASSES)
        list(select_all(scan, selector, 1, order))
        thetas.append(selector.thresholds)
    assert not torch.equal(*thetas)
