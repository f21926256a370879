"""Images in shards: the tar files of WebDataset, read in any order where they lie, on one disk or on several.

A million files are hard on a file system, and a hundred million do not fit one. In shards they are a few thousand large
files, which anything can copy, and which lie on as many disks as they need (`shard_paths` says how they are named).
`classes.yaml` stands beside them. `shard_members` says what a shard holds, `shard_index` where.

**Names.** An image is called `SHARD/KEY`, the shard without `.tar`, so names differ wherever shards' names do, and what
a run writes for each image lies in a folder for each shard. Names are in order, as in every data set: shard after
shard, and inside one by key, which is the order of the bytes where the tar was written in order. A scan reads each
shard once, from its start to its end; process r of w takes images r, r + w, ..., so that all read the same shard at a
time.

**Not by the `webdataset` package** (1.0.2), which streams through a shuffle buffer: what is drawn at a step would
depend on all that was read before. Its companion for reading by index, `wids` (0.1.11), walks through a shard's headers
anew in every process and keeps them as Python objects, knows no long names (pax, GNU), takes a damaged header for what
it says, and unpickles members that are called `.pkl`. Here headers are read by the standard library, once, and an image
is one read of its bytes.
"""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.files import image_size, read_image
from segshift.data.folder import read_ids, require_same_size, require_same_space, worker_threads
from segshift.data.intake import FileRules, Intake, nothing_left
from segshift.data.member import Member
from segshift.data.oddities import count
from segshift.data.shard_index import Index, index_of, others_of
from segshift.data.shard_paths import declared_classes, find_shards
from segshift.errors import DataError
from segshift.taxonomy import IGNORE, LabelSpace, read_classes

T = TypeVar("T")


def indices_of(shards: Sequence[Path]) -> list[Index]:
    """The index of each shard. DataError of the first that has none.

    They are looked at in a random order: of several processes that begin together each makes some, and finds the rest.
    """
    found: dict[Path, Index | DataError] = {}

    def look(shard: Path) -> None:
        try:
            found[shard] = index_of(shard)
        except DataError as error:
            found[shard] = error

    with ThreadPoolExecutor(worker_threads()) as pool:
        # The order is nobody's result, so it is not drawn from a run's seed.
        list(pool.map(look, random.SystemRandom().sample(list(shards), len(shards))))
    indices = []
    for shard in shards:
        index = found[shard]
        if isinstance(index, DataError):
            raise index
        indices.append(index)
    return indices


