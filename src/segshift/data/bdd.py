"""BDD100K, its 10K images: dashcam frames from the United States, with the 19 classes of Cityscapes.

    images/10k/{train,val,test}/NAME.jpg
    labels/sem_seg/masks/{train,val}/NAME.png           train ids, 255 for ignored pixels

or, as in the first release,

    seg/images/{train,val,test}/NAME.jpg
    seg/labels/{train,val}/NAME_train_id.png

7,000 train, 1,000 val and 2,000 test images of 1280x720 pixels; the labels of test are withheld. The BDD-V of CBST's
Table 4 (3,333 train and 745 val images) is another set: its figures cannot be repeated on this one.

Licence: own terms (UC Berkeley), education, research and not-for-profit. From bdd-data.berkeley.edu after
registration: 10K Images, Segmentation. Paper: Yu et al., CVPR 2020.
"""

from __future__ import annotations

from segshift.data.cityscapes import read_train_ids
from segshift.data.layout import Layout, Part, Place
from segshift.taxonomy import CITYSCAPES


def _part(split: str) -> Part:
    images = (Place(f"images/10k/{split}"), Place(f"seg/images/{split}"))
    labels = (Place(f"labels/sem_seg/masks/{split}"), Place(f"seg/labels/{split}", "_train_id"))
    return Part(images, labels if split != "test" else ())


BDD = Layout(
    name="bdd",
    title="BDD100K (10K images)",
    space=CITYSCAPES,
    parts={split: (_part(split),) for split in ("train", "val", "test")},
    read=read_train_ids,
    test_split="val",
)
