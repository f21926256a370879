"""Sums over upsampled scores, band by band: against torch's own upsampling, values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from segshift.models.segmenter import upsample
from segshift.parts.banded import Term, banded_sums
from segshift.types import IGNORE

EVERYWHERE = slice(None)
sides = st.integers(1, 13)
align_both_ways = pytest.mark.parametrize("align_corners", [False, True])


def cross_entropy(label: Tensor) -> Term:
    return lambda scores, rows: F.cross_entropy(scores, label[:, rows], ignore_index=IGNORE, reduction="sum")


def entropy(region: Tensor) -> Term:
    def total(scores: Tensor, rows: slice) -> Tensor:
        log_prob = scores.log_softmax(1)
        return -((log_prob.exp() * log_prob).sum(1) * region[:, rows]).sum()

    return total


def case(seed: int, low: tuple[int, int], size: tuple[int, int], dtype: torch.dtype = torch.float64):
    """Scores of 2 images and 3 classes, and three sums over their pixels; a fifth of them has no label."""
    rng = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(2, 3, *low, generator=rng, dtype=dtype)
    label = torch.randint(0, 3, (2, *size), generator=rng)
    label[torch.rand(label.shape, generator=rng) < 0.2] = IGNORE
    weight = torch.rand(2, 1, *size, generator=rng, dtype=torch.float64)
    terms: list[Term] = [
        cross_entropy(label),
        entropy(label == IGNORE),
        lambda scores, rows: (scores.square() * weight[:, :, rows]).sum(),
    ]
    return scores.requires_grad_(), terms


def plain(scores: Tensor, size: tuple[int, int], align_corners: bool, terms: list[Term]) -> list[Tensor]:
    full = upsample(scores, size, align_corners)
    return [term(full, EVERYWHERE) for term in terms]


def slopes(sums: list[Tensor] | tuple[Tensor, ...], scores: Tensor) -> list[Tensor]:
    return [torch.autograd.grad(total, scores, retain_graph=True)[0] for total in sums]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    low=st.tuples(sides, sides),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    align_corners=st.booleans(),
    band_bytes=st.sampled_from((0, 1000, 10_000, 1 << 20)),
)
@example(seed=0, low=(1, 1), size=(1, 1), align_corners=True, band_bytes=0)
@example(seed=0, low=(1, 1), size=(9, 7), align_corners=False, band_bytes=1000)
@example(seed=0, low=(9, 17), size=(65, 129), align_corners=True, band_bytes=20_000)
def test_sums_and_gradients_are_those_of_the_upsampled_scores(
    seed: int, low: tuple[int, int], size: tuple[int, int], align_corners: bool, band_bytes: int
) -> None:
    scores, terms = case(seed, low, size)
    ours, theirs = (
        banded_sums(scores, size, align_corners, terms, band_bytes),
        plain(scores, size, align_corners, terms),
    )
    for found, expected in zip([*ours, *slopes(ours, scores)], [*theirs, *slopes(theirs, scores)], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@align_both_ways
def test_float32_within_rounding_of_double_precision(align_corners: bool) -> None:
    size = (67, 45)
    scores, terms = case(1, (9, 6), size, torch.float32)
    ours = banded_sums(scores, size, align_corners, terms[:2], 5000)
    exact = scores.detach().double().requires_grad_()
    theirs = plain(exact, size, align_corners, terms[:2])
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    for found, expected in zip(slopes(ours, scores), slopes(theirs, exact), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_gradient_numerically() -> None:
    scores, terms = case(2, (3, 4), (10, 9))
    assert torch.autograd.gradcheck(lambda x: banded_sums(x, (10, 9), False, terms, 500), scores)


@align_both_ways
def test_no_pixel_in_the_region_is_zero_with_gradient_zero(align_corners: bool) -> None:
    scores, size = case(3, (4, 5), (17, 20))[0], (17, 20)
    label = torch.full((2, *size), IGNORE)
    for total in banded_sums(scores, size, align_corners, [cross_entropy(label), entropy(label != IGNORE)], 2000):
        assert total.item() == 0
        assert not torch.autograd.grad(total, scores, retain_graph=True)[0].any()


def test_beside_other_losses_of_the_same_scores() -> None:
    """Sums with factors, one of them unused, and the scores themselves in a loss of their own."""
    size = (17, 20)
    scores, terms = case(4, (4, 5), size)

    def loss(sums: Callable[..., list[Tensor] | tuple[Tensor, ...]]) -> Tensor:
        first, second, _ = sums(scores, size, True, terms)
        return 0.3 * first + 2 * second + scores.pow(3).mean()

    ours, theirs = (torch.autograd.grad(loss(sums), scores)[0] for sums in (banded_sums, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_half_precision_scores_are_summed_in_float32() -> None:
    size = (33, 40)
    scores, terms = case(5, (5, 6), size, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        ours = banded_sums(scores, size, False, terms[:2], 2000)
    exact = scores.detach().double().requires_grad_()
    theirs = plain(exact, size, False, terms[:2])
    for found, expected in zip(ours, theirs, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    for found, expected in zip(slopes(ours, scores), slopes(theirs, exact), strict=True):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)


def test_the_same_bits_again_whatever_the_memory_format() -> None:
    size = (70, 90)
    scores, terms = case(6, (9, 12), size, torch.float32)
    changed = scores.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    first, second, third = (banded_sums(x, size, True, terms[:2], 10_000) for x in (scores, scores, changed))
    for ours, again, other in zip(first, second, third, strict=True):
        assert ours == again == other
        gradients = [torch.autograd.grad(total, leaf, retain_graph=True)[0] for total, leaf in (
            (ours, scores), (again, scores), (other, changed)
        )]  # fmt: skip
        assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize("needed", [False, True])
def test_a_band_is_as_large_as_asked_and_no_gradient_is_made_for_nobody(needed: bool) -> None:
    size, seen = (50, 30), []

    def total(scores: Tensor, rows: slice) -> Tensor:
        seen.append((tuple(scores.shape), rows, scores.requires_grad))
        return scores.sum()

    scores = torch.randn(2, 3, 5, 4, requires_grad=needed)
    (found,) = banded_sums(scores, size, False, [total], 16 * 4 * 2 * 3 * 30)
    assert [shape for shape, *_ in seen] == [(2, 3, 16, 30)] * 3 + [(2, 3, 2, 30)]
    assert [rows for _, rows, _ in seen] == [slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 50)]
    assert {requires for *_, requires in seen} == {needed} and found.requires_grad == needed
    torch.testing.assert_close(found, upsample(scores, size, False).sum(), rtol=1e-4, atol=0)
