"""Decoded images kept in memory, up to a budget: small data sets are decoded (or drawn) once."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from segshift.data.dataset import LabelledDataset, Unlabelled, image_paths, label_paths, left_out
from segshift.errors import DataError

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
        self.image_paths = image_paths(dataset)
        self.left_out = left_out(dataset)
        self._read_image = _as_at_first(dataset.image)
        self._memory = memory

    def image(self, index: int) -> Tensor:
        return self._memory.get("image", index, self._read_image)


class Cached(CachedImages):
    """A labelled data set, decoded once."""

    def __init__(self, dataset: LabelledDataset, memory: Memory) -> None:
        super().__init__(dataset, memory)
        self.space = dataset.space
        self.label_paths = label_paths(dataset)
        self._read_label = _as_at_first(dataset.label)

    def label(self, index: int) -> Tensor:
        return self._memory.get("label", index, self._read_label)


def _as_at_first(read: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """`read`, of data that was checked before: a file that has gone bad since stops the run, whatever its policy."""

    def again(index: int) -> Tensor:
        try:
            return read(index)
        except DataError as error:
            raise DataError(
                f"{error}. The file could be read when this run began, and a run's images may not change under way: "
                "put it back as it was, then go on with segshift resume"
            ) from error

    return again
