"""Where the images of an experiment are, which are trained on and scored, how their files are read: its protocol."""

from __future__ import annotations

from dataclasses import dataclass, field

from segshift.data.files import MAX_PIXELS
from segshift.data.intake import FileRules, OnBadFile
from segshift.data.layouts import FOLDER, LAYOUTS, OWN_LAYOUTS
from segshift.errors import ConfigError
from segshift.taxonomy import MERGES

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
    """folder (images/, labels/ and classes.yaml), shards (tar files with images, and labels), hf (a data set of the
    `datasets` library), or a public data set of `segshift.data.layouts`."""
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
    class_map: str | None = None
    """A YAML file that brings the classes of source and target to common ones: merged, dropped, renamed (docs/data.md).
    None: both have the same classes."""
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

    max_pixels: int = MAX_PIXELS
    """Pixels (height times width) that an image or label file may hold: a small file may unpack to more than memory
    holds, so larger ones are refused unread."""
    on_bad_file: OnBadFile = "stop"
    """What becomes of files that cannot be used: stop before the first step, and list them; or skip: go without them,
    and list them in the run and its report."""
    check: int | None = None
    """How many images of each set are read before the first step, evenly spread over it. None: all of them, which is
    right until it takes too long; the rest is then first read when it is drawn, and a file that is bad stops the run
    there."""

    def __post_init__(self) -> None:
        FileRules(self.max_pixels, self.on_bad_file)
        if self.check is not None and self.check < 1:
            raise ConfigError(f"check = {self.check}; expected at least 1 image of each set, or None for all of them")
        if self.short_side is not None and self.short_side < 16:
            raise ConfigError(f"short_side = {self.short_side}; expected at least 16 pixels, or None for the own size")
        for name in ("source_layout", "target_layout"):
            if getattr(self, name) not in (known := (*OWN_LAYOUTS, *LAYOUTS)):
                raise ConfigError(f"{name} = {getattr(self, name)!r}; expected one of {', '.join(known)}")
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
