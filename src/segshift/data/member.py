"""A file inside a shard or a table: bytes at a known place, read where they lie. Nothing is ever unpacked."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import NamedTuple, Protocol

from segshift.errors import DataError

_BUFFER = 1 << 16
"""Bytes that are read at once where a header is looked at: most small images are read with it."""


class State(NamedTuple):
    """A file as it was when it was looked at: one of another state is another file."""

    size: int
    """Bytes."""
    modified: int
    """Nanoseconds since 1970."""


def state_of(found: os.stat_result) -> State:
    """The state of a file that was looked at."""
    return State(found.st_size, found.st_mtime_ns)


class Member(NamedTuple):
    """Bytes of a shard that were a file before: an image or a label. Its text is `SHARD:NAME`."""

    shard: Path
    name: str
    """What messages call it; no path of anything."""
    at: int
    """The first byte in the shard."""
    size: int
    """Bytes."""
    state: State
    """The shard's, when its headers were read."""

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def open(self) -> io.BufferedReader:
        """Its bytes, to be read like a file. DataError where the shard was changed since its headers were read."""
        return io.BufferedReader(_Window(self, self._opened()), _BUFFER)

    def _opened(self) -> int:
        """A descriptor of the shard."""
        # The shard is opened for each member: so loader processes share nothing, and no limit of open files is met.
        descriptor = os.open(self.shard, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        if state_of(os.fstat(descriptor)) != self.state:
            os.close(descriptor)
            raise DataError(
                f"{self.shard}: was changed after its index was read, so {self.name} may lie elsewhere in it; expected "
                "the shard as it was. Put it back (its date too), or start anew"
            )
        return descriptor

    def read(self) -> bytes:
        """All its bytes. DataError as of `open`, OSError where the shard cannot be read."""
        descriptor = self._opened()
        try:
            return _read_at(descriptor, self.size, self.at)
        finally:
            os.close(descriptor)


class Row(NamedTuple):
    """Bytes in a row of a table (`segshift.data.hf_datasets`). Its text is `TABLE:COLUMN[ROW]`."""

    table: str
    """What messages call the table."""
    column: str
    row: int
    size: int
    """Bytes."""
    cells: Cells

    def __str__(self) -> str:
        return f"{self.table}:{self.column}[{self.row}]"

    @property
    def shard(self) -> Path:
        """Where the table lies: what to look at where the system does not let it be read."""
        return Path(self.table)

    def open(self) -> io.BytesIO:
        """Its bytes, to be read like a file."""
        return io.BytesIO(self.read())

    def read(self) -> bytes:
        """All its bytes."""
        return self.cells.content(self.row)


class Cells(Protocol):
    """A column of files; equal to itself alone."""

    def content(self, row: int) -> bytes:
        """The bytes of a row's file."""
        ...


File = Path | Member | Row
"""Where an image or a label is: a file of its own, one inside a shard, or one in a row of a table."""


class _Window(io.RawIOBase):
    """A member as a file."""

    def __init__(self, member: Member, descriptor: int) -> None:
        self._member, self._descriptor, self._at = member, descriptor, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer) -> int:
        found = self._read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readall(self) -> bytes:
        # One read of all that is left: the usual way would be many small ones.
        return self._read(self._member.size)

    def _read(self, count: int) -> bytes:
        count = min(count, self._member.size - self._at)
        if count <= 0:
            return b""
        found = _read_at(self._descriptor, count, self._member.at + self._at)
        self._at += len(found)
        return found

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _read_at(descriptor: int, count: int, at: int) -> bytes:
    """All of `count` bytes; fewer only at the file's end. One call of the system reads at most 2 GiB."""
    if hasattr(os, "pread"):
        found = os.pread(descriptor, count, at)
    else:
        # Each window has a descriptor of its own, so nobody else moves its position.
        os.lseek(descriptor, at, os.SEEK_SET)
        found = os.read(descriptor, count)
    if 0 < len(found) < count:
        return found + _read_at(descriptor, count - len(found), at + len(found))
    return found
