"""A scan is the network's own prediction, kept in float16: lazily, once, for any image size, and removed after."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError, RunError, TrainingError
from segshift.methods.cbst import class_thresholds, global_threshold, pseudo_labels
from segshift.models.segmenter import upsample
from segshift.models.small import SmallNet
from segshift.parts.confidence import Weighted, of_prediction
from segshift.scan import LogitScan, Views, average_views, evaluating, predict_label, view_logits
from segshift.types import IGNORE, Output, Scan

CLASSES = 5
SIZES = ((40, 56), (33, 41), (64, 24))


class Noise:
    """Smooth random images of several sizes."""

    def __init__(self, count: int = 4) -> None:
        self.names = tuple(f"image_{i}" for i in range(count))

    def image(self, index: int) -> Tensor:
        rng = torch.Generator().manual_seed(index)
        coarse = torch.rand(1, 3, 6, 6, generator=rng) * 255
        return upsample(coarse, SIZES[index % len(SIZES)], False)[0].round().to(torch.uint8)

    def fingerprint(self) -> str:
        return ""


class Probe(nn.Module):
    """Its logits are the colours times `gain` and, unlike any convolution's, the column; at stride 2."""

    def __init__(self, gain: float = 4.0, column: float = 0.0, align_corners: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.column, self.align_corners, self.calls = column, align_corners, 0

    def forward(self, image: Tensor) -> Output:
        self.calls += 1
        logits = self.gain * nn.functional.avg_pool2d(image, 2)
        logits[:, 0] += self.column * torch.arange(logits.shape[3])
        return Output(logits)


def segmenter() -> Any:
    """A network with random weights that is of several opinions."""
    torch.manual_seed(0)
    model = SmallNet(width=4).build(CLASSES)
    nn.init.normal_(model.classifier.weight, std=1.5)  # spread the probabilities
    return model


@pytest.fixture(scope="module")
def network() -> Any:
    return segmenter()


VIEWS = (
    Views(),
    Views(flip=True),
    Views(flip=True, scales=(0.75, 1.0, 1.25)),
    Views(flip=True, scales=(0.5, 1.0), average="logits"),
)


def direct(model: Any, image: Tensor, size: tuple[int, int], views: Views) -> Tensor:
    """Float32 from end to end, written plainly."""
    total = []
    for scale in views.scales:
        scaled = (round(size[0] * scale), round(size[1] * scale))
        pixels = image[None] if scaled == tuple(image.shape[1:]) else None
        if pixels is None:
            pixels = torch.nn.functional.interpolate(
                image[None].float(), scaled, mode="bilinear", antialias=True
            ).round()
        for flip in (False, True) if views.flip else (False,):
            x = pixels.float() / 255
            logits = model(x.flip(3) if flip else x).logits
            logits = logits.flip(3) if flip else logits
            full = upsample(logits, size, model.align_corners)[0]
            total.append(full if views.average == "logits" else full.softmax(0))
    mean = torch.stack(total).mean(0)
    return mean.softmax(0) if views.average == "logits" else mean


@pytest.mark.parametrize("views", VIEWS)
def test_a_scan_is_the_network_itself(network: Any, views: Views, tmp_path: Path) -> None:
    images = Noise()
    scan = LogitScan(network, images, tmp_path / "scan", None, views)
    network.eval()
    names = []
    for index, prediction in enumerate(scan):
        image = images.image(index)
        with torch.no_grad():
            expected = direct(network, image, (image.shape[1], image.shape[2]), views)
        assert prediction.prob.shape == (CLASSES, *image.shape[1:])
        # A float16 logit is off by 2^-11 of its size; resizing rounds to 8 bits.
        atol = 2e-3 if views.scales == (1.0,) else 2e-2
        torch.testing.assert_close(prediction.prob, expected, rtol=0, atol=atol)
        torch.testing.assert_close(prediction.prob.sum(0), torch.ones(image.shape[1:]), rtol=0, atol=1e-5)
        names.append(prediction.name)
    assert tuple(names) == images.names
    assert expected.std() > 0.1


def test_what_is_kept_is_the_logits_in_float16(network: Any, tmp_path: Path) -> None:
    images = Noise(2)
    network.eval()
    scan = LogitScan(network, images, tmp_path / "scan", None)
    for index, prediction in enumerate(scan):
        image = images.image(index)
        with torch.no_grad():
            half = network(image[None].float() / 255).logits.half().float()
        expected = upsample(half, (image.shape[1], image.shape[2]), False)[0].softmax(0)
        assert torch.equal(prediction.prob, expected)
    sizes = [path.stat().st_size for path in (tmp_path / "scan").rglob("*.npy")]
    assert len(sizes) == 2
    assert max(sizes) <= 2 * CLASSES * 10 * 14 + 128


def test_working_size(network: Any, tmp_path: Path) -> None:
    scan = LogitScan(network, Noise(3), tmp_path / "scan", 20)
    assert [tuple(prediction.prob.shape[1:]) for prediction in scan] == [(20, 28), (20, 25), (53, 20)]


@pytest.mark.parametrize("align_corners", [False, True])
def test_flips_are_undone(align_corners: bool) -> None:
    """A network that sees the column: the mean of both views is symmetric in it, and the colours stay in place."""
    image = Noise().image(0)
    plain = view_logits(Probe(align_corners=align_corners), image, None, Views())
    both = view_logits(Probe(align_corners=align_corners), image, None, Views(flip=True))
    assert len(both) == 2
    for logits in both:
        torch.testing.assert_close(logits, plain[0])
    biased = view_logits(Probe(column=0.1, align_corners=align_corners), image, None, Views(flip=True))
    mean = (biased[0] + biased[1]) / 2
    torch.testing.assert_close(mean[1:], plain[0][1:])
    width = mean.shape[2]
    torch.testing.assert_close(mean[0] - plain[0][0], torch.full(mean.shape[1:], 0.1 * (width - 1) / 2))


@settings(max_examples=15)
@given(count=st.integers(1, 4), seed=st.integers(0, 999), average=st.sampled_from(("probabilities", "logits")))
def test_average_of_views(count: int, seed: int, average: str) -> None:
    maps = [4 * torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
    kept = [m.clone() for m in maps]
    found = average_views(maps, (4, 5), False, average)
    stack = torch.stack(maps)
    expected = stack.softmax(1).mean(0) if average == "probabilities" else stack.mean(0).softmax(0)
    torch.testing.assert_close(found, expected)
    assert all(map(torch.equal, maps, kept))


@pytest.mark.parametrize("views", VIEWS)
def test_confidences_agree_with_iterating(network: Any, views: Views, tmp_path: Path) -> None:
    scan = LogitScan(network, Noise(), tmp_path / "scan", None, views)
    for (name, confidence, label), prediction in zip(scan.confidences(), scan, strict=True):
        expected, first = prediction.prob.max(0)
        assert name == prediction.name
        torch.testing.assert_close(confidence, expected, rtol=1e-5, atol=0)
        # Another class only where two probabilities are as near as rounding.
        chosen = prediction.prob.gather(0, label.long()[None])[0]
        torch.testing.assert_close(chosen, expected, rtol=1e-5, atol=0)
        assert (label.long() == first).float().mean() > 0.999


@pytest.mark.parametrize("views", VIEWS[:2])
@pytest.mark.parametrize("portion", [0.05, 0.4, 1.0])
def test_balanced_labels_keep_what_was_ranked(network: Any, views: Views, portion: float, tmp_path: Path) -> None:
    scan = LogitScan(network, Noise(), tmp_path / "scan", None, views)
    theta = class_thresholds(scan, portion, CLASSES)
    kept, total = torch.zeros(CLASSES, dtype=torch.long), torch.zeros(CLASSES, dtype=torch.long)
    for (name, label, predicted), prediction in zip(scan.balanced_labels(theta), scan, strict=True):
        assert name == prediction.name
        assert (label.long() != pseudo_labels(prediction.prob, theta)).float().mean() < 1e-3
        chosen = label[label != IGNORE]
        kept += torch.bincount(chosen.long(), minlength=CLASSES)
        total += torch.bincount(predicted.flatten().long(), minlength=CLASSES)
    assert int(total.sum()) == sum(h * w for h, w in (SIZES[i % 3] for i in range(4)))
    # At least n = floor(p N) of all classes together: each of the n largest passes, for its own class or a better one.
    assert int(kept.sum()) >= sum(int(portion * n) for n in total.tolist())


@pytest.mark.parametrize("views", VIEWS[:2])
@pytest.mark.parametrize("portion", [0.05, 0.3])
def test_thresholds_are_those_of_a_full_sort(network: Any, views: Views, portion: float, tmp_path: Path) -> None:
    scan = LogitScan(network, Noise(), tmp_path / "scan", None, views)
    images = list(scan.confidences())
    confidence, label = (torch.cat([image[i].flatten() for image in images]) for i in (1, 2))

    def largest(values: torch.Tensor) -> float:
        n = math.floor(portion * len(values))
        return float(values.sort(descending=True).values[n - 1]) if n else 1.0

    expected = [largest(confidence[label == c]) for c in range(CLASSES)]
    assert class_thresholds(scan, portion, CLASSES).tolist() == expected
    assert global_threshold(scan, portion) == largest(confidence)


@pytest.mark.parametrize("views", VIEWS)
def test_a_prior_weighs_both_ways_alike(network: Any, views: Views, tmp_path: Path) -> None:
    """The bands' potentials and the softmax map times the prior: same values, same labels, none where all is 0."""
    prior = torch.rand(CLASSES, 5, 7, generator=torch.Generator().manual_seed(3))
    prior[:, 3:, 4:] = 0
    prior[1] = 0
    prior /= prior.sum((1, 2), keepdim=True).clamp_min(1e-9)
    plain = LogitScan(network, Noise(), tmp_path / "scan", None, views)
    scan = plain.weighted(prior)
    theta = class_thresholds(scan, 0.4, CLASSES)
    assert theta[1] == 1
    for fast, slow, (_, label, predicted) in zip(
        scan.confidences(), Weighted(plain, prior), scan.balanced_labels(theta), strict=True
    ):
        expected = of_prediction(slow)
        torch.testing.assert_close(fast[1], expected.confidence, rtol=2e-5, atol=1e-12)
        assert torch.equal(fast[1] == 0, expected.confidence == 0)
        assert torch.equal(predicted, fast[2])
        assert (predicted != expected.label).float().mean() < 2e-3
        assert bool((predicted == IGNORE).any())
        assert not bool((predicted == 1).any())
        assert (label.long() != pseudo_labels(slow.prob, theta)).float().mean() < 2e-3
        assert bool((label[predicted == IGNORE] == IGNORE).all())
    for one, other in zip(scan, Weighted(plain, prior), strict=True):
        assert torch.equal(one.prob, other.prob)


def test_the_network_runs_once_and_only_when_asked(tmp_path: Path) -> None:
    model = Probe()
    scan = LogitScan(model, Noise(), tmp_path / "scan", None, Views(flip=True))
    assert isinstance(scan, Scan)
    assert model.calls == 0
    assert not (tmp_path / "scan").exists()
    assert len(scan) == 4
    first = [prediction.prob for prediction in scan]
    assert model.calls == 8
    with torch.no_grad():
        model.gain.fill_(0)
    assert all(map(torch.equal, first, (prediction.prob for prediction in scan)))
    list(scan.confidences())
    assert model.calls == 8


def test_close_removes_the_files(tmp_path: Path) -> None:
    scans = [LogitScan(Probe(), Noise(), tmp_path / "scan", None, rank=rank, world=2) for rank in range(2)]
    names = [[prediction.name for prediction in scan] for scan in scans]
    assert names == [["image_0", "image_2"], ["image_1", "image_3"]]
    scans[0].close()
    assert [path.name for path in (tmp_path / "scan").iterdir()] == ["process-1"]
    scans[1].close()
    assert list(tmp_path.iterdir()) == []
    scans[1].close()
    assert len(list(scans[1])) == 2


def test_files_of_a_killed_run_are_not_read(tmp_path: Path) -> None:
    list(LogitScan(Probe(gain=9.0), Noise(), tmp_path / "scan", None))
    (tmp_path / "scan" / "process-0" / "old.npy").write_bytes(b"")
    fresh = list(LogitScan(Probe(gain=1.0), Noise(), tmp_path / "scan", None))
    again = list(LogitScan(Probe(gain=1.0), Noise(), tmp_path / "other", None))
    assert all(torch.equal(a.prob, b.prob) for a, b in zip(fresh, again))
    assert not (tmp_path / "scan" / "process-0" / "old.npy").exists()


@pytest.mark.parametrize("gain", [1e6, float("nan"), float("inf")])
def test_a_diverged_network_is_an_error_that_names_the_image(gain: float, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"image image_0: largest logit .*expected finite numbers below 65504"):
        list(LogitScan(Probe(gain=gain), Noise(), tmp_path / "scan", None))


def test_a_disk_that_refuses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match=r"file/process-0: cannot be written .*a part of this path is a file"):
        list(LogitScan(Probe(), Noise(), tmp_path / "file", None))


def test_an_unreadable_image_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    class Broken(Noise):
        def image(self, index: int) -> Tensor:
            raise DataError(f"{self.names[index]}.png: cannot be read")

    with pytest.raises(DataError, match=r"image_0\.png"):
        list(LogitScan(Probe(), Broken(), tmp_path / "scan", None))


def test_progress_is_shown_while_the_network_runs(tmp_path: Path) -> None:
    seen: list[int] = []

    def track(items: Any, total: int) -> Any:
        assert total == 4
        for item in items:
            yield item
            seen.append(item)

    scan = LogitScan(Probe(), Noise(), tmp_path / "scan", None, track=track)
    list(scan)
    list(scan)
    assert seen == [0, 1, 2, 3]


def test_modes_come_back(network: Any) -> None:
    network.train()
    network.reduce.eval()
    modes = [module.training for module in network.modules()]
    with evaluating(network):
        assert not any(module.training for module in network.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in network.modules()] == modes
    with pytest.raises(ValueError, match="x"), evaluating(network):
        raise ValueError("x")
    assert [module.training for module in network.modules()] == modes
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("views", VIEWS)
def test_predict_label(network: Any, views: Views) -> None:
    image = Noise().image(1)
    size = (66, 82)
    with evaluating(network):
        label = predict_label(network, image, size, None, views)
        maps = view_logits(network, image, None, views)
    prob = average_views(maps, size, False, views.average)
    assert label.dtype == torch.uint8
    chosen = prob.gather(0, label.long()[None])[0]
    torch.testing.assert_close(chosen, prob.amax(0), rtol=1e-6, atol=0)


def test_wrong_views_are_errors() -> None:
    for scales in ((), (0.0,), (9.0,)):
        with pytest.raises(ConfigError, match="scales"):
            Views(scales=scales)
    with pytest.raises(ConfigError, match="average = 'mean'"):
        Views(average="mean")  # type: ignore[arg-type]
