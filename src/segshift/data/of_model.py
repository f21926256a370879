"""Labelled images under the label space of a trained model: the same classes, a named subset of the data's, or mapped.

Also which classes a data set names by itself, whatever its layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from segshift.data.class_map import ClassMap, Side, mapped
from segshift.data.dataset import LabelledDataset
from segshift.data.folder import Folder, classes_file, locate
from segshift.data.hf_datasets import HfLabelled, hf_classes
from segshift.data.intake import FileRules
from segshift.data.layout import LayoutLabelled
from segshift.data.layouts import FOLDER, HF, LAYOUTS, SHARDS
from segshift.data.protocols import Renumbered
from segshift.data.recognise import refuse_lookalikes
from segshift.data.shard_paths import declared_classes
from segshift.data.shards import ShardLabelled
from segshift.errors import DataError
from segshift.taxonomy import LabelSpace, read_classes, subset_space


def declared(layout: str, path: str, split: str | None) -> LabelSpace | None:
    """The classes that a data set names: in its `classes.yaml`, or by its layout; None where it names none."""
    if layout == HF:
        return hf_classes(path, split)
    if layout == SHARDS:
        named = declared_classes(path, split)
    elif layout == FOLDER:
        refuse_lookalikes(Path(path), split)
        named = classes_file(locate(Path(path), split))
    else:
        return LAYOUTS[layout].space
    return None if named is None else read_classes(named)[0]


def labelled(
    layout: str, path: str, split: str | None, space: LabelSpace | None, rules: FileRules | None = None
) -> LabelledDataset:
    """Images and labels of a split. `space`: the classes of one that names none; one that does must name the same."""
    if layout == FOLDER:
        refuse_lookalikes(Path(path), split)
        return Folder(path, split, space, rules)
    if layout == SHARDS:
        return ShardLabelled(path, split, space, rules)
    if layout == HF:
        return HfLabelled(path, split, space, rules)
    return LayoutLabelled(LAYOUTS[layout], path, split, rules)


def for_model(
    space: LabelSpace,
    data: str,
    layout: str,
    path: str,
    split: str | None,
    rules: FileRules | None = None,
    by: ClassMap | None = None,
    sides: tuple[Side, ...] = get_args(Side),
) -> LabelledDataset:
    """Labelled images under a model's label space, the classes it does not have ignored; `data` is for messages.

    `by`: brings data that names other classes to the model's, by the lines of the first of `sides` that fit.
    """
    own = declared(layout, path, split)
    dataset = labelled(layout, path, split, own if own is not None and own.classes != space.classes else space, rules)
    if by is not None and own is None:
        raise DataError(
            f"{data}: names no classes, so {by.file} cannot say what becomes of them; expected a classes.yaml. Add "
            "one, or leave the class map out if its ids are the model's"
        )
    return narrowed(dataset if by is None else _fitted(dataset, by, sides), space, data)


def _fitted(dataset: LabelledDataset, by: ClassMap, sides: tuple[Side, ...]) -> LabelledDataset:
    """Under the common classes. DataError of the first side where none fits."""
    first: DataError | None = None
    for side in sides:
        try:
            return mapped(dataset, by, side)
        except DataError as error:
            first = first or error
    assert first is not None
    raise first


def narrowed(dataset: LabelledDataset, space: LabelSpace, data: str) -> LabelledDataset:
    """A data set whose classes are the model's, or have them as a subset by name. DataError where it is neither."""
    if dataset.space.classes != space.classes and space.name in dataset.space.subsets:
        dataset = Renumbered(dataset, *subset_space(dataset.space, space.name))
    if dataset.space.classes != space.classes:
        raise other_classes(f"{data}: the data", dataset.space, "the model", space)
    return dataset


def other_classes(what: str, found: LabelSpace, whose: str, expected: LabelSpace) -> DataError:
    """The error that `what` has the classes `found`, and not those of `whose`."""
    same = [name for name, layout in LAYOUTS.items() if layout.space.classes == expected.classes]
    offer = f"; data sets with these classes: {', '.join(same)}" if same else ""
    return DataError(
        f"{what} has {len(found)} classes ({found.name}: {', '.join(found.classes[:3])}, ...), {whose} has "
        f"{len(expected)} ({expected.name}: {', '.join(expected.classes[:3])}, ...); expected the same classes in the "
        f"same order, or a class map that brings both to common ones (docs/data.md){offer}"
    )
