"""Labels in colours, alone and over their image: what a prediction is shown with, without the drawing of curves."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt8

from segshift.errors import ConfigError
from segshift.taxonomy import IGNORE, LabelSpace

Rgb = UInt8[np.ndarray, "h w 3"]
LabelArray = Integer[np.ndarray, "h w"]


def colorize(label: LabelArray, space: LabelSpace) -> Rgb:
    """Colour ids by the palette of a label space; 255 and ids without a class are black."""
    return space.palette()[label]


def overlay(image: Rgb, label: LabelArray, space: LabelSpace, alpha: float = 0.5) -> Rgb:
    """Blend the coloured label over an image of the same size; ignored pixels show the image as it is.

    `alpha` is the label's share, 0 to 1. Raises ConfigError when sizes differ or alpha is outside its range.
    """
    if image.shape[:2] != label.shape:
        raise ConfigError(f"label has size {label.shape}, image {image.shape[:2]}; expected equal: resize one of them")
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; expected 0 (image alone) to 1 (label alone)")
    blended = (1 - alpha) * image.astype(np.float32) + alpha * colorize(label, space).astype(np.float32)
    return np.where((label == IGNORE)[..., None], image, np.rint(blended).astype(np.uint8))
