"""Public data sets as their makers lay them out on disk: read where they lie, no preprocessing scripts.

A `Layout` says where images and labels of a split stand and what the ids in a label mean; `LayoutImages` and
`LayoutLabelled` are the data sets made of one. Each public data set is one `Layout` in a file of its own, listed in
`segshift.data.layouts`. An image and its label carry the same path below their folders, but for the ends of the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from segshift.data.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAX_PIXELS,
    image_size,
    is_folder,
    list_files,
    read_label,
)
from segshift.data.folder import ImageFiles, LabelFiles, one_each, require_same_size
from segshift.data.intake import FileRules, Intake
from segshift.errors import DataError
from segshift.taxonomy import IGNORE, LabelSpace


class Read(Protocol):
    """Ids of a label space, or 255, from a label file that holds no more than `max_pixels`."""

    def __call__(self, path: Path, max_pixels: int = ...) -> UInt8[Tensor, "h w"]: ...


class ReadRaw(Protocol):
    """Ids as they stand in a label file, likewise."""

    def __call__(self, path: Path, max_pixels: int = ...) -> Integer[Tensor, "h w"]: ...


class Item(NamedTuple):
    """One image of a data set."""

    name: str
    image: Path
    label: Path | None


class Place(NamedTuple):
    """Files below a folder whose names, without the suffix, end in `end`: the rest is an image's name."""

    folder: str
    end: str = ""


@dataclass(frozen=True)
class Part:
    """Images in one folder, their labels in another (both relative to the root of the data set).

    Where several places are named, the first folder that exists holds the images, and the first place that has a file
    of an image's name gives its label.
    """

    images: tuple[Place, ...]
    labels: tuple[Place, ...] = ()
    prefix: str = ""
    """What names begin with, so that those of several parts differ."""

    def images_in(self, root: Path) -> Place | None:
        """The place that is there; None where there is none."""
        return next((place for place in self.images if is_folder(root / place.folder)), None)


