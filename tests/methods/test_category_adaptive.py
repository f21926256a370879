"""Category-adaptive thresholds, Eq. 1 to 3 and 6: the reference, the equations written plainly, and what must hold."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.test_iast_processes import Meeting
from torch import Tensor

from segshift.errors import ConfigError, DataError
from segshift.methods.category_adaptive import (
    Entropy,
    SSLNormalisation,
    Weighting,
    bdl_thresholds,
    centroids,
    entropy_thresholds,
    select,
    self_supervised_loss,
)
from segshift.parts import confidence
from segshift.types import IGNORE, Prediction

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "category_adaptive.npz"
CLASSES = 4
WEIGHTINGS: tuple[Weighting, ...] = ("confidence", "mean")
every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def named(maps: list[Tensor]) -> list[Prediction]:
    return [Prediction(f"{number:02}", prob) for number, prob in enumerate(maps)]


@st.composite
def maps(draw: Any, dtype: torch.dtype = torch.float64, most: int = 5) -> list[Tensor]:
    """Probabilities of images of any sizes; sometimes sharp, sometimes with a class that is never the largest."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale, low = draw(st.sampled_from([0.3, 2.0, 30.0])), draw(st.booleans())
    found = []
    for _ in range(draw(st.integers(1, most))):
        size = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        logits = scale * torch.randn(CLASSES, *size, generator=generator, dtype=dtype)
        logits[1] -= 1000 * low
        found.append(logits.softmax(0))
    return found


# --- the reference ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not GOLDEN.is_file():
        pytest.skip("reference vectors are not here")
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def reference_maps(golden: dict[str, Tensor]) -> Tensor:
    """(3, k, h, w), renormalised in float64."""
    prob = golden["P"].double().permute(0, 3, 1, 2)
    return prob / prob.sum(1, keepdim=True)


REFERENCES: list[tuple[Weighting, str, str]] = [("mean", "f_mean", "mean"), ("confidence", "f_confweighted", "confw")]


@pytest.mark.parametrize(("weighting", "name", "mask"), REFERENCES)
def test_centroids_thresholds_and_masks_are_the_reference(
    golden: dict[str, Tensor], weighting: Weighting, name: str, mask: str
) -> None:
    prob = reference_maps(golden)
    found = centroids(named(list(prob)), 19, weighting)
    torch.testing.assert_close(found, golden[name], rtol=0, atol=1e-12)
    # Recorded for Δ = 0: the entropies of the centroids.
    at_0 = entropy_thresholds(found, 0.0)
    torch.testing.assert_close(at_0, golden[name.replace("f_", "thr_")], rtol=0, atol=1e-12)
    theta = entropy_thresholds(found, 0.1)
    torch.testing.assert_close(theta, at_0 - 0.1)
    for image, expected, label in zip(prob, golden[f"mask_{mask}_delta0.1"], golden["y_hat"], strict=True):
        assert torch.equal(select(image, theta), label.long().where(expected, IGNORE))
    single = entropy_thresholds(centroids(named(list(prob.float())), 19, weighting), 0.1)
    torch.testing.assert_close(single, theta, rtol=0, atol=1e-6)


def test_the_entropy_of_a_pixel_is_the_reference(golden: dict[str, Tensor]) -> None:
    """A pixel passes a threshold just above its recorded entropy, and none just below."""
    for image, entropy in zip(reference_maps(golden)[:, :, :6, :8], golden["entropy"][:, :6, :8], strict=True):
        for y, x in np.ndindex(6, 8):
            pixel, theta = image[:, y : y + 1, x : x + 1], entropy[y, x].double().expand(19)
            assert select(pixel, theta + 1e-6).item() == pixel.argmax().item()
            assert select(pixel, theta - 1e-6).item() == IGNORE


def test_centroids_of_an_image_are_the_reference(golden: dict[str, Tensor]) -> None:
    for number, image in enumerate(reference_maps(golden)):
        theta = entropy_thresholds(centroids(named([image]), 19, "mean"), 0.0)
        shown = golden["count_per_image"][number] > 0
        assert torch.equal(image.argmax(0).flatten().bincount(minlength=19), golden["count_per_image"][number])
        torch.testing.assert_close(theta[shown], golden["thr_mean_per_image"][number][shown], rtol=0, atol=1e-12)
        assert not theta[~shown].any()


def test_both_losses_are_the_reference(golden: dict[str, Tensor]) -> None:
    """They were recorded on the first image alone, with the labels by the plain mean's centroids at Δ = 0.1."""
    labels = golden["y_hat"].long().where(golden["mask_mean_delta0.1"], IGNORE)[:1]
    logits = reference_maps(golden)[:1].log()
    found = [self_supervised_loss(logits, labels, chosen).item() for chosen in ("image", "labelled")]
    expected = [golden["loss_ssl_eq6_HW_norm"].item(), golden["loss_ssl_selected_norm"].item()]
    assert found == pytest.approx(expected, rel=0, abs=1e-9)


