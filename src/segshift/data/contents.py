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

import numpy as np

from segshift.data.dataset import ImageDataset, image_paths, label_paths
from segshift.data.folder import worker_threads
from segshift.data.member import File, Member, Row
from segshift.data.shards import Images
from segshift.errors import DataError


def digests(dataset: ImageDataset) -> dict[str, str] | None:
    """Name -> SHA-256 of the image file's bytes, in hexadecimal; None for a data set that is drawn on demand.

    A file is read once a process, however often it is asked for, as long as it stays as it is. DataError names one that
    cannot be read.
    """
    files = image_paths(dataset)
    return None if files is None else dict(zip(dataset.names, _all(files), strict=True))


def content_of(dataset: ImageDataset, most: int | None = None) -> str:
    """16 hexadecimal digits that change with any name, and any byte of an image's or a label's file.

    Unlike `fingerprint`, it reads the files. The fingerprint itself for a data set that is drawn on demand, as there
    are no files. What a wrapper makes of labels (fewer classes, other ids) is not in it. `most`: the images that are
    read, evenly spread over the set; where it has more, it changes with the fingerprint and any byte of these.
    """
    images = image_paths(dataset)
    if images is None:
        return dataset.fingerprint()
    labels = label_paths(dataset)
    total = hashlib.sha256()
    chosen = spread(len(images), most)
    if len(chosen) < len(images):
        total.update(dataset.fingerprint().encode())
    for kind, files in (("image", images), ("label", labels or ())):
        inside = chosen if files else ()
        for i, digest in zip(inside, _all([files[i] for i in inside])):
            total.update(f"{kind}\t{dataset.names[i]}\t{digest}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def spread(count: int, most: int | None) -> Sequence[int]:
    """At most so many of `count` indices, in order, evenly spread; None: all."""
    if most is None or most >= count:
        return range(count)
    return [i * count // most for i in range(most)]


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
    trained, tested = _sizes(of_training), _sizes(of_test)
    known: dict[str, str] = {}
    for name, digest in _chosen(test.names, of_test, np.isin(tested, trained)):
        known.setdefault(digest, name)
    found = _chosen(training.names, of_training, np.isin(trained, tested))
    return [(name, known[digest]) for name, digest in found if digest in known]


def alike(files: Iterable[File]) -> list[tuple[File, ...]]:
    """Groups of files that hold the same bytes, each once, in the order of their first.

    Only files whose size another one has are read. Empty files are in no group, nor are those that cannot be read:
    whoever decodes them says so.
    """
    by_size: dict[int, list[File]] = {}
    for file in dict.fromkeys(files):
        size = _size(file) if isinstance(file, Path) else file.size
        if size:
            by_size.setdefault(size, []).append(file)
    candidates = [file for same in by_size.values() if len(same) > 1 for file in same]
    found: dict[str, list[File]] = {}
    with ThreadPoolExecutor(worker_threads()) as pool:
        for file, digest in zip(candidates, pool.map(_digest_or_none, candidates)):
            if digest is not None:
                found.setdefault(digest, []).append(file)
    return [tuple(same) for same in found.values() if len(same) > 1]


def digest_of(file: File) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. DataError names a file that cannot be read, or is none."""
    if not isinstance(file, Path):
        return _digest_of_member(file)
    state = _state(file)
    if not stat.S_ISREG(state.st_mode):
        # Reading a pipe would wait for ever.
        raise DataError(f"{file}: is no regular file; expected an image or a label. Delete it, or name another folder")
    return _digest(_File(file, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


def size_of(file: File) -> int:
    """Bytes of a file. DataError names one that cannot be looked at."""
    return _state(file).st_size if isinstance(file, Path) else file.size


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


@cache
def _digest_of_member(member: Member | Row) -> str:
    try:
        return hashlib.sha256(member.read()).hexdigest()
    except OSError as error:
        raise _unreadable(member, error) from error


def _state(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: File, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}); expected the file listed at the start. Restore it")


def _size(path: Path) -> int:
    """Bytes; 0 where the file cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _digest_or_none(file: File) -> str | None:
    try:
        return digest_of(file)
    except DataError:
        return None


def _all(files: Sequence[File]) -> list[str]:
    with ThreadPoolExecutor(worker_threads()) as pool:
        return list(pool.map(digest_of, files))


def _sizes(files: Sequence[File]) -> np.ndarray:
    """Bytes of each file; those of shards are known."""
    if isinstance(files, Images):
        return files.table.sizes()
    return np.array([size_of(file) for file in files])


def _chosen(names: Sequence[str], files: Sequence[File], chosen: np.ndarray) -> list[tuple[str, str]]:
    """(name, digest) of the files that are `chosen`, (n,) bool."""
    indices = np.flatnonzero(chosen).tolist()
    return list(zip([names[i] for i in indices], _all([files[i] for i in indices])))
