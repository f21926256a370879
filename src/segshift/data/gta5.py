"""GTA5 (Playing for Data): frames of a game, with the label ids of Cityscapes.

    images/00001.png
    labels/00001.png        palette image: ids 0 to 34; 34, the licence plate, is ignored

24,966 images, most of 1914x1052 pixels; sizes vary, and some labels have another size than their image. Such a label
is resized to its image (nearest pixel), and noted. No splits: all of it is the source.

Licence: none is stated with the data; the game's publisher allows non-commercial use of its footage. From
download.visinf.tu-darmstadt.de/data/from_games: ten archives of images and ten of labels, unpacked into one folder.
Paper: Richter et al., ECCV 2016.
"""

from __future__ import annotations

from segshift.data.cityscapes import LABEL_IDS
from segshift.data.layout import Layout, Part, Place, id_reader
from segshift.taxonomy import CITYSCAPES, IGNORE

GTA5 = Layout(
    name="gta5",
    title="GTA5",
    space=CITYSCAPES,
    parts={"": (Part((Place("images"),), (Place("labels"),)),)},
    read=id_reader({**LABEL_IDS, 34: IGNORE}, "GTA5 label ids, 0 to 34"),
    resize_labels=True,
)
