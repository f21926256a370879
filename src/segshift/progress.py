"""What a person sees while it runs: bars with ETA and losses on a terminal, a line now and then in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from segshift.paths import printable

EVERY = 20.0
"""Seconds between lines where the output is no terminal."""


class Bar:
    """One task's progress; `advance` is cheap enough to call at each step. Where `total` is 0, it is not known."""

    def __init__(self, console: Console, title: str, total: int, done: int, bars: Progress | None) -> None:
        self._console, self._title, self._total, self._done = console, printable(title), total, done
        self._bars = bars
        self._task = bars.add_task(self._title, total=total or None, completed=done, note="", rate="") if bars else None
        self._started, self._first, self._printed = time.monotonic(), done, time.monotonic()

    def advance(self, note: str = "") -> None:
        self._done += 1
        note = printable(note)
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=self._done, note=note, rate=self._rate())
        elif time.monotonic() - self._printed > EVERY:
            self._printed = time.monotonic()
            self._console.print(Text(f"{self._title}: {self._outlook()}  {note}"))

    def _outlook(self) -> str:
        """How many are done and how many are not, how fast, and how long those will take."""
        if not self._total:
            return f"{self._done} done, {self._rate()}"
        to_go = max(self._total - self._done, 0)
        seconds = to_go * self._seconds() / (self._done - self._first)
        return f"{self._done}/{self._total}, {to_go} to go at {self._rate()}, {_duration(seconds)} left"

    def _rate(self) -> str:
        done = self._done - self._first
        rate = done / max(self._seconds(), 1e-9)
        return f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"

    def _seconds(self) -> float:
        return time.monotonic() - self._started


def _duration(seconds: float) -> str:
    """Seconds, or from ten minutes on hours and minutes."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class Reporter:
    """Progress and messages of one run. A process that is not the first is silent.

    Texts may hold the names of files and classes, so they are shown as they are written: no markup, no control codes.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, stderr=False)

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(Text(printable(text)), soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar for `total` steps, of which `done` lie behind."""
        if not self.console.is_terminal or self.console.quiet:
            yield Bar(self.console, title, total, done, None)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            yield Bar(self.console, title, total, done, bars)

    def track(self, title: str):
        """A `scan.Track`: shows a bar while an iterator of known length is used up."""

        def tracked(items: Iterator[int], total: int) -> Iterator[int]:
            with self.bar(title, total) as bar:
                for item in items:
                    yield item
                    bar.advance()

        return tracked
