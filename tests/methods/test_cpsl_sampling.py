"""CPSL's class-balanced sampling and class distributions: Eq. 8 to 11 against the reference, and as laws."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.errors import ConfigError
from segshift.methods.cpsl_sampling import (
    class_counts,
    class_distribution,
    initial_distribution,
    moving_average,
    sample_pixels,
)
from segshift.types import IGNORE

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "cpsl_sampling.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not GOLDEN.is_file():
        pytest.skip("reference vectors are not here")
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


# --- against the reference -------------------------------------------------------------------------------------------


def test_distributions_equal_the_reference(golden: dict[str, Tensor]) -> None:
    """Eq. 10, Eq. 8 of each image, and Eq. 11 image after image."""
    delta = initial_distribution(golden["pred_cls_num"].long())
    torch.testing.assert_close(delta.double(), golden["class_distribution_0"], rtol=0, atol=1e-6)
    found = class_distribution(golden["y_hat"], 19)
    torch.testing.assert_close(found.double(), golden["delta_n"], rtol=0, atol=1e-6)
    for image, expected in zip(found.split(1), golden["ema_alpha0_9"], strict=True):
        delta = moving_average(delta, image, 0.9)
        torch.testing.assert_close(delta.double(), expected, rtol=0, atol=1e-6)
    at_once = moving_average(initial_distribution(golden["pred_cls_num"].long()), found, 0.9)
    assert torch.equal(at_once, delta)


def test_counts_are_those_of_the_reference_and_the_rest_shared_out(golden: dict[str, Tensor]) -> None:
    samples = int(golden["M"])
    for distribution in (golden["delta_n"], class_distribution(golden["y_hat"], 19)):
        counts = class_counts(distribution, samples)
        more = counts - golden["M_c"]
        assert set(more.unique().tolist()) == {0, 1}
        assert counts.sum(1).tolist() == [samples] * len(counts)


# --- Eq. 8, 10, 11 ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.floats(0, 1))
@settings(max_examples=20)
def test_eq8_counts_labelled_pixels(seed: int, ignored: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (3, 4, 5), generator=rng)
    labels[torch.rand(labels.shape, generator=rng) < ignored] = IGNORE
    found = class_distribution(labels, 4)
    for row, label in zip(found, labels):
        pixels = [(label == c).sum().item() for c in range(4)]
        assert row.tolist() == pytest.approx([n / max(1, sum(pixels)) for n in pixels])
    assert torch.equal(found, class_distribution(labels.to(torch.uint8), 4))


def test_eq10_of_nothing_is_the_same_for_all_classes() -> None:
    assert initial_distribution(torch.tensor([0, 0, 0, 0])).tolist() == [0.25] * 4
    assert initial_distribution(torch.tensor([1, 0, 3])).tolist() == [0.25, 0, 0.75]


def test_eq11_passes_over_images_without_labels() -> None:
    before = torch.tensor([0.5, 0.5])
    found = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    # .5 -> .6 -> .48
    torch.testing.assert_close(moving_average(before, found, 0.8), torch.tensor([0.48, 0.52]))
    assert torch.equal(moving_average(before, found, 1.0), before)
    assert torch.equal(moving_average(before, found, 0.0), found[2])
    assert torch.equal(moving_average(before, found[:0], 0.0), before)


# --- Eq. 9 -----------------------------------------------------------------------------------------------------------


def largest_remainder(pixels: list[int], samples: int) -> list[int]:
    """In exact arithmetic."""
    quotas = [Fraction(samples * n, sum(pixels)) for n in pixels]
    counts = [int(q) for q in quotas]
    order = sorted((-(q - n), c) for c, (q, n) in enumerate(zip(quotas, counts)) if q)
    for _, c in order[: samples - sum(counts)]:
        counts[c] += 1
    return counts


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 600))
@settings(max_examples=60)
def test_eq9_by_largest_remainder_in_exact_arithmetic(pixels: list[int], samples: int) -> None:
    """Shares with a power of two below the line are exact in float32."""
    pixels[0] += 512 - sum(pixels)
    found = class_counts(torch.tensor(pixels) / 512, samples)
    assert found.tolist() == largest_remainder(pixels, samples)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20).filter(any), st.integers(0, 600))
@settings(max_examples=60)
def test_counts_sum_to_the_samples_and_are_the_floor_or_one_more(shares: list[float], samples: int) -> None:
    distribution = torch.tensor(shares, dtype=torch.float64)
    distribution /= distribution.sum()
    counts = class_counts(distribution, samples)
    assert counts.sum().item() == samples
    above = counts - samples * distribution
    assert (above > -1 - 1e-9).all()
    assert (above < 1 + 1e-9).all()
    assert not counts[distribution == 0].any()


@given(
    st.lists(st.sampled_from([0, 1e-4, 0.01, 0.1, 1]), min_size=1, max_size=9), st.integers(0, 60), st.integers(0, 9)
)
@settings(max_examples=80)
def test_every_class_present_gets_the_floor_where_that_is_possible(
    shares: list[float], samples: int, floor: int
) -> None:
    distribution = torch.tensor(shares, dtype=torch.float32)
    counts, without = class_counts(distribution, samples, floor), class_counts(distribution, samples)
    present = distribution > 0
    if not present.any():
        assert not counts.any()
        return
    assert counts.sum().item() == samples
    assert not counts[~present].any()
    least = min(floor, samples // int(present.sum()))
    assert (counts[present] >= least).all()
    # Only those above the floor give, and a class below it gets no more than that.
    assert (counts >= without).logical_or(without > least).all()
    assert (counts <= without.clamp_min(least)).all()
    if (without[present] >= floor).all():
        assert torch.equal(counts, without)


def test_ties_rows_and_images_without_labels() -> None:
    distribution = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert class_counts(distribution, 4).tolist() == [[2, 1, 1], [0, 0, 0], [0, 4, 0]]
    assert class_counts(distribution[0], 5).tolist() == [2, 2, 1]
    assert class_counts(distribution, 4, floor=2).tolist() == [[2, 1, 1], [0, 0, 0], [0, 4, 0]]
    for options in ({"samples": -1}, {"samples": 4, "floor": -2}):
        with pytest.raises(ConfigError, match=r"samples = -?\d+, floor = -?\d+; expected"):
            class_counts(distribution, **options)


# --- the pixels ------------------------------------------------------------------------------------------------------


def drawn(seed: int, ignored: float) -> tuple[Tensor, Tensor]:
    """Labels (3, 6, 7) of 4 classes, of which one is rare, and keys."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(torch.tensor([0.6, 0.3, 0.08, 0.02]), 3 * 42, replacement=True, generator=rng)
    labels[torch.rand(3 * 42, generator=rng) < ignored] = IGNORE
    return labels.view(3, 6, 7), torch.rand(3, 42, generator=rng)


