"""From the words of a recipe to data sets: the source, the target's images, the test set, the oracle's target."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.folder import Folder, ImageFolder, classes_file, locate, splits_of
from segshift.data.layout import LayoutImages, LayoutLabelled
from segshift.data.layouts import FOLDER, LAYOUTS, parse
from segshift.data.minicity import MiniCity
from segshift.data.of_model import for_model, narrowed, other_classes
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
from segshift.data.translated import Translated
from segshift.errors import ConfigError, DataError
from segshift.taxonomy import CITYSCAPES, MERGES, LabelSpace, read_classes, subset_space

MINICITY = "minicity"
OWN = "own"


@dataclass(frozen=True)
class MiniCityOptions:
    """The embedded street: how much of it is drawn."""

    train: int = 240
    """Training images a domain."""
    test: int = 100
    size: tuple[int, int] = (96, 192)
    seed: int = 0
    """Which city; apart from the run's seed, so that runs are compared on the same images."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images are, and which of them are trained on and scored: the protocol of an experiment."""

    source: str | None = MINICITY
    """A folder in the layout named below, or the embedded "minicity". None: there is no source, a trained model is
    adapted from target images alone (source-free adaptation)."""
    target: str = MINICITY
    source_layout: str = FOLDER
    """folder (images/, labels/ and classes.yaml), or a public data set of `segshift.data.layouts`."""
    target_layout: str = FOLDER
    source_split: str | None = "train"
    """Split of the source. Of a data set without splits, train is all of it; None: the folder holds images/ itself."""
    target_split: str | None = "train"
    """The target images adapted to; their labels are not read."""
    test_split: str | None = None
    """The labelled target images scored. None: the usual ones (docs/data.md), of a folder those of test or val."""
    short_side: int | None = None
    """Working size: images are resized until their shorter side has so many pixels. None: their own size."""
    minicity: MiniCityOptions = field(default_factory=MiniCityOptions)
    classes: str | None = None
    """A subset of the source's classes, such as synthia16: trained and scored with these, all others ignored."""
    score_as: str = OWN
    """Merge predictions and truth into these classes before scoring (nthu13); own: the model's classes."""
    folds: int = 0
    """Cross-validation: of the images of target_split, one fold is scored and the others are adapted to. 0: none."""
    fold: int = 0
    """The fold that is scored: its images are fold, fold + folds, fold + 2 folds, ... in name order, from 0."""
    transductive: bool = False
    """Score the very images that are adapted to, with labels read for scoring alone (CBST paper, Tables 2-4)."""
    labelled_share: float | None = None
    """Semi-supervised: this share of the source's images is the labelled source, the others are the unlabelled target
    (IAST paper, Table 8: 1/8, 1/4, 1/2); `target` is not looked at, the source's own test split is scored."""
    labelled_seed: int = 0
    """Which images are labelled. Those of a smaller share of the same seed are among those of a larger one."""
    translated: str | None = None
    """A folder of translated source images, by the names of the source's, which are trained on with the source's labels
    (category-adaptive paper, §3.2: GTA5 by CycleGAN). None: the source's own images."""

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 16:
            raise ConfigError(f"short_side = {self.short_side}; expected at least 16 pixels, or None for the own size")
        for name in ("source_layout", "target_layout"):
            if getattr(self, name) not in (FOLDER, *LAYOUTS):
                raise ConfigError(f"{name} = {getattr(self, name)!r}; expected one of {', '.join((FOLDER, *LAYOUTS))}")
        if self.score_as not in (OWN, *MERGES):
            raise ConfigError(f"score_as = {self.score_as!r}; expected one of {', '.join((OWN, *MERGES))}")
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"folds = {self.folds}; expected at least 2 (the CBST paper: 10 on NTHU), or 0")
        if not 0 <= self.fold < max(self.folds, 1):
            allowed = f"0 to {self.folds - 1}" if self.folds else "0 where folds is 0: set folds too"
            raise ConfigError(f"fold = {self.fold}, folds = {self.folds}; expected a fold of {allowed}")
        if self.translated is not None and self.source is None:
            raise ConfigError(
                f"translated = {self.translated!r}, source = None: translated images are trained on with the labels of "
                "a source, and there is none; leave translated out"
            )
        self._check_share()
        self._refuse_two_protocols()

    def _check_share(self) -> None:
        if self.labelled_share is None:
            if self.labelled_seed != 0:
                raise ConfigError(
                    f"labelled_seed = {self.labelled_seed}, labelled_share = None: no share is drawn; set "
                    "labelled_share too, such as 0.125"
                )
            return
        if not 0 < self.labelled_share < 1 or self.labelled_seed < 0:
            raise ConfigError(
                f"labelled_share = {self.labelled_share}, labelled_seed = {self.labelled_seed}; expected a share "
                "above 0 and below 1 (the IAST paper: 0.125, 0.25, 0.5), or None, and a seed of at least 0"
            )
        other = {
            f"folds = {self.folds}: set folds to 0": bool(self.folds),
            "transductive = True: set it to False": self.transductive,
            "source = None: name the data set that is divided": self.source is None,
        }
        for found, forbidden in other.items():
            if forbidden:
                raise ConfigError(
                    f"labelled_share = {self.labelled_share} divides the source into a labelled and an unlabelled "
                    f"part, and its own test split is scored, which excludes {found}; or set labelled_share to None"
                )

    def _refuse_two_protocols(self) -> None:
        if self.folds and self.transductive:
            raise ConfigError(
                f"folds = {self.folds} and transductive = True: the first scores images that were held out, the second "
                "those adapted to; expected one of the two"
            )
        if self.test_split is not None and self.folds:
            raise ConfigError(
                f"test_split = {self.test_split!r} and folds = {self.folds}: a fold of target_split is scored; leave "
                "test_split out, or set folds to 0"
            )
        if self.transductive and self.test_split not in (None, self.target_split):
            raise ConfigError(
                f"test_split = {self.test_split!r} and transductive = True: the images of target_split "
                f"({self.target_split}) are scored; leave test_split out, or set transductive to False"
            )


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


