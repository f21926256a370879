"""The further processes of a run on one machine: started by the first, watched, heard, never left behind.

Lightning's own launcher kills the first process without a word when another has ended, and leaves the others alone
when the first has. Here whoever fails has its say, once, and all processes end in bounded time.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from segshift.errors import SegshiftError, StoppedError
from segshift.paths import printable

STARTED_BY = "SEGSHIFT_STARTED_BY"
"""Variable of a further process: the first one's process id, and the end of a pipe for its last words."""
STOPPED = 130
"""Exit status of a process that was asked to stop."""
LOST = 76
"""Exit status of a child that has only lost another process: the reason is elsewhere."""
GRACE = 15.0
"""Seconds that a process which waits for a lost one, or does something else, has to notice by itself."""
UNKNOWN = "another process of this run has ended, or did not answer in time"
"""What is said where no child of this machine has failed by itself."""
_PERIOD = 0.25
"""Seconds between two looks at the other processes."""
_LONGEST = 2**15
"""Bytes of last words: a pipe takes as many without a reader."""


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    pipe: int
    words: str = ""

    def listen(self) -> str:
        """What it has said so far. Its loader processes may hold the pipe open, so nobody waits for its end."""
        with suppress(BlockingIOError):
            self.words += os.read(self.pipe, _LONGEST).decode("utf-8", "replace")
        return self.words


@dataclass(frozen=True)
class Fate:
    """What became of a process that failed."""

    rank: int
    """Its place on this machine; the first process has 0."""
    status: int
    """Exit status; below zero: the number of the signal that killed it. 0: it has not ended yet."""
    words: str
    """The error it ended with; empty where it had no time to say."""

    def __str__(self) -> str:
        which = f"process {self.rank} of this run (they count from 0)"
        if self.words:
            return f"{which} has ended: {self.words}"
        if self.status < 0:
            often = ", often by the system when memory is short" if self.status == -signal.SIGKILL else ""
            return f"{which} was killed by {signal.Signals(-self.status).name}{often}"
        return f"{which} ended with exit status {self.status}; see what it wrote above"


class Children(threading.Thread):
    """The further processes of this machine, in the first one: a thread that looks after them."""

    def __init__(self, variables: Iterable[Mapping[str, str]], grace: float = GRACE) -> None:
        """Start this very command again, once for each set of environment variables."""
        super().__init__(daemon=True, name="segshift-children")
        self.folder: Path | None = None
        """The run at hand."""
        self._grace = grace
        self._ending = threading.Event()
        self.all = [_started(given) for given in variables]
        atexit.register(self.end, grace)
        self.start()

    def __len__(self) -> int:
        return len(self.all)

    def run(self) -> None:
        """End this process too when a child has failed and this one does not come to notice, wherever it hangs."""
        while not self._ending.wait(_PERIOD):
            if any(child.process.poll() not in (None, 0, STOPPED) for child in self.all):
                fate = self.fate(self._grace)
                if not self._ending.wait(self._grace):
                    say(with_advice(str(fate or UNKNOWN), self.folder))
                    self.end(0)
                    # The main thread may sit in a collective that no exception reaches.
                    os._exit(1)

    def fate(self, within: float) -> Fate | None:
        """The failure that explains the others, waited for up to `within` seconds; None: no child of this machine's."""
        until = time.monotonic() + within
        while True:
            fates = [Fate(n, c.process.poll() or 0, c.listen()) for n, c in enumerate(self.all, 1)]
            telling = [fate for fate in fates if fate.words or fate.status not in (0, STOPPED, LOST)]
            if telling or all(fate.status for fate in fates) or time.monotonic() > until:
                return telling[0] if telling else None
            time.sleep(_PERIOD / 5)

    def end(self, within: float) -> None:
        """Wait up to `within` seconds for all children, then kill those that are left."""
        self._ending.set()
        until = time.monotonic() + within
        for child in self.all:
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


def _started(variables: Mapping[str, str]) -> _Child:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    given = os.environ | variables | {STARTED_BY: f"{os.getpid()} {theirs}"}
    try:
        # The words the interpreter itself was started with: a script, a module, options of the interpreter.
        process = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=given, pass_fds=[theirs])
    finally:
        os.close(theirs)
    return _Child(process, ours)


class Parent(threading.Thread):
    """The first process of this machine, as one of its children sees it: a thread that notices its end."""

    def __init__(self, rank: int, grace: float = GRACE) -> None:
        super().__init__(daemon=True, name="segshift-parent")
        self.folder: Path | None = None
        pid, pipe = os.environ[STARTED_BY].split()
        self._pid, self._pipe, self._rank, self._grace = int(pid), int(pipe), rank, grace
        os.set_inheritable(self._pipe, False)
        self.start()

    @property
    def gone(self) -> bool:
        """Whether the first process has ended."""
        return os.getppid() != self._pid

    def run(self) -> None:
        """Leave when the parent has ended: no collective will be answered, no file be read."""
        while not self.gone:
            time.sleep(_PERIOD)
        # A moment for the main thread to notice by itself, and for files at hand.
        time.sleep(min(1.0, self._grace))
        if self._rank == 1:
            say(with_advice("the first process of this run was ended from outside, and with it the run", self.folder))
        os._exit(1)

    def leave(self, error: BaseException, broken: bool) -> NoReturn:
        """End this process with an error that the first one tells the user, if it is there.

        `broken`: the error is that of a group that has lost a process, so it says nothing that the first cannot say.
        """
        if isinstance(error, StoppedError | KeyboardInterrupt):
            raise SystemExit(STOPPED) from None
        if broken:
            # The parent's sockets close a moment before the system says that it has ended.
            until = time.monotonic() + 4 * _PERIOD
            while not self.gone and time.monotonic() < until:
                time.sleep(_PERIOD / 5)
            if self.gone:
                self.join()
            raise SystemExit(LOST) from None
        if isinstance(error, SegshiftError) and not self.gone:
            os.write(self._pipe, str(error).encode("utf-8", "replace")[:_LONGEST])
            raise SystemExit(1) from None
        raise error


def with_advice(text: str, folder: Path | None) -> str:
    """An error, and what to do next. Before there is a `run.json`, a run has nothing to go on with."""
    if folder is None or not (folder / "run.json").exists():
        return text
    return f"{text.rstrip('.')}. The last checkpoint is intact; go on with: segshift resume {folder}"


def say(text: str) -> None:
    """An error on the terminal, by a thread whose process is about to end."""
    sys.stderr.write(f"error: {printable(text)}\n")
    sys.stderr.flush()
