"""Algorithm 1 of IAST and Eq. 5 to 7: against the reference, as properties, on any number of processes."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.errors import ConfigError, DataError
from segshift.methods.iast_selector import (
    InstanceAdaptiveSelector,
    labels_above,
    local_threshold,
    moving_average,
    proportion,
    ranked,
    ranked_by_sorting,
    released_threshold,
    select_all,
)
from segshift.parts.confidence import Confidence, of_prediction
from segshift.types import IGNORE, Prediction

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference vectors are not here")
CLASSES = 4
ALPHAS, SHARES = st.floats(0.01, 1), st.floats(0, 1)


# --- the reference -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN / "iast.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def probabilities() -> list[Tensor]:
    maps: list[Tensor] = []
    for part in range(4):
        with np.load(GOLDEN / f"probabilities_{part}.npz") as file:
            maps.extend(torch.from_numpy(file["prob"]))
    return maps


@needs_golden
def test_the_paper_equals_the_reference(golden: dict[str, Any], probabilities: list[Tensor]) -> None:
    selector = InstanceAdaptiveSelector(19)
    for prob, theta, label in zip(probabilities, golden["paper_theta"], golden["paper_pseudo"], strict=True):
        found = selector.select(prob)
        np.testing.assert_allclose(selector.thresholds.numpy(), theta, rtol=0, atol=1e-6)
        assert found.dtype == torch.int64
        assert (found.numpy() != label).mean() <= 1e-4


@needs_golden
@pytest.mark.parametrize("unit", [1, 2])
def test_the_release_equals_the_reference(golden: dict[str, Any], probabilities: list[Tensor], unit: int) -> None:
    selector = InstanceAdaptiveSelector(19, variant="released")
    labels = []
    for at, theta in zip(range(0, 12, unit), golden[f"bs{unit}_theta"], strict=True):
        labels += selector.select_unit(probabilities[at : at + unit])
        np.testing.assert_allclose(selector.thresholds.numpy(), theta, rtol=0, atol=1e-3)
    assert (torch.stack(labels).numpy() != golden[f"bs{unit}_pseudo"]).mean() <= 5e-4


# --- the equations -------------------------------------------------------------------------------------------------


def test_eq7_by_hand() -> None:
    values = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55])
    assert proportion(0.4, 0.5, 1) == Fraction(1, 5)
    for share, expected in ((Fraction(2, 5), 0.7), (Fraction(39, 100), 0.8), (Fraction(0), 0.9), (Fraction(1), 0.55)):
        assert local_threshold(values, 5, share) == pytest.approx(expected)
    # .35 of 180 is 63; the product of doubles falls below.
    assert math.floor(proportion(0.35, 0.9, 0) * 180) == 63
    assert proportion(0.2, 0.9, 8) == pytest.approx(0.2 * 0.9**8)


@given(st.lists(st.floats(0.125, 1, width=16), max_size=30), SHARES, st.floats(0.01, 0.999))
def test_the_released_threshold_is_a_percentile(values: list[float], share: float, previous: float) -> None:
    descending = torch.tensor(sorted(values, reverse=True))
    expected = np.percentile([*values, previous], 100 * (1 - share))
    assert released_threshold(descending, len(values), Fraction(share), previous) == pytest.approx(expected, abs=1e-9)


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from([0.1, 0.4, 0.40001, 0.9, 1.0]), st.sampled_from([0, 1, 3, IGNORE])),
            min_size=1,
            max_size=40,
        ),
        min_size=1,
        max_size=3,
    ),
    ALPHAS,
)
@settings(deadline=None)
def test_sorting_on_a_gpu_ranks_alike(units: list[list[tuple[float, int]]], alpha: float) -> None:
    images = [
        Confidence("", torch.tensor([[v for v, _ in unit]]), torch.tensor([[c for _, c in unit]], dtype=torch.uint8))
        for unit in units
    ]
    expected, found = ranked(images, CLASSES, alpha), ranked_by_sorting(images, CLASSES, alpha)
    assert found.pixels == expected.pixels
    assert all(map(torch.equal, found.top, expected.top))


@given(st.integers(0, 10**6), st.integers(1, 40), ALPHAS, st.floats(0.05, 1), st.floats(0, 20), st.booleans())
@settings(max_examples=60)
def test_what_is_ranked_is_enough(
    seed: int, size: int, alpha: float, theta: float, gamma: float, released: bool
) -> None:
    """The top of a class and all of it have the same threshold."""
    confidence = torch.rand(size, 3, generator=torch.Generator().manual_seed(seed))
    image = Confidence("image", confidence, torch.zeros(size, 3, dtype=torch.uint8))
    (top,), (pixels,) = ranked([image], 1, alpha)
    everything = confidence.flatten().sort(descending=True).values
    assert pixels == 3 * size
    assert torch.equal(top, everything[: len(top)])
    assert len(top) <= alpha * pixels + 3
    share = proportion(alpha, theta, gamma)
    if released:
        assert released_threshold(top, pixels, share, theta) == released_threshold(everything, pixels, share, theta)
    else:
        assert local_threshold(top, pixels, share) == local_threshold(everything, pixels, share)


def test_eq5_is_strict_and_its_counterpart_is_not() -> None:
    confidence = torch.tensor([[0.5, 0.75, 0.9], [0.5, 0.75, 0.9]])
    label = torch.tensor([[0, 0, 0], [1, 1, IGNORE]], dtype=torch.uint8)
    image = Confidence("image", confidence, label)
    theta = torch.tensor([0.75, 0.5], dtype=torch.float64)
    assert labels_above(image, theta).tolist() == [[255, 255, 0], [255, 1, 255]]
    assert labels_above(image, theta, inclusive=True).tolist() == [[255, 0, 0], [1, 1, 255]]
    # In float64: a threshold between two float32 numbers is above the lower one.
    tight = labels_above(image, torch.tensor([0.75 - 1e-12, 0.5], dtype=torch.float64))
    assert tight.tolist() == [[255, 0, 0], [255, 1, 255]]


# --- Algorithm 1 ---------------------------------------------------------------------------------------------------


@st.composite
def maps(draw: st.DrawFn, most: int = 5) -> list[Tensor]:
    """Small images of softmax probabilities, one pixel at least; the last class is never predicted; often ties."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sharpness = draw(st.sampled_from([0.5, 2.0, 6.0]))
    found = []
    for _ in range(draw(st.integers(1, most))):
        size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        logits = sharpness * torch.randn(CLASSES, *size, generator=generator)
        logits[-1] = -20.0
        logits = logits.round() if draw(st.booleans()) else logits
        found.append(logits.softmax(0))
    return found


