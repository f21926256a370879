"""What an image file is and how large, read from its header: before anything is decoded, and memory taken for it.

A PNG of a megabyte may unpack to gigabytes of zeros. So the size that a header states is compared with a limit first,
and a file that is no picture at all is not read beyond its first bytes.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# Each of these makes its format known to Pillow when it is imported.
from PIL import (
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from segshift.data.member import File
from segshift.errors import DataError

MAX_PIXELS = 89_478_485
"""Pixels (height times width) that a file may hold unless more are allowed: Pillow's own limit, 256 MiB of RGB."""
_READERS = (
    BmpImagePlugin.BmpImageFile,
    JpegImagePlugin.JpegImageFile,
    PngImagePlugin.PngImageFile,
    PpmImagePlugin.PpmImageFile,
    TiffImagePlugin.TiffImageFile,
    WebPImagePlugin.WebPImageFile,
)
FORMATS = tuple(str(reader.format) for reader in _READERS)
"""What Pillow is let try, whatever a file's name says; JPEG stands for MPO too."""
_START = 512
"""Bytes that tell what a file is that is none of these."""
_OTHERS = (
    ("a GIF", b"GIF8"),
    ("a PDF", b"%PDF"),
    ("a Photoshop document", b"8BPS"),
    ("a JPEG 2000", b"\x00\x00\x00\x0cjP"),
    ("a JPEG XL", b"\x00\x00\x00\x0cJXL"),
    ("a NumPy array", b"\x93NUMPY"),
    ("a ZIP archive", b"PK\x03\x04"),
    ("a gzip archive", b"\x1f\x8b"),
    ("a pointer of Git LFS, not the file itself", b"version https://git-lfs"),
)
"""What files called .png or .jpg have been seen to be, and how such a file begins."""
_LOCK = threading.Lock()


@contextmanager
def naming(path: File, what: str) -> Generator[None]:
    """Any failure to read or decode becomes a DataError that names the file, and keeps the decoder's as its cause."""
    try:
        yield
    except DataError:
        raise
    # Decoders raise what they like on damaged input (OSError, SyntaxError, ValueError, struct.error, zlib.error ...).
    except Exception as error:
        raise _unusable(path, what, error) from error


@contextmanager
def opened(path: File) -> Generator[IO[bytes]]:
    """The file at a path, to be read. ValueError where it is none: reading a pipe, say, would wait for ever."""
    if not isinstance(path, Path):
        with path.open() as file:
            yield file
        return
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        yield file


def allowed_content(path: File, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> bytes:
    """The bytes of a picture whose header states no more than `max_pixels` pixels; a PNG's checksums are compared.

    DataError where there are more, or where the file is empty; whatever Pillow raises on a damaged one.
    """
    with opened(path) as file:
        header(file, path, max_pixels, formats)
        file.seek(0)
        content = file.read()
    probe = header(io.BytesIO(content), path, max_pixels, formats)
    if probe.format == "PNG":
        # Decoding alone passes over a wrong checksum, and a flipped bit would be another class.
        probe.verify()
    return content


def header(file: IO[bytes], path: File, max_pixels: int, formats: tuple[str, ...] = FORMATS) -> ImageFile.ImageFile:
    """A picture of which nothing is decoded. DataError: an empty file, another format, or more than `max_pixels`.

    Pillow's own `Image.open` would warn of many pixels, or state their number alone; so its readers are called here.
    """
    _raise_limit(max_pixels)
    start = file.read(_START)
    if not start:
        raise DataError(f"{path}: the file is empty (0 bytes); expected an image. Restore it, or delete it")
    damaged = False
    for name in formats:
        factory, accept = Image.OPEN[name]
        # An answer in words says that this build of Pillow cannot read the format.
        if accept is None or accept(start[:16]) is True:
            file.seek(0)
            try:
                image = factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                damaged = True
                continue
            _refuse_size(image, path, max_pixels)
            return image
    if damaged:
        raise ValueError("its header is damaged")
    what = _told(start)
    if what is None:
        raise ValueError("no known image format")
    raise DataError(f"{path}: is {what}; expected {', '.join(formats)}. Save it in one of these formats, or delete it")


def _told(start: bytes) -> str | None:
    """In words, what a file is that begins like this."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG or other XML"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, such as the answer of a download that failed"
    if start[4:8] == b"ftyp":
        return "a HEIC or AVIF image, or a film"
    return next((what for what, mark in _OTHERS if start.startswith(mark)), None)


def allowed_so_far() -> int:
    """The most pixels that this process has been allowed to read, of any file: for what a run wrote itself."""
    return max(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or 0)


def _raise_limit(max_pixels: int) -> None:
    """Some of Pillow's readers look at its own limit too: it must not be below what a user allowed beyond the usual.

    It is only ever raised, as other threads may be reading by another limit; each compares with its own.
    """
    with _LOCK:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > max(Image.MAX_IMAGE_PIXELS, MAX_PIXELS):
            Image.MAX_IMAGE_PIXELS = max_pixels


def _refuse_size(image: Image.Image, path: File, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise DataError(
            f"{path}: too large, {image.height}x{image.width} (height x width) are {pixels} pixels; expected at most "
            f"{max_pixels}. Cut it into tiles, or raise the limit with --max-pixels {pixels} where you trust the file"
        )


def _unusable(path: File, what: str, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.errno is not None:
        return unreachable(path if isinstance(path, Path) else path.shard, error, what)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return DataError(f"{path}: too large ({error}). Cut it into tiles, or raise the limit with --max-pixels")
    if isinstance(error, MemoryError):
        return DataError(f"{path}: takes more memory than there is to be read as {what}. Cut it into tiles")
    return DataError(f"{path}: cannot be read as {what} ({error}). Restore it, or delete it")


def unreachable(path: Path, error: OSError, what: str) -> DataError:
    """The error that the system does not let a path be read: `what` was expected there."""
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return DataError(
                f"{path}: is a symbolic link to {path.readlink()}, which does not exist; expected {what}. Restore "
                "that file, or delete the link"
            )
        return DataError(f"{path}: does not exist; expected {what}")
    if isinstance(error, PermissionError):
        locked = next((folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK)), None)
        if locked is not None:
            return DataError(
                f"{locked}: may not be read ({reason}), so {path} may not; expected {what}. Give yourself the right to "
                "enter that folder (chmod u+rx)"
            )
        cure = "Give yourself the right to (chmod u+r; a folder: u+rx)"
        return DataError(f"{path}: may not be read ({reason}); expected {what}. {cure}")
    if error.errno == errno.ELOOP:
        return DataError(f"{path}: is a symbolic link that leads back to itself; expected {what}. Delete the link")
    return DataError(f"{path}: cannot be read ({reason}); expected {what}. Restore it, or delete it")
