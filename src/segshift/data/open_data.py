"""From the words of a recipe to data sets: the source, the target's images, the test set, the oracle's target."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.folder import Folder, ImageFolder, classes_file, locate, splits_of
from segshift.data.layout import Layout, LayoutImages, LayoutLabelled
from segshift.data.layouts import FOLDER, LAYOUTS, parse
from segshift.data.minicity import MiniCity
from segshift.data.protocols import Renumbered, ScoredAs, SomeImages, SomeLabelled, fold_indices, merge_of
from segshift.errors import ConfigError, DataError
from segshift.taxonomy import MERGES, LabelSpace, read_classes, subset_space

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

    source: str = MINICITY
    """A folder in the layout named below, or the embedded "minicity"."""
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
        self._refuse_two_protocols()

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


def open_source(config: DataConfig) -> LabelledDataset:
    """The labelled source."""
    dataset = _labelled(config, "source", config.source_split, None)
    return dataset if config.classes is None else Renumbered(dataset, *subset_space(dataset.space, config.classes))


def open_target(config: DataConfig) -> Unlabelled:
    """The target's training images; labels cannot be reached from it."""
    images = _images(config)
    return Unlabelled(SomeImages(images, _fold(config, images)[0]) if config.folds else images)


def open_oracle(config: DataConfig, space: LabelSpace) -> OracleTarget:
    """The target's training images with their labels: for the oracle alone. `space` is the model's."""
    images = _target(config, config.target_split, space)
    return OracleTarget(SomeLabelled(images, _fold(config, images)[0]) if config.folds else images)


def open_test(config: DataConfig, space: LabelSpace) -> LabelledDataset | None:
    """The labelled target images that are scored; None where there are none. `space` is the model's.

    A `ScoredAs` where classes are merged before scoring. DataError where they would be images that are adapted to.
    """
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


def open_for(space: LabelSpace, data: str, split: str | None, score_as: str = OWN) -> LabelledDataset:
    """Labelled images for a trained model of `space`, which are no part of a run: `data` is LAYOUT:PATH or a folder.

    Where the model's classes are a named subset of the data's, labels of the others are ignored. DataError where they
    are neither that nor the same.
    """
    name, path = parse(data)
    if name != FOLDER:
        dataset = LayoutLabelled(LAYOUTS[name], path, split or LAYOUTS[name].test_split)
    else:
        root = Path(path)
        _recognise(root, split)
        named = classes_file(locate(root, split))
        own = space if named is None else read_classes(named)[0]
        dataset = Folder(root, split, own if own.classes != space.classes else space)
    if dataset.space.classes != space.classes and space.name in dataset.space.subsets:
        dataset = Renumbered(dataset, *subset_space(dataset.space, space.name))
    if dataset.space.classes != space.classes:
        raise _other_classes(f"{data}: the data", dataset.space, "the model", space)
    return dataset if score_as == OWN else ScoredAs(dataset, merge_of(space, score_as))


def usual_test_split(config: DataConfig) -> str | None:
    """The split that is scored where none is named; None where it is not there, or has no labels."""
    if config.target == MINICITY:
        return "test"
    root = Path(config.target)
    if config.target_layout != FOLDER:
        layout = LAYOUTS[config.target_layout]
        split = layout.test_split
        there = split is not None and split in layout.splits_in(root) and _has_labels(layout, root, split)
        return split if there else None
    found = [name for name in ("test", "val") if root.is_dir() and name in splits_of(root)]
    return next((name for name in found if (root / name / "labels").is_dir()), None)


def _labelled(config: DataConfig, domain: Domain, split: str | None, space: LabelSpace | None) -> LabelledDataset:
    """Images and labels of a split; `space` is what a target's classes must be, or are where it names none."""
    layout, path = (
        (config.source_layout, config.source) if domain == "source" else (config.target_layout, config.target)
    )
    if path == MINICITY:
        return _minicity(config, domain, split)
    if layout == FOLDER:
        _recognise(Path(path), split)
        return Folder(path, split, space)
    dataset = LayoutLabelled(LAYOUTS[layout], path, split)
    if space is not None and space.classes != dataset.space.classes:
        raise _other_classes(f"target {layout}:{path}: {dataset.layout.title}", dataset.space, "the source", space)
    return dataset


