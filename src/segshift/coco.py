"""Labels as COCO's run-length encoded segments, one a class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segshift.extras import optional
from segshift.types import IGNORE


def segments(label: UInt8[np.ndarray, "h w"]) -> Iterator[dict[str, Any]]:
    """Of each id that occurs, 255 aside: category_id, segmentation (size, counts), area in pixels, bbox (x, y, width,
    height). ConfigError where pycocotools is not installed."""
    mask = optional("pycocotools.mask", "coco", "--keep coco")
    for number in np.unique(label):
        if number == IGNORE:
            continue
        encoded = mask.encode(np.asfortranarray(label == number, dtype=np.uint8))
        yield {
            "category_id": int(number),
            "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
            "area": int(mask.area(encoded)),
            "bbox": mask.toBbox(encoded).tolist(),
            "iscrowd": 0,
        }
