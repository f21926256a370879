"""Whether a PNG holds all the rows that its header promises: decoders fill up what is missing with zeros, unsaid."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import ceil

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
"""(first row, row step, first column, column step) of each pass of an interlaced file."""
_PIECE = 1 << 20
"""Bytes that are inflated at a time: a bomb takes no more memory than a photograph."""


def is_whole(content: bytes) -> bool:
    """Whether the pixels of a PNG (whose chunks are known to be sound) are as many as its header says."""
    width, height, depth, color, *_, interlaced = struct.unpack_from(">IIBBBBB", content, 16)
    expected = _bytes_of(width, height, depth * _CHANNELS.get(color, 1), bool(interlaced))
    return any(found >= expected for found in _inflated(content))


def _bytes_of(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of the rows, each with the byte of its filter before it."""
    if not interlaced:
        return height * (1 + ceil(width * bits / 8))
    passes = ((ceil((height - y) / dy), ceil((width - x) / dx)) for y, dy, x, dx in _ADAM7)
    return sum(rows * (1 + ceil(columns * bits / 8)) for rows, columns in passes if rows > 0 and columns > 0)


def _inflated(content: bytes) -> Iterator[int]:
    """Bytes unpacked so far, growing. zlib.error where the stream is damaged."""
    unpacker, total = zlib.decompressobj(), 0
    for data in _pixel_data(content):
        rest = data
        while rest:
            total += len(unpacker.decompress(rest, _PIECE))
            yield total
            rest = unpacker.unconsumed_tail


def _pixel_data(content: bytes) -> Iterator[bytes]:
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IDAT":
            yield content[at + 8 : at + 8 + length]
        at += length + 12
