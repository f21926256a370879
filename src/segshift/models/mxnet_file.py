"""MXNet's file of named arrays (.params): what the authors of ResNet-38 and of CBST publish their weights in.

All numbers are little-endian. A file is the mark 0x112, eight unused bytes, the number of arrays, the arrays, the
number of names and the names (length, text). An array is its shape, its device (two int32), its type (int32) and
its values. Files up to 2016 write a shape as 32-bit numbers behind their count; later ones begin an array with a
version mark and write 64-bit numbers.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segshift.errors import ConfigError

_FILE = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPES = (np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64)


def is_mxnet(start: bytes) -> bool:
    """Whether a file that begins with these eight bytes is of this kind."""
    return len(start) == 8 and struct.unpack("<Q", start)[0] == _FILE


def read(path: Path) -> dict[str, Tensor]:
    """Name -> tensor. Raises ConfigError where the file is cut short or has arrays of another kind (sparse)."""
    try:
        cursor = _Cursor(path.read_bytes())
        cursor.take("<QQ")
        arrays = [_array(cursor) for _ in range(cursor.take("<Q")[0])]
        names = [cursor.bytes(cursor.take("<Q")[0]).decode() for _ in range(cursor.take("<Q")[0])]
        if len(set(names)) < len(names):
            raise ValueError("it has two arrays of one name")
        return dict(zip(names, arrays, strict=True))
    except (OSError, struct.error, ValueError) as error:
        raise ConfigError(f"weights {path} cannot be read as an MXNet file ({error}); is it whole?") from error


class _Cursor:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return values

    def bytes(self, count: int) -> bytes:
        if self.at + count > len(self.content):
            raise ValueError(f"it ends after {len(self.content)} bytes")
        self.at += count
        return self.content[self.at - count : self.at]


def _array(cursor: _Cursor) -> Tensor:
    (mark,) = cursor.take("<I")
    if mark in (_V2, _V3) and cursor.take("<i") != (0,):
        raise ValueError("it has a sparse array")
    if mark in (_V1, _V2, _V3):
        (dimensions,) = cursor.take("<I")
        shape = cursor.take(f"<{dimensions}q")
    else:
        shape = cursor.take(f"<{mark}I")
    # A negative length would lead the cursor back to what it has read.
    if min(shape, default=0) < 0:
        raise ValueError(f"it has an array of shape {shape[:4]}")
    cursor.take("<ii")
    (number,) = cursor.take("<i")
    if not 0 <= number < len(_TYPES):
        raise ValueError(f"it has an array of type {number}")
    kind = np.dtype(_TYPES[number]).newbyteorder("<")
    values = np.frombuffer(cursor.bytes(math.prod(shape) * kind.itemsize), kind)
    return torch.from_numpy(values.astype(kind.newbyteorder("=")).reshape(shape))
