import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.data.permutation import place_of


@given(st.integers(1, 700), st.binary(max_size=32))
@settings(deadline=None, max_examples=60)
def test_each_item_stands_once(count, key):
    assert sorted(place_of(i, count, key) for i in range(count)) == list(range(count))


def test_orders_look_random_and_differ_between_keys():
    count = 4000
    orders = [np.array([place_of(i, count, bytes([key])) for i in range(count)]) for key in range(3)]
    steps = np.abs(np.diff(orders[0]))
    # Of two places drawn at random the mean distance is a third of the count.
    assert abs(steps.mean() / count - 1 / 3) < 0.02
    assert abs(np.corrcoef(orders[0], np.arange(count))[0, 1]) < 0.08
    assert (orders[0] == orders[1]).mean() < 0.005
    # Every quarter of the places draws from all quarters of the items.
    counts = np.histogram2d(np.arange(count) // 1000, orders[2] // 1000, bins=4)[0]
    assert counts.min() > 180


def test_large_counts_take_no_list():
    found = {place_of(i, 10**12, b"k") for i in range(200)}
    assert len(found) == 200
    assert max(found) > 5 * 10**11


@pytest.mark.parametrize("position", [-1, 5])
def test_positions_outside_are_refused(position):
    with pytest.raises(IndexError, match="order of 5 items"):
        place_of(position, 5, b"")
