"""Bytes of image files that are damaged, misnamed, odd or hostile; each function says which.

Everything is drawn from numbers that stand here, so that a row of a table means the same file on every machine.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIZE = 64
"""Pixels a side of the pictures here: those of `tests.fakes.folder`."""
_PNG = b"\x89PNG\r\n\x1a\n"


def colours(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """(h, w, 3) uint8: ramps and some noise, so that no codec makes it a few bytes."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(7).integers(0, 24, (height, width))
    red, green = x * 200 // max(width - 1, 1) + noise, y * 200 // max(height - 1, 1) + noise
    return np.stack([red, green, 255 - red], axis=2).astype(np.uint8)


def ids(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """(h, w) uint8: the five classes of `tests.fakes.folder` in bands."""
    return np.repeat(np.arange(height)[:, None] * 5 // height, width, axis=1).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    """Pixels in a format of Pillow's, converted to `mode` first."""
    picture = Image.fromarray(pixels)
    file = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, kind, **options)
    return file.getvalue()


def cut(content: bytes, share: float) -> bytes:
    """The first `share` of a file."""
    return content[: int(len(content) * share)]


# --- PNG, chunk by chunk -----------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """One chunk; with a checksum of one's own it is a damaged one."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum or zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of any header: `rows` is a filter byte and the pixels of each row; `extra` stands before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return _PNG + header + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def small_grey(depth: int) -> bytes:
    """Grey of 1, 2 or 4 bits, all zeros, of the size of the other pictures."""
    return png(SIZE, SIZE, (b"\0" + bytes(SIZE * depth // 8)) * SIZE, depth)


def promised(width: int, height: int, rows: int = 1) -> bytes:
    """A grey PNG whose header promises (height, width); only `rows` rows are in it, of zeros."""
    return png(width, height, (b"\0" + bytes(width)) * rows)


def zeros(side: int) -> bytes:
    """A 1-bit PNG of side x side zeros, every one of them in it: some hundred kilobytes for 900 million pixels."""
    packer = zlib.compressobj(9)
    row = b"\0" + bytes((side + 7) // 8)
    body = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return _PNG + header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def bad_checksum() -> bytes:
    """A whole PNG with one bit of a pixel's byte flipped, stored without compression: only the checksum tells."""
    content = bytearray(encoded(ids(), "png", compress_level=0))
    content[content.index(b"IDAT") + 2000] ^= 1
    return bytes(content)


def text_bomb(megabytes: int = 16) -> bytes:
    """A comment (zTXt) that unpacks to megabytes, before a picture."""
    body = zlib.compress(bytes(megabytes << 20), 9)
    return _grey_rows(extra=chunk(b"zTXt", b"Comment\0\0" + body))


def profile_bomb(megabytes: int = 16) -> bytes:
    """A colour profile (iCCP) that unpacks to megabytes, before a picture."""
    body = zlib.compress(bytes(megabytes << 20), 9)
    return _grey_rows(extra=chunk(b"iCCP", b"profile\0\0" + body))


def _grey_rows(extra: bytes = b"") -> bytes:
    grey = colours()[:, :, 0]
    return png(SIZE, SIZE, b"".join(b"\0" + row.tobytes() for row in grey), extra=extra)


def resized_header(content: bytes, at: int, form: str, height: int, width: int) -> bytes:
    """A file whose header states another size, `form` is how the numbers stand there: width and height, or reversed."""
    numbers = (height, width) if form.startswith(">") else (width, height)
    return content[:at] + struct.pack(form, *numbers) + content[at + struct.calcsize(form) :]


# --- TIFF, entry by entry ----------------------------------------------------------------------------------------


def tiff(data: bytes = bytes(SIZE * SIZE), **entries: int) -> bytes:
    """A grey TIFF of 8 bits without compression; `entries` (width, count, next, ...) overrule what is true of it."""
    tags = {
        "width": 256, "height": 257, "bits": 258, "compression": 259, "photometric": 262, "offset": 273, "samples": 277,
        "rows": 278, "count": 279,
    }  # fmt: skip
    offset = 8 + 2 + 12 * len(tags) + 4
    true = {"width": SIZE, "height": SIZE, "bits": 8, "offset": offset, "rows": SIZE, "count": len(data), "next": 0}
    said = dict.fromkeys(tags, 1) | true | entries
    body = b"".join(struct.pack("<HHII", tag, 4, 1, said[name]) for name, tag in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + struct.pack("<I", said["next"]) + data


def frames(kind: str, count: int = 3) -> bytes:
    """Several pictures in one file: an animation, or pages of a TIFF."""
    pictures = [Image.fromarray(np.roll(colours(), 9 * i, axis=1)) for i in range(count)]
    file = io.BytesIO()
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:], duration=40)
    return file.getvalue()


# --- other files under an image's name ---------------------------------------------------------------------------

SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect/></svg>'
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
PDF = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"
HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 81234\n"
"""What a clone without Git LFS leaves in an image's place."""
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
"""Pillow hands PostScript to Ghostscript, which is a program: it must not come to that."""
