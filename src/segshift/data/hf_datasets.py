"""Images in a data set of the Hugging Face `datasets` library: `hf:DIR`, `hf:OWNER/NAME` (`hf_tables` says which).

An image is called `SPLIT-000012`, after its row. It is read when it is asked for, from a file that is mapped into
memory, and decoded by the same code, with the same checks, as a file of a folder: the library's own decoding is never
used. A target's images are opened without the column of labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, overload

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.contents import size_of
from segshift.data.files import image_size, read_image
from segshift.data.folder import read_ids, require_same_size, require_same_space
from segshift.data.hf_tables import Column, classes_of, image_column, label_column, open_splits, table_of
from segshift.data.intake import FileRules, Intake, nothing_left
from segshift.data.member import File
from segshift.errors import DataError
from segshift.taxonomy import IGNORE, LabelSpace

T = TypeVar("T")


class Rows(Sequence[T], Generic[T]):
    """Something of each row that is kept, made when it is asked for."""

    def __init__(self, kept: np.ndarray, make: Callable[[int], T]) -> None:
        self._kept, self._make = kept, make

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self._make(int(row)) for row in self._kept[i]]
        return self._make(int(self._kept[i]))

    def __iter__(self) -> Iterator[T]:
        return (self._make(int(row)) for row in self._kept)


class HfImages:
    """The images of a table, and nothing else: a target for training. Its labels are not opened.

    `text`: see `hf_tables`. DataError: no such data set or split, a column that cannot be told, or a row without an
    image, unless `rules` say to go without it.
    """

    def __init__(self, text: str, split: str | None = None, rules: FileRules | None = None) -> None:
        table = table_of(text, split)
        self._open(text, split, rules, Column(text, split, table, image_column(text, table)), None)

    def _open(
        self, text: str, split: str | None, rules: FileRules | None, images: Column, labels: Column | None
    ) -> None:
        self.text, self.split, self.rules = text, split, rules or FileRules()
        self._images, self._labels = images, labels
        count, intake = len(images), Intake(self.rules)
        if not count:
            raise DataError(f"hf:{text}: {images.table} holds no row; expected at least 1 image")
        self._digits = max(6, len(str(count - 1)))
        every = Rows(np.arange(count), self._name)
        faults = {int(row): f"{images.table}:{images.name}[{row}]: there is no image in this row; expected one"
                  for row in images.missing}  # fmt: skip
        if labels is not None:
            missing = labels.missing
            why = f"there is no label in this row ({len(missing)} such in all); expected one, or --on-bad-file skip"
            faults |= {int(row): f"{labels.table}:{labels.name}[{row}]: {why}" for row in missing}
        for row in sorted(faults):
            intake.refuse(self._name(row), faults[row])
        without = {row: why for name, why in self.rules.without.items() if (row := self._row(name)) is not None}
        intake.left_out |= {self._name(row): why for row, why in without.items()}
        kept = np.setdiff1d(np.arange(count), sorted({*faults, *without}))
        if not len(kept):
            raise nothing_left(intake.left_out)
        self._kept = kept
        self.names: Sequence[str] = Rows(kept, self._name)
        self.listed: Sequence[str] = every
        """All images there are, in order, also those that are left out."""
        self.left_out: dict[str, str] = dict(sorted(intake.left_out.items()))
        self.image_paths: Sequence[File] = Rows(kept, images.file)

    def __repr__(self) -> str:
        part = "" if self.split is None else f", split={self.split!r}"
        return f"{type(self).__name__}({self.text!r}{part})"

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """The image as RGB at its own size. DataError where it cannot be read."""
        return read_image(self.image_paths[index], self.rules.max_pixels)

    def fingerprint(self) -> str:
        """A hash of the images' names and sizes in bytes: cheap, and blind to an edit that keeps the size."""
        return self._fingerprint("")

    def _fingerprint(self, text: str) -> str:
        total = hashlib.sha256(text.encode())
        total.update(f"\n{self.split or ''}\t{len(self._images)}".encode())
        for column in (self._images, self._labels):
            if column is not None:
                total.update(_bytes_of(column, self._kept).astype("<i8").tobytes())
        for name in self.left_out:
            total.update(f"\nwithout\t{name}".encode())
        return total.hexdigest()[:16]

    def _name(self, row: int) -> str:
        return f"{self.split or 'row'}-{row:0{self._digits}d}"

    def _row(self, name: str) -> int | None:
        number = name.rpartition("-")[2]
        row = int(number) if number.isascii() and number.isdigit() else len(self._images)
        return row if row < len(self._images) and self._name(row) == name else None


class HfLabelled(HfImages):
    """The images of a table, each with its label: a source, a test set, or an oracle's target.

    `space` is for a data set that names no classes: the source's label space. One that does must name the same.
    DataError with neither, without a column of labels, and for a row without a label, unless `rules` say to go without.
    """

    def __init__(
        self, text: str, split: str | None = None, space: LabelSpace | None = None, rules: FileRules | None = None
    ) -> None:
        table = table_of(text, split)
        named, column = classes_of(text, table), label_column(text, table)
        if column is None:
            raise DataError(
                f"hf:{text}: has no column of labels; expected one of the feature Image, whose PNG files hold class "
                f"ids of 8 bits. Columns found: {', '.join(table.features)}"
            )
        if named is not None and space is not None:
            require_same_space(space, named.space, f"hf:{text}")
        own = None if named is None else named.space
        known = space or own
        if known is None:
            raise DataError(
                f"hf:{text}: names no classes; expected a classes.yaml in its folder, a column of class labels "
                "(?classes=COLUMN), or a file (?classes=FILE.yaml)"
            )
        images = Column(text, split, table, image_column(text, table))
        self._open(text, split, rules, images, Column(text, split, table, column))
        self.ignore = IGNORE if named is None else named.ignore
        self.space: LabelSpace = known
        self._said = "" if named is None else named.text
        assert self._labels is not None
        self.label_paths: Sequence[File] = Rows(self._kept, self._labels.file)

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """Class ids, or 255. DataError: unreadable, ids outside `space`, or another size than the image's."""
        label, image = self.label_paths[index], self.image_paths[index]
        limit = self.rules.max_pixels
        ids = read_ids(label, self.space, self.ignore, limit)
        require_same_size(str(label), (ids.shape[0], ids.shape[1]), str(image), image_size(image, limit))
        return ids

    def fingerprint(self) -> str:
        """As of images alone, over the labels and the classes too."""
        return self._fingerprint(self._said)


def hf_splits(text: str) -> tuple[str, ...]:
    """Names of the splits of a data set; () where it has none."""
    return tuple(name for name in open_splits(text) if name)


def hf_has_labels(text: str, split: str) -> bool:
    """Whether a split has a column of labels."""
    return label_column(text, table_of(text, split)) is not None


def hf_classes(text: str, split: str | None) -> LabelSpace | None:
    """The classes that a data set names by itself."""
    named = classes_of(text, table_of(text, split))
    return None if named is None else named.space


def _bytes_of(column: Column, rows: np.ndarray) -> np.ndarray:
    """(rows,) int64: bytes of each file, also of those beside the table."""
    sizes = column.sizes[rows]
    for place in np.flatnonzero(sizes < 0):
        sizes[place] = size_of(column.file(int(rows[place])))
    return sizes
