"""LoveDA: Chinese town and country from the air, 0.3 m a pixel, 7 land covers; town and country are the domains.

    {Train,Val,Test}/{Urban,Rural}/images_png/NAME.png
    {Train,Val}/{Urban,Rural}/masks_png/NAME.png        0 is no data (ignored); 1 to 7 become 0 to 6

5,987 images of 1024x1024 pixels: 2,522 Train (1,156 urban, 1,366 rural), 1,669 Val (677, 992), 1,796 Test (820, 976)
whose labels are withheld. A split is "Train/Urban", or "Train" for both. It has a label space of its own: adapt between
its two domains.

Licence: CC BY-NC-SA 4.0. From github.com/Junjue-Wang/LoveDA (Zenodo 5706578). Paper: Wang et al., NeurIPS 2021
(Datasets and Benchmarks).
"""

from __future__ import annotations

from segshift.data.layout import Layout, Part, Place, id_reader
from segshift.taxonomy import IGNORE
from segshift.taxonomy import LOVEDA as SPACE

AREAS = ("Urban", "Rural")
SPLITS = ("Train", "Val", "Test")


def _part(split: str, area: str) -> Part:
    labels = () if split == "Test" else (Place(f"{split}/{area}/masks_png"),)
    return Part((Place(f"{split}/{area}/images_png"),), labels, prefix=f"{area}/")


LOVEDA = Layout(
    name="loveda",
    title="LoveDA",
    space=SPACE,
    parts={
        **{split: tuple(_part(split, area) for area in AREAS) for split in SPLITS},
        **{f"{split}/{area}": (_part(split, area),) for split in SPLITS for area in AREAS},
    },
    read=id_reader({0: IGNORE, **{i: i - 1 for i in range(1, 8)}}, "LoveDA ids, 0 (no data) to 7"),
    test_split="Val",
)
