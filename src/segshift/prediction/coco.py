"""Labels as COCO's run-length encoded segments, one a class."""

from __future__ import annotations

import warnings
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the library's own way with arrays
            encoded = mask.encode(np.asfortranarray(label == number, dtype=np.uint8))
            area, bbox = int(mask.area(encoded)), mask.toBbox(encoded).tolist()
        yield {
            "category_id": int(number),
            "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
            "area": area,
            "bbox": bbox,
            "iscrowd": 0,
        }
