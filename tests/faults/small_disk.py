"""A disk of any size, which fills up or is read-only when a test wants it to.

It is a tmpfs in a mount namespace of this process's own, so that no other process sees it and nothing has to be
cleaned up. Linux only, and only where unprivileged namespaces are allowed.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.runs import Job

from segshift.errors import RunError

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 1 << 5, 1 << 14, 1 << 18
_FILLER = "somebody-elses-file"
_LIBC = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(kind: str, folder: Path, flags: int, options: str = "") -> None:
    words = [kind.encode(), bytes(folder), kind.encode(), flags, options.encode()]
    _checked(_LIBC.mount(*words), f"mount {folder}")


def mount(folder: Path, size: int) -> None:
    """A disk of `size` KiB at `folder`, for this process alone. OSError where the system allows no such thing."""
    user, group = os.geteuid(), os.getegid()
    _checked(_LIBC.unshare(_NEW_MOUNTS | _NEW_USER), "a namespace of its own")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", Path("/"), _RECURSIVE | _PRIVATE)
    folder.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", folder, 0, f"size={size}k")


def resize(folder: Path, size: int) -> None:
    """Make the disk larger, in KiB."""
    _mount("tmpfs", folder, _REMOUNT, f"size={size}k")


def lock(folder: Path) -> None:
    """Let nobody write to it any more."""
    _mount("tmpfs", folder, _REMOUNT | _READ_ONLY)


def unlock(folder: Path) -> None:
    """Let everybody write to it again."""
    _mount("tmpfs", folder, _REMOUNT)


def fill(folder: Path) -> None:
    """Take all the space that is left, to the last page."""
    left = os.statvfs(folder)
    (folder / _FILLER).write_bytes(bytes(left.f_bfree * left.f_bsize))


def free(folder: Path) -> None:
    """Give it back."""
    (folder / _FILLER).unlink(missing_ok=True)


@dataclass(frozen=True)
class OnDisk:
    """Make a run on a small disk; where the disk refuses, change something about the disk and go on.

    The run's folder lies in that of the disk. In the end it is copied to `out`, and the errors to `out`.json.
    """

    job: Job
    size: int
    """KiB."""
    out: Path
    before: Callable[[Path], None] | None = None
    """Done to the disk before the run begins."""
    cure: Callable[[Path], None] | None = None
    """Done to the disk after an error. None: it grows by 12 KiB."""

    def __call__(self) -> None:
        disk, size, errors = self.job.folder.parent, self.size, list[str]()
        mount(disk, size)
        if self.before is not None:
            self.before(disk)
        while not self._done(errors):
            if self.cure is None:
                size += 12
                resize(disk, size)
            else:
                self.cure(disk)
        shutil.copytree(self.job.folder, self.out)
        self.out.with_suffix(".json").write_text(json.dumps(errors))

    def _done(self, errors: list[str]) -> bool:
        try:
            self.job()
        except RunError as error:
            errors.append(str(error))
            return False
        return True
