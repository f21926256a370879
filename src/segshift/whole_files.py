"""Files that are whole or absent: atomic writes, and what to say where the disk refuses."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segshift.errors import RunError

_CURES = {
    errno.ENOSPC: "the disk is full: free some space, then resume the run, or run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then resume the run, or run the command again",
    errno.EFBIG: "files here may not grow as large: raise the limit (ulimit -f), or choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write there: choose another folder, or change its permissions",
    errno.EPERM: "no permission to write there: choose another folder, or change its permissions",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EEXIST: "a part of this path is a file: choose another folder",
    errno.EISDIR: "a folder has this name: move it away, or choose another folder",
    errno.ENAMETOOLONG: "the file system takes no name as long as this: choose a shorter one",
}
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


def refused(path: Path, what: str, error: OSError) -> RunError:
    """The error of a file that cannot be `what` ("written", "removed"), with the cure."""
    cure = _CURES.get(error.errno or 0, "check that the disk is there and healthy")
    return RunError(f"{path}: cannot be {what} ({error.strerror or error}); {cure}")


def atomic_write(path: Path | str, content: bytes) -> None:
    """Write a file that is there with all of `content`, or is as it was before, even when the power fails.

    Folders on the way are made. Raises RunError, naming the path and the cure, where the disk refuses.
    """
    with atomic_file(path) as temporary, temporary.open("xb") as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """As `atomic_write`, of a file that another library writes, or that is written piece by piece: at the path given
    out, whose file takes its place when the block ends, and is removed where that raises.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        new = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync_file(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        for folder in (path, *new):
            _sync_folder(folder.parent)
    except OSError as error:
        raise refused(path, "written", error) from error


def discard(path: Path) -> None:
    """Remove a file that is there or not; a power failure does not bring it back. RunError where the disk refuses."""
    try:
        path.unlink()
        _sync_folder(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise refused(path, "removed", error) from error


def sweep(folder: Path) -> None:
    """Remove what killed writes left half-done, anywhere below a folder. RunError where the disk refuses.

    Links to folders are not followed, links themselves not removed. No other process may be writing there.
    """
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            if _TEMPORARY.fullmatch(name) and not path.is_symlink():
                discard(path)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a name last, or its end: it is the folder's content that changed. Windows cannot open one, and need not."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