def taken(label: Tensor, keys: Tensor, counts: Tensor, samples: int) -> set[int]:
    """Which pixels of one image are sampled, one class after another."""
    flat, order = label.flatten(), keys.argsort().tolist()
    chosen = [i for c, n in enumerate(counts.tolist()) for i in [j for j in order if flat[j] == c][:n]]
    rest = [i for i in order if i not in chosen]
    chosen += [i for i in rest if flat[i] != IGNORE] + [i for i in rest if flat[i] == IGNORE]
    return set(chosen[:samples])


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.integers(1, 50), st.integers(0, 3))
@settings(max_examples=60)
def test_pixels_are_those_with_the_smallest_keys_of_their_class(
    seed: int, ignored: float, samples: int, floor: int
) -> None:
    """Also where a class has fewer pixels than it should give, where nothing is labelled, and where all are asked."""
    labels, keys = drawn(seed, ignored)
    counts = class_counts(class_distribution(labels, 4), samples, floor)
    found = sample_pixels(labels, counts, keys, samples)
    assert found.shape == (3, min(samples, 42))
    for i in range(3):
        assert len(set(found[i].tolist())) == found.shape[1]
        assert set(found[i].tolist()) == taken(labels[i], keys[i], counts[i], samples)
        alone = sample_pixels(labels[i : i + 1], counts[i : i + 1], keys[i : i + 1], samples)
        assert torch.equal(alone[0], found[i])


def test_classes_that_suffice_are_sampled_as_counted() -> None:
    labels, keys = drawn(1, 0.0)
    counts = class_counts(class_distribution(labels, 4), 10)
    found = labels.flatten(1).gather(1, sample_pixels(labels, counts, keys, 10))
    assert [torch.bincount(row, minlength=4).tolist() for row in found] == counts.tolist()


def test_without_counts_any_labelled_pixel_is_as_likely() -> None:
    """The row w/o CB: classes come as often as they occur, and each pixel as often as another."""
    labels = torch.tensor([[[0, 0, 0, 1, IGNORE, 0, 0, 0]]]).expand(4000, 1, 8)
    keys = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0))
    found = sample_pixels(labels, torch.zeros(4000, 2, dtype=torch.int64), keys, 2)
    times = torch.bincount(found.flatten(), minlength=8)
    assert times[4] == 0
    expected = 8000 / 7
    assert (times[labels[0, 0] != IGNORE] - expected).abs().max() < 5 * expected**0.5
