"""From the words of a recipe to data sets: the source, the target's images, the test set, the oracle's target."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from segshift.data.dataset import LabelledDataset, OracleTarget, Unlabelled
from segshift.data.folder import Folder, ImageFolder, splits_of
from segshift.data.minicity import MiniCity
from segshift.errors import ConfigError, DataError
from segshift.taxonomy import LabelSpace

MINICITY = "minicity"


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
    """Where the images are: folders with images/, labels/ and classes.yaml, or the embedded "minicity"."""

    source: str = MINICITY
    target: str = MINICITY
    source_split: str | None = "train"
    """Folder of the split inside source; None: the folder holds images/ itself."""
    target_split: str | None = "train"
    """The target images adapted to; their labels are not read."""
    test_split: str | None = None
    """The labelled target images scored at the end. None: test or val, where there is one with labels."""
    short_side: int | None = None
    """Working size: images are resized until their shorter side has so many pixels. None: their own size."""
    minicity: MiniCityOptions = field(default_factory=MiniCityOptions)

    def __post_init__(self) -> None:
        if self.short_side is not None and self.short_side < 16:
            raise ConfigError(f"short_side = {self.short_side}; expected at least 16 pixels, or None for the own size")


def open_source(config: DataConfig) -> LabelledDataset:
    """The labelled source."""
    if config.source == MINICITY:
        return _minicity(config, "source", "train")
    return Folder(config.source, config.source_split)


def open_target(config: DataConfig) -> Unlabelled:
    """The target's training images; labels cannot be reached from it."""
    if config.target == MINICITY:
        return Unlabelled(_minicity(config, "target", "train"))
    return Unlabelled(ImageFolder(config.target, config.target_split))


def open_oracle(config: DataConfig, space: LabelSpace) -> OracleTarget:
    """The target's training images with their labels: for the oracle alone."""
    if config.target == MINICITY:
        return OracleTarget(_minicity(config, "target", "train"))
    return OracleTarget(Folder(config.target, config.target_split, space))


def open_test(config: DataConfig, space: LabelSpace) -> LabelledDataset | None:
    """The labelled target images that are scored; None where there are none."""
    if config.target == MINICITY:
        return _minicity(config, "target", "test")
    split = config.test_split
    if split is None:
        root = Path(config.target)
        found = [name for name in ("test", "val") if root.is_dir() and name in splits_of(root)]
        labelled = [name for name in found if (root / name / "labels").is_dir()]
        if not labelled:
            return None
        split = labelled[0]
    if split == config.target_split:
        raise DataError(
            f"test_split is {split!r}, and so is target_split: a model is not scored on the images it adapted to. "
            "Name another split"
        )
    return Folder(config.target, split, space)


def _minicity(config: DataConfig, domain: str, split: str) -> MiniCity:
    options = config.minicity
    count = options.train if split == "train" else options.test
    return MiniCity(domain, split, count, options.size, options.seed)  # pyright: ignore[reportArgumentType]
