"""Decoded once, within a budget; and what has no label gains none."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from segshift.data.cache import Cached, CachedImages, Memory
from segshift.data.dataset import LabelledDataset, OracleTarget, Unlabelled
from segshift.taxonomy import unnamed


class Counted:
    """A labelled data set that counts how often each file is read."""

    space = unnamed(3)

    def __init__(self, count: int = 3) -> None:
        self.names = tuple(f"image_{i}" for i in range(count))
        self.reads: Counter[tuple[str, int]] = Counter()

    def image(self, index: int) -> Tensor:
        self.reads["image", index] += 1
        return torch.full((3, 4, 4), index, dtype=torch.uint8)

    def label(self, index: int) -> Tensor:
        self.reads["label", index] += 1
        return torch.full((4, 4), index, dtype=torch.uint8)

    def fingerprint(self) -> str:
        return "abc"


def test_each_file_is_read_once() -> None:
    data = Counted()
    cached = Cached(data, Memory())
    for _ in range(3):
        for i in range(3):
            assert torch.equal(cached.image(i), torch.full((3, 4, 4), i, dtype=torch.uint8))
            assert torch.equal(cached.label(i), torch.full((4, 4), i, dtype=torch.uint8))
    assert set(data.reads.values()) == {1}
    assert (cached.names, cached.space, cached.fingerprint()) == (data.names, data.space, "abc")
    assert isinstance(cached, LabelledDataset)


def test_beyond_the_budget_files_are_read_each_time() -> None:
    data = Counted()
    cached = CachedImages(data, Memory(budget=2 * 48 + 10))
    for _ in range(4):
        for i in range(3):
            assert int(cached.image(i)[0, 0, 0]) == i
    assert data.reads == {("image", 0): 1, ("image", 1): 1, ("image", 2): 4}


def test_two_data_sets_with_a_memory_each_do_not_mix() -> None:
    first, second = Cached(Counted(), Memory()), Cached(Counted(), Memory())
    second._read_image = lambda _: torch.full((3, 4, 4), 9, dtype=torch.uint8)
    assert int(first.image(1)[0, 0, 0]) == 1
    assert int(second.image(1)[0, 0, 0]) == 9


def test_no_label_can_be_reached_from_a_target() -> None:
    target = Unlabelled(CachedImages(Counted(), Memory()))
    assert not isinstance(target, LabelledDataset)
    with pytest.raises(AttributeError):
        target.label(0)  # type: ignore[attr-defined]
    assert not hasattr(CachedImages(Counted(), Memory()), "label")
    assert int(OracleTarget(Cached(Counted(), Memory())).label(2)[0, 0]) == 2
