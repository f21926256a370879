"""Labelled source images that nothing was trained on: what a model is validated on where the target has no labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segshift.data.data_config import MINICITY, DataConfig
from segshift.data.dataset import LabelledDataset
from segshift.data.files import is_folder
from segshift.data.folder import splits_of
from segshift.data.layouts import FOLDER, LAYOUTS, SHARDS
from segshift.data.open_data import open_source
from segshift.data.recognise import has_labels
from segshift.data.shard_paths import splits_in
from segshift.data.shards import have_labels

_USUAL = ("val", "test")


def held_out_split(config: DataConfig) -> str | None:
    """The split of the source that is labelled and not trained on; None where the data names none.

    None too where the source is the target as well (semi-supervised, or the same place twice): its other split is what
    the model is tested on.
    """
    here, there = (config.source, config.source_layout), (config.target, config.target_layout)
    if config.source is None or config.source_split is None or config.labelled_share is not None:
        return None
    if config.source == MINICITY:
        return "test" if config.source_split != "test" else None
    if here == there:
        return None
    return next((name for name in _splits(config.source, config.source_layout) if name != config.source_split), None)


def open_held_out(config: DataConfig) -> LabelledDataset | None:
    """The source's images of `held_out_split`, as they are, without a translation; None where there are none.

    Raises DataError where they cannot be opened.
    """
    split = held_out_split(config)
    return None if split is None else open_source(replace(config, source_split=split, translated=None))


def _splits(source: str, layout: str) -> list[str]:
    """Labelled splits that are not for training, by custom."""
    root = Path(source)
    if layout == SHARDS:
        return [name for name in _USUAL if name in splits_in(source) and have_labels(source, name)]
    if layout == FOLDER:
        found = splits_of(root) if is_folder(root) else ()
        return [name for name in _USUAL if name in found and is_folder(root / name / "labels")]
    known = LAYOUTS[layout]
    there = known.test_split is not None and known.test_split in known.splits_in(root)
    return [str(known.test_split)] if there and has_labels(known, root, known.test_split) else []
