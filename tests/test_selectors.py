"""Selectors reach a coverage, by the methods' own code; equal coverage tells them apart where it should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.data.dataset import OracleTarget
from segshift.errors import DataError, RunError
from segshift.kept_predictions import Kept, Truth
from segshift.label_quality import Quality, pixel_counts
from segshift.methods.iast_selector import InstanceAdaptiveSelector
from segshift.selectors import (
    LEAST,
    LEVELS,
    PASSES,
    TOLERANCE,
    Measured,
    Selector,
    coverages,
    measure,
    of_all,
    search,
    selectors,
)
from segshift.taxonomy import IGNORE, LabelSpace, distinct_colors
from segshift.types import Prediction

K = 5
SPACE = LabelSpace("five", tuple("abcde"), distinct_colors(K))
NAMES = (
    "constant",
    "CBST",
    "IAST",
    "BDL",
    "category-adaptive",
    "category-adaptive, mean",
    "category-adaptive, per image",
)
EXACT = tuple(name for name in NAMES if name == "constant" or name.startswith("category"))
SIZE = 40, 48


def random_predictions(seed: int, images: int = 6, size: tuple[int, int] = SIZE) -> list[Prediction]:
    """Classes of other frequency, and other confidence, in other images."""
    rng = torch.Generator().manual_seed(seed)
    bias, sharp = torch.randn(K, 1, 1, generator=rng), 0.5 + 3 * torch.rand(images, generator=rng)
    return [
        Prediction(f"{i:02d}", (sharp[i] * (torch.randn(K, *size, generator=rng) + bias)).softmax(0))
        for i in range(images)
    ]


class Labelled:
    """A labelled target that counts how often each label is asked for."""

    def __init__(self, labels: Sequence[Tensor]) -> None:
        self.names, self.space = tuple(f"{i:02d}" for i in range(len(labels))), SPACE
        self._labels, self.asked = labels, [0] * len(labels)

    def image(self, index: int) -> Tensor:
        raise AssertionError("measuring looked at an image")

    def label(self, index: int) -> Tensor:
        self.asked[index] += 1
        return self._labels[index]

    def fingerprint(self) -> str:
        return ""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(random_predictions(0), K, tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    rng = torch.Generator().manual_seed(1)
    labels = [torch.randint(0, K, SIZE, generator=rng).to(torch.uint8) for _ in range(6)]
    labels[0][:10] = IGNORE
    return Truth(OracleTarget(Labelled(labels)), tmp_path_factory.mktemp("truth"))


def named(kept: Kept, name: str) -> Selector:
    return next(selector for selector in selectors(kept) if selector.name == name)


# --- coverage ------------------------------------------------------------------------------------------------------


def test_names(kept: Kept) -> None:
    assert tuple(selector.name for selector in selectors(kept)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_level_is_reached_or_out_of_reach(kept: Kept, truth: Truth, name: str) -> None:
    selector = named(kept, name)
    found = measure(selector, kept, truth, SPACE)
    assert [entry.level for entry in found] == [*LEVELS, *[None] * len(selector.published())]
    matched = found[: len(LEVELS)]
    if name in EXACT or name == "CBST":
        assert not any(entry.out_of_reach for entry in matched)
    else:
        least, most = coverages(selector.labels([LEAST, 1.0]))
        for entry in matched:
            wanted = entry.level or 0.0
            inside = least < wanted < most
            assert inside is not bool(entry.out_of_reach), entry
            if not inside:
                assert entry.quality.coverage == (least if wanted < least else most)
                assert entry.out_of_reach == selector.limits[0 if wanted < least else 1]
        assert any(not entry.out_of_reach for entry in matched)
        assert any(entry.out_of_reach for entry in matched)
    for entry in matched:
        if not entry.out_of_reach:
            assert entry.quality.coverage == pytest.approx(entry.level, abs=TOLERANCE)
    if name in EXACT:
        pixels = kept.total * SIZE[0] * SIZE[1]
        labelled = [round(entry.quality.coverage * pixels) for entry in matched]
        # One pixel is what a rounding of the entropies may move.
        assert labelled == pytest.approx([int(level * pixels + 1e-6) for level in LEVELS], abs=1)


@pytest.mark.parametrize("name", NAMES)
def test_published_settings_are_the_knobs_of_the_papers(kept: Kept, truth: Truth, name: str) -> None:
    selector = named(kept, name)
    knobs = {
        "constant": [0.9, selector.match([0.2])[0]],
        "CBST": [0.2],
        "IAST": [0.2],
        "BDL": [0.5],
    }.get(name, [0.1])
    found = [entry for entry in measure(selector, kept, truth, SPACE, (0.5,)) if entry.setting]
    assert [entry.knob for entry in found] == knobs
    assert {entry.setting: entry.knob for entry in found} == selector.published()
    assert not any(entry.out_of_reach for entry in found), "no coverage was asked for"


@given(st.integers(0, 1000), st.sampled_from(EXACT))
@settings(max_examples=12)
def test_more_coverage_never_loses_a_label(tmp_path_factory: pytest.TempPathFactory, seed: int, name: str) -> None:
    kept = Kept(random_predictions(seed, images=3, size=(12, 14)), K, tmp_path_factory.mktemp("kept"))
    selector = named(kept, name)
    for labels in selector.labels(selector.match(LEVELS)):
        for fewer, more in pairwise(labels):
            chosen = fewer != IGNORE
            assert torch.equal(more[chosen], fewer[chosen])


@given(st.floats(0.05, 0.9), st.floats(1.05, 4.0), st.floats(0.0, 0.3))
@settings(max_examples=40)
def test_search_finds_the_knob_of_a_growing_coverage(level: float, power: float, floor: float) -> None:
    passes: list[list[float]] = []

    def coverages_at(knobs: list[float]) -> list[float]:
        passes.append(knobs)
        return [floor + (0.95 - floor) * knob**power for knob in knobs]

    levels = (0.01, level, 0.99)
    found = search(coverages_at, levels)
    tried = [knob for knobs in passes for knob in knobs]
    assert len(passes) <= PASSES
    assert len(tried) == len(set(tried)), "nothing is evaluated twice"
    assert found[2] == 1.0, "the nearest, where a level is out of reach"
    reached = floor + (0.95 - floor) * found[1] ** power
    assert reached == pytest.approx(max(level, floor), abs=TOLERANCE)


def test_search_ends_at_a_jump() -> None:
    found = search(lambda knobs: [0.2 if knob < 0.3 else 0.7 for knob in knobs], (0.5, 0.21))
    assert found[1] < 0.3
    assert found[0] >= 0.3, "of the two sides, .7 is nearer to .5"


# --- the methods' own code -----------------------------------------------------------------------------------------


def chosen(selector: Selector, knob: float) -> list[Tensor]:
    return [labels[0] for labels in selector.labels([knob])]


def test_instance_adaptive_labels_are_algorithm_1(kept: Kept) -> None:
    direct = InstanceAdaptiveSelector(K, alpha=0.3)
    expected = [direct.select(prediction.prob).to(torch.uint8) for prediction in random_predictions(0)]
    assert all(map(torch.equal, chosen(named(kept, "IAST"), 0.3), expected))


def test_class_balanced_labels_are_the_portion_of_each_class(kept: Kept) -> None:
    probs = np.stack([p.prob.numpy() for p in random_predictions(0)])
    confidence, predicted = probs.max(1), probs.argmax(1)
    labels = np.stack([label.numpy() for label in chosen(named(kept, "CBST"), 0.3)])
    for c in range(K):
        mine = confidence[predicted == c]
        theta = np.sort(mine)[::-1][int(0.3 * len(mine)) - 1]
        sure = (predicted == c) & (confidence >= max(theta, 0.5))
        assert (labels[sure] == c).all(), "above one half, no other class can win a pixel"
        # A class that gets a pixel has at least its threshold there.
        assert (probs[:, c][labels == c] >= theta * (1 - 1e-6)).all()


def test_delta_divides_the_margins_of_equation_3(kept: Kept) -> None:
    probs = np.stack([p.prob.double().numpy() for p in random_predictions(0)]).transpose(1, 0, 2, 3).reshape(K, -1)
    predicted, confidence = probs.argmax(0), probs.max(0)
    entropy = -(probs * np.log(probs)).sum(0)
    centroids = [np.average(probs[:, predicted == c], axis=1, weights=confidence[predicted == c]) for c in range(K)]
    margins = np.array([-(f * np.log(f)).sum() for f in centroids])[predicted] - entropy
    delta = named(kept, "category-adaptive").match([0.3])[0]
    assert delta == pytest.approx(np.sort(margins)[::-1][int(0.3 * len(margins))], abs=1e-6)


def test_centroids_of_an_image_are_its_own(tmp_path: Path) -> None:
    """Images that are alike in nothing but scale: each by itself gives the share it gives alone."""
    images = random_predictions(3, images=2)
    both, alone = Kept(images, K, tmp_path / "both"), Kept(images[:1], K, tmp_path / "alone")
    name = "category-adaptive, per image"
    assert torch.equal(chosen(named(both, name), 0.2)[0], chosen(named(alone, name), 0.2)[0])
    of_set = "category-adaptive"
    assert not torch.equal(chosen(named(both, of_set), 0.2)[0], chosen(named(alone, of_set), 0.2)[0])


# --- against truth -------------------------------------------------------------------------------------------------


def two_classes() -> tuple[list[Prediction], list[Tensor]]:
    """All predictions are right; a quarter of the pixels is of class b, always less sure than any of class a."""
    rng = torch.Generator().manual_seed(5)
    predictions, labels = [], []
    for i in range(4):
        label = torch.zeros(SIZE, dtype=torch.uint8)
        label[:10] = 1
        of_b = 0.5 + 0.2 * torch.rand(SIZE, generator=rng)
        confidence = torch.where(label == 1, of_b, 0.8 + 0.2 * torch.rand(SIZE, generator=rng))
        prob = torch.full((K, *SIZE), 1e-9)
        prob.scatter_(0, label.long()[None], confidence[None])
        prob.scatter_(0, 1 - label.long()[None], 1 - confidence[None])
        predictions.append(Prediction(f"{i:02d}", prob))
        labels.append(label)
    return predictions, labels


def test_at_equal_coverage_a_class_that_is_less_sure_is_lost_by_one_threshold(tmp_path: Path) -> None:
    predictions, labels = two_classes()
    kept = Kept(predictions, K, tmp_path)
    truth = Truth(OracleTarget(Labelled(labels)), tmp_path)
    found: dict[str, Measured] = {
        selector.name: measure(selector, kept, truth, SPACE, (0.5,))[0] for selector in selectors(kept)
    }
    constant, balanced = found["constant"].quality, found["CBST"].quality
    assert constant.coverage == pytest.approx(balanced.coverage, abs=TOLERANCE)
    assert constant.accuracy == balanced.accuracy == 1
    assert constant.recall.tolist()[:2] == pytest.approx([2 / 3, 0], abs=1e-3)
    assert balanced.recall.tolist()[:2] == pytest.approx([0.5, 0.5], abs=3e-3)
    assert (constant.classes_labelled, balanced.classes_labelled) == (1, 2)
    assert constant.miou == 1, "a mean over the labelled classes does not show it"
    assert (constant.rarer_half.recall, round(balanced.rarer_half.recall, 2)) == (0, 0.5)
    adaptive = found["category-adaptive"].quality
    assert adaptive.recall[1] > 0.1


def test_figures_are_those_of_the_labels(kept: Kept, truth: Truth) -> None:
    selector = named(kept, "CBST")
    quality = measure(selector, kept, truth, SPACE, (0.5,))[-1].quality
    known = torch.stack([truth.label(i, SIZE) for i in range(6)])
    labels = torch.stack(chosen(selector, 0.2))
    assert quality.coverage == float((labels != IGNORE).double().mean())
    both = (labels != IGNORE) & (known != IGNORE)
    assert quality.accuracy == float((labels == known)[both].double().mean())
    predicted = torch.stack([p.prob.argmax(0) for p in random_predictions(0)])
    assert quality.kept.tolist() == [float((labels == c).sum() / (predicted == c).sum().double()) for c in range(K)]
    everything = of_all(kept, truth, SPACE)
    assert (everything.coverage, everything.proportion) == (1, 1)
    assert everything.accuracy == float((predicted == known)[known != IGNORE].double().mean())


def test_pixels_of_unknown_truth_count_for_coverage_alone() -> None:
    counts = pixel_counts(torch.tensor([[0, 0, IGNORE, IGNORE]]), torch.tensor([[0, IGNORE, 1, IGNORE]]), K)
    assert counts.sum() == 4
    assert (counts[0, 0], counts[0, K], counts[K, 1], counts[K, K]) == (1, 1, 1, 1)
    quality = Quality(1, SPACE, 1, counts)
    assert (quality.coverage, quality.proportion, quality.accuracy, quality.classes_labelled) == (0.5, 0.5, 1, 2)


# --- what is kept on disk --------------------------------------------------------------------------------------------


def test_kept_predictions_are_the_predictions(kept: Kept) -> None:
    images = random_predictions(0)
    for image, (name, confidence, label) in zip(images, kept.confidences(), strict=True):
        assert name == image.name
        assert torch.equal(confidence, image.prob.max(0).values)
        assert torch.equal(label.long(), image.prob.argmax(0))
    turned = [name for name, _, _ in kept.reordered([4, 1]).confidences()]
    assert (turned, [name for name, _, _ in kept.confidences()]) == (["04", "01"], [image.name for image in images])
    expected = -(images[2].prob.double() * images[2].prob.double().log()).sum(0)
    assert torch.allclose(kept.read("entropy", 2).double(), expected, atol=1e-5)
    predicted = torch.stack([image.prob.argmax(0) for image in images])
    assert list(kept.predicted) == predicted.flatten().bincount(minlength=K).tolist()


def test_truth_is_resized_and_read_once(tmp_path: Path) -> None:
    label = torch.tensor([[0, 1], [2, IGNORE]], dtype=torch.uint8)
    data = Labelled([label])
    truth = Truth(OracleTarget(data), tmp_path)
    first, second = truth.label(0, (4, 4)), truth.label(0, (4, 4))
    assert torch.equal(first, label.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert torch.equal(first, second)
    assert data.asked == [1]


def test_predictions_that_cannot_be_kept_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is none"):
        Kept([], K, tmp_path)
    with pytest.raises(DataError, match="of bad: a class probability is NaN"):
        Kept([Prediction("bad", torch.full((K, 2, 2), torch.nan))], K, tmp_path)


def test_a_disk_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, _: np.ndarray) -> None:
        raise OSError(28, "No space left on device", str(file))

    truth = Truth(OracleTarget(Labelled([torch.zeros(2, 2, dtype=torch.uint8)])), tmp_path)
    monkeypatch.setattr(np, "save", full)
    refused = r"npy: cannot be written .*No space.*free some space, .*run the command again"
    with pytest.raises(RunError, match=rf"00000000-confidence\.{refused}"):
        Kept(random_predictions(0), K, tmp_path)
    with pytest.raises(RunError, match=rf"00000000-truth\.{refused}"):
        truth.label(0, (2, 2))


def test_a_scan_is_read_as_often_as_it_must_be(tmp_path: Path) -> None:
    """What ranks pixels reads the disk; softmax maps are asked for where a rule needs them."""

    class Counted:
        passes = 0

        def __iter__(self) -> Iterator[Prediction]:
            self.passes += 1
            return iter(random_predictions(0, images=2))

    counted = Counted()
    kept = Kept(counted, K, tmp_path)
    for name in ("constant", "IAST", "BDL"):
        selector = named(kept, name)
        list(selector.labels(selector.match((0.3, 0.6))))
        assert counted.passes == 1, name
    named(kept, "category-adaptive").match(LEVELS)
    assert counted.passes == 2, "the centroids"
