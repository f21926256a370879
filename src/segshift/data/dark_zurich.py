"""Dark Zurich: the same streets by day, at twilight and at night, with the 19 classes of Cityscapes.

    rgb_anon/train/{day,twilight,night}/SEQUENCE/NAME_rgb_anon.png
    rgb_anon/{val,test}/night/SEQUENCE/NAME_rgb_anon.png
    gt/val/night/SEQUENCE/NAME_gt_labelTrainIds.png

3,041 images by day, 2,920 at twilight and 2,416 at night, of 1920x1080 pixels, to train on without labels; 50 labelled
ones at night (val), and 151 (test) whose labels are withheld. A split is "train/night" and the like, "train" for all
three, "val" or "test".

Licence: own terms, non-commercial research. From www.trace.ethz.ch/publications/2019/GCMA_UIoU. Paper: Sakaridis et
al., ICCV 2019.
"""

from __future__ import annotations

from segshift.data.cityscapes import read_by_name
from segshift.data.layout import Layout, Part, Place
from segshift.taxonomy import CITYSCAPES

TIMES = ("day", "twilight", "night")


def _part(split: str, time: str) -> Part:
    labels = (Place(f"gt/{split}/{time}", "_gt_labelTrainIds"),) if split == "val" else ()
    return Part((Place(f"rgb_anon/{split}/{time}", "_rgb_anon"),), labels, prefix=f"{time}/")


DARK_ZURICH = Layout(
    name="dark_zurich",
    title="Dark Zurich",
    space=CITYSCAPES,
    parts={
        "train": tuple(_part("train", time) for time in TIMES),
        **{f"train/{time}": (_part("train", time),) for time in TIMES},
        "val": (_part("val", "night"),),
        "test": (_part("test", "night"),),
    },
    read=read_by_name,
    test_split="val",
)