@dataclass(frozen=True)
class Layout:
    """How one public data set lies on disk."""

    name: str
    """What it is called on the command line, before the colon."""
    title: str
    space: LabelSpace
    parts: Mapping[str, tuple[Part, ...]]
    """What each split is made of; the key "" alone where the data set has no splits."""
    read: Read
    """Ids of `space`, or 255, from a label file. DataError for an id that the data set does not know."""
    resize_labels: bool = False
    """Whether a label of another size than its image is brought to the image's (nearest pixel), rather than refused."""
    test_split: str | None = None
    """The split that is scored where none is named."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What a split may be called; () where the data set has none."""
        return tuple(split for split in self.parts if split)

    @property
    def labelled_splits(self) -> tuple[str, ...]:
        """Those of `splits` whose labels are public."""
        return tuple(split for split in self.splits if all(part.labels for part in self.parts[split]))

    def splits_in(self, root: Path) -> tuple[str, ...]:
        """Those of `splits` whose images are there."""
        return tuple(split for split in self.splits if all(part.images_in(root) for part in self.parts[split]))

    def find(self, root: Path, split: str | None, labelled: bool, intake: Intake | None = None) -> list[Item]:
        """Images in name order, each with its label where `labelled`.

        Upper and lower case of `split` are alike. A data set without splits is all training images: None and "train"
        both name it. DataError: no such folder or split, no image, or a split without public labels; and an image
        without a label, or two of one name, unless `intake` leaves them out.
        """
        intake = intake or Intake()
        if not is_folder(root):
            state = "is no folder" if root.exists() else "does not exist"
            raise DataError(f"{root}: {state}; expected the folder of {self.title}, which holds {self._first_folder()}")
        key = self._key(root, split)
        if labelled and not all(part.labels for part in self.parts[key]):
            public = ", ".join(name for name in self.splits_in(root) if name in self.labelled_splits) or "none"
            raise DataError(
                f"{root}: split {key!r} of {self.title} has no public labels; expected a split that has, to train on or"
                f" to score. Found: {public}"
            )
        items = [item for part in self.parts[key] for item in self._items(root, key, part, labelled, intake)]
        intake.listed.sort()
        kept = intake.taken({item.name: item for item in items})
        return [kept[name] for name in sorted(kept)]

    def orphans(self, root: Path, split: str | None) -> list[str]:
        """A note where there are label files without an image (left over, or their image was lost); else nothing."""
        found: list[Path] = []
        for part in self.parts[self._key(root, split)]:
            images = _images(root, part)
            found += [paths[0] for name, paths in label_files(root, part).items() if name not in images]
        return [f"{found[0]}: has no image; {len(found)} such label(s) in all, left aside"] if found else []

    def _first_folder(self) -> str:
        return f"{next(iter(self.parts.values()))[0].images[0].folder}/"

    def _key(self, root: Path, split: str | None) -> str:
        """The key of `parts` that a split means."""
        if not self.splits:
            if split is None or split.casefold() == "train":
                return ""
            raise DataError(f"{root}: {self.title} has no splits, but split {split!r} was asked for. Name none")
        for known in self.splits:
            if split is not None and known.casefold() == split.casefold():
                return known
        asked = "no split is named" if split is None else f"{self.title} has no split {split!r}"
        there = ", ".join(self.splits_in(root)) or "none"
        raise DataError(
            f"{root}: {asked}; expected one of {', '.join(self.splits)}. Splits found: {there}{self._elsewhere(root)}"
        )

    def _elsewhere(self, root: Path) -> str:
        """A hint where the folder that was named is one too high or too deep."""
        parts = [part for of_split in self.parts.values() for part in of_split]

        def holds(folder: Path) -> bool:
            return any(part.images_in(folder) for part in parts)

        if holds(root):
            return ""
        near = [root.absolute().parent, *sorted(child for child in root.iterdir() if is_folder(child))]
        return next((f". {self.title} is in {folder}: name that folder" for folder in near if holds(folder)), "")

    def _items(self, root: Path, split: str, part: Part, labelled: bool, intake: Intake) -> list[Item]:
        place = part.images_in(root)
        if place is None:
            raise self._missing(root, split, part)
        images = _images(root, part)
        if not images:
            kinds = " ".join(IMAGE_SUFFIXES)
            named = f"named *{place.end} with an ending of {kinds}" if place.end else f"named {kinds}"
            raise DataError(f"{root / place.folder}: holds no image of {self.title}; expected at least 1 file {named}")
        intake.sees(part.prefix + name for name in images)
        paths = one_each(images, intake, part.prefix)
        if not labelled:
            return [Item(part.prefix + name, path, None) for name, path in paths.items()]
        labels = label_files(root, part)
        without = [name for name in images if name not in labels]
        for name in without:
            intake.refuse(part.prefix + name, self._unlabelled(root, part, name, images, len(without), intake))
        both = [name for name in paths if name in labels]
        return [Item(part.prefix + name, paths[name], labels[name][0]) for name in both]

    def _missing(self, root: Path, split: str, part: Part) -> DataError:
        folders = [place.folder for place in part.images]
        asked = f"the images of {self.title}" + (f", split {split!r}," if split else "")
        also = f" (or {', '.join(folders[1:])})" if folders[1:] else ""
        there = f". Splits found: {', '.join(self.splits_in(root)) or 'none'}" if self.splits else ""
        return DataError(f"{root / folders[0]}: is missing; expected {asked} there{also}{there}{self._elsewhere(root)}")

    def _unlabelled(
        self, root: Path, part: Part, name: str, images: Mapping[str, list[Path]], count: int, intake: Intake
    ) -> str:
        more = f" ({count} of {len(images)} images have none)" if count > 1 and not intake.rules.skips else ""
        return (
            f"{images[name][0]}: has no label{more}; expected {expected_label(root, part, name)}. Restore the label, "
            "or delete the image"
        )


class LayoutImages(ImageFiles):
    """The images of a split of a public data set, and nothing else."""

    def __init__(
        self, layout: Layout, root: Path | str, split: str | None = None, rules: FileRules | None = None
    ) -> None:
        intake = Intake(rules)
        items = layout.find(Path(root), split, labelled=False, intake=intake)
        super().__init__({item.name: item.image for item in items}, intake)
        self.layout, self.root, self.split = layout, Path(root), split

    def __repr__(self) -> str:
        split = "" if self.split is None else f", split={self.split!r}"
        return f"{type(self).__name__}({self.layout.name}:{self.root}{split})"


