import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.errors import ConfigError
from segshift.parts.order_statistics import BINS, KeyHistogram, descending_keys, nth_largest, portion_of, values_of_keys

GROUPS = 4
FLOATS = st.floats(width=32, allow_nan=False)
TIED = st.sampled_from(
    [0.0, -0.0, 0.5, 1.0, math.inf, -math.inf, 1e-45, -1e-45, float(np.nextafter(np.float32(0.5), 1))]
)
SAMPLES = st.lists(st.tuples(st.one_of(FLOATS, TIED), st.integers(0, GROUPS - 2)), max_size=60)  # the last is empty


def parts(samples, cuts=()):
    """The samples as parts, cut at the given places."""
    values = torch.tensor([v for v, _ in samples], dtype=torch.float32)
    group = torch.tensor([g for _, g in samples], dtype=torch.uint8)
    edges = [0, *sorted(min(c, len(samples)) for c in cuts), len(samples)]
    return [(values[a:b], group[a:b]) for a, b in pairwise(edges)]


def by_sorting(samples, n):
    """The n-th largest of each group from a full sort; NaN where n is 0."""
    answer = []
    for g, rank in enumerate(n):
        ordered = sorted((np.float32(v) for v, group in samples if group == g), reverse=True)
        answer.append(float(ordered[rank - 1]) if rank else math.nan)
    return torch.tensor(answer)


def bits(values):
    return (values + 0.0).view(torch.int32)


@given(SAMPLES, st.lists(st.integers(0, 60), max_size=4), st.floats(0, 1))
@settings(deadline=None, max_examples=150)
def test_equals_sorting_however_the_values_are_cut(samples, cuts, share):
    n = [math.floor(share * sum(g == group for _, g in samples)) for group in range(GROUPS)]
    found = nth_largest(lambda: parts(samples, cuts), GROUPS, lambda _: torch.tensor(n))
    assert torch.equal(bits(found), bits(by_sorting(samples, n)))


@given(SAMPLES, st.floats(0, 1))
@settings(deadline=None, max_examples=150)
def test_a_second_reading_may_leave_out_what_lies_outside_its_bounds(samples, share):
    n = [math.floor(share * sum(g == group for _, g in samples)) for group in range(GROUPS)]
    left_out = []

    def again(least, most):
        inside = [(v, g) for v, g in samples if least[g] <= np.float32(v) <= most[g]]
        left_out.append(len(samples) - len(inside))
        return parts(inside)

    found = nth_largest(lambda: parts(samples), GROUPS, lambda _: torch.tensor(n), again=again)
    assert torch.equal(bits(found), bits(by_sorting(samples, n)))
    assert len(left_out) == any(n)


@given(SAMPLES, st.lists(st.integers(0, 60), min_size=1, max_size=3), st.floats(0.01, 1))
@settings(deadline=None, max_examples=60)
def test_processes_that_merge_get_the_bits_of_one(samples, cuts, share):
    def rank(counts):
        return (counts * share).long()

    alone = nth_largest(lambda: parts(samples), GROUPS, rank)
    shards = parts(samples, cuts)
    # Processes in turn: each runs up to its next merge, whose sum is then handed to all.
    sums: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []
    while not answers:
        reached = [up_to_merge(shard, rank, sums) for shard in shards]
        if reached[0][0] == "answer":
            answers = [tensor for _, tensor in reached]
        sums.append(torch.stack([tensor for _, tensor in reached]).sum(0))
    assert all(torch.equal(bits(a), bits(alone)) for a in answers)


class Paused(Exception):  # noqa: N818 - no error: a process waits at a merge
    pass


def up_to_merge(shard, rank, sums):
    """What a process hands to the first `merge` whose sum is not known yet, or its answer."""
    known = iter(sums)

    def merge(partial):
        total = next(known, None)
        if total is None:
            raise Paused(partial)
        return total

    try:
        return "answer", nth_largest(lambda: [shard], GROUPS, rank, merge)
    except Paused as paused:
        return "partial", paused.args[0]


@given(st.lists(st.one_of(FLOATS, TIED), min_size=1, max_size=40))
def test_keys_order_all_floats_and_come_back(values):
    ordered = torch.tensor(values, dtype=torch.float32).sort(descending=True).values
    keys = descending_keys(ordered)
    assert (keys.long().diff() >= 0).all()
    assert torch.equal(keys.diff() == 0, ordered.diff() == 0) or torch.isinf(ordered).any()
    assert torch.equal(bits(values_of_keys(keys)), bits(ordered))


@pytest.mark.parametrize(
    ("values", "n", "expected"),
    [([0.7], 1, 0.7), ([0.3] * 9, 4, 0.3), ([-1.0, -2.0, -3.0], 2, -2.0), ([0.1, 0.9, 0.9, 0.5], 3, 0.5)],
    ids=["one value", "a constant", "negative", "ties"],
)
def test_small_cases(values, n, expected):
    part = (torch.tensor(values), torch.zeros(len(values), dtype=torch.uint8))
    assert nth_largest(lambda: [part], 1, lambda _: torch.tensor([n]))[0] == torch.tensor(expected)


def test_memory_does_not_grow_with_the_number_of_values():
    histogram = KeyHistogram(GROUPS)
    size = histogram.counts.numel()
    for seed in range(3):
        keys = torch.randint(0, BINS, (1000,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
        histogram.add(keys, torch.zeros(1000, dtype=torch.uint8))
    assert histogram.counts.numel() == size == BINS * GROUPS
    assert histogram.counts.sum() == 3000


def test_a_generator_in_place_of_a_scan_is_named():
    once = iter(parts([(0.5, 0), (0.6, 1)]))
    with pytest.raises(ConfigError, match="second reading gave 0 of the 2"):
        nth_largest(lambda: once, GROUPS, lambda counts: counts)


@pytest.mark.parametrize(
    ("portion", "count", "n"),
    [(0.2, 5, 1), (0.2, 4, 0), (0.29, 100, 29), (0.35, 180, 63), (1.0, 7, 7), (0.5, 10**15 + 1, 5 * 10**14)],
)
def test_portion_is_floored_as_a_decimal(portion, count, n):
    assert portion_of(portion, torch.tensor([count])).tolist() == [n]


@given(st.integers(0, 10**9))
def test_at_twenty_percent_doubles_floor_alike(count):
    assert portion_of(0.2, torch.tensor([count])).tolist() == [int(count * 0.2)]
