"""Decoded images kept: in memory up to a budget, or in a folder, mapped, where all processes share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from segshift.data.dataset import LabelledDataset, Unlabelled, image_paths, label_paths, left_out
from segshift.data.decoded import Decoded, resized_key
from segshift.data.resizing import resize_image, resize_label
from segshift.data.transforms import working_size
from segshift.errors import DataError

BUDGET = 1 << 30
"""Bytes of decoded images and labels kept; beyond it the rest is decoded each time."""


class Memory:
    """What has been decoded, by (kind, index), until the budget is used up."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._kept: dict[tuple[str, int], Tensor] = {}

    def get(self, kind: str, index: int, read: Callable[[int], Tensor]) -> Tensor:
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
        self.names = dataset.names
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


class Entry(NamedTuple):
    """What a folder of decoded images holds of one image."""

    size: tuple[int, int]
    """(height, width) of the image, as its file has it."""
    image: str
    """The key of its pixels."""
    label: str | None
    """The key of its label; None where it has none."""


class KeptImages(CachedImages):
    """The images of a data set, read from a folder where they lie decoded. It has no labels, whatever it wraps.

    `entries`: one an image. Where it is None, or the folder does not have it (any more), the image is decoded, and kept
    in memory. `short_side`: images are given at this working size; None: at their own.
    """

    def __init__(
        self,
        dataset: LabelledDataset | Unlabelled,
        memory: Memory,
        decoded: Decoded,
        entries: Sequence[Entry | None],
        short_side: int | None = None,
    ) -> None:
        super().__init__(dataset, memory)
        self._decoded, self._entries, self._short_side = decoded, entries, short_side

    def image(self, index: int) -> Tensor:
        entry = self._entries[index]
        found = None if entry is None else self._kept(entry, entry.image)
        if found is not None:
            return found
        image = super().image(index)
        return resize_image(image, working_size((image.shape[1], image.shape[2]), self._short_side))

    def _kept(self, entry: Entry, key: str) -> Tensor | None:
        size = working_size(entry.size, self._short_side)
        return self._decoded.read(key if size == entry.size else resized_key(key, size))


class Kept(KeptImages):
    """A labelled data set, read from a folder where it lies decoded."""

    def __init__(
        self,
        dataset: LabelledDataset,
        memory: Memory,
        decoded: Decoded,
        entries: Sequence[Entry | None],
        short_side: int | None = None,
    ) -> None:
        super().__init__(dataset, memory, decoded, entries, short_side)
        self.space = dataset.space
        self.label_paths = label_paths(dataset)
        self._read_label = _as_at_first(dataset.label)

    def label(self, index: int) -> Tensor:
        entry = self._entries[index]
        found = None if entry is None or entry.label is None else self._kept(entry, entry.label)
        if found is not None:
            return found
        label = self._memory.get("label", index, self._read_label)
        return resize_label(label, working_size((label.shape[0], label.shape[1]), self._short_side))


def _as_at_first(read: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """`read`, of data that was checked before: a file that has gone bad since stops the run, whatever its policy."""

    def again(index: int) -> Tensor:
        try:
            return read(index)
        except DataError as error:
            raise DataError(
                f"{error}. A run's images may not change under way: put the file back as it was, or mend one that was "
                "not checked when the run began, then go on with segshift resume"
            ) from error

    return again
