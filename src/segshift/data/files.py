"""Image and label files on disk, read into tensors: the one place where pixels are decoded.

Pure functions, safe to call from several threads. Whatever is wrong with a file ends as a DataError that names it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image
from torch import Tensor

from segshift.errors import DataError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png",)
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow is let try, whatever a file's name says; JPEG stands for MPO too."""
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
    followed, each folder once. More than one path under a name means one stem with several suffixes.
    """
    found: dict[str, list[Path]] = {}
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        inside = (d for d in folders if not d.startswith("."))
        folders[:] = sorted(d for d in inside if os.path.realpath(Path(parent, d)) not in seen)
        for file in sorted(files):
            path = Path(parent, file)
            if path.suffix.lower() in suffixes and not file.startswith("."):
                name = path.relative_to(folder).as_posix()[: -len(path.suffix)]
                found.setdefault(name, []).append(path)
    return dict(sorted(found.items()))


def read_image(path: Path) -> UInt8[Tensor, "3 h w"]:
    """An image of any mode as RGB, uint8, turned upright by its EXIF orientation.

    Transparency is dropped; 16-bit values keep their high byte (65535 is white). DataError names the file where it
    cannot be decoded, has several frames or floating-point pixels, or holds more pixels than Pillow's
    `Image.MAX_IMAGE_PIXELS`.
    """
    pixels = np.array(_decode(path, "an image", lambda image: _upright(_to_rgb(image, path), image)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_label(path: Path) -> UInt8[Tensor, "h w"]:
    """The ids of a label file as they stand in it: 8-bit greyscale, or the indices of a palette image.

    DataError names a file that cannot be decoded, or whose pixels are no such ids (colours, 16 bits, fewer than 8
    bits of grey, JPEG).
    """
    return torch.from_numpy(np.array(_decode(path, "a label", lambda image: _upright(_ids(image, path), image))))


def read_first_channel(path: Path) -> Int32[Tensor, "h w"]:
    """The first channel (red, or the only one) of a 16-bit PNG, as its values stand in it.

    Pillow would keep the high byte of 16-bit colours alone, so OpenCV decodes them. DataError names a file that cannot
    be decoded, or holds 8-bit pixels.
    """
    what = "a 16-bit PNG"
    with _naming(path, what):
        content = _content(path, what)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as header:
            _refuse_size(header, path)
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


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header alone."""
    with _naming(path, "an image"):
        if path.stat().st_size == 0:
            raise _empty(path, "an image")
        with Image.open(path, formats=_FORMATS) as image:
            # Pillow turns TIFF by itself, and gives the size it will then have.
            swapped = image.format != "TIFF" and _orientation(image) >= 5
            return (image.width, image.height) if swapped else (image.height, image.width)


def _decode(path: Path, what: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    with _naming(path, what):
        content = _content(path, what)
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            _refuse_size(image, path)
            # The second picture of an MPO is a camera's preview; other frames are time or depth: none is "the" image.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{path}: holds {getattr(image, 'n_frames', 1)} frames; expected one. Store one a file")
            rawmode = image.tile[0].args if image.tile else None
            if isinstance(rawmode, str):
                image.info["rawmode"] = rawmode
            image.load()
            return convert(image)


@contextmanager
def _naming(path: Path, what: str) -> Generator[None]:
    """Any failure to decode becomes a DataError that names the file, and keeps the decoder's as its cause."""
    try:
        yield
    except DataError:
        raise
    # Decoders raise what they like on damaged input (OSError, SyntaxError, ValueError, struct.error, zlib.error ...).
    except Exception as error:
        raise _undecodable(path, what, error) from error


def _content(path: Path, what: str) -> bytes:
    """A file's bytes, which are not empty and, for a PNG, undamaged."""
    content = path.read_bytes()
    if not content:
        raise _empty(path, what)
    _refuse_damage(content)
    return content


def _empty(path: Path, what: str) -> DataError:
    return DataError(f"{path}: the file is empty (0 bytes); expected {what}. Restore it, or delete it")


def _undecodable(path: Path, what: str, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: does not exist; expected {what}")
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return DataError(f"{path}: too large ({error}). Cut it into tiles")
    # Pillow's own words name the memory buffer the file was read into, which helps nobody.
    reason = "no known image format" if isinstance(error, Image.UnidentifiedImageError) else str(error)
    return DataError(f"{path}: cannot be read as {what} ({reason}). Restore it, or delete it")


def _refuse_damage(content: bytes) -> None:
    """Compare a PNG's checksums: decoding alone passes over them, and a flipped bit would be another class."""
    probe = Image.open(io.BytesIO(content), formats=_FORMATS)
    if probe.format == "PNG":
        probe.verify()


def _refuse_size(image: Image.Image, path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        size = f"{image.height}x{image.width}"
        raise DataError(f"{path}: holds {size} pixels; expected at most {limit} in all. Cut it into tiles")


def _orientation(image: Image.Image) -> int:
    # The base class's reading: the PNG reader's own would decode all pixels to look behind them.
    return Image.Image.getexif(image).get(_ORIENTATION, 1)


def _upright(converted: Image.Image, original: Image.Image) -> Image.Image:
    turn = _TURN.get(_orientation(original))
    return converted if turn is None else converted.transpose(turn)


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{path}: pixels are floating-point numbers; expected 8 or 16 bits. Save it as 8-bit RGB")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise DataError(f"{path}: values are {low} to {high}; expected 0 to 65535. Save it as 8-bit RGB")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _ids(image: Image.Image, path: Path) -> Image.Image:
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
