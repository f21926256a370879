"""Real runs in processes of their own, which can be killed.

Starting a process would take seconds for importing torch alone, so one server imports it once and is forked for each
run. `make` runs a job to its end, or until it is hit: by itself at an aim, or from outside after some time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tests.fakes.tiny import tiny
from tests.faults.aims import Aim, Hit, Watch, die

from segshift.cli import main
from segshift.errors import SegshiftError
from segshift.runs import resume, start

_PROCESSES = multiprocessing.get_context("forkserver")
# pytest too: a fork imports the main module of its parent again.
_PROCESSES.set_forkserver_preload([__name__, "pytest"])
# Two processes share two cores, and kernels differ in the last bit between thread counts.
torch.set_num_threads(1)

PATIENCE = 120
"""Seconds that no tiny run takes."""


@dataclass(frozen=True)
class Job:
    """A run to make: a row of the tables on two tiny folders, in a folder of its own."""

    row: str
    source: Path
    target: Path
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    def at(self, folder: Path) -> Job:
        """The same in another folder."""
        return replace(self, folder=folder)

    def __call__(self) -> None:
        """Go on where the folder stands: start, or resume what was begun."""
        if (self.folder / "run.json").exists():
            resume(self.folder)
        else:
            start(tiny(self.row, self.source, self.target, **self.settings), self.folder)


@dataclass(frozen=True)
class Command:
    """`segshift resume RUN`, with its exit status."""

    folder: Path

    def __call__(self) -> int:
        return main(["resume", str(self.folder)])


class Ended(NamedTuple):
    """How a process ended."""

    killed: bool
    """By SIGKILL."""
    status: int
    """What it exited with; minus the signal where one ended it."""
    passed: Counter[str]
    """How often it passed each place; empty where it was killed."""
    seconds: float
    """From its birth to its end."""
    said: str
    """What it printed, errors included."""


def make(
    job: Callable[[], Any], folder: Path, aim: Aim | None = None, hit: Hit = die, after: float | None = None
) -> Ended:
    """Call a job, which makes the run in `folder`, in a new process.

    It lives to its end, or is hit at an aim, or is killed `after` so many seconds. What the job returns is its exit
    status (None: 0).
    """
    here, there = _PROCESSES.Pipe(duplex=False)
    words = folder.with_name(f"{folder.name}.txt")
    words.parent.mkdir(parents=True, exist_ok=True)
    process = _PROCESSES.Process(target=_live, args=(job, folder, (aim, hit), there, words))
    process.start()
    there.close()
    here.recv()
    began = time.monotonic()
    process.join(PATIENCE if after is None else after)
    hangs = after is None and process.exitcode is None
    process.kill()
    process.join()
    assert not hangs, f"no end after {PATIENCE} s: {words.read_text()}"
    status = process.exitcode
    assert status is not None
    ended = Ended(
        status == -signal.SIGKILL,
        status,
        here.recv() if status >= 0 and here.poll() else Counter(),
        time.monotonic() - began,
        words.read_text(),
    )
    process.close()
    here.close()
    return ended


def _live(job: Callable[[], Any], folder: Path, at: tuple[Aim | None, Hit], pipe: Connection, words: Path) -> None:
    """The life of a process that makes a run."""
    with words.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch = Watch(folder, *at)
    pipe.send("ready")
    status = 0
    try:
        status = job() or 0
    except SegshiftError as error:
        print(f"{type(error).__name__}: {error}")
        status = 1
    finally:
        pipe.send(watch.passed)
    sys.exit(status)