options = st.fixed_dictionaries(
    {
        "alpha": ALPHAS,
        "beta": SHARES,
        "gamma": st.floats(0, 20),
        "initial": st.floats(0.05, 0.999) | st.just(1.0),
        "variant": st.sampled_from(("paper", "released")),
    }
)


@given(maps(), options)
@settings(max_examples=60)
def test_thresholds_stay_in_range_and_labels_are_argmax(images: list[Tensor], chosen: dict[str, Any]) -> None:
    selector = InstanceAdaptiveSelector(CLASSES, **chosen)
    for prob in images:
        label = selector.select(prob)
        theta = selector.thresholds
        assert ((theta > 0) & (theta <= 1)).all()
        confidence, predicted = prob.max(0)
        assert torch.equal(label, torch.where(confidence.double() > theta[predicted], predicted, IGNORE))
    capped = chosen["variant"] == "released" and chosen["initial"] == 1
    never_predicted = 0.999 if capped else chosen["initial"]
    assert selector.thresholds[-1].item() == pytest.approx(never_predicted, rel=1e-12)


@given(maps(), options)
@settings(max_examples=40)
def test_beta_1_is_the_constant_selector(images: list[Tensor], chosen: dict[str, Any]) -> None:
    selector = InstanceAdaptiveSelector(CLASSES, **{**chosen, "beta": 1.0, "initial": 0.6})
    for number, prob in enumerate(images):
        label = selector.select(prob)
        assert selector.thresholds.tolist() == [0.6] * CLASSES
        image = of_prediction(Prediction(str(number), prob))
        assert torch.equal(label, labels_above(image, torch.full((CLASSES,), 0.6, dtype=torch.float64)).long())


@given(maps(most=3), ALPHAS, st.floats(0, 10))
@settings(max_examples=60)
def test_beta_0_is_the_local_threshold(images: list[Tensor], alpha: float, gamma: float) -> None:
    """Eq. 7 written plainly; as many pixels are kept as it says, or fewer where some are tied with it."""
    selector = InstanceAdaptiveSelector(CLASSES, alpha, 0.0, gamma)
    for prob in images:
        before = selector.thresholds.tolist()
        label = selector.select(prob)
        confidence, predicted = prob.max(0)
        for c in range(CLASSES):
            values = confidence[predicted == c].sort(descending=True).values
            if len(values) == 0:
                assert selector.thresholds[c] == before[c]
                continue
            n = math.floor(Fraction(repr(alpha)) * Fraction(before[c] ** gamma) * len(values))
            assert selector.thresholds[c] == values[min(n, len(values) - 1)].double()
            kept = int((label == c).sum())
            assert kept <= n
            if len(values.unique()) == len(values) and n < len(values):
                assert kept == n


