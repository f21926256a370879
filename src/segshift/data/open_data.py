"""From the words of a recipe to data sets: the source, the target's images, the test set, the oracle's target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from segshift.data.class_map import mapped, read_class_map, require_all_learned
from segshift.data.data_config import MINICITY, OWN, DataConfig
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled, listed
from segshift.data.files import is_folder
from segshift.data.folder import Folder, ImageFolder, splits_of
from segshift.data.hf_datasets import HfImages, hf_has_labels, hf_splits
from segshift.data.intake import FileRules, Intake
from segshift.data.layout import LayoutImages, LayoutLabelled
from segshift.data.layouts import FOLDER, HF, LAYOUTS, OWN_LAYOUTS, SHARDS, parse
from segshift.data.minicity import MiniCity
from segshift.data.of_model import declared, for_model, labelled, narrowed, other_classes
from segshift.data.protocols import (
    Renumbered,
    ScoredAs,
    SomeImages,
    SomeLabelled,
    fold_indices,
    labelled_indices,
    merge_of,
)
from segshift.data.recognise import has_labels, refuse_lookalikes
from segshift.data.shard_paths import find_shards, splits_in
from segshift.data.shards import ShardImages, have_labels
from segshift.data.translated import Translated
from segshift.errors import ConfigError, DataError
from segshift.taxonomy import CITYSCAPES, LabelSpace, subset_space

Without = Mapping[str, Mapping[str, str]]
"""By role (source, target, test): images to go without, whatever the files say: name -> why, beginning with the file.
They are those that were found unusable when they were read."""
Domain = Literal["source", "target"]


class Place(NamedTuple):
    """Where a domain's images are: `domain` is that of MiniCity, `split` that of its training images."""

    domain: Domain
    path: str
    layout: str
    split: str | None


def place_of(config: DataConfig, domain: Domain) -> Place:
    """Where the images of a domain are; semi-supervised, both are in the source. ConfigError where there is none."""
    if domain == "target" and config.labelled_share is None:
        return Place("target", config.target, config.target_layout, config.target_split)
    if config.source is None:
        raise ConfigError(
            "source = None: there is no source to look at (source-free adaptation); expected a data set. Name it "
            "(--source DIR), or take a recipe that starts from a trained model and looks at target images alone"
        )
    return Place("source", config.source, config.source_layout, config.source_split)


def rules_of(config: DataConfig, role: str, without: Without | None = None) -> FileRules:
    """How the files of a data set (source, target or test) are read."""
    return FileRules(config.max_pixels, config.on_bad_file, (without or {}).get(role, {}))


def open_source(config: DataConfig, without: Without | None = None) -> LabelledDataset:
    """The labelled source, or its labels on translated images; semi-supervised, the labelled share of it.

    ConfigError where the config has none, or one that cannot be translated.
    """
    place = place_of(config, "source")
    dataset = _own(config, place, place.split, None, rules_of(config, "source", without))
    if config.translated is not None:
        if not isinstance(dataset, (Folder, LayoutLabelled)):
            raise ConfigError(
                f"translated = {config.translated!r}, source = {config.source}: its images are drawn on demand, or "
                "lie in shards, so no file is a translation of one; expected a source of files, or translated left out"
            )
        dataset = Translated(dataset, config.translated)
    if config.labelled_share is not None:
        dataset = SomeLabelled.named(dataset, _share(config, dataset)[0])
    if config.class_map is not None:
        by = read_class_map(config.class_map)
        dataset = mapped(dataset, by, "source")
        require_all_learned(dataset, by)
    return dataset if config.classes is None else Renumbered(dataset, *subset_space(dataset.space, config.classes))


def open_target(config: DataConfig, without: Without | None = None) -> Unlabelled:
    """The target's training images; labels cannot be reached from it."""
    images = _images(config, rules_of(config, "target", without))
    adapted = _adapted(config, images)
    return Unlabelled(images if adapted is None else SomeImages.named(images, adapted))


def open_oracle(config: DataConfig, space: LabelSpace, without: Without | None = None) -> OracleTarget:
    """The target's training images with their labels: for the oracle alone. `space` is the model's."""
    _require_classes_of_model(config, space)
    images = _target(config, place_of(config, "target").split, space, "target", without)
    adapted = _adapted(config, images)
    return OracleTarget(images if adapted is None else SomeLabelled.named(images, adapted))


