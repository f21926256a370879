"""The protocol of a run in plain sentences, for `run.json` and the report: what is trained on, what is scored, how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segshift.data.class_map import read_class_map
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, left_out
from segshift.data.layouts import HF, LAYOUTS, OWN_LAYOUTS, SHARDS
from segshift.data.open_data import MINICITY, DataConfig, Place, declared_space, place_of, usual_test_split
from segshift.data.protocols import ScoredAs
from segshift.taxonomy import CITYSCAPES, LabelSpace

_BDD = (
    "BDD100K is not the BDD-V (3,333 training and 745 validation images) of the CBST paper's Table 4: the figures do "
    "not compare with that table."
)
_SYNTHIA = (
    "SYNTHIA's labels hold 16 of the 19 classes: terrain, truck and train are never trained, so the mean to look at is "
    "synthia16 or synthia13, not that over all classes."
)


def protocol(
    config: DataConfig, source: LabelledDataset | None, target: ImageDataset, test: LabelledDataset | None
) -> list[str]:
    """The sentences, in the order of a reader's questions.

    `source` is None for source-free adaptation; `target` is an `OracleTarget` where its labels train too.
    """
    oracle = isinstance(target, OracleTarget)
    start, adapted = _trained_on(config, source, target, oracle)
    sentences = [start, *_translated(config), adapted, *_scored(config, test, oracle)]
    sentences += _left_out({"source": source, "target": target, "test": test})
    if config.class_map is not None:
        sentences.append(read_class_map(config.class_map).sentence())
    if config.classes is not None:
        space = declared_space(config) if source is None else source.space
        size = "" if space is None else f"the {len(space)} of "
        sentences.append(
            f"Classes: {size}the subset {config.classes}; pixels of all other classes are ignored, in training and in "
            "scoring."
        )
    if isinstance(test, ScoredAs):
        sentences.append(_merged(test))
    if source is not None and _is_layout(place_of(config, "source"), "synthia") and config.classes is None:
        sentences.append(_SYNTHIA)
    if _is_layout(place_of(config, "target"), "bdd"):
        sentences.append(_BDD)
    return sentences


def _trained_on(
    config: DataConfig, source: LabelledDataset | None, target: ImageDataset, oracle: bool
) -> tuple[str, str]:
    seen = f"trained on {'with their labels (oracle)' if oracle else 'without their labels'}"
    place = place_of(config, "target")
    here = _where(place, place.split)
    if source is None:
        return (
            "Source: none, source-free adaptation of a model that was trained before.",
            f"Target: {len(target.names)} images of {here}, {seen}.",
        )
    if config.labelled_share is not None:
        labelled, rest = len(source.names), len(target.names)
        return (
            f"Source: {labelled} labelled images, drawn with seed {config.labelled_seed} from the {labelled + rest} of "
            f"{here} (semi-supervised, labelled_share {config.labelled_share:g}).",
            f"Target: the other {rest} images, {seen}.",
        )
    start = place_of(config, "source")
    return (
        f"Source: {len(source.names)} labelled images of {_where(start, start.split)}.",
        f"Target: {len(target.names)} images of {here}, {seen}.",
    )


def _translated(config: DataConfig) -> list[str]:
    if config.translated is None:
        return []
    # The name alone, as of every folder.
    name = Path(config.translated).name
    return [f"Source images are translated ones from the folder {name}; labels are those of the source."]


def _scored(config: DataConfig, test: LabelledDataset | None, oracle: bool) -> list[str]:
    if test is None:
        return ["Scored: nothing, for no labelled test images were found."]
    count = len(test.names)
    if config.folds:
        return [
            f"Scored: the other {count} images of that set, fold {config.fold} (of 0 to {config.folds - 1}): every "
            f"{_ordinal(config.folds)} in name order, cross-validation."
        ]
    if config.transductive:
        warning = " The oracle was trained on the very labels it is scored with." if oracle else ""
        # Of the images adapted to, some may have no label that can be used, and are left out of the scored ones alone.
        images = f"{count} of these images" if left_out(test) else f"these same {count} images"
        return [
            f"Scored: {images} (transductive), their labels read for scoring alone. The figures do "
            f"not say how an adapted model does on images it has not seen.{warning}"
        ]
    where = _where(place_of(config, "target"), config.test_split or usual_test_split(config))
    return [f"Scored: {count} images of {where}."]


def _left_out(sets: Mapping[str, ImageDataset | None]) -> list[str]:
    counts = {role: len(left_out(dataset)) for role, dataset in sets.items() if dataset is not None}
    found = ", ".join(f"{count} of the {role}" for role, count in counts.items() if count)
    return [f"Images left out, for their files cannot be used (run.json names them): {found}."] if found else []


def _merged(test: ScoredAs) -> str:
    """Which classes are put together, read from the merge itself."""
    merged, outside = [], []
    for i, name in enumerate(test.space.classes):
        into = test.classes.space.classes[int(test.classes.table[i])]
        if into not in CITYSCAPES.classes:
            outside.append(name)
        elif into != name:
            merged.append(f"{name} counts as {into}")
    errors = f"; {', '.join(outside)} is none of them: an error wherever it is predicted" if outside else ""
    size = _named(test.classes.space)
    return f"Scored as {test.classes.name}, {size} classes, in truth and prediction alike: {', '.join(merged)}{errors}."


def _named(space: LabelSpace) -> int:
    """Classes that the merge is named for."""
    return len(space.subsets.get(space.name, space.subsets["all"]))


def _is_layout(place: Place, layout: str) -> bool:
    return place.path != MINICITY and place.layout == layout


def _where(place: Place, split: str | None) -> str:
    """`Cityscapes, split val`: no path, which is another machine's."""
    if place.path == MINICITY:
        return f"MiniCity's {place.domain} town, split {split or 'train'}"
    if place.layout not in OWN_LAYOUTS:
        known = LAYOUTS[place.layout]
        return f"{known.title}, split {split}" if known.splits else f"{known.title} (all of it)"
    parts = Path(place.path).parts
    if place.layout == HF:
        return f"the data set {Path(place.path.partition('?')[0]).name}" + (f", split {split}" if split else "")
    # Of a pattern, the last part alone may be no more than *.tar.
    name = "/".join(parts[-2:]) if place.layout == SHARDS and set("*?[{") & set(parts[-1]) else Path(place.path).name
    return f"the {place.layout} {name}" + (f", split {split}" if split else "")


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{ending}"
