"""SYNTHIA-RAND-CITYSCAPES: a rendered town seen from many places, with classes that fit Cityscapes.

    RGB/0000000.png
    GT/LABELS/0000000.png       16-bit PNG: the first channel is the class, the second the instance

9,400 images of 1280x760 pixels; no splits. Ids 0 to 22. Labels are given as Cityscapes train ids of the 16 classes that
the field shares (subset "synthia16"); all else is ignored: void, parking slot, road work, lane marking, and terrain,
truck and train, which are in the list of ids but not in that protocol. The subset "synthia13" leaves out wall, fence
and pole besides.

Licence: CC BY-NC-SA 3.0. From synthia-dataset.net/downloads: SYNTHIA-RAND-CITYSCAPES (CVPR16); name the folder
RAND_CITYSCAPES inside. Paper: Ros et al., CVPR 2016.
"""

from __future__ import annotations

from segshift.data.files import read_first_channel
from segshift.data.layout import Layout, Part, Place, id_reader
from segshift.taxonomy import CITYSCAPES, IGNORE

TRAIN_IDS = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15, 12: 17, 11: 18,
}  # fmt: skip
"""SYNTHIA id -> Cityscapes train id, of the 16 shared classes."""

SYNTHIA = Layout(
    name="synthia",
    title="SYNTHIA-RAND-CITYSCAPES",
    space=CITYSCAPES,
    parts={"": (Part((Place("RGB"),), (Place("GT/LABELS"),)),)},
    read=id_reader(
        {i: TRAIN_IDS.get(i, IGNORE) for i in range(23)},
        "SYNTHIA ids, 0 to 22, in the first channel",
        read_first_channel,
    ),
)
