"""Decoded images and labels in a folder, one file each, mapped into memory when they are read.

`DIR/KE/KEY.npy` is an array as numpy writes it (uint8), and behind it the SHA-256 of all that stands before. A key is
made of what the array was decoded from, so an entry never goes out of date, and runs that share a folder share entries.
Files come into being whole, by a rename; processes that write the same one at once write the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import __version__ as pillow
from PIL import features
from torch import Tensor

from segshift.data.resizing import kernel
from segshift.errors import ConfigError
from segshift.whole_files import refused

READING = 1
"""Raised whenever the pixels that `data.files.read_image` makes of a file change."""
_HEAD, _SEAL = 128, hashlib.sha256().digest_size
_SHAPE = re.compile(rb"'shape': \((\d+), (\d+)(?:, (\d+))?\)")
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_STALE = 3600.0
"""Seconds after which a file that is still being written was left by a process that was killed."""


def nbytes(shape: tuple[int, ...]) -> int:
    """Bytes on disk of an array of uint8."""
    return _HEAD + math.prod(shape) + _SEAL


def image_key(digest: str) -> str:
    """The key of the image that a file of this SHA-256 decodes to, with the decoders at hand; hexadecimal."""
    return hashlib.sha256(f"{_decoders()}\n{digest}".encode()).hexdigest()


def label_key(label: UInt8[Tensor, "h w"]) -> str:
    """The key of a label: a digest of its own pixels, as its file alone does not say what its ids become."""
    digest = hashlib.sha256(_head(tuple(label.shape)))
    digest.update(_pixels(label))
    return digest.hexdigest()


def resized_key(key: str, size: tuple[int, int]) -> str:
    """The key of the same array, resized to (h, w) by what resizes here."""
    return hashlib.sha256(f"{key}\n{size[0]}x{size[1]}\n{kernel()}".encode()).hexdigest()


class Decoded:
    """Arrays by key in a folder, for many processes. `say`: told once when the disk refuses an entry.

    ConfigError where there can be no such folder.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self._refused, self._lock = False, threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.folder / key[:2] / f"{key}.npy"

    def shape(self, key: str) -> tuple[int, ...] | None:
        """The shape of an entry; None where there is none."""
        found = self._mapped(key)
        return None if found is None else found[1]

    def read(self, key: str) -> UInt8[Tensor, "..."] | None:
        """An entry, mapped: its pages are read as they are looked at, and shared by all processes.

        None where there is none, or its length is not that of what its head says; its pixels are not compared with
        their digest.
        """
        found = self._mapped(key)
        return None if found is None else _tensor(*found)

    def verified(self, key: str) -> UInt8[Tensor, "..."] | None:
        """An entry, all of which has been read and has the digest that it was written with; else None."""
        found = self._mapped(key)
        if found is None:
            return None
        content, shape = found
        with memoryview(content) as whole, whole[:-_SEAL] as sealed:
            good = hashlib.sha256(sealed).digest() == content[-_SEAL:]
        return _tensor(content, shape) if good else None

    def write(self, key: str, array: UInt8[Tensor, "..."]) -> None:
        """Write an entry. Where the disk refuses, that is said, once, and nothing is written any more.

        It is not synced: what a power failure leaves half-written does not have its digest, and is made anew.
        """
        if self._refused:
            return
        path = self.path(key)
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        head, pixels = _head(tuple(array.shape)), _pixels(array)
        seal = hashlib.sha256(head)
        seal.update(pixels)
        try:
            path.parent.mkdir(exist_ok=True)
            try:
                with temporary.open("xb", buffering=0) as file:
                    for part in (memoryview(head), pixels, memoryview(seal.digest())):
                        _write_all(file, part)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._refuse(error)

    def prepare(self, missing: int) -> None:
        """Before `missing` bytes are written. ConfigError where the disk has not the room, or nobody may write there.

        What killed processes left behind is removed.
        """
        probe = self.folder / f".{secrets.token_hex(8)}.tmp"
        try:
            free = shutil.disk_usage(self.folder).free
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise _unusable(self.folder, error) from error
        if missing > free:
            raise ConfigError(
                f"settings.cache = {self.folder}: decoded images and labels would take {told(missing)} more, and "
                f"{told(free)} are free there; expected room for all of them: choose a folder on a larger disk, "
                "or leave the option out"
            )
        self._sweep()

    def _sweep(self) -> None:
        old = time.time() - _STALE
        for parent, _, files in os.walk(self.folder):
            for path in (Path(parent, name) for name in files if _TEMPORARY.fullmatch(name)):
                with suppress(OSError):  # another process removes the same
                    if path.lstat().st_mtime < old:
                        path.unlink()

    def _refuse(self, error: OSError) -> None:
        with self._lock:
            first, self._refused = not self._refused, True
        if first:
            self._say(
                f"warning: settings.cache = {self.folder}: cannot be written any more ({error.strerror or error}). The "
                "run goes on, and decodes what is not there each time"
            )

    def _mapped(self, key: str) -> tuple[mmap.mmap, tuple[int, ...]] | None:
        try:
            with self.path(key).open("rb", buffering=0) as file:
                # Pages are shared until someone writes into them, which changes nothing but his own copy.
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # ValueError: the file is empty
            return None
        shape = _shape(content[:_HEAD])
        return None if shape is None or len(content) != nbytes(shape) else (content, shape)


def _pixels(array: Tensor) -> memoryview:
    return array.contiguous().numpy().reshape(-1).data


def _tensor(content: mmap.mmap, shape: tuple[int, ...]) -> Tensor:
    return torch.frombuffer(content, dtype=torch.uint8, count=math.prod(shape), offset=_HEAD).view(shape)


@lru_cache(maxsize=256)
def _head(shape: tuple[int, ...]) -> bytes:
    """What a .npy file begins with."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


@lru_cache(maxsize=256)
def _shape(head: bytes) -> tuple[int, ...] | None:
    """The shape that the head of a file says; None where it is no such head."""
    found = _SHAPE.search(head)
    if found is None:
        return None
    shape = tuple(int(length) for length in found.groups() if length is not None)
    return shape if _head(shape) == head else None


@lru_cache(maxsize=1)
def _decoders() -> str:
    """What decodes image files, with versions: another one may round differently."""
    known = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "zlib", "webp", "libtiff")}
    return repr((READING, pillow, known))


def _write_all(file: io.RawIOBase, content: memoryview) -> None:
    while content:
        written = file.write(content)
        content = content[written:]


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"settings.cache: {refused(folder, 'written', error)}, or leave the option out")


def told(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
