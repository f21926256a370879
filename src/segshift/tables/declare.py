"""What a table of a paper is: rows, the recipes they run, the means it prints. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from segshift.recipe import Recipe

NETWORKS = {"fcn8s": "FCN8s-VGG16", "resnet38": "ResNet-38", "deeplab-v2": "DeepLab-v2"}
"""The papers' networks by the names that rows and options use."""

SHORT_CLASSES = {
    "road": "Road", "sidewalk": "SW", "building": "Build", "wall": "Wall", "fence": "Fence", "pole": "Pole",
    "traffic light": "TL", "traffic sign": "TS", "vegetation": "Veg.", "terrain": "Terrain", "sky": "Sky",
    "person": "PR", "rider": "Rider", "car": "Car", "truck": "Truck", "bus": "Bus", "train": "Train",
    "motorcycle": "Motor", "bicycle": "Bike",
}  # fmt: skip
"""Heads of the class columns, as the papers print them; other classes keep their names."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a recipe's row, on a network, scored on some views."""

    key: str
    """What `--rows` calls it, such as cbst-sp+mst."""
    label: str
    recipe: str
    """The row of a recipe group (`segshift recipes`) that it trains."""
    network: str = ""
    """One of NETWORKS; empty where the table does not say."""
    warmup: str = ""
    """The second warm-up put under that recipe, one of `recipes.WARMUPS`; empty: the recipe's own."""
    multi_scale: bool = False
    """Score the trained model on several scales; nothing is trained for it."""
    change: Callable[[Recipe], Recipe] | None = None
    """What it alters in that recipe, after the warm-up was put under it."""
    over: str = ""
    """Key of the row that it is compared with: the difference is a column (Δ). Empty: with none."""

    @property
    def name(self) -> str:
        """Key with network, which tells rows of one table apart."""
        return f"{self.network}/{self.key}" if self.network else self.key

    @property
    def base(self) -> str:
        """The name of the row it is compared with; empty: none."""
        return f"{self.network}/{self.over}" if self.network and self.over else self.over


@dataclass(frozen=True)
class Case:
    """A part of a table that is trained for itself: a city, and a fold of its images."""

    city: str
    split: str
    """The target's split that holds the city's images."""
    fold: int
    folds: int


@dataclass(frozen=True)
class Panel:
    """One picture of a figure: curves over rounds, a row each."""

    title: str
    rows: tuple[tuple[str, str], ...]
    """Key and name in the legend of each of its rows."""
    legend: str
    """Title of the legend."""
    usual: str = ""
    """Key of the row that is drawn stronger: the setting of the tables."""
    figure: Literal["mIoU", "MPA"] = "mIoU"
    """What is drawn: the mean IoU of all classes, or the mean pixel accuracy."""


@dataclass(frozen=True)
class Table:
    """A table, or a figure, of a paper: what is run and how it is printed."""

    name: str
    summary: str
    rows: tuple[Row, ...]
    pair: str = ""
    """The domains of the published figures, such as GTA5 → Cityscapes."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Network -> group of recipes on the paper's own pair; empty where a table has none."""
    data: str = ""
    """The group it runs on where `--data` names none and `groups` is empty."""
    means: tuple[tuple[str, str], ...] = ()
    """(heading, subset of the label space) of each mean; empty: every subset that the label space has."""
    accuracy: bool = False
    """A column of the mean pixel accuracy (MPA; CPSL paper, Eq. 15-16), after the means."""
    labels: tuple[tuple[str, str], ...] = ()
    """(heading, figure) of each column about pseudo-labels; figures are those of `results.Entry.labels`."""
    published: tuple[str, str] | None = None
    """File under `segshift/published/` and the table in it."""
    cities: tuple[str, ...] = ()
    split: str = "{city}"
    """The target's split of a city."""
    folds: int = 0
    """Cross-validation over the images of each city."""
    panels: tuple[Panel, ...] = ()
    """A figure instead of a table."""
    pictures: bool = False
    """Test images with the labels that each row gives them, side by side."""
    notes: tuple[str, ...] = ()
    """What has to be said under it on the paper's own pair; under a figure, or a table of ours, wherever it is run."""
    reading: tuple[str, ...] = ()
    """How its rows are to be read, on any pair."""

    def cases(self, data: str | None) -> tuple[Case | None, ...]:
        """Each city and fold on the paper's own pair; one None where there is nothing to tell apart."""
        if not self.cities or not self.on_own_pair(data):
            return (None,)
        return tuple(
            Case(city, self.split.format(city=city), fold, self.folds)
            for city in self.cities
            for fold in range(self.folds)
        )

    def on(self, data: str | None) -> tuple[Row, ...]:
        """The rows that are run: on another pair than the paper's, rows that differ in the network alone are one."""
        if self.on_own_pair(data):
            return self.rows
        return tuple({row.key: replace(row, network="") for row in self.rows}.values())

    def on_own_pair(self, data: str | None) -> bool:
        """Whether it runs on the data of the published figures."""
        return data is None and bool(self.groups)

    def group_of(self, row: Row, data: str | None) -> str:
        """The group of recipes that a row is run from."""
        return self.groups[row.network] if self.on_own_pair(data) else data or self.data
