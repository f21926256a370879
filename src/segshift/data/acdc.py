"""ACDC: Swiss streets in fog, at night, in rain and snow, with the 19 classes of Cityscapes.

    rgb_anon/{fog,night,rain,snow}/{train,val,test}/SEQUENCE/NAME_rgb_anon.png
    gt/{fog,night,rain,snow}/{train,val}/SEQUENCE/NAME_gt_labelTrainIds.png     (where missing: NAME_gt_labelIds.png)

4,006 images of 1920x1080 pixels: train 400 a condition; val 100, at night 106; test 500 a condition, labels withheld. A
split is "fog/train", or "train" for all four conditions. The reference images in good weather are not read.

Licence: own terms, non-commercial. From acdc.vision.ee.ethz.ch after registration: rgb_anon_trainvaltest, gt_trainval.
Paper: Sakaridis et al., ICCV 2021.
"""

from __future__ import annotations

from segshift.data.cityscapes import read_by_name
from segshift.data.layout import Layout, Part, Place
from segshift.taxonomy import CITYSCAPES

CONDITIONS = ("fog", "night", "rain", "snow")
SPLITS = ("train", "val", "test")


def _part(condition: str, split: str) -> Part:
    ends = () if split == "test" else ("_gt_labelTrainIds", "_gt_labelIds")
    labels = tuple(Place(f"gt/{condition}/{split}", end) for end in ends)
    return Part((Place(f"rgb_anon/{condition}/{split}", "_rgb_anon"),), labels, prefix=f"{condition}/")


ACDC = Layout(
    name="acdc",
    title="ACDC",
    space=CITYSCAPES,
    parts={
        **{split: tuple(_part(condition, split) for condition in CONDITIONS) for split in SPLITS},
        **{f"{condition}/{split}": (_part(condition, split),) for condition in CONDITIONS for split in SPLITS},
    },
    read=read_by_name,
    test_split="val",
)