def open_test(config: DataConfig, space: LabelSpace, without: Without | None = None) -> LabelledDataset | None:
    """The labelled target images that are scored; None where there are none. `space` is the model's.

    Semi-supervised, they are those of the source. A `ScoredAs` where classes are merged before scoring. DataError
    where they would be images that are adapted to.
    """
    _require_classes_of_model(config, space)
    if config.transductive or config.folds:
        test = _target(config, config.target_split, space, "test", without)
        test = SomeLabelled.named(test, _fold(config, test)[1]) if config.folds else test
    else:
        split = config.test_split or usual_test_split(config)
        if split is None:
            return None
        _refuse_shared_images(config, split)
        test = _target(config, split, space, "test", without)
    return test if config.score_as == OWN else ScoredAs(test, merge_of(test.space, config.score_as))


def declared_space(config: DataConfig) -> LabelSpace | None:
    """The label space that the target names by itself: for a model whose weights come without one.

    That of its `classes.yaml`, or of its public layout; where there is a class map, its common classes; of either the
    subset `classes`. None where a folder names no classes. ConfigError where `classes` is no subset of them; labels are
    not looked at.
    """
    if config.class_map is not None:
        space = read_class_map(config.class_map).space
    else:
        space = _declared(place_of(config, "target"))
    if space is None or config.classes is None:
        return space
    return subset_space(space, config.classes)[0]


def open_for(
    space: LabelSpace,
    data: str,
    split: str | None,
    score_as: str = OWN,
    rules: FileRules | None = None,
    class_map: Path | str | None = None,
) -> LabelledDataset:
    """Labelled images for a trained model of `space`, which are no part of a run: `data` is LAYOUT:PATH or a folder.

    Where the model's classes are a named subset of the data's, labels of the others are ignored. `class_map`: a file
    that brings data which names other classes to the model's; its lines of the target are tried, then those of the
    source. DataError where the classes are neither.
    """
    name, path = parse(data)
    split = split or (None if name in OWN_LAYOUTS else LAYOUTS[name].test_split)
    by = None if class_map is None else read_class_map(class_map)
    if by is not None and (own := declared(name, path, split)) is not None and own.classes == space.classes:
        # Data that has the model's classes is what a map leads to.
        by = None
    dataset = for_model(space, data, name, path, split, rules, by, ("target", "source"))
    return dataset if score_as == OWN else ScoredAs(dataset, merge_of(space, score_as))


def usual_test_split(config: DataConfig) -> str | None:
    """The split that is scored where none is named; None where it is not there, or has no labels."""
    place = place_of(config, "target")
    if place.path == MINICITY:
        return "test"
    root = Path(place.path)
    if place.layout == SHARDS:
        there = splits_in(place.path)
        return next((name for name in ("test", "val") if name in there and have_labels(place.path, name)), None)
    if place.layout == HF:
        there = hf_splits(place.path)
        usual = (name for name in ("test", "val", "validation") if name in there)
        return next((name for name in usual if hf_has_labels(place.path, name)), None)
    if place.layout != FOLDER:
        layout = LAYOUTS[place.layout]
        split = layout.test_split
        there = split is not None and split in layout.splits_in(root) and has_labels(layout, root, split)
        return split if there else None
    found = [name for name in ("test", "val") if is_folder(root) and name in splits_of(root)]
    return next((name for name in found if is_folder(root / name / "labels")), None)


def _declared(place: Place) -> LabelSpace | None:
    """The classes that a place names by itself."""
    return CITYSCAPES if place.path == MINICITY else declared(place.layout, place.path, place.split)


def _own(
    config: DataConfig, place: Place, split: str | None, space: LabelSpace | None, rules: FileRules
) -> LabelledDataset:
    """Images and labels of a split under its own classes; `space` is what a target's must be, or are where it names
    none."""
    if place.path == MINICITY:
        return _minicity(config, place.domain, split)
    dataset = labelled(place.layout, place.path, split, space, rules)
    if isinstance(dataset, LayoutLabelled) and space is not None and space.classes != dataset.space.classes:
        what = f"target {place.layout}:{place.path}: {dataset.layout.title}"
        raise other_classes(what, dataset.space, "the source", space)
    return dataset


def _images(config: DataConfig, rules: FileRules) -> ImageDataset:
    """The images of which the target's are, whose labels are not even looked for."""
    place = place_of(config, "target")
    if place.path == MINICITY:
        return _minicity(config, place.domain, place.split)
    if place.layout == FOLDER:
        refuse_lookalikes(Path(place.path), place.split)
        return ImageFolder(place.path, place.split, rules)
    if place.layout == SHARDS:
        return ShardImages(place.path, place.split, rules)
    if place.layout == HF:
        return HfImages(place.path, place.split, rules)
    return LayoutImages(LAYOUTS[place.layout], place.path, place.split, rules)


