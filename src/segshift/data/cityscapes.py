"""Cityscapes: streets of 50 cities; 19 of its 30 classes are scored.

    leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png
    gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png        (where missing: NAME_gtFine_labelTrainIds.png)

2,975 train, 500 val and 1,525 test images of 2048x1024 pixels, finely labelled. The labels of test are withheld (the
files in gtFine/test hold no class). `train_extra`, 19,998 images, can be adapted to; it has no fine labels. Label ids,
0 to 33, become the 19 train ids; 255 is ignored.

Licence: own terms, non-commercial. From www.cityscapes-dataset.com after registration: leftImg8bit_trainvaltest and
gtFine_trainvaltest. Paper: Cordts et al., CVPR 2016.
"""

from __future__ import annotations

from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from segshift.data.files import MAX_PIXELS
from segshift.data.layout import Layout, Part, Place, id_reader
from segshift.taxonomy import CITYSCAPES as SPACE
from segshift.taxonomy import IGNORE

TRAIN_IDS = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9,
    23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Label id -> train id, of the classes that are scored."""
LABEL_IDS = {i: TRAIN_IDS.get(i, IGNORE) for i in range(34)}
"""All label ids a file may hold. The licence plate's, -1, is not drawn: its car is seen through it."""

read_label_ids = id_reader(LABEL_IDS, "Cityscapes label ids, 0 to 33, or 255 for ignored pixels")
read_train_ids = id_reader({i: i for i in range(len(SPACE))}, "Cityscapes train ids, 0 to 18, or 255 for ignored ones")


def read_by_name(path: Path, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "h w"]:
    """Train ids of a label file whose name says what it holds: `..._labelTrainIds`, or else label ids."""
    read = read_train_ids if path.stem.endswith("_labelTrainIds") else read_label_ids
    return read(path, max_pixels)


def _part(split: str, labelled: bool) -> Part:
    ends = ("_gtFine_labelIds", "_gtFine_labelTrainIds") if labelled else ()
    labels = tuple(Place(f"gtFine/{split}", end) for end in ends)
    return Part((Place(f"leftImg8bit/{split}", "_leftImg8bit"),), labels)


CITYSCAPES = Layout(
    name="cityscapes",
    title="Cityscapes",
    space=SPACE,
    parts={s: (_part(s, labelled=s in ("train", "val")),) for s in ("train", "val", "test", "train_extra")},
    read=read_by_name,
    test_split="val",
)
