"""Decoded images kept in memory, up to a budget: small data sets are decoded (or drawn) once."""

from __future__ import annotations

from torch import Tensor

from segshift.data.dataset import LabelledDataset, Unlabelled

BUDGET = 1 << 30
"""Bytes of decoded images and labels kept; beyond it the rest is decoded each time."""


class Memory:
    """What has been decoded, by (kind, index), until the budget is used up."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._kept: dict[tuple[str, int], Tensor] = {}

    def get(self, kind: str, index: int, read) -> Tensor:
        """The tensor at (kind, index), read on first use. Callers do not write into it."""
        key = (kind, index)
        if key not in self._kept:
            tensor = read(index)
            if self.budget < tensor.nbytes:
                return tensor
            self.budget -= tensor.nbytes
            self._kept[key] = tensor
        return self._kept[key]


class CachedImages:
    """The images of a data set, decoded once. It has no labels, whatever it wraps."""

    def __init__(self, dataset: LabelledDataset | Unlabelled, memory: Memory) -> None:
        self.names = tuple(dataset.names)
        self.fingerprint = dataset.fingerprint
        self._read_image = dataset.image
        self._memory = memory

    def image(self, index: int) -> Tensor:
        return self._memory.get("image", index, self._read_image)


class Cached(CachedImages):
    """A labelled data set, decoded once."""

    def __init__(self, dataset: LabelledDataset, memory: Memory) -> None:
        super().__init__(dataset, memory)
        self.space = dataset.space
        self._read_label = dataset.label

    def label(self, index: int) -> Tensor:
        return self._memory.get("label", index, self._read_label)
