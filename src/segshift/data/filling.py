"""A folder of decoded images is filled when the files of a run are checked, as every one is read then anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.cache import Entry
from segshift.data.contents import digest_of
from segshift.data.dataset import ImageDataset, LabelledDataset, image_paths
from segshift.data.decoded import Decoded, image_key, label_key, nbytes, resized_key, told
from segshift.data.doctor import Track
from segshift.data.files import image_size
from segshift.data.folder import worker_threads
from segshift.data.protocols import notes_of
from segshift.data.resizing import resize_image, resize_label
from segshift.data.transforms import working_size
from segshift.errors import DataError

_AT_ONCE = 64
"""Files looked for before the next ones are."""


class Filling:
    """Puts what a run decodes into a folder, and knows where it lies.

    `short_sides`: the roles (source, target, test) of which images and labels are also kept at that working size.
    `max_pixels`: what an image may hold, as of the data set. `say`, `track`: for people.
    """

    def __init__(
        self,
        decoded: Decoded,
        short_sides: Mapping[str, int],
        max_pixels: int,
        say: Callable[[str], None],
        track: Callable[[str], Track],
    ) -> None:
        self.decoded, self.short_sides, self.max_pixels = decoded, short_sides, max_pixels
        self._say, self._track = say, track
        self._entries: dict[str, dict[str, Entry]] = {}

    def through(self, sets: Mapping[str, ImageDataset]) -> dict[str, ImageDataset]:
        """By role, data sets that look like these: an image that lies in the folder is taken from there, another is
        decoded and written. Labels are decoded each time, and compared with what lies there.

        Sets without files of their own (drawn on demand, in shards) are left as they are. ConfigError where the disk
        has not the room for all that is missing, or nobody may write there. It is said how much there is to come.
        """
        plans = {role: self._planned(role, dataset) for role, dataset in sets.items()}
        known = {role: plan for role, plan in plans.items() if plan is not None}
        if known:
            missing = sum(plan.missing for plan in known.values())
            if missing:
                self.decoded.prepare(missing)
            total = told(missing + sum(plan.present for plan in known.values()))
            self._say(
                f"cache {self.decoded.folder}: {', '.join(known)}: {total} decoded, {told(missing)} of it yet to "
                "be written"
            )
        return dict(sets) | {role: self._reading(role, sets[role], plan.keys) for role, plan in known.items()}

    def _reading(self, role: str, dataset: ImageDataset, keys: list[str | None]) -> ImageDataset:
        entries, side = self._entries.setdefault(role, {}), self.short_sides.get(role)
        # Checked for at run time by the protocol's members: a target that is not labelled has none of them.
        if isinstance(dataset, LabelledDataset):
            return _LabelledReading(self, dataset, keys, entries, side)
        return _Reading(self, dataset, keys, entries, side)

    def entries(self, role: str, names: Sequence[str]) -> list[Entry | None] | None:
        """Where the images of these names lie; None where nothing of the role does."""
        found = self._entries.get(role)
        return None if found is None else [found.get(name) for name in names]

    def _planned(self, role: str, dataset: ImageDataset) -> _Plan | None:
        """None where nothing of a set can be kept: an image's pixels are to be those of a file of its own."""
        paths = image_paths(dataset)
        if not paths or not isinstance(paths[0], Path) or len(set(paths)) < len(paths):
            return None
        labelled, found = isinstance(dataset, LabelledDataset), list[_Lookup]()
        track = self._track(f"looking for {role} in the cache")
        with ThreadPoolExecutor(worker_threads()) as pool:
            # A part at a time, so that whoever interrupts does not wait for thousands of files.
            for start in track(iter(range(0, len(paths), _AT_ONCE)), -(-len(paths) // _AT_ONCE)):
                part = paths[start : start + _AT_ONCE]
                found += pool.map(lambda path: self._looked_for(path, role, labelled), part)
        return _Plan([f.key for f in found], sum(f.present for f in found), sum(f.missing for f in found))

    def _looked_for(self, path: Path, role: str, labelled: bool) -> _Lookup:
        """What lies in the folder of an image. A file that cannot be read has no key; whoever decodes it says so."""
        try:
            key = image_key(digest_of(path))
            kept = self.decoded.shape(key)
            height, width = image_size(path, self.max_pixels) if kept is None else kept[1:]
        except DataError:
            return _Lookup(None, 0, 0)
        present, size = [0, 0], (height, width)
        for other in {size, working_size(size, self.short_sides.get(role))}:
            here = self.decoded.shape(key if other == size else resized_key(key, other)) is not None
            present[here] += nbytes((3, *other)) + (nbytes(other) if labelled else 0)
        return _Lookup(key, present[True], present[False])


class _Lookup(NamedTuple):
    """What of an image, and of its label, is to lie in the folder."""

    key: str | None
    """Of its pixels."""
    present: int
    """Bytes that lie there."""
    missing: int
    """Bytes that do not."""


class _Plan(NamedTuple):
    """Likewise of a whole set."""

    keys: list[str | None]
    present: int
    missing: int


class _Reading:
    """A data set whose images are taken from the folder, or decoded and put there."""

    def __init__(
        self,
        filling: Filling,
        dataset: ImageDataset,
        keys: list[str | None],
        entries: dict[str, Entry],
        side: int | None,
    ) -> None:
        self.names = tuple(dataset.names)
        self.fingerprint = dataset.fingerprint
        self._filling, self._decoded, self._dataset = filling, filling.decoded, dataset
        self._keys, self._entries, self._side = keys, entries, side

    def __repr__(self) -> str:
        return repr(self._dataset)

    @property
    def notes(self) -> list[str]:
        return notes_of(self._dataset)

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """As of the data set."""
        key = self._keys[index]
        image = None if key is None else self._decoded.verified(key)
        if key is None or image is None or image[0].numel() > self._filling.max_pixels:
            image = self._dataset.image(index)
            if key is None or not self._is_still(key, index):
                return image
            self._decoded.write(key, image)
        size = (image.shape[1], image.shape[2])
        worked = working_size(size, self._side)
        if worked != size and self._decoded.verified(resized_key(key, worked)) is None:
            self._decoded.write(resized_key(key, worked), resize_image(image, worked))
        self._entries[self.names[index]] = Entry(size, key, None)
        return image

    def _is_still(self, key: str, index: int) -> bool:
        """Whether what was decoded is what the key is of: a file can be changed under way."""
        paths = image_paths(self._dataset)
        try:
            return paths is not None and image_key(digest_of(paths[index])) == key
        except DataError:
            return False


class _LabelledReading(_Reading):
    """Likewise, with labels."""

    def __init__(
        self,
        filling: Filling,
        dataset: LabelledDataset,
        keys: list[str | None],
        entries: dict[str, Entry],
        side: int | None,
    ) -> None:
        super().__init__(filling, dataset, keys, entries, side)
        self.space = dataset.space
        self._label = dataset.label

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """As of the data set; asked for after its image."""
        label, entry = self._label(index), self._entries.get(self.names[index])
        size = (label.shape[0], label.shape[1])
        if entry is None or entry.size != size:
            return label
        key, worked = label_key(label), working_size(size, self._side)
        self._keep(key, label)
        if worked != size:
            self._keep(resized_key(key, worked), resize_label(label, worked))
        self._entries[self.names[index]] = entry._replace(label=key)
        return label

    def _keep(self, key: str, label: Tensor) -> None:
        kept = self._decoded.read(key)
        if kept is None or not torch.equal(kept, label):
            self._decoded.write(key, label)