def _images(config: DataConfig) -> ImageDataset:
    """The images of target_split, whose labels are not even looked for."""
    if config.target == MINICITY:
        return _minicity(config, "target", config.target_split)
    if config.target_layout == FOLDER:
        _recognise(Path(config.target), config.target_split)
        return ImageFolder(config.target, config.target_split)
    return LayoutImages(LAYOUTS[config.target_layout], config.target, config.target_split)


def _target(config: DataConfig, split: str | None, space: LabelSpace) -> LabelledDataset:
    """Labelled images of the target under the model's label space."""
    if config.classes is None:
        return _labelled(config, "target", split, space)
    # A target that names no classes takes the source's ids as they stand in its files, before any are left out.
    full = _labelled(config, "source", config.source_split, None).space
    return Renumbered(_labelled(config, "target", split, full), *subset_space(full, config.classes))


def _minicity(config: DataConfig, domain: Domain, split: str | None) -> MiniCity:
    options, split = config.minicity, split or "train"
    count = options.train if split == "train" else options.test
    return MiniCity(domain, split, count, options.size, options.seed)  # pyright: ignore[reportArgumentType]


def _fold(config: DataConfig, images: ImageDataset) -> tuple[list[int], list[int]]:
    """Indices of the images adapted to, and of those scored."""
    count = len(images.names)
    if count < config.folds:
        raise DataError(
            f"target {images!r}: holds {count} images for folds = {config.folds}; expected at least one a fold. Use "
            "fewer folds, or another target_split"
        )
    return fold_indices(count, config.folds, config.fold)


def _has_labels(layout: Layout, root: Path, split: str) -> bool:
    return any((root / place.folder).is_dir() for part in layout.parts[split] for place in part.labels)


def _refuse_shared_images(config: DataConfig, split: str) -> None:
    """DataError where the test split holds images of the target split."""
    cure = (
        "a model is not scored on the images it adapted to. Name another split; or, to score on them all the same and "
        "say so in the report, set --data.transductive True and no test_split"
    )
    if split == config.target_split:
        raise DataError(f"test_split is {split!r}, and so is target_split: {cure}")
    if config.target == MINICITY or config.target_layout == FOLDER:
        return
    layout, root = LAYOUTS[config.target_layout], Path(config.target)
    adapted = {item.image for item in layout.find(root, config.target_split, labelled=False)}
    shared = [item.image for item in layout.find(root, split, labelled=False) if item.image in adapted]
    if shared:
        raise DataError(
            f"test_split {split!r} and target_split {config.target_split!r} share {len(shared)} images, such as "
            f"{shared[0]}: {cure}"
        )


def lookalikes(root: Path) -> list[str]:
    """Names of the public data sets that a folder looks like: images and labels stand where they would."""

    def has(layout: Layout, split: str) -> bool:
        places = [part.images_in(root) for part in layout.parts[split]]
        # images/ itself, as GTA5 has it, is what anyone's folder looks like.
        return all(place and place.folder != "images" for place in places) and _has_labels(layout, root, split)

    return [name for name, layout in LAYOUTS.items() if any(has(layout, split) for split in layout.parts)]


def _recognise(root: Path, split: str | None) -> None:
    """DataError with the name it wants where a public data set in its own layout is named as a plain folder."""
    known = [] if (root / (split or "") / "images").is_dir() else lookalikes(root)
    if known:
        raise DataError(
            f"{root}: holds no {'' if split is None else f'{split}/'}images/; expected that of a folder of one's own. "
            f"It looks like {LAYOUTS[known[0]].title}: name it {' or '.join(f'{name}:{root}' for name in known)}"
        )


def _other_classes(what: str, found: LabelSpace, whose: str, expected: LabelSpace) -> DataError:
    same = [name for name, layout in LAYOUTS.items() if layout.space.classes == expected.classes]
    offer = f"; data sets with these classes: {', '.join(same)}" if same else ""
    return DataError(
        f"{what} has {len(found)} classes ({found.name}: {', '.join(found.classes[:3])}, ...), {whose} has "
        f"{len(expected)} ({expected.name}: {', '.join(expected.classes[:3])}, ...); expected the same classes in the "
        f"same order{offer}"
    )
