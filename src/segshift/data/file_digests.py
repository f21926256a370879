"""Whether a folder's files are those that were written: three sums over them, which processes add up among themselves.

A file's digest is the first 8 bytes of the SHA-256 of its name and content. Sums (mod 2^64) know no order, so they are
the same however the images are split between processes. Each digest is summed once as it is and once weighted by its
name: where one file is another, the two sums differ by a known multiple of each other, and that multiple is its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segshift.errors import RunError

_RING = 2**64


class FileDigests(NamedTuple):
    """What is known of a set of files."""

    files: int = 0
    total: int = 0
    """Sum of the digests, 0 to 2^64 - 1."""
    weighted: int = 0
    """The same, each digest times its name's."""

    def with_file(self, name: str, content: bytes) -> FileDigests:
        """These files and one more."""
        key = name.encode("utf-8", "surrogatepass")
        digest = _number(key + b"\0" + content)
        return FileDigests(
            self.files + 1, (self.total + digest) % _RING, (self.weighted + digest * _number(key)) % _RING
        )

    def to_int64(self) -> list[int]:
        """As signed numbers that fit an int64 tensor, whose sum over processes wraps around."""
        return [value - _RING if value >= _RING // 2 else value for value in self]

    @classmethod
    def from_int64(cls, values: Sequence[int]) -> FileDigests:
        """From the sums over processes of `to_int64`."""
        files, total, weighted = values
        return cls(files, total % _RING, weighted % _RING)

    def to_json(self) -> dict[str, Any]:
        """`files`, and `digest`: both sums as 32 hexadecimal digits."""
        return {"files": self.files, "digest": f"{self.total:016x}{self.weighted:016x}"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FileDigests:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError where it is something else."""
        digest = content["digest"]
        return cls(content["files"], int(digest[:16], 16), int(digest[16:], 16))

    def changed_into(self, other: FileDigests, names: Iterable[str]) -> str | None:
        """Which one of `names` has another content in `other`; None where it is not exactly one."""
        if self.files != other.files:
            return None
        by, weighted_by = other.total - self.total, other.weighted - self.weighted
        found = (n for n in names if (by * _number(n.encode("utf-8", "surrogatepass")) - weighted_by) % _RING == 0)
        return next(found, None)


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def require_written(
    folder: Path, written: FileDigests, files: Mapping[str, Path], read: Callable[[str], object], cure: str
) -> None:
    """RunError, ending in `cure`, unless `files` (by name, in `folder`) are those that were `written`.

    It names the file that is missing, that `read` raises RunError for, or whose content is another one. Where several
    are whole and not the ones written, or there are more or fewer, it says so of the folder.
    """
    found = FileDigests()
    for name, path in files.items():
        try:
            found = found.with_file(name, path.read_bytes())
        except FileNotFoundError as error:
            raise RunError(f"{path}: does not exist; expected what the round wrote there. {cure}") from error
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror or error}). {cure}") from error
    if found == written:
        return
    for name in files:
        read(name)
    changed = written.changed_into(found, files)
    if changed is not None:
        raise RunError(f"{files[changed]}: is not the file that the round wrote, its SHA-256 is another one. {cure}")
    if found.files != written.files:
        raise RunError(f"{folder}: {found.files} files; expected the {written.files} that the round wrote. {cure}")
    raise RunError(f"{folder}: several files are not those that the round wrote, their SHA-256 are others. {cure}")


def names_below(folder: Path, suffix: str) -> list[str]:
    """Names of the files below a folder: the path relative to it, with "/", without `suffix`."""
    files = (path for path in folder.rglob(f"*{suffix}") if path.is_file())
    return sorted(path.relative_to(folder).as_posix().removesuffix(suffix) for path in files)
