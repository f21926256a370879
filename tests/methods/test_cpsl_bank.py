"""CPSL's memory bank: a ring that holds the last features, whatever comes in, also across a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.checkpoint import load, save
from segshift.errors import ConfigError
from segshift.methods.cpsl_bank import FeatureBank

WIDTH = 3


def numbered(first: int, count: int) -> Tensor:
    """Features that say which they are."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None] + torch.tensor([0.0, 0.25, 0.5])


def numbers(bank: FeatureBank) -> list[int]:
    """Which features a bank holds, each whole."""
    features = bank.features()
    assert torch.equal(features, features[:, :1] + torch.tensor([0.0, 0.25, 0.5]))
    return features[:, 0].int().tolist()


@given(st.integers(0, 12), st.lists(st.integers(0, 30), max_size=12))
@settings(max_examples=60)
def test_it_holds_the_last_features(capacity: int, batches: list[int]) -> None:
    bank = FeatureBank(capacity, WIDTH)
    total = 0
    for batch in batches:
        bank.add(numbered(total, batch))
        total += batch
        assert sorted(numbers(bank)) == list(range(max(0, total - capacity), total))
        assert bank.size == min(total, capacity)
        assert bank.full == (total >= capacity)


def test_adding_overwrites_the_oldest_in_place() -> None:
    """No row moves, so the cost is that of the rows that come in; nothing is allocated after the first time."""
    bank = FeatureBank(6, WIDTH)
    assert bank.features().shape == (0, WIDTH)
    bank.add(numbered(0, 4))
    place = bank.features().data_ptr()
    assert numbers(bank) == [0, 1, 2, 3]
    bank.add(numbered(4, 4))
    assert numbers(bank) == [6, 7, 2, 3, 4, 5]
    bank.add(numbered(8, 1))
    assert numbers(bank) == [6, 7, 8, 3, 4, 5]
    assert bank.features().data_ptr() == place


def test_features_come_without_gradient_in_float32() -> None:
    bank = FeatureBank(4, WIDTH)
    bank.add((numbered(0, 2) * torch.ones(1, requires_grad=True)).double())
    bank.add(numbered(2, 1).half())
    assert bank.features().dtype == torch.float32
    assert not bank.features().requires_grad
    assert numbers(bank) == [0, 1, 2]


@pytest.mark.parametrize("capacity", [0, 5])
@given(before=st.integers(0, 14), after=st.integers(0, 14))
@settings(max_examples=25)
def test_a_kill_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, before: int, after: int
) -> None:
    """Saved anywhere, empty, half full or full: restored, it takes in what follows at the same places."""
    bank = FeatureBank(capacity, WIDTH)
    for first in range(0, before, 3):
        bank.add(numbered(first, min(3, before - first)))
    file = tmp_path_factory.mktemp("bank") / "state.safetensors"
    save(file, bank.state_dict())
    again = FeatureBank.restored(load(file))
    assert (again.capacity, again.width, again.size, again.full) == (capacity, WIDTH, bank.size, bank.full)
    for each in (bank, again):
        each.add(numbered(before, after))
    assert numbers(again) == numbers(bank)


def test_a_restored_bank_does_not_write_into_what_it_came_from(tmp_path: Path) -> None:
    bank = FeatureBank(3, WIDTH)
    bank.add(numbered(0, 3))
    save(tmp_path / "state.safetensors", bank.state_dict())
    state = load(tmp_path / "state.safetensors")
    FeatureBank.restored(state).add(numbered(3, 2))
    assert torch.equal(state["features"], numbered(0, 3))
    assert numbers(bank) == [0, 1, 2]


def test_it_goes_where_the_features_are() -> None:
    bank = FeatureBank(3, WIDTH)
    assert bank.to(torch.device("meta")).features().device.type == "cpu"  # nothing to move yet
    bank.add(numbered(0, 2))
    assert bank.to(torch.device("cpu")) is bank
    assert numbers(bank) == [0, 1]
    bank.add(torch.empty(1, WIDTH, device="meta"))
    assert bank.features().device.type == "meta"
    assert bank.size == 3


@pytest.mark.parametrize(("capacity", "width"), [(-1, 3), (4, 0)])
def test_sizes_that_make_no_sense_are_named(capacity: int, width: int) -> None:
    with pytest.raises(ConfigError, match=f"bank of {capacity} features of {width} channels; expected"):
        FeatureBank(capacity, width)
