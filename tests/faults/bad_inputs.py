"""The tables of bad input: where a row's files go, which door they go through, and what is said to them.

A row is (name, maker, expected). The maker writes into a fresh pair of folders; a door is a command of `segshift`.
`expected` is what a line of the answer begins with, word for word: `{root}`, `{day}` and `{dusk}` stand for the
folders, `…` for anything within the line. An empty one says that the input is fine.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from unittest import mock

from segshift.cli import main

LIMIT = 20.0
"""Seconds that a command may take with a bad input before it counts as one that hangs."""


@dataclass(frozen=True)
class Place:
    """A fresh pair of domains, and room beside them."""

    root: Path

    @property
    def day(self) -> Path:
        """The labelled source."""
        return self.root / "day"

    @property
    def dusk(self) -> Path:
        """The target."""
        return self.root / "dusk"

    def put(self, name: str, content: bytes) -> Path:
        """Write a file below the root, with the folders on the way."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def image(self, content: bytes, name: str = "day_000.png") -> Path:
        """Put a file in the place of the first training image of the source; its label stays."""
        (self.day / "train" / "images" / "day_000.jpg").unlink()
        return self.put(f"day/train/images/{name}", content)

    def label(self, content: bytes, name: str = "day_000.png") -> Path:
        """Put a file in the place of that image's label."""
        (self.day / "train" / "labels" / "day_000.png").unlink()
        return self.put(f"day/train/labels/{name}", content)

    def classes(self, content: bytes) -> Path:
        """Another classes.yaml for the source."""
        return self.put("day/classes.yaml", content)

    def fill(self, expected: str) -> str:
        """The folders put into a row's text."""
        for name in ("root", "day", "dusk"):
            expected = expected.replace(f"{{{name}}}", str(getattr(self, name)))
        return expected


class Row(NamedTuple):
    """One bad input: `make` puts it into a place, `expected` is what is said to it."""

    name: str
    make: Callable[[Place], object]
    expected: str


class Said(NamedTuple):
    """What a command answered."""

    code: int
    text: str


def fresh(pair: Path, root: Path) -> Place:
    """A copy of the pair of domains that may be spoilt."""
    for name in ("day", "dusk"):
        shutil.copytree(pair / name, root / name)
    return Place(root)


def run(*words: str | Path) -> Said:
    """A command of `segshift` in this process, ended with TimeoutError where it takes longer than LIMIT."""
    said = io.StringIO()
    wide = mock.patch.dict(os.environ, COLUMNS="1000")
    with wide, within(LIMIT), redirect_stdout(said), redirect_stderr(said):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Said(code, said.getvalue())


@contextmanager
def within(seconds: float) -> Generator[None]:
    """TimeoutError in the main thread after so many seconds, and again each second until it is heard."""

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"still running after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def begins(text: str, expected: str) -> bool:
    """Whether a line of the text begins with what is expected, after the words that lead every error in."""
    parts = (re.escape(part) for part in expected.split("…"))
    lead = r"^\s*(?:error: )?(?:(?:source|target|test): )?"
    return re.search(lead + "[^\n]*?".join(parts), text, re.MULTILINE) is not None


def assert_refused(said: Said, expected: str, code: int = 1) -> None:
    """The command ended with its own error, and the error says what the row expects."""
    assert "Traceback" not in said.text, said.text
    assert said.code == code, said
    assert begins(said.text, expected), f"expected a line that begins\n  {expected}\nin\n{said.text}"