# --- Eq. 1 -----------------------------------------------------------------------------------------------------------


@every_weighting
@given(images=maps())
@settings(max_examples=25)
def test_eq1_written_plainly(images: list[Tensor], weighting: Weighting) -> None:
    total, weights = torch.zeros(CLASSES, CLASSES, dtype=torch.float64), [0.0] * CLASSES
    for prob in images:
        for pixel in prob.flatten(1).T:
            c, w = int(pixel.argmax()), pixel.max().item() if weighting == "confidence" else 1.0
            total[c] += w * pixel
            weights[c] += w
    found = centroids(named(images), CLASSES, weighting)
    for c, weight in enumerate(weights):
        expected = total[c] / weight if weight else torch.zeros(CLASSES, dtype=torch.float64)
        torch.testing.assert_close(found[c], expected, rtol=1e-12, atol=1e-14)
        assert found[c].sum().item() == pytest.approx(1.0 if weight else 0.0, abs=1e-12)


class Share:
    """A process's share of the predictions."""

    def __init__(self, images: list[Prediction], rank: int, meeting: Meeting) -> None:
        self.images, self.rank, self.meeting = images, rank, meeting

    def __iter__(self) -> Any:
        return iter(self.images)

    def merge(self, partial_sum: Tensor) -> Tensor:
        return self.meeting.merge(self.rank, partial_sum)


