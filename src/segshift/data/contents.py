"""What image files hold, byte for byte: digests, duplicates, and training images that are test images too.

Two files of the same pixels but other bytes (compressed anew, resized, given other metadata) count as different: they
are not found here.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

from segshift.data.dataset import ImageDataset, image_paths, label_paths
from segshift.data.folder import worker_threads
from segshift.errors import DataError


def digests(dataset: ImageDataset) -> dict[str, str] | None:
    """Name -> SHA-256 of the image file's bytes, in hexadecimal; None for a data set that is drawn on demand.

    A file is read once a process, however often it is asked for, as long as it stays as it is. DataError names one that
    cannot be read.
    """
    paths = image_paths(dataset)
    return None if paths is None else dict(zip(dataset.names, _all(paths), strict=True))


def content_of(dataset: ImageDataset) -> str:
    """16 hexadecimal digits that change with any name, and any byte of an image's or a label's file.

    Unlike `fingerprint`, it reads the files. The fingerprint itself for a data set that is drawn on demand, as there
    are no files. What a wrapper makes of labels (fewer classes, other ids) is not in it.
    """
    images = image_paths(dataset)
    if images is None:
        return dataset.fingerprint()
    labels = label_paths(dataset)
    total = hashlib.sha256()
    for kind, paths in (("image", images), ("label", labels or ())):
        for name, digest in zip(dataset.names, _all(paths)):
            total.update(f"{kind}\t{name}\t{digest}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def duplicates(found: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Names of each content that several have, of `digests`: groups of at least two, in the order of their first."""
    groups: dict[str, list[str]] = {}
    for name, digest in found.items():
        groups.setdefault(digest, []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def leaks(training: ImageDataset, test: ImageDataset) -> list[tuple[str, str]]:
    """(name in training, name in test) for each training image whose file's content a test image has too.

    In the order of the training set; of several such test images, the first. Only files whose size occurs in both sets
    are read. [] where one of the two is drawn on demand. DataError names a file that cannot be read.
    """
    of_training, of_test = image_paths(training), image_paths(test)
    if of_training is None or of_test is None:
        return []
    sizes = {_state(path).st_size for path in of_training} & {_state(path).st_size for path in of_test}
    tested: dict[str, str] = {}
    for name, digest in _of_sizes(test.names, of_test, sizes):
        tested.setdefault(digest, name)
    trained = _of_sizes(training.names, of_training, sizes)
    return [(name, tested[digest]) for name, digest in trained if digest in tested]


def alike(paths: Iterable[Path]) -> list[tuple[Path, ...]]:
    """Groups of files that hold the same bytes, each path once, in the order of their first.

    Only files whose size another one has are read. Empty files are in no group, nor are those that cannot be read:
    whoever decodes them says so.
    """
    by_size: dict[int, list[Path]] = {}
    for path in dict.fromkeys(paths):
        size = _size(path)
        if size:
            by_size.setdefault(size, []).append(path)
    candidates = [path for same in by_size.values() if len(same) > 1 for path in same]
    found: dict[str, list[Path]] = {}
    with ThreadPoolExecutor(worker_threads()) as pool:
        for path, digest in zip(candidates, pool.map(_digest_or_none, candidates)):
            if digest is not None:
                found.setdefault(digest, []).append(path)
    return [tuple(same) for same in found.values() if len(same) > 1]


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. DataError names a file that cannot be read, or is none."""
    state = _state(path)
    if not stat.S_ISREG(state.st_mode):
        # Reading a pipe would wait for ever.
        raise DataError(f"{path}: is no regular file; expected an image or a label. Delete it, or name another folder")
    return _digest(_File(path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


class _File(NamedTuple):
    """A file as it was when it was looked at: one that was changed since is another, and read again."""

    path: Path
    inode: int
    size: int
    modified: int
    changed: int


@cache
def _digest(file: _File) -> str:
    try:
        with file.path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file.path, error) from error


def _state(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); expected the file listed at the start. Restore it")


def _size(path: Path) -> int:
    """Bytes; 0 where the file cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest_or_none(path: Path) -> str | None:
    try:
        return digest_of(path)
    except DataError:
        return None


def _all(paths: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor(worker_threads()) as pool:
        return list(pool.map(digest_of, paths))


def _of_sizes(names: Sequence[str], paths: Sequence[Path], sizes: set[int]) -> list[tuple[str, str]]:
    """(name, digest) of the files that have one of these sizes."""
    chosen = [(name, path) for name, path in zip(names, paths, strict=True) if _state(path).st_size in sizes]
    return list(zip((name for name, _ in chosen), _all([path for _, path in chosen])))
