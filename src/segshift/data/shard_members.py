"""What a shard holds, read from the headers of its tar: which members are images and labels, and where their bytes are.

A tar comes from others. Its members' names are never used as paths, and nothing is unpacked; links, devices and sparse
files are no bytes at a place, so a sample that has one cannot be used. What is wrong with a sample is kept as a text,
for the data set to stop at or to go without; what is wrong with the tar itself is a DataError.

Names are read as WebDataset reads them: up to the first dot of the last part is the sample's key, behind it stands what
the member is. An image is `KEY.jpg`, `KEY.png` ...; its label `KEY.seg.png`, as examples for WebDataset have it, or
`KEY.label.png` or `KEY.mask.png`. A tar made of a folder in the generic layout is read too: `images/a.jpg` and
`labels/a.png` are the sample `a`, so that no label is taken for an image.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, NamedTuple

from segshift.data.files import IMAGE_SUFFIXES
from segshift.data.image_header import opened, unreachable
from segshift.errors import DataError
from segshift.paths import fault

LABEL_ENDINGS = ("seg.png", "label.png", "mask.png")
"""What stands behind the key of a label."""
_IMAGE_ENDINGS = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)
_HEADER = 1 << 20
"""Bytes that one header may take (a long name, say): more is no name, and would only fill the memory."""
_LARGEST = (1 << 32) - 1
_COMPRESSED = (
    ("gzip", b"\x1f\x8b", "gunzip"),
    ("bzip2", b"BZh", "bunzip2"),
    ("xz", b"\xfd7zXZ\x00", "unxz"),
    ("zstd", b"\x28\xb5\x2f\xfd", "unzstd"),
)


class Extent(NamedTuple):
    """Where a member's bytes are, and what it is called behind its key."""

    at: int
    size: int
    ending: str


@dataclass(slots=True)
class Sample:
    """The members of one key that are of use."""

    image: Extent | None = None
    label: Extent | None = None
    image_fault: str = ""
    """Why the image cannot be used, beginning with the member's name; empty where it can."""
    label_fault: str = ""
    odd: str = ""
    """A member that looks like an image and is none of its key."""


@dataclass
class Contents:
    """The samples of a shard by key, in the order of Python's strings."""

    samples: dict[str, Sample] = field(default_factory=dict)
    orphans: list[str] = field(default_factory=list)
    """Labels without an image."""
    others: Counter[str] = field(default_factory=Counter)
    """Members that are neither image nor label, by what stands behind the key."""


class Role(NamedTuple):
    """What a member is by its name."""

    key: str
    kind: Literal["image", "label", "odd", "other"]
    """odd: ends like an image, but there is more between key and ending."""
    ending: str


def role(name: str) -> Role | None:
    """What a member is; None where its name is hidden or has no ending."""
    parts = [part for i, part in enumerate(name.split("/")) if part not in (".", "") or (i == 0 and part == "")]
    base = parts[-1] if parts else ""
    if "." not in base or any(part.startswith(".") and part.strip(". ") for part in parts):
        return None
    stem, ending = base.split(".", 1)
    known = ending.lower()
    if known not in LABEL_ENDINGS:
        folder = next((i for i in range(len(parts) - 2, -1, -1) if parts[i] in ("images", "labels")), None)
        if folder is not None:
            return _of_folders(parts, folder)
    key = "/".join([*parts[:-1], stem])
    if known in LABEL_ENDINGS:
        return Role(key, "label", ending)
    if known in _IMAGE_ENDINGS:
        return Role(key, "image", ending)
    return Role(key, "odd" if known.rpartition(".")[2] in _IMAGE_ENDINGS else "other", ending)


def _of_folders(parts: list[str], folder: int) -> Role:
    """What a member of `images/` or `labels/` is. There a name goes up to its last dot, as in a folder."""
    stem, ending = parts[-1].rsplit(".", 1)
    key = "/".join([*parts[:folder], *parts[folder + 1 : -1], stem])
    known = ending.lower()
    if parts[folder] == "images" and known in _IMAGE_ENDINGS:
        return Role(key, "image", ending)
    return Role(key, "label" if parts[folder] == "labels" and known == "png" else "other", ending)


def read_samples(shard: Path) -> Contents:
    """The samples of a shard. DataError where it cannot be read, is no tar, is compressed, damaged or cut short."""
    found, every = Contents(), {}
    try:
        with opened(shard) as file:
            for info in _headers(file, shard):
                _take(info, every, found)
    except OSError as error:
        raise unreachable(shard, error, "a shard (a tar file)") from error
    except ValueError as error:
        raise DataError(f"{shard}: {error}; expected a shard (a tar file). Restore it, or delete it") from error
    for key in sorted(every):
        sample: Sample = every[key]
        if sample.image is None and not sample.image_fault and sample.odd:
            sample.image_fault = (
                f"{sample.odd}: is no image of the key {key}, which ends at the first dot of the name, and there is no "
                f"other; expected {key}.jpg or the like. Rename it, without that dot"
            )
        if sample.image is not None or sample.image_fault:
            found.samples[key] = sample
        elif sample.label is not None:
            found.orphans.append(f"{key}.{sample.label.ending}")
    return found


