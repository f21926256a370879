"""Labels in colours, alone and over their image, and as PNG: what a prediction is shown with, without curves."""

from __future__ import annotations

import io
import zlib

import numpy as np
from jaxtyping import Integer, Shaped, UInt8
from PIL import Image

from segshift.errors import ConfigError
from segshift.taxonomy import IGNORE, LabelSpace

Rgb = UInt8[np.ndarray, "h w 3"]
LabelArray = Integer[np.ndarray, "h w"]
_ROWS = 256
"""Blended at a time: as floating-point numbers an image takes many times its own memory."""


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
    found = np.empty_like(image)
    for top in range(0, len(image), _ROWS):
        rows = slice(top, top + _ROWS)
        blended = (1 - alpha) * image[rows].astype(np.float32) + alpha * colorize(label[rows], space).astype(np.float32)
        found[rows] = np.where((label[rows] == IGNORE)[..., None], image[rows], np.rint(blended).astype(np.uint8))
    return found


def heat(values: UInt8[np.ndarray, "h w"]) -> Rgb:
    """Numbers 0 to 255 as colours that get lighter with them, also for eyes that tell few colours apart (magma)."""
    from matplotlib import colormaps

    return colormaps["magma"](np.arange(256), bytes=True)[:, :3][values]


def png(pixels: Shaped[np.ndarray, "h w *_"], space: LabelSpace | None = None) -> bytes:
    """A PNG of (h, w) ids, (h, w) 16-bit numbers or (h, w, 3) colours; with a label space, ids get its palette.

    Of a photograph's filtered rows, zlib finds little but runs: looking for those alone takes a seventh of the time,
    for files that are no larger.
    """
    return png_with_palette(pixels, None if space is None else space.palette())


def png_with_palette(pixels: Shaped[np.ndarray, "h w *_"], palette: UInt8[np.ndarray, "256 3"] | None) -> bytes:
    """As `png`, with the colours of ids given one by one."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if palette is not None:
        picture = picture.convert("P") if picture.mode != "L" else picture
        picture.putpalette(palette.flatten().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **({"compress_level": 1, "compress_type": zlib.Z_RLE} if picture.mode == "RGB" else {}))
    return buffer.getvalue()
