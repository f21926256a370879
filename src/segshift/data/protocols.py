"""Data sets as a protocol looks at them: some of the images, fewer classes, classes merged for scoring.

Each wraps a data set and changes one thing about it; what it wraps is read as before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.dataset import ImageDataset, LabelledDataset, image_paths, label_paths, left_out, listed
from segshift.data.intake import nothing_left
from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.taxonomy import CITYSCAPES, IGNORE, MERGES, LabelSpace, Merge, id_table


def notes_of(dataset: object) -> list[str]:
    """What a data set has to say of itself that is odd but handled; most have nothing."""
    return list(getattr(dataset, "notes", ()))


def fold_indices(count: int, folds: int, fold: int) -> tuple[list[int], list[int]]:
    """(the rest, fold `fold`) of `count` images in name order: the fold is fold, fold + folds, fold + 2 folds, ..."""
    inside = range(fold, count, folds)
    return [i for i in range(count) if i not in inside], list(inside)


def labelled_indices(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(labelled, the rest) of `count` images in name order, at least one each: `share` of them, rounded, is labelled.

    They are the first of a permutation drawn from the seed alone, so those of a smaller share are among those of a
    larger one (the IAST paper's Table 8 says nothing of how its images were drawn).
    """
    order = generator(seed, Stream.SOURCE, 6).permutation(count)
    labelled = {int(i) for i in order[: min(max(1, round(share * count)), count - 1)]}
    return sorted(labelled), [i for i in range(count) if i not in labelled]


class SomeImages:
    """The images of a data set at some indices; no labels, whatever it wraps."""

    def __init__(self, dataset: ImageDataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, tuple(indices)
        self.names: tuple[str, ...] = tuple(dataset.names[i] for i in indices)
        paths = image_paths(dataset)
        self.image_paths = None if paths is None else tuple(paths[i] for i in self._indices)
        self.left_out: dict[str, str] = {}
        """Of the images that were asked for, those that the data set goes without: name -> why."""

    @classmethod
    def named(cls, dataset: Any, names: Collection[str]) -> Self:
        """The images of these names, but for those the data set goes without. DataError where none remains."""
        wanted = set(names)
        part = cls(dataset, [i for i, name in enumerate(dataset.names) if name in wanted])
        part.left_out = {name: why for name, why in left_out(dataset).items() if name in wanted}
        if not part.names:
            raise nothing_left(part.left_out, f"{dataset!r}, a part of it: all")
        return part

    def __repr__(self) -> str:
        return f"{len(self.names)} of the images of {self._dataset!r}"

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """As of the data set."""
        return self._dataset.image(self._indices[index])

    def fingerprint(self) -> str:
        """The data set's, mixed with the indices."""
        return _mixed(self._dataset.fingerprint(), self._indices)


class SomeLabelled(SomeImages):
    """Images and labels of a data set at some indices."""

    def __init__(self, dataset: LabelledDataset, indices: Sequence[int]) -> None:
        super().__init__(dataset, indices)
        self.space: LabelSpace = dataset.space
        self._labels = dataset.label
        paths = label_paths(dataset)
        self.label_paths = None if paths is None else tuple(paths[i] for i in self._indices)

    @property
    def notes(self) -> list[str]:
        return notes_of(self._dataset)

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """As of the data set."""
        return self._labels(self._indices[index])


class Renumbered:
    """A labelled data set under a smaller label space: `table` (256,) takes its ids to those of `space`, or to 255."""

    def __init__(self, dataset: LabelledDataset, space: LabelSpace, table: np.ndarray) -> None:
        self._dataset, self._table = dataset, table
        self.space, self.names, self.image = space, dataset.names, dataset.image
        self.image_paths, self.label_paths = image_paths(dataset), label_paths(dataset)
        self.left_out, self.listed = left_out(dataset), listed(dataset)

    def __repr__(self) -> str:
        return f"{self._dataset!r}, {len(self.space)} classes of {self.space.name}"

    @property
    def ids_used(self) -> set[int]:
        """Ids of `space` that some class of the data set becomes."""
        return set(self._table[: len(self._dataset.space)].tolist()) - {IGNORE}

    @property
    def notes(self) -> list[str]:
        return notes_of(self._dataset)

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """Ids of `space`; 255 where the data set ignores, and where its class is none of them."""
        return torch.from_numpy(self._table[self._dataset.label(index).numpy()])

    def fingerprint(self) -> str:
        """The data set's, mixed with the classes."""
        return _mixed(self._dataset.fingerprint(), self._table.tolist())


class ScoredAs:
    """A test set whose truth and predictions are merged before they are compared.

    Its labels stay those of the model (pictures show them); `classes.table` is applied by who scores.
    """

    def __init__(self, dataset: LabelledDataset, classes: Merge) -> None:
        self.dataset, self.classes = dataset, classes
        self.space, self.names, self.image, self.label = dataset.space, dataset.names, dataset.image, dataset.label
        self.fingerprint = dataset.fingerprint
        self.image_paths, self.label_paths = image_paths(dataset), label_paths(dataset)
        self.left_out = left_out(dataset)

    def __repr__(self) -> str:
        return f"{self.dataset!r}, scored as {self.classes.name}"

    @property
    def notes(self) -> list[str]:
        return notes_of(self.dataset)


def scored_space(test: LabelledDataset) -> LabelSpace:
    """The label space of a test set's scores."""
    return test.classes.space if isinstance(test, ScoredAs) else test.space


def merge_of(space: LabelSpace, name: str) -> Merge:
    """The merge `name` for predictions over `space`, whose classes are found among Cityscapes' by name.

    Raises ConfigError where the name is unknown or a class of `space` is none of Cityscapes'.
    """
    if name not in MERGES:
        raise ConfigError(f"score_as = {name!r}; expected own (the model's classes), or {', '.join(MERGES)}")
    foreign = [name for name in space.classes if name not in CITYSCAPES.classes]
    if foreign:
        raise ConfigError(
            f"score_as = {name!r} merges classes of Cityscapes, but {', '.join(foreign[:3])} of {space.name} is none "
            "of them; expected a model of Cityscapes' classes, or score_as own"
        )
    merge = MERGES[name]
    ids = {i: int(merge.table[CITYSCAPES.classes.index(known)]) for i, known in enumerate(space.classes)}
    return Merge(merge.name, merge.space, id_table(ids))


def _mixed(fingerprint: str, what: Any) -> str:
    return hashlib.sha256(repr((fingerprint, what)).encode()).hexdigest()[:16]