def _take(info: tarfile.TarInfo, every: dict[str, Sample], found: Contents) -> None:
    """Enter one member."""
    if info.isdir():
        return
    known = role(info.name)
    if known is None or known.kind == "other":
        found.others[known.ending if known else ""] += 1
        return
    sample = every.setdefault(known.key, Sample())
    if known.kind == "odd":
        sample.odd = sample.odd or info.name
        found.others[known.ending] += 1
        return
    image = known.kind == "image"
    why = _unusable(info, known) or _second(sample.image if image else sample.label, known)
    extent = Extent(info.offset_data, info.size, known.ending)
    if image:
        sample.image, sample.image_fault = extent, sample.image_fault or (why and f"{info.name}: {why}")
    else:
        sample.label, sample.label_fault = extent, sample.label_fault or (why and f"{info.name}: {why}")


def _unusable(info: tarfile.TarInfo, known: Role) -> str:
    if why := fault(known.key):
        return f"its name {why}; expected one that other files can bear: rename it"
    if info.issym() or info.islnk():
        return (
            f"is a link to {info.linkname!r:.200}; expected the file itself. Pack the shard anew with tar --dereference"
            " --hard-dereference"
        )
    if not info.isreg():
        return "is a device, a pipe or the like; expected a file. Pack the shard anew without it"
    if info.issparse():
        return "is packed as a sparse file, in pieces; expected whole files. Pack the shard anew without tar --sparse"
    return f"has {info.size} bytes; expected an image or a label below 4 GiB" if info.size > _LARGEST else ""


def _second(before: Extent | None, known: Role) -> str:
    if before is None:
        return ""
    return (
        f"is the second {known.kind} of the key {known.key}, after {known.key}.{before.ending}; expected one. Pack the "
        "shard anew without the other"
    )


# --- the headers of a tar --------------------------------------------------------------------------------------------


class _Bounded:
    """A file that gives no more at a time than a header takes, whatever a damaged header asks for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self._file.read(count)


class _Headers(tarfile.TarFile):
    """A tar whose headers are read one after the other."""

    members: list[tarfile.TarInfo]
    """What has been read so far, which it keeps."""


def _headers(file: IO[bytes], shard: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, in order. DataError where it does not go on to its end mark."""
    start = file.read(8)
    for name, mark, cure in _COMPRESSED:
        if start.startswith(mark):
            raise DataError(
                f"{shard}: is compressed ({name}), so no image in it can be reached without unpacking those before it; "
                f"expected a plain tar file. Unpack it once: {cure} {shard.name}"
            )
    end = file.seek(0, 2)
    file.seek(0)
    at = 0
    try:
        with _Headers(fileobj=_Bounded(file), encoding="utf-8") as tar:  # pyright: ignore[reportArgumentType]
            while (info := tar.next()) is not None:
                # A shard may have millions of members.
                tar.members.clear()
                if info.size < 0 or info.offset_data <= at or tar.offset <= at:
                    raise tarfile.ReadError(f"the header of {info.name!r:.100} states impossible sizes")
                if info.isreg() and not info.issparse() and info.offset_data + info.size > end:
                    raise tarfile.ReadError(f"{info.name!r:.100} has {info.size} bytes, and the file ends before")
                at = info.offset_data
                yield info
            at = tar.offset
    except (tarfile.TarError, RecursionError, ValueError, IndexError, OverflowError) as error:
        raise _damaged(shard, at, str(error) or type(error).__name__) from error
    _require_end(file, at, shard)


def _require_end(file: IO[bytes], at: int, shard: Path) -> None:
    """A tar ends with blocks of zeros. tarfile stops at what it cannot read as a header just as it does there."""
    file.seek(at)
    rest = file.read(_HEADER)
    if len(rest) < tarfile.BLOCKSIZE:
        raise _damaged(shard, at, "it ends without its end mark")
    if any(rest[: tarfile.BLOCKSIZE]):
        raise _damaged(shard, at, "the header there is damaged")
    if any(rest):
        raise DataError(
            f"{shard}: goes on behind its end mark at byte {at}, so what is there would be lost (two tars that were "
            "joined with cat?); expected one tar file. Join them with tar --concatenate, or keep them apart"
        )


def _damaged(shard: Path, at: int, why: str) -> DataError:
    return DataError(
        f"{shard}: cannot be read as a tar file up to its end (at byte {at}: {why}); expected a whole one: it is "
        "damaged, or was cut short while it was written or copied. Restore it, or take it away"
    )