class Table:
    """Samples of several shards, in order; some of them left out."""

    def __init__(self, indices: Sequence[Index]) -> None:
        self.indices = tuple(index for index in indices if len(index))
        self._starts = np.cumsum([0, *map(len, self.indices)]).tolist()
        self._shards = {index.shard.stem: n for n, index in enumerate(self.indices)}
        self._kept: np.ndarray | None = None
        """Which samples are there, in order; None: all."""

    def __len__(self) -> int:
        return self._starts[-1] if self._kept is None else len(self._kept)

    def at(self, i: int) -> tuple[Index, int]:
        """The shard of sample i, and which one it is there. IndexError where there is no such sample."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"{i}; expected less than {len(self)}")
        i = range(len(self))[i]
        place = i if self._kept is None else int(self._kept[i])
        shard = bisect_right(self._starts, place) - 1
        return self.indices[shard], place - self._starts[shard]

    def without(self, left_out: Sequence[int]) -> Table:
        """The samples but for some, of a table that has all."""
        part = Table(self.indices)
        if left_out:
            part._kept = np.setdiff1d(np.arange(self._starts[-1]), left_out)
        return part

    def places(self, faults: str) -> dict[int, str]:
        """The samples whose `faults` (image, label) cannot be used, with the reason; of a table that has all."""
        return {
            start + i: why
            for start, index in zip(self._starts, self.indices)
            for i, why in index.faults(faults).items()
        }

    def unlabelled(self) -> list[int]:
        """The samples that have no label, of a table that has all."""
        return [start + i for start, index in zip(self._starts, self.indices) for i in index.unlabelled()]

    def find(self, name: str) -> int | None:
        """The sample of this name; None where there is none."""
        stem, _, key = name.partition("/")
        shard = self._shards.get(stem)
        place = None if shard is None else self.indices[shard].find(key)
        if shard is None or place is None:
            return None
        place += self._starts[shard]
        if self._kept is None:
            return place
        i = int(np.searchsorted(self._kept, place))
        return i if i < len(self._kept) and self._kept[i] == place else None

    def sizes(self) -> np.ndarray:
        """uint32: bytes of each image."""
        every = np.concatenate([np.zeros(0, np.uint32), *(index.sizes for index in self.indices)])
        return every if self._kept is None else every[self._kept]

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(index.nbytes for index in self.indices) + (0 if self._kept is None else self._kept.nbytes)


class _Column(Sequence[T], Generic[T]):
    """Something of each sample, made when it is asked for: a list of strings would take ten times the memory."""

    def __init__(self, table: Table) -> None:
        self.table = table

    @abstractmethod
    def _of(self, index: Index, i: int) -> T:
        """Of sample i of a shard."""

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self[place] for place in range(len(self))[i]]
        return self._of(*self.table.at(i))

    def __iter__(self) -> Iterator[T]:
        return (self[i] for i in range(len(self)))


class Names(_Column[str]):
    """The names of images, in order."""

    def _of(self, index: Index, i: int) -> str:
        return f"{index.shard.stem}/{index.key(i)}"

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.table.find(name) is not None

    def index(self, name: str, start: int = 0, stop: int | None = None) -> int:
        """Which image has this name. ValueError where none has, or none from `start` up to `stop`."""
        found = self.table.find(name)
        if found is None or found not in range(len(self))[start:stop]:
            raise ValueError(f"{name!r} is no name of these images")
        return found


class Images(_Column[Member]):
    """Where the images are."""

    def _of(self, index: Index, i: int) -> Member:
        return index.image(i)


class Labels(_Column[Member]):
    """Where their labels are, of samples that all have one."""

    def _of(self, index: Index, i: int) -> Member:
        label = index.label(i)
        assert label is not None
        return label


class ShardImages:
    """The images in shards, and nothing else: a target for training. Where labels are is not known to it.

    `text`: see `shard_paths`. DataError: a shard that is missing, damaged or no plain tar; an image that cannot be told
    or has a name that no file can bear, unless `rules` say to go without it.
    """

    def __init__(self, text: Path | str, split: str | None = None, rules: FileRules | None = None) -> None:
        self._open(str(text), split, rules, labelled=False)

    def _open(self, text: str, split: str | None, rules: FileRules | None, labelled: bool) -> None:
        self.text, self.split, self.rules = text, split, rules or FileRules()
        self.shards = find_shards(text, split)
        indices = indices_of(self.shards)
        every = Table(indices if labelled else [index.without_labels() for index in indices])
        names = Names(every)
        if not len(every):
            raise DataError(f"{self.shards[0]}: holds no image; expected members named KEY.jpg, KEY.png or the like")
        self._others = others_of(indices)
        self._orphans = [f"{index.shard}:{label}" for index in indices for label in index.orphans if labelled]
        intake = Intake(self.rules)
        faults = every.places("image") | (_label_faults(every, intake) if labelled else {})
        for place in sorted(faults):
            intake.refuse(names[place], faults[place])
        known = {name: place for name in self.rules.without if (place := every.find(name)) is not None}
        intake.left_out |= {name: self.rules.without[name] for name in known}
        self.table = every.without(sorted({*faults, *known.values()}))
        if not len(self.table):
            raise nothing_left(intake.left_out)
        self.names: Sequence[str] = Names(self.table)
        self.listed: Sequence[str] = names
        """All images there are, in order, also those that are left out."""
        self.left_out: dict[str, str] = dict(sorted(intake.left_out.items()))
        self.image_paths: Sequence[Member] = Images(self.table)

    def __repr__(self) -> str:
        part = "" if self.split is None else f", split={self.split!r}"
        return f"{type(self).__name__}({self.text!r}{part})"

    @property
    def notes(self) -> list[str]:
        """What is odd but handled: members that are neither image nor label, and labels without an image."""
        found = list(self._others)
        if self._orphans:
            found.append(f"{self._orphans[0]}: is a label without an image, left aside; {count(self._orphans)}")
        return found

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """The image as RGB at its own size. DataError where it cannot be read, or its shard was changed."""
        return read_image(self.image_paths[index], self.rules.max_pixels)

    def fingerprint(self) -> str:
        """A hash of the images' names and sizes in bytes: cheap, and blind to an edit that keeps the size."""
        return self._fingerprint("")

    def _fingerprint(self, text: str) -> str:
        total = hashlib.sha256(text.encode())
        for index in self.table.indices:
            total.update(f"\n{index.shard.stem}\t".encode("utf-8", "surrogateescape") + index.digest())
        for name in self.left_out:
            total.update(f"\nwithout\t{name}".encode("utf-8", "surrogateescape"))
        return total.hexdigest()[:16]


class ShardLabelled(ShardImages):
    """Images in shards, each with its label: a source, a test set, or an oracle's target.

    `space` is for shards without `classes.yaml`: the source's label space. Shards that have one must name the same
    classes. DataError with neither, and where an image has no label, unless `rules` say to go without it.
    """

    def __init__(
        self,
        text: Path | str,
        split: str | None = None,
        space: LabelSpace | None = None,
        rules: FileRules | None = None,
    ) -> None:
        self._classes = declared_classes(str(text), split)
        self.ignore, own = IGNORE, None
        if self._classes is not None:
            own, self.ignore = read_classes(self._classes)
            if space is not None:
                require_same_space(space, own, str(self._classes))
        named = space or own
        if named is None:
            raise DataError(
                f"{text}: there is no classes.yaml beside the shards; expected one that says what the ids in their "
                "labels mean, in the shards' folder or one folder up"
            )
        self._open(str(text), split, rules, labelled=True)
        self.label_paths: Sequence[Member] = Labels(self.table)
        self.space: LabelSpace = named

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """Class ids, or 255. DataError: unreadable, ids outside `space`, or another size than the image's."""
        label, image = self.label_paths[index], self.image_paths[index]
        limit = self.rules.max_pixels
        ids = read_ids(label, self.space, self.ignore, limit)
        require_same_size(str(label), (ids.shape[0], ids.shape[1]), str(image), image_size(image, limit))
        return ids

    def fingerprint(self) -> str:
        """As of images alone, over the labels and the text of `classes.yaml` too."""
        return self._fingerprint("" if self._classes is None else self._classes.read_text(encoding="utf-8"))


def have_labels(text: str, split: str | None) -> bool:
    """Whether the first shard of a split holds a label. DataError where there is no such shard."""
    return index_of(find_shards(text, split)[0]).has_labels


def _label_faults(every: Table, intake: Intake) -> dict[int, str]:
    """Samples whose label cannot be used, or is missing."""
    missing, images = every.unlabelled(), Images(every)
    total = f" ({len(missing)} of {len(every)} images have none)" if len(missing) > 1 and not intake.rules.skips else ""
    found = {
        place: f"{images[place]}: has no label{total}; expected a member KEY.seg.png, KEY.label.png or "
        "KEY.mask.png of the same key. Add it, or leave such images out: --on-bad-file skip"
        for place in missing[: None if intake.rules.skips else 1]
    }
    return every.places("label") | found