@every_weighting
@given(images=maps(torch.float32, most=8), world=st.integers(2, 4), random=st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_neither_order_nor_processes_change_a_bit(
    images: list[Tensor], weighting: Weighting, world: int, random: Random
) -> None:
    expected = centroids(named(images), CLASSES, weighting)
    shuffled = named(images)
    random.shuffle(shuffled)
    assert torch.equal(centroids(shuffled, CLASSES, weighting), expected)
    meeting, found = Meeting(world), {}

    def work(rank: int) -> None:
        found[rank] = centroids(Share(shuffled[rank::world], rank, meeting), CLASSES, weighting)

    meeting.run(work)
    assert len(found) == world
    assert all(torch.equal(part, expected) for part in found.values())
    assert meeting.merges == [1] * world  # however many images each has


def test_bands_and_threads_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    prob = torch.randn(CLASSES, 40, 37, generator=torch.Generator().manual_seed(0)).softmax(0)
    theta = torch.full((CLASSES,), 1.1, dtype=torch.float64)
    whole, label = centroids(named([prob]), CLASSES), select(prob, theta)
    assert set(label.unique().tolist()) == {0, 1, 2, 3, IGNORE}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(centroids(named([prob]), CLASSES), whole)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for pixels in (1, 37 * 7):
        monkeypatch.setattr(confidence, "_BAND_PIXELS", pixels)
        torch.testing.assert_close(centroids(named([prob]), CLASSES), whole, rtol=1e-13, atol=0)
        assert torch.equal(select(prob, theta), label)


# --- Eq. 2 and 3 -----------------------------------------------------------------------------------------------------


def entropy_of(pixel: list[float], entropy: Entropy) -> float:
    total = -sum(p * math.log(p) for p in pixel if p > 0)
    return total / math.log(CLASSES) if entropy == "normalised" else total


@given(maps(most=2), st.sampled_from(["nats", "normalised"]), st.floats(-0.3, 0.3))
@settings(max_examples=25)
def test_eq3_pixel_by_pixel(images: list[Tensor], entropy: Entropy, delta: float) -> None:
    middle = centroids(named(images), CLASSES)
    theta = entropy_thresholds(middle, delta, entropy)
    for c, row in enumerate(middle.tolist()):
        assert theta[c].item() == pytest.approx(entropy_of(row, entropy) - delta if sum(row) else 0.0, abs=1e-12)
    for prob in images:
        label = select(prob, theta, entropy)
        for y, x in np.ndindex(*prob.shape[1:]):
            pixel = prob[:, y, x].tolist()
            predicted, margin = int(np.argmax(pixel)), entropy_of(pixel, entropy) - theta[int(np.argmax(pixel))].item()
            if abs(margin) > 1e-12:  # of one pixel that is its class's centroid, both are rounded
                assert label[y, x].item() == (predicted if margin < 0 else IGNORE)


@given(maps(), st.floats(-1, 1), st.floats(0, 1))
@settings(max_examples=40)
def test_a_larger_delta_selects_a_subset(images: list[Tensor], delta: float, more: float) -> None:
    middle = centroids(named(images), CLASSES)
    for prob in images:
        wide, narrow = (select(prob, entropy_thresholds(middle, d)) for d in (delta, delta + more))
        assert torch.equal(narrow[narrow != IGNORE], wide[narrow != IGNORE])


@given(maps(), st.permutations(range(CLASSES)), st.sampled_from(WEIGHTINGS))
@settings(max_examples=40)
def test_another_order_of_classes_is_the_same_in_another_order(
    images: list[Tensor], order: list[int], weighting: Weighting
) -> None:
    middle, moved = (centroids(named(m), CLASSES, weighting) for m in (images, [prob[order] for prob in images]))
    torch.testing.assert_close(moved, middle[order][:, order], rtol=1e-12, atol=0)
    theta = entropy_thresholds(middle, 0.05) + 1e-9  # no pixel at its threshold
    old = torch.tensor([*order, *[IGNORE] * (IGNORE + 1 - CLASSES)])
    for prob in images:
        assert torch.equal(old[select(prob[order], theta[order])], select(prob, theta))


def test_a_delta_far_below_0_keeps_all_and_one_far_above_nothing() -> None:
    prob = torch.randn(CLASSES, 9, 9, generator=torch.Generator().manual_seed(1)).softmax(0)
    middle = centroids(named([prob]), CLASSES)
    assert torch.equal(select(prob, entropy_thresholds(middle, -10.0)), prob.argmax(0))
    assert (select(prob, entropy_thresholds(middle, 10.0)) == IGNORE).all()


def test_a_normalised_threshold_is_a_share_of_log_c() -> None:
    prob = torch.randn(CLASSES, 9, 9, generator=torch.Generator().manual_seed(1)).softmax(0)
    middle = centroids(named([prob]), CLASSES)
    plain, share = entropy_thresholds(middle, 0.1 * math.log(CLASSES)), entropy_thresholds(middle, 0.1, "normalised")
    torch.testing.assert_close(share * math.log(CLASSES), plain)
    assert torch.equal(select(prob, share, "normalised"), select(prob, plain))
    uniform = torch.full((CLASSES, CLASSES), 1 / CLASSES, dtype=torch.float64)
    torch.testing.assert_close(entropy_thresholds(uniform, 0.0, "normalised"), torch.ones(CLASSES).double())


@pytest.mark.parametrize("delta", [-0.5, 0.0, 0.5])
def test_a_class_that_is_never_predicted_has_no_labels(delta: float) -> None:
    prob = torch.tensor([0.6, 0.0, 0.3, 0.1])[:, None, None].expand(4, 3, 3)
    middle = centroids(named([prob]), 4)
    torch.testing.assert_close(middle[0], prob[:, 0, 0].double())
    assert not middle[1:].any()
    theta = entropy_thresholds(middle, delta)
    assert theta[1:].tolist() == [0.0] * 3
    certain = torch.eye(4)[:, :, None]  # each class once, with probability 1
    kept = 0 if theta[0] > 0 else IGNORE
    for rounding in (0.0, 2.0**-23):  # a sum of probabilities may be rounded to above 1
        assert select(certain * (1 + rounding), theta).flatten().tolist() == [kept, IGNORE, IGNORE, IGNORE]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_probabilities_of_0_and_1(dtype: torch.dtype) -> None:
    prob = torch.eye(3, dtype=dtype)[:, :, None].repeat(1, 2, 1)
    middle = centroids(named([prob]), 3)
    assert torch.equal(middle, torch.eye(3, dtype=torch.float64))
    assert entropy_thresholds(middle, 0.25).tolist() == [-0.25] * 3
    assert (select(prob, entropy_thresholds(middle, 0.0)) == IGNORE).all()  # no pixel is below the mean of its like
    assert torch.equal(select(prob, entropy_thresholds(middle, -0.25)), prob.argmax(0))


@pytest.mark.parametrize("entropy", ["nats", "normalised"])
def test_one_class(entropy: Entropy) -> None:
    prob = torch.ones(1, 2, 3)
    middle = centroids(named([prob]), 1)
    assert middle.tolist() == [[1.0]]
    assert select(prob, entropy_thresholds(middle, -0.1, entropy), entropy).tolist() == [[0] * 3] * 2
    assert (select(prob, entropy_thresholds(middle, 0.1, entropy), entropy) == IGNORE).all()


# --- BDL -------------------------------------------------------------------------------------------------------------


def test_bdl_is_the_median_of_each_class_and_9_at_most() -> None:
    first = torch.tensor([0.95, 0.99, 0.97, 0.5, 0.6, 0.7, 0.8])  # classes 0 0 0 1 1 1 1
    other = torch.zeros(4, 7)
    other[:2] = torch.stack((first, 1 - first))
    other[:2, 3:] = other[:2, 3:].flip(0)
    other[:2, 3] = torch.tensor([0.49, 0.51])
    single = torch.tensor([0.1, 0.1, 0.8, 0.0])
    scan = named([other[:, :, None], single[:, None, None]])
    # Of 3, the floor(1.5)-th largest is .99, above .9; of 4, the second largest. One pixel has no median, nor has none.
    assert bdl_thresholds(scan, 4).tolist() == pytest.approx([0.9, 0.7, 0.9, 0.9])
    assert bdl_thresholds(scan, 4, limit=0.6).tolist() == pytest.approx([0.6] * 4)
    assert bdl_thresholds(scan, 4, portion=1.0).tolist() == pytest.approx([0.9, 0.51, 0.8, 0.9])
    for limit in (-0.1, 1.5, math.nan):
        with pytest.raises(ConfigError, match=f"limit = {limit}; expected"):
            bdl_thresholds(scan, 4, limit)


# --- Eq. 6 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["image", "labelled"])
@given(st.integers(0, 2**31), st.floats(0, 1))
@settings(max_examples=20)
def test_eq6_and_its_gradient_written_plainly(normalisation: SSLNormalisation, seed: int, ignored: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(2, CLASSES, 3, 5, generator=rng, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(0, CLASSES, (2, 3, 5), generator=rng)
    labels[torch.rand(labels.shape, generator=rng) < ignored] = IGNORE
    chosen = (labels != IGNORE).nonzero().tolist()
    divisor = labels.numel() if normalisation == "image" else max(1, len(chosen))
    prob = logits.softmax(1)
    terms = [-prob[b, labels[b, y, x], y, x].log() for b, y, x in chosen]
    expected = torch.stack([*terms, 0 * logits.sum()]).sum() / divisor
    loss = self_supervised_loss(logits, labels, normalisation)
    torch.testing.assert_close(loss, expected)
    (found,), (gradient,) = torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalisation", ["image", "labelled"])
def test_the_gradient_is_the_slope_and_no_label_has_none(normalisation: SSLNormalisation) -> None:
    logits = torch.randn(1, CLASSES, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.tensor([[[0, 1, IGNORE], [3, IGNORE, 2]]])
    loss = partial(self_supervised_loss, normalisation=normalisation)
    assert torch.autograd.gradcheck(lambda values: loss(values, labels), logits.requires_grad_())
    nothing = loss(logits, torch.full_like(labels, IGNORE))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == 0
    assert not gradient.any()


def test_the_two_normalisations_differ_by_the_coverage() -> None:
    logits = torch.randn(2, CLASSES, 4, 5, generator=torch.Generator().manual_seed(2))
    labels = torch.randint(0, CLASSES, (2, 4, 5), generator=torch.Generator().manual_seed(3))
    assert self_supervised_loss(logits, labels, "image") == self_supervised_loss(logits, labels, "labelled")
    labels[0] = IGNORE
    image, labelled = (self_supervised_loss(logits, labels, chosen).item() for chosen in ("image", "labelled"))
    assert image == pytest.approx(labelled / 2)


# --- bad input -------------------------------------------------------------------------------------------------------


WRONG: Any = "mine"


def test_nan_is_reported_by_the_name_of_its_image() -> None:
    good = torch.full((2, 3, 3), 0.5)
    bad = good.clone()
    bad[1, 2, 1] = math.nan
    with pytest.raises(DataError, match="prediction of street: a class probability is NaN; expected"):
        centroids([Prediction("lane", good), Prediction("street", bad)], 2)


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: centroids([Prediction("lane", torch.ones(2, 1, 1))], 3), "num_classes: 3; but .* lane has 2"),
        (lambda: centroids([], 3, WRONG), "weighting = 'mine'; expected one of confidence, mean"),
        (lambda: entropy_thresholds(torch.eye(2).double(), math.nan), "delta = nan; expected"),
        (lambda: entropy_thresholds(torch.eye(2).double(), math.inf), "delta = inf; expected"),
        (lambda: entropy_thresholds(torch.eye(2).double(), 0.1, WRONG), "entropy = 'mine'; expected one of nats"),
        (lambda: select(torch.ones(2, 1, 1), torch.ones(2), WRONG), "entropy = 'mine'; expected"),
        (
            lambda: self_supervised_loss(torch.ones(1, 2, 1, 1), torch.zeros(1, 1, 1).long(), WRONG),
            "normalisation = 'mine'; expected one of image, labelled",
        ),
    ],
)
def test_wrong_arguments_are_named(call: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        call()