def open_source(config: DataConfig) -> LabelledDataset:
    """The labelled source, or its labels on translated images; semi-supervised, the labelled share of it.

    ConfigError where the config has none, or one that cannot be translated.
    """
    place = place_of(config, "source")
    dataset = _labelled(config, place, place.split, None)
    if config.translated is not None:
        if not isinstance(dataset, (Folder, LayoutLabelled)):
            raise ConfigError(
                f"translated = {config.translated!r}, source = {config.source}: its images are drawn on demand, so no "
                "file is a translation of one; expected a source of files, or translated left out"
            )
        dataset = Translated(dataset, config.translated)
    if config.labelled_share is not None:
        dataset = SomeLabelled(dataset, _share(config, dataset)[0])
    return dataset if config.classes is None else Renumbered(dataset, *subset_space(dataset.space, config.classes))


def open_target(config: DataConfig) -> Unlabelled:
    """The target's training images; labels cannot be reached from it."""
    images = _images(config)
    adapted = _adapted(config, images)
    return Unlabelled(images if adapted is None else SomeImages(images, adapted))


def open_oracle(config: DataConfig, space: LabelSpace) -> OracleTarget:
    """The target's training images with their labels: for the oracle alone. `space` is the model's."""
    _require_classes_of_model(config, space)
    images = _target(config, place_of(config, "target").split, space)
    adapted = _adapted(config, images)
    return OracleTarget(images if adapted is None else SomeLabelled(images, adapted))


def open_test(config: DataConfig, space: LabelSpace) -> LabelledDataset | None:
    """The labelled target images that are scored; None where there are none. `space` is the model's.

    Semi-supervised, they are those of the source. A `ScoredAs` where classes are merged before scoring. DataError
    where they would be images that are adapted to.
    """
    _require_classes_of_model(config, space)
    if config.transductive or config.folds:
        test = _target(config, config.target_split, space)
        test = SomeLabelled(test, _fold(config, test)[1]) if config.folds else test
    else:
        split = config.test_split or usual_test_split(config)
        if split is None:
            return None
        _refuse_shared_images(config, split)
        test = _target(config, split, space)
    return test if config.score_as == OWN else ScoredAs(test, merge_of(test.space, config.score_as))


def declared_space(config: DataConfig) -> LabelSpace | None:
    """The label space that the target names by itself: for a model whose weights come without one.

    That of its `classes.yaml`, or of its public layout, and of these the subset `classes`. None where a folder names
    no classes. ConfigError where `classes` is no subset of them; labels are not looked at.
    """
    place = place_of(config, "target")
    if place.path == MINICITY:
        space = CITYSCAPES
    elif place.layout != FOLDER:
        space = LAYOUTS[place.layout].space
    else:
        refuse_lookalikes(Path(place.path), place.split)
        named = classes_file(locate(Path(place.path), place.split))
        if named is None:
            return None
        space, _ = read_classes(named)
    return space if config.classes is None else subset_space(space, config.classes)[0]


def open_for(space: LabelSpace, data: str, split: str | None, score_as: str = OWN) -> LabelledDataset:
    """Labelled images for a trained model of `space`, which are no part of a run: `data` is LAYOUT:PATH or a folder.

    Where the model's classes are a named subset of the data's, labels of the others are ignored. DataError where they
    are neither that nor the same.
    """
    name, path = parse(data)
    split = split or (None if name == FOLDER else LAYOUTS[name].test_split)
    dataset = for_model(space, data, name, path, split)
    return dataset if score_as == OWN else ScoredAs(dataset, merge_of(space, score_as))


