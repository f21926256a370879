"""One command at a time in a run's folder: two that resume the same run would write over each other's files."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segshift.errors import RunError
from segshift.whole_files import refused

_PATIENCE = 10.0
"""Seconds: the loader processes of a command that was killed hold its lock until they notice."""


@contextmanager
def only_one(folder: Path, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold a run's folder for this process; the system lets go of it when the process ends, however it ends.

    Raises RunError where another process has held it for `patience` seconds. Systems and disks without such locks
    (Windows, some network disks) are taken as they are.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(folder, "written", error) from error
    if os.name != "posix":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder, patience)
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):  # a run that did not come to its first file leaves no folder
            folder.rmdir()


def _lock(descriptor: int, folder: Path, patience: float) -> None:
    import fcntl  # which Windows does not have

    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return
        else:
            return
        if time.monotonic() > until:
            raise RunError(
                f"{folder}: another process is at work on this run; expected one at a time: wait until it has ended, "
                "or end it"
            )
        time.sleep(0.1)