@given(maps(most=1), ALPHAS, SHARES, st.floats(0.05, 1), st.lists(st.floats(0, 20), min_size=2, max_size=4))
@settings(max_examples=60)
def test_more_gamma_never_keeps_more(
    images: list[Tensor], alpha: float, beta: float, initial: float, gammas: list[float]
) -> None:
    thetas, kept = [], []
    for gamma in sorted(gammas):
        selector = InstanceAdaptiveSelector(CLASSES, alpha, beta, gamma, initial)
        kept.append(selector.select(images[0]) != IGNORE)
        thetas.append(selector.thresholds)
    for a, b in zip(range(len(kept)), range(1, len(kept))):
        assert (thetas[b] >= thetas[a]).all()
        assert (kept[b] <= kept[a]).all()


def test_harder_classes_keep_less() -> None:
    """Fig. 6: the share of a class with low confidences falls with gamma, that of a confident one hardly does."""
    rng = torch.Generator().manual_seed(0)
    high = torch.rand(2, 40, 40, generator=rng) * torch.tensor([0.05, 0.3])[:, None, None] + torch.tensor(
        [0.95, 0.55]
    ).view(2, 1, 1)
    prob = torch.zeros(2, 40, 80)
    prob[0, :, :40], prob[1, :, :40] = high[0], 1 - high[0]
    prob[1, :, 40:], prob[0, :, 40:] = high[1], 1 - high[1]
    shares = []
    for gamma in (0.0, 8.0):
        selector = InstanceAdaptiveSelector(2, beta=0.5, gamma=gamma)
        labels = [selector.select(prob) for _ in range(8)][-1]
        shares.append([float((labels == c).float().mean()) for c in range(2)])
    assert shares[1][0] > 0.7 * shares[0][0]
    assert shares[1][1] < 0.3 * shares[0][1]


def test_one_pixel_and_ties() -> None:
    selector = InstanceAdaptiveSelector(2, beta=0.0)
    assert selector.select(torch.tensor([0.7, 0.3]).view(2, 1, 1)).item() == IGNORE  # no pixel is above itself
    assert selector.thresholds.tolist() == pytest.approx([0.7, 0.9])
    assert (selector.select(torch.full((2, 3, 3), 0.5)) == IGNORE).all()
    assert selector.thresholds.tolist() == pytest.approx([0.5, 0.9])  # the first of equal classes
    averaged = InstanceAdaptiveSelector(2)
    averaged.select(torch.tensor([0.95, 0.05]).view(2, 1, 1))
    assert averaged.thresholds.tolist() == pytest.approx([0.905, 0.9])
    assert moving_average(torch.tensor([0.9]).double(), torch.tensor([0.5]).double(), 0.75).item() == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"alpha": 0.0}, "alpha = 0.0"),
        ({"alpha": 1.1}, "alpha = 1.1"),
        ({"alpha": math.nan}, "alpha = nan"),
        ({"beta": -0.1}, "beta = -0.1"),
        ({"gamma": -1.0}, "gamma = -1.0"),
        ({"initial": 0.0}, "initial = 0.0"),
        ({"variant": "theirs"}, "variant = 'theirs'"),
        ({"num_classes": 0}, "num_classes = 0"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], found: str) -> None:
    chosen: dict[str, Any] = {"num_classes": 3, **options}
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        InstanceAdaptiveSelector(**chosen)


def test_wrong_probabilities_are_named() -> None:
    good, bad = torch.full((2, 2, 2), 0.5), torch.full((2, 2, 2), math.nan)
    with pytest.raises(DataError, match=r"image 2 of the selected: a class probability is NaN"):
        InstanceAdaptiveSelector(2).select_unit([good, bad])
    with pytest.raises(DataError, match="prediction of b: a class probability is NaN"):
        list(select_all([Prediction("b", bad), Prediction("a", good)], InstanceAdaptiveSelector(2)))
    with pytest.raises(ConfigError, match=r"num_classes: 2; .*class 3"):
        InstanceAdaptiveSelector(2).select(torch.eye(4)[3].view(4, 1, 1))