def usual_test_split(config: DataConfig) -> str | None:
    """The split that is scored where none is named; None where it is not there, or has no labels."""
    place = place_of(config, "target")
    if place.path == MINICITY:
        return "test"
    root = Path(place.path)
    if place.layout != FOLDER:
        layout = LAYOUTS[place.layout]
        split = layout.test_split
        there = split is not None and split in layout.splits_in(root) and has_labels(layout, root, split)
        return split if there else None
    found = [name for name in ("test", "val") if root.is_dir() and name in splits_of(root)]
    return next((name for name in found if (root / name / "labels").is_dir()), None)


def _labelled(config: DataConfig, place: Place, split: str | None, space: LabelSpace | None) -> LabelledDataset:
    """Images and labels of a split; `space` is what a target's classes must be, or are where it names none."""
    if place.path == MINICITY:
        return _minicity(config, place.domain, split)
    if place.layout == FOLDER:
        refuse_lookalikes(Path(place.path), split)
        return Folder(place.path, split, space)
    dataset = LayoutLabelled(LAYOUTS[place.layout], place.path, split)
    if space is not None and space.classes != dataset.space.classes:
        what = f"target {place.layout}:{place.path}: {dataset.layout.title}"
        raise other_classes(what, dataset.space, "the source", space)
    return dataset


def _images(config: DataConfig) -> ImageDataset:
    """The images of which the target's are, whose labels are not even looked for."""
    place = place_of(config, "target")
    if place.path == MINICITY:
        return _minicity(config, place.domain, place.split)
    if place.layout == FOLDER:
        refuse_lookalikes(Path(place.path), place.split)
        return ImageFolder(place.path, place.split)
    return LayoutImages(LAYOUTS[place.layout], place.path, place.split)


def _target(config: DataConfig, split: str | None, space: LabelSpace) -> LabelledDataset:
    """Labelled images of the target under the model's label space."""
    place = place_of(config, "target")
    if config.source is None:
        return _target_of_model(config, place, split, space)
    if config.classes is None:
        return _labelled(config, place, split, space)
    # A target that names no classes takes the source's ids as they stand in its files, before any are left out.
    source = place_of(config, "source")
    full = _labelled(config, source, source.split, None).space
    return Renumbered(_labelled(config, place, split, full), *subset_space(full, config.classes))


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


def _target_of_model(config: DataConfig, place: Place, split: str | None, space: LabelSpace) -> LabelledDataset:
    """Labelled images of the target where no source says what its ids mean: the model's classes do."""
    if place.path == MINICITY:
        return narrowed(_minicity(config, place.domain, split), space, f"target {MINICITY}")
    return for_model(space, f"target {place.layout}:{place.path}", place.layout, place.path, split)


def _minicity(config: DataConfig, domain: Domain, split: str | None) -> MiniCity:
    options, split = config.minicity, split or "train"
    count = options.train if split == "train" else options.test
    return MiniCity(domain, split, count, options.size, options.seed)  # pyright: ignore[reportArgumentType]


def _adapted(config: DataConfig, images: ImageDataset) -> list[int] | None:
    """Indices of the images that are adapted to; None: all of them."""
    if config.folds:
        return _fold(config, images)[0]
    return None if config.labelled_share is None else _share(config, images)[1]


def _fold(config: DataConfig, images: ImageDataset) -> tuple[list[int], list[int]]:
    """Indices of the images adapted to, and of those scored."""
    count = len(images.names)
    if count < config.folds:
        raise DataError(
            f"target {images!r}: holds {count} images for folds = {config.folds}; expected at least one a fold. Use "
            "fewer folds, or another target_split"
        )
    return fold_indices(count, config.folds, config.fold)


def _share(config: DataConfig, images: ImageDataset) -> tuple[list[int], list[int]]:
    """Indices of the labelled images, and of the others."""
    assert config.labelled_share is not None
    count = len(images.names)
    if count < 2:
        raise DataError(
            f"source {images!r}: holds {count} images for labelled_share = {config.labelled_share}; expected at least "
            "2, one labelled and one not. Use another source_split"
        )
    return labelled_indices(count, config.labelled_share, config.labelled_seed)


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
    if place.path == MINICITY or place.layout == FOLDER:
        return
    layout, root = LAYOUTS[place.layout], Path(place.path)
    adapted = {item.image for item in layout.find(root, place.split, labelled=False)}
    shared = [item.image for item in layout.find(root, split, labelled=False) if item.image in adapted]
    if shared:
        raise DataError(
            f"test_split {split!r} and {role} {place.split!r} share {len(shared)} images, such as {shared[0]}: {cure}"
        )
