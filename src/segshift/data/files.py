"""Image and label files on disk, read into tensors: the one place where pixels are decoded.

Pure functions, safe to call from several threads. Whatever is wrong with a file ends as a DataError that names it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image
from torch import Tensor

from segshift.data.image_header import MAX_PIXELS, allowed_content, header, naming, opened, unreachable
from segshift.data.member import File
from segshift.data.png_rows import is_whole
from segshift.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png",)
_ORIENTATION = 0x0112
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the move that sets the picture upright; 5 to 8 swap width and height."""


def list_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files below a folder by name: the path relative to it, with "/", without its suffix; in name order.

    Suffixes are compared without regard to case; hidden files and folders are passed over; links to folders are
    followed, each folder once. More than one path under a name means one stem with several suffixes. No file is looked
    at: a link to nowhere is listed too. DataError names a folder that cannot be listed, other than that there is none.
    """
    found: dict[str, list[Path]] = {}
    # A link to a folder above leads out of this one, to labels and to other splits.
    seen = {os.path.realpath(above) for above in Path(os.path.realpath(folder)).parents}
    for parent, folders, files in os.walk(folder, onerror=_refuse_unlisted, followlinks=True):
        seen.add(os.path.realpath(parent))
        inside = [d for d in folders if not d.startswith(".")]
        # A folder that is called like a file is listed as one, and refused when it is read.
        called = [d for d in inside if Path(d).suffix.lower() in suffixes]
        folders[:] = sorted(d for d in inside if d not in called and os.path.realpath(Path(parent, d)) not in seen)
        for file in sorted([*files, *called]):
            path = Path(parent, file)
            if path.suffix.lower() in suffixes and not file.startswith("."):
                name = path.relative_to(folder).as_posix()[: -len(path.suffix)]
                found.setdefault(name, []).append(path)
    return dict(sorted(found.items()))


def read_image(path: File, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "3 h w"]:
    """An image of any mode as RGB, uint8, turned upright by its EXIF orientation.

    Transparency is dropped; 16-bit values keep their high byte (65535 is white). DataError names the file where it
    cannot be decoded, has several frames or floating-point pixels, or holds more than `max_pixels` pixels: that is
    known from its header, before anything is decoded.
    """
    pixels = np.array(_decode(path, "an image", max_pixels, lambda image: _upright(_to_rgb(image, path), image)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_label(path: File, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "h w"]:
    """The ids of a label file as they stand in it: 8-bit greyscale, or the indices of a palette image.

    DataError names a file that cannot be decoded, holds more than `max_pixels` pixels, or whose pixels are no such ids
    (colours, 16 bits, fewer than 8 bits of grey, JPEG).
    """
    ids = _decode(path, "a label", max_pixels, lambda image: _upright(_ids(image, path), image))
    return torch.from_numpy(np.array(ids))


def read_first_channel(path: File, max_pixels: int = MAX_PIXELS) -> Int32[Tensor, "h w"]:
    """The first channel (red, or the only one) of a 16-bit PNG, as its values stand in it.

    Pillow would keep the high byte of 16-bit colours alone, so OpenCV decodes them. DataError names a file that cannot
    be decoded, holds more than `max_pixels` pixels, or 8-bit ones.
    """
    with naming(path, "a 16-bit PNG"):
        content = allowed_content(path, max_pixels, ("PNG",))
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError("the decoder refuses it")
    if pixels.dtype != np.uint16:
        raise DataError(
            f"{path}: pixels have 8 bits; expected 16 bits, with the ids in the first channel. Restore the original"
        )
    # OpenCV gives blue, green, red.
    first = pixels if pixels.ndim == 2 else pixels[:, :, 2]
    return torch.from_numpy(first.astype(np.int32))


def image_size(path: File, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header alone. DataError as of `read_image`."""
    with naming(path, "an image"), opened(path) as file:
        image = header(file, path, max_pixels)
        # Pillow turns TIFF by itself, and gives the size it will then have.
        swapped = image.format != "TIFF" and _orientation(image) >= 5
        return (image.width, image.height) if swapped else (image.height, image.width)


def _decode(path: File, what: str, max_pixels: int, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    with naming(path, what):
        content = allowed_content(path, max_pixels)
        image = header(io.BytesIO(content), path, max_pixels)
        # The second picture of an MPO is a camera's preview; other frames are time or depth: none is "the" image.
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{path}: holds {getattr(image, 'n_frames', 1)} frames; expected one. Store one a file")
        rawmode = image.tile[0].args if image.tile else None
        if isinstance(rawmode, tuple):
            rawmode = rawmode[0]
        if isinstance(rawmode, str):
            image.info["rawmode"] = rawmode
        image.load()
        if image.format == "PNG" and _ends_in_zeros(image) and not is_whole(content):
            raise ValueError("it holds fewer pixels than its header says")
        return convert(image)


def _ends_in_zeros(image: Image.Image) -> bool:
    """Whether the last row is zero: else no row can be missing, and a file need not be unpacked twice."""
    return not np.asarray(image.crop((0, image.height - 1, image.width, image.height))).any()


def is_folder(path: Path) -> bool:
    """Whether there is a folder. DataError where the system does not let one know (no permission, a name too long)."""
    try:
        return path.is_dir()
    except OSError as error:
        raise unreachable(path, error, "a folder") from error


def _refuse_unlisted(error: OSError) -> None:
    """Else the images of a folder without permission would be missing without a word."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise unreachable(Path(str(error.filename)), error, "a folder") from error


def _orientation(image: Image.Image) -> int:
    # The base class's reading: the PNG reader's own would decode all pixels to look behind them.
    return Image.Image.getexif(image).get(_ORIENTATION, 1)


def _upright(converted: Image.Image, original: Image.Image) -> Image.Image:
    turn = _TURN.get(_orientation(original))
    return converted if turn is None else converted.transpose(turn)


def _to_rgb(image: Image.Image, path: File) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path}: pixels are floating-point numbers; expected 8 or 16 bits. Save it as 8-bit RGB")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise DataError(f"{path}: values are {low} to {high}; expected 0 to 65535. Save it as 8-bit RGB")
        # The white of a TIFF of 12 bits is 4095.
        image = Image.fromarray((grey >> (4 if image.info.get("rawmode") == "I;12" else 8)).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _ids(image: Image.Image, path: File) -> Image.Image:
    cure = "expected class ids as 8-bit greyscale or palette indices. Convert its values to ids"
    if image.format in ("JPEG", "MPO"):
        raise DataError(f"{path}: is a JPEG, which changes ids; expected a PNG. Save it from the original labels")
    if image.mode not in ("L", "P"):
        kind = {"RGB": "RGB colours", "RGBA": "RGB colours with transparency", "1": "1-bit"}.get(image.mode, image.mode)
        raise DataError(f"{path}: pixels are {kind}; {cure}")
    # Grey of 2 or 4 bits is stretched to 0 .. 255 when read: its last id would turn into "ignore" unseen.
    if image.mode == "L" and image.info.get("rawmode") in ("L;2", "L;4"):
        raise DataError(f"{path}: pixels are greyscale of {image.info['rawmode'][-1]} bits; {cure}")
    return image