class LayoutLabelled(LabelFiles):
    """The images of a split of a public data set, each with its label."""

    def __init__(
        self, layout: Layout, root: Path | str, split: str | None = None, rules: FileRules | None = None
    ) -> None:
        intake = Intake(rules)
        items = layout.find(Path(root), split, labelled=True, intake=intake)
        labels = {item.name: item.label for item in items if item.label is not None}
        super().__init__({item.name: item.image for item in items}, labels, intake)
        self.layout, self.root, self.split = layout, Path(root), split
        self.space: LabelSpace = layout.space
        self._resized: dict[int, str] = {}

    def __repr__(self) -> str:
        split = "" if self.split is None else f", split={self.split!r}"
        return f"{type(self).__name__}({self.layout.name}:{self.root}{split})"

    @property
    def notes(self) -> list[str]:
        """What is odd but handled, one line each: labels resized so far, and labels without an image."""
        return [self._resized[i] for i in sorted(self._resized)] + self.layout.orphans(self.root, self.split)

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """Ids of `space`, or 255, at the image's size. DataError: unreadable, an unknown id, or another size."""
        path, image = self.label_paths[index], self.image_paths[index]
        limit = self.rules.max_pixels
        label, size = self.layout.read(path, limit), image_size(image, limit)
        found = (label.shape[0], label.shape[1])
        if found == size:
            return label
        if not self.layout.resize_labels:
            require_same_size(path, found, image, size)
        self._resized[index] = (
            f"{path}: is {found[0]}x{found[1]} pixels (height x width), {image.name} is {size[0]}x{size[1]}:"
            " the label was resized to it (nearest pixel)"
        )
        return _nearest(label, size)


def id_reader(meaning: Mapping[int, int], expected: str, raw: ReadRaw = read_label) -> Read:
    """A reader of label files: `meaning` takes each id the data set knows to an id of its space, or to 255.

    255 in a file stays 255. Any other id is a DataError that names it; `expected` says in words which ids there are.
    """
    table = np.full(1 << 16, -1, np.int16)
    table[IGNORE] = IGNORE
    for file_id, space_id in meaning.items():
        table[file_id] = space_id

    def read(path: Path, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "h w"]:
        ids = raw(path, max_pixels).numpy()
        label = table[ids]
        foreign = np.unique(ids[label < 0])
        if foreign.size:
            raise DataError(
                f"{path}: holds ids {foreign[:10].tolist()}{' ...' if foreign.size > 10 else ''}; expected {expected}."
                " Restore the original file, or open it as the data set it belongs to"
            )
        return torch.from_numpy(label.astype(np.uint8))

    return read


def _images(root: Path, part: Part) -> dict[str, list[Path]]:
    place = part.images_in(root)
    return {} if place is None else _files(root, place, IMAGE_SUFFIXES)


def label_files(root: Path, part: Part) -> dict[str, list[Path]]:
    """Label files by the name of their image (without the part's prefix), each from the first place that has it."""
    found: dict[str, list[Path]] = {}
    for place in part.labels:
        for name, paths in _files(root, place, LABEL_SUFFIXES).items():
            found.setdefault(name, paths)
    return found


def expected_label(root: Path, part: Part, name: str) -> str:
    """In words: the file, or files, that the label of an image (its name without the prefix) may be in."""
    return " or ".join(str(root / place.folder / f"{name}{place.end}.png") for place in part.labels)


def _files(root: Path, place: Place, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    files = list_files(root / place.folder, suffixes)
    return {name.removesuffix(place.end): paths for name, paths in files.items() if name.endswith(place.end)}


def _nearest(label: UInt8[Tensor, "h w"], size: tuple[int, int]) -> UInt8[Tensor, "h2 w2"]:
    """The label at another (height, width): each pixel takes the one its centre falls on."""
    whole = label[None, None]
    return torch.nn.functional.interpolate(whole, size, mode="nearest-exact")[0, 0]
