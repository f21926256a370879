"""Sums without an order: against fractions, in any order, split over any number of processes."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.parts.exact_sums import ExactSum

numbers = st.one_of(
    st.floats(-1e9, 1e9), st.floats(-2, 2), st.floats(-1e-12, 1e-12), st.sampled_from([0.0, -0.0, 1.0, 2.0**-53])
)
terms = st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=30)


def summed(values: list[list[float]]) -> ExactSum:
    total = ExactSum(2)
    for value in values:
        total.add(torch.tensor(value, dtype=torch.float64))
    return total


@given(terms, st.integers(1, 5), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_neither_order_nor_split_changes_a_bit(values: list[list[float]], world: int, random: Random) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    parts = [summed(shuffled[rank::world]) for rank in range(world)]
    limbs: list[Tensor] = []

    def send(partial_sum: Tensor) -> Tensor:
        limbs.append(partial_sum)
        return partial_sum

    def merge(_: Tensor) -> Tensor:
        return torch.stack(limbs).sum(0)

    for part in parts:
        part.total(send)
    assert all(part.dtype == torch.int64 for part in limbs)
    expected = summed(values).total()
    assert all(torch.equal(part.total(merge), expected) for part in parts)


@given(terms)
@settings(max_examples=100)
def test_it_is_the_sum(values: list[list[float]]) -> None:
    found = summed(values).total().tolist()
    for column, total in enumerate(found):
        exact = sum((Fraction(value[column]) for value in values), Fraction(0))
        # Each term below 1 may be off by 2^-53, and the sum is rounded once to a float64.
        assert abs(Fraction(total) - exact) <= Fraction(len(values), 2**53) + abs(exact) / 2**52


@given(st.lists(st.floats(1, 1e6), max_size=40))
@settings(max_examples=100)
def test_terms_from_1_on_are_kept_exactly(values: list[float]) -> None:
    (found, _) = summed([[value, 0.0] for value in values]).total().tolist()
    assert found == pytest.approx(float(sum(map(Fraction, values), Fraction(0))), rel=2**-52, abs=0)


def test_many_small_terms_are_not_lost_beside_a_large_one() -> None:
    total, plain = ExactSum(), torch.tensor(1e9, dtype=torch.float64)
    total.add(plain)
    small = torch.tensor(2.0**-25, dtype=torch.float64)
    for _ in range(4096):
        total.add(small)
        plain = plain + small
    assert total.total().item() == 1e9 + 2.0**-13 > 1e9
    assert plain.item() == 1e9


@pytest.mark.parametrize("world", [1, 1024])
def test_fractions_carry_over(world: int) -> None:
    """The largest fraction on each of many processes: their sum does not overflow."""
    largest = 1 - 2.0**-52
    total = ExactSum(1)
    for _ in range(3):
        total.add(torch.tensor([largest], dtype=torch.float64))
    found = total.total(partial(torch.mul, other=world))
    assert found.item() == float(3 * world * Fraction(largest))