def _target(
    config: DataConfig, split: str | None, space: LabelSpace, role: str, without: Without | None
) -> LabelledDataset:
    """Labelled images of the target under the model's label space."""
    place, rules = place_of(config, "target"), rules_of(config, role, without)
    if config.source is None:
        return _target_of_model(config, place, split, space, rules)
    if config.classes is None and config.class_map is None:
        return _own(config, place, split, space, rules)
    full = None
    if config.class_map is None or _declared(place._replace(split=split)) is None:
        # A target that names no classes takes the source's ids as they stand in its files, before any are left out.
        source = place_of(config, "source")
        full = _own(config, source, source.split, None, rules_of(config, "source", without)).space
    dataset = _own(config, place, split, full, rules)
    if config.class_map is not None:
        dataset = mapped(dataset, read_class_map(config.class_map), place.domain)
    return dataset if config.classes is None else Renumbered(dataset, *subset_space(dataset.space, config.classes))


def _require_classes_of_model(config: DataConfig, space: LabelSpace) -> None:
    """ConfigError where there is no source, and `classes` names others than those of the model."""
    if config.source is not None or config.classes is None:
        return
    declared = declared_space(config)
    if declared is None or declared.classes != space.classes:
        found = "the target names no classes" if declared is None else f"of {len(declared)} classes"
        raise ConfigError(
            f"classes = {config.classes!r} ({found}), but the model that is adapted has {len(space)} classes of "
            f"{space.name}; expected its own. Leave classes out: without a source, the model says what they are"
        )


def _target_of_model(
    config: DataConfig, place: Place, split: str | None, space: LabelSpace, rules: FileRules
) -> LabelledDataset:
    """Labelled images of the target where no source says what its ids mean: the model's classes do."""
    by = None if config.class_map is None else read_class_map(config.class_map)
    if place.path == MINICITY:
        town = _minicity(config, place.domain, split)
        return narrowed(town if by is None else mapped(town, by, "target"), space, f"target {MINICITY}")
    what = f"target {place.layout}:{place.path}"
    return for_model(space, what, place.layout, place.path, split, rules, by, ("target",))


def _minicity(config: DataConfig, domain: Domain, split: str | None) -> MiniCity:
    options, split = config.minicity, split or "train"
    count = options.train if split == "train" else options.test
    return MiniCity(domain, split, count, options.size, options.seed)  # pyright: ignore[reportArgumentType]


# Parts are drawn from all images that are listed, so that one that is left out moves no other into another part.


def _adapted(config: DataConfig, images: ImageDataset) -> list[str] | None:
    """Names of the images that are adapted to; None: all of them."""
    if config.folds:
        return _fold(config, images)[0]
    return None if config.labelled_share is None else _share(config, images)[1]


def _fold(config: DataConfig, images: ImageDataset) -> tuple[list[str], list[str]]:
    """Names of the images adapted to, and of those scored."""
    names = listed(images)
    count = len(names)
    if count < config.folds:
        raise DataError(
            f"target {images!r}: holds {count} images for folds = {config.folds}; expected at least one a fold. Use "
            "fewer folds, or another target_split"
        )
    return _named(names, fold_indices(count, config.folds, config.fold))


def _share(config: DataConfig, images: ImageDataset) -> tuple[list[str], list[str]]:
    """Names of the labelled images, and of the others."""
    assert config.labelled_share is not None
    names = listed(images)
    count = len(names)
    if count < 2:
        raise DataError(
            f"source {images!r}: holds {count} images for labelled_share = {config.labelled_share}; expected at least "
            "2, one labelled and one not. Use another source_split"
        )
    return _named(names, labelled_indices(count, config.labelled_share, config.labelled_seed))


def _named(names: Sequence[str], parts: tuple[list[int], list[int]]) -> tuple[list[str], list[str]]:
    first, second = parts
    return [names[i] for i in first], [names[i] for i in second]


def _refuse_shared_images(config: DataConfig, split: str) -> None:
    """DataError where the test split holds images of the target split."""
    cure = "a model is not scored on the images it adapted to. Name another split"
    if config.labelled_share is None:
        cure += (
            "; or, to score on them all the same and say so in the report, set --data.transductive True and no "
            "test_split"
        )
    place = place_of(config, "target")
    role = f"{place.domain}_split"
    if split == place.split:
        raise DataError(f"test_split is {split!r}, and so is {role}: {cure}")
    if place.path == MINICITY or place.layout in (FOLDER, HF):
        return
    root = Path(place.path)

    def images(of: str | None) -> Sequence[Path]:
        if place.layout == SHARDS:
            return find_shards(place.path, of)
        layout = LAYOUTS[place.layout]
        return [item.image for item in layout.find(root, of, labelled=False, intake=Intake(rules_of(config, "")))]

    adapted = set(images(place.split))
    shared = [image for image in images(split) if image in adapted]
    if shared:
        raise DataError(
            f"test_split {split!r} and {role} {place.split!r} share {len(shared)} "
            f"{'shards' if place.layout == SHARDS else 'images'}, such as {shared[0]}: {cure}"
        )
