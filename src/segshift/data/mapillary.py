"""Mapillary Vistas 1.2: streets of six continents; 66 classes, mapped to the 19 of Cityscapes.

    {training,validation}/images/NAME.jpg
    {training,validation}/v1.2/labels/NAME.png          palette image: ids 0 to 65; in the archive of 1.2 alone: labels/
    testing/images/NAME.jpg

18,000 training, 2,000 validation and 5,000 testing images of many sizes, 9 megapixels on average: set a working size
(`--data.short-side`). The splits are called train, val and test here; the labels of test are withheld. Curb, sidewalk;
road, lane marking, manhole; pole, utility pole; bicyclist, motorcyclist and other riders become one class each; what
Cityscapes has no class for is ignored, crosswalks (8, 23) among it.

Licence: CC BY-NC-SA 4.0 (research edition). From www.mapillary.com/dataset/vistas. Paper: Neuhold et al., ICCV 2017.
"""

from __future__ import annotations

from segshift.data.layout import Layout, Part, Place, id_reader
from segshift.taxonomy import CITYSCAPES, IGNORE

TRAIN_IDS = {
    13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9, 27: 10, 19: 11,
    20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18,
}  # fmt: skip
"""Vistas 1.2 id -> Cityscapes train id."""
FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


def _part(split: str) -> Part:
    folder = FOLDERS[split]
    labels = (Place(f"{folder}/v1.2/labels"), Place(f"{folder}/labels"))
    return Part((Place(f"{folder}/images"),), labels if split != "test" else ())


MAPILLARY = Layout(
    name="mapillary",
    title="Mapillary Vistas 1.2",
    space=CITYSCAPES,
    parts={split: (_part(split),) for split in FOLDERS},
    read=id_reader(
        {i: TRAIN_IDS.get(i, IGNORE) for i in range(66)}, "Mapillary Vistas 1.2 ids, 0 to 65 (version 2.0 has others)"
    ),
    test_split="val",
)
