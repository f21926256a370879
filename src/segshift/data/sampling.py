"""What is drawn at step t: a pure function of (seed, t, slot).

No state is carried from step to step, so a run can be resumed at any step, with any number of loader workers
and processes, and sees the same images with the same crops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from segshift.data.dataset import ImageDataset
from segshift.data.mining import Miner
from segshift.data.permutation import place_of
from segshift.data.resizing import cut_image, cut_label
from segshift.data.transforms import View, draw_geometry, to_float
from segshift.errors import DataError
from segshift.types import IGNORE, Batch, Geometry, Images


class Stream(IntEnum):
    """Who draws: two streams never share random numbers."""

    SOURCE = 0
    TARGET = 1
    AUGMENT = 2
    ENGINE = 3


def generator(seed: int, stream: Stream, *keys: int) -> np.random.Generator:
    """The random numbers of one place: (seed, stream, keys) and nothing else decides them."""
    return np.random.default_rng(np.random.SeedSequence((seed, int(stream), *keys)))


@lru_cache(maxsize=8)
def _key(seed: int, stream: Stream, epoch: int) -> bytes:
    return generator(seed, stream, 1, epoch).bytes(32)


@lru_cache(maxsize=8)
def _order(seed: int, stream: Stream, epoch: int, count: int) -> np.ndarray:
    return generator(seed, stream, 1, epoch).permutation(count)


_MANY = 1 << 22
"""Images of which an order is no longer listed: 34 MB a list, and 8 lists are kept."""


def index_at(seed: int, stream: Stream, draw: int, count: int) -> int:
    """Which of `count` images is drawn `draw`-th: each epoch is a permutation of its own."""
    if count > _MANY:
        return place_of(draw % count, count, _key(seed, stream, draw // count))
    return int(_order(seed, stream, draw // count, count)[draw % count])


def subset_at(seed: int, stream: Stream, key: int, count: int, share: float) -> tuple[int, ...] | None:
    """A random share of `count` indices, at least one, drawn anew for each `key` (a round); None: all of them."""
    if share >= 1:
        return None
    kept = generator(seed, stream, 5, key).permutation(count)[: max(1, round(share * count))]
    return tuple(sorted(int(i) for i in kept))


def keeps_size(view: View) -> bool:
    """Whether a view cuts every image from its working size: then nothing is lost where images lie ready at that."""
    return view.scale == (1.0, 1.0) and view.window is None


LabelOf = Callable[[int], Tensor]
"""The label of the image at an index, uint8 (h, w): truth, or a pseudo-label."""
SoftOf = Callable[[int, Geometry], Tensor]
"""The class probabilities of the image at an index, cut like it: float32 (k, h, w) of the geometry's size."""
Translate = Callable[[Tensor, int, int], Tensor]
"""An image, uint8 (3, h, w), the step and the slot -> the same scene in another style, at any size of that aspect."""


