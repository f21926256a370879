"""What a data set is, and the three ways a run may look at one.

`LabelledDataset` (a source, or a test set), `Unlabelled` (a target for training: it has no way to reach a
label, so no method can cheat by mistake) and `OracleTarget` (a labelled target, for the supervised upper
bound alone; the engine takes it only where a type says "oracle").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor

from segshift.data.member import File
from segshift.errors import DataError
from segshift.taxonomy import LabelSpace


@runtime_checkable
class ImageDataset(Protocol):
    """Images in name order. `image(i)` is RGB, uint8, (3, h, w), at the file's own size."""

    @property
    def names(self) -> Sequence[str]: ...

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]: ...

    def fingerprint(self) -> str:
        """A short hash that changes when the content does; recorded in a run."""
        ...


@runtime_checkable
class LabelledDataset(ImageDataset, Protocol):
    """Images with labels. `label(i)` is uint8 (h, w): ids of `space`, or 255."""

    @property
    def space(self) -> LabelSpace: ...

    def label(self, index: int) -> UInt8[Tensor, "h w"]: ...


def image_paths(dataset: ImageDataset) -> Sequence[File] | None:
    """The files of a data set's images, in the order of its names; None where they are drawn on demand."""
    return getattr(dataset, "image_paths", None)


def label_paths(dataset: ImageDataset) -> Sequence[File] | None:
    """The files of a data set's labels, likewise; None where there are none, or they cannot be reached from it."""
    return getattr(dataset, "label_paths", None)


def left_out(dataset: ImageDataset) -> dict[str, str]:
    """Images that cannot be used, which a data set goes without: name -> why, beginning with the file."""
    return dict(getattr(dataset, "left_out", {}))


def listed(dataset: ImageDataset) -> Sequence[str]:
    """All images that a data set's list of files holds, in order, also those that are left out."""
    return getattr(dataset, "listed", dataset.names)


class Unlabelled:
    """The images of a data set and nothing else: `label` does not exist here."""

    def __init__(self, dataset: ImageDataset) -> None:
        if len(dataset.names) == 0:
            raise DataError(f"target: {dataset!r} holds no image; expected at least 1")
        # As they are: the names of a hundred million images are made when they are asked for.
        self.names = dataset.names
        # `label` is not passed on, so that a method that asks for one fails type checking, and fails when run.
        self.image = dataset.image
        self.fingerprint = dataset.fingerprint
        self.image_paths = image_paths(dataset)
        self.left_out = left_out(dataset)
        self._said = repr(dataset)

    def __repr__(self) -> str:
        return self._said


class OracleTarget:
    """A labelled target, for what is called oracle: the supervised upper bound and withheld-truth diagnoses."""

    def __init__(self, dataset: LabelledDataset) -> None:
        self.names = dataset.names
        self.space = dataset.space
        self.image = dataset.image
        self.label = dataset.label
        self.fingerprint = dataset.fingerprint
        self.image_paths, self.label_paths = image_paths(dataset), label_paths(dataset)
        self.left_out = left_out(dataset)
        self._dataset = dataset

    @property
    def notes(self) -> list[str]:
        """What the data set has to say of itself that is odd but handled."""
        found: list[str] = getattr(self._dataset, "notes", [])  # they grow as labels are read
        return list(found)
