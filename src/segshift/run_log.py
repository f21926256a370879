"""`log.jsonl`: one line a step, appended; a resumed run first cuts off the steps it will take again.

A kill may leave half a line at the end. A power failure may take the last lines, or leave other bytes in their place,
unless `sync` has made them last. Only whole lines are ever read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segshift.errors import RunError
from segshift.whole_files import atomic_write, refused


class RunLog:
    """The step log of a run; only the first process writes."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line, which a kill of this process no longer takes away. RunError where the disk refuses."""
        if not self.writes:
            return
        try:
            with self.path.open("ab") as file:
                file.write(_line(entry))
        except OSError as error:
            raise refused(self.path, "written", error) from error

    def sync(self) -> None:
        """Make all lines last through a power failure: before a checkpoint says that their steps are done."""
        if not self.writes or not self.path.exists():
            return
        try:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise refused(self.path, "written", error) from error

    def cut(self, t: int) -> None:
        """Drop the lines of steps t and later, and what is no whole line. RunError where the disk refuses."""
        if not self.writes:
            return
        kept = b"".join(_line(entry) for entry in self._entries() if entry["step"] < t)
        if self.path.exists() and kept != self._content():
            atomic_write(self.path, kept)

    def read(self) -> list[dict[str, Any]]:
        """All whole lines, none where there is no log. RunError where it cannot be read."""
        return list(self._entries())

    def _entries(self) -> Iterator[dict[str, Any]]:
        for line in self._content().split(b"\n"):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                yield entry

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read ({error.strerror}); expected the step log of a run") from error


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"