@dataclass(frozen=True)
class Packed:
    """Images of one domain as bytes: a fifth of the memory of `Images`, which matters between processes and on the way
    to a device."""

    image: UInt8[Tensor, "b 3 h w"]
    label: UInt8[Tensor, "b h w"]
    name: tuple[str, ...]
    geometry: tuple[Geometry, ...]
    soft: Float[Tensor, "b k h w"] | None = None

    def pin_memory(self) -> Packed:
        """The same where a device copies from fastest; torch's loader asks for it, and by itself would take tuples for
        lists."""
        soft = None if self.soft is None else self.soft.pin_memory()
        return replace(self, image=self.image.pin_memory(), label=self.label.pin_memory(), soft=soft)

    def unpacked(self, device: torch.device | str = "cpu") -> Images:
        """What a network takes, on a device: a copy from pinned memory goes on beside what that has yet to do."""

        def there(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        soft = None if self.soft is None else there(self.soft)
        return Images(to_float(there(self.image)), there(self.label).long(), self.name, self.geometry, soft)


@dataclass(frozen=True)
class PackedBatch:
    """A batch as bytes."""

    source: Packed
    target: Packed

    def pin_memory(self) -> PackedBatch:
        """As of its images."""
        return PackedBatch(self.source.pin_memory(), self.target.pin_memory())

    def unpacked(self, device: torch.device | str = "cpu") -> Batch:
        """What a training step sees."""
        return Batch(self.source.unpacked(device), self.target.unpacked(device))


@dataclass(frozen=True)
class Feed:
    """One domain's images for training."""

    dataset: ImageDataset
    label: LabelOf | None
    """None: no label, IGNORE everywhere."""
    view: View
    short_side: int | None
    batch: int
    """Images a step, over all processes."""
    stream: Stream
    seed: int
    miner: Miner | None = None
    """Where crops are put; None: anywhere."""
    indices: tuple[int, ...] | None = None
    """The images drawn from; None: all."""
    translate: Translate | None = None
    """Changes the style of whole images before they are cut; None: they are as they are."""
    soft: SoftOf | None = None
    """None: no class probabilities beside the labels."""

    def images(self, t: int, slots: range) -> Images:
        """The images of step t in the given places of the global batch."""
        return self.packed(t, slots).unpacked()

    def packed(self, t: int, slots: range) -> Packed:
        """The same as bytes."""
        drawn = [self._one(t, slot) for slot in slots]
        if len({tuple(image.shape) for image, *_ in drawn}) > 1:
            sizes = sorted({tuple(image.shape[1:]) for image, *_ in drawn})
            raise DataError(f"images of one batch have sizes {sizes}; set a crop (such as 256 256) to cut them alike")
        image, label, name, geometry, soft = zip(*drawn)
        soft = None if self.soft is None else torch.stack(soft)
        return Packed(torch.stack(image), torch.stack(label), name, geometry, soft)

    def _one(self, t: int, slot: int):
        count = len(self.dataset.names) if self.indices is None else len(self.indices)
        index = index_at(self.seed, self.stream, t * self.batch + slot, count)
        if self.indices is not None:
            index = self.indices[index]
        image = self.dataset.image(index)
        rng = generator(self.seed, self.stream, 2, t, slot)
        centre = None
        if self.miner is not None:
            # Drawn apart: scale and flip are the same with and without mining.
            centre = self.miner.place(index, generator(self.seed, self.stream, 4, t, slot))
        geometry = draw_geometry((image.shape[1], image.shape[2]), self.view, self.short_side, rng, slot, centre)
        if self.translate is not None:
            image = self.translate(image, t, slot)
        if self.label is None:
            label = torch.full(geometry.size, IGNORE, dtype=torch.uint8)
        else:
            label = cut_label(self.label(index), geometry)
        soft = None if self.soft is None else self.soft(index, geometry)
        return cut_image(image, geometry), label, self.dataset.names[index], geometry, soft


def no_images() -> Packed:
    """The batch of a domain that a method does not look at."""
    return Packed(torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.empty(0, 1, 1, dtype=torch.uint8), (), ())


def unchanged(batch: Any) -> Any:
    """The loader's collate function: torch's own would turn the tuples of a batch into lists."""
    return batch


class Steps(Dataset[Batch]):
    """The batches of steps first .. last-1 as a map-style data set: item i is step first + i.

    Rank r of w takes the slots r, r + w, ...: together the processes see what one process would.
    """

    def __init__(
        self, source: Feed | None, target: Feed | None, first: int, last: int, rank: int = 0, world: int = 1
    ) -> None:
        self.source, self.target = source, target
        self.first, self.last = first, last
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, item: int) -> Batch:
        return self.packed(item).unpacked()

    def packed(self, item: int) -> PackedBatch:
        """The same as bytes."""
        if not 0 <= item < len(self):
            raise IndexError(f"item {item} of {len(self)} steps")
        t = self.first + item
        return PackedBatch(self._packed(self.source, t), self._packed(self.target, t))

    def _packed(self, feed: Feed | None, t: int) -> Packed:
        return no_images() if feed is None else feed.packed(t, range(self.rank, feed.batch, self.world))
