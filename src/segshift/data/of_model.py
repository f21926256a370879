"""Labelled images under the label space of a trained model: the same classes, or a named subset of the data's."""

from __future__ import annotations

from pathlib import Path

from segshift.data.dataset import LabelledDataset
from segshift.data.folder import Folder, classes_file, locate
from segshift.data.intake import FileRules
from segshift.data.layout import LayoutLabelled
from segshift.data.layouts import FOLDER, LAYOUTS, SHARDS
from segshift.data.protocols import Renumbered
from segshift.data.recognise import refuse_lookalikes
from segshift.data.shard_paths import declared_classes
from segshift.data.shards import ShardLabelled
from segshift.errors import DataError
from segshift.taxonomy import LabelSpace, read_classes, subset_space


def for_model(
    space: LabelSpace, data: str, layout: str, path: str, split: str | None, rules: FileRules | None = None
) -> LabelledDataset:
    """Labelled images under a model's label space, the classes it does not have ignored; `data` is for messages."""
    if layout == SHARDS:
        named = declared_classes(path, split)
        own = space if named is None else read_classes(named)[0]
        dataset = ShardLabelled(path, split, own if own.classes != space.classes else space, rules)
    elif layout != FOLDER:
        dataset = LayoutLabelled(LAYOUTS[layout], path, split, rules)
    else:
        root = Path(path)
        refuse_lookalikes(root, split)
        named = classes_file(locate(root, split))
        own = space if named is None else read_classes(named)[0]
        dataset = Folder(root, split, own if own.classes != space.classes else space, rules)
    return narrowed(dataset, space, data)


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
        f"same order{offer}"
    )
