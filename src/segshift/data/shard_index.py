"""Where each image of a shard is: a table made once of the tar's headers, kept as a file beside the shard.

In memory an image takes 13 bytes and what its key has beyond the start that all keys of its shard share; with a label
22 bytes. The file is `NAME.tar.index`; where nothing can be written beside the shard it lies in the user's cache
folder, and where not there either, the headers are read anew each time. It is used only for a shard of the same size,
date and first bytes, and where its own SHA-256 and every place in it are right; else it is made again. Processes that
make it at the same time write the same bytes.

    8 bytes     magic
    uint32      length of the header, which is filled up with spaces
    header      JSON
    uint32 (n)  blocks of 512 bytes before the image; its bytes; with labels, both of the label; ends of the keys
    uint8 (n)   which ending the image has; with labels, that of the label
    bytes       the keys behind their common start, in order
    32 bytes    SHA-256 of all before
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segshift.data.image_header import opened, unreachable
from segshift.data.member import Member, State, state_of
from segshift.data.shard_members import Contents, Extent, read_samples
from segshift.errors import DataError, RunError
from segshift.whole_files import atomic_write

SUFFIX = ".index"
"""What stands behind the shard's name."""
_MAGIC = b"segshd1\n"
_HEAD = 4096
_BLOCK = 512
_NONE = 0xFFFFFFFF
"""Stands for no place: an image that cannot be used, or has no label."""


class Index:
    """The samples of one shard, in the order of their keys."""

    def __init__(self, shard: Path, state: State, header: dict[str, Any], tables: dict[str, np.ndarray]) -> None:
        self.shard, self.state = shard, state
        self._header, self._tables = header, tables
        self._prefix: str = header["prefix"]
        self.orphans: list[str] = header["orphans"]
        """Labels without an image."""
        self.others: dict[str, int] = header["others"]
        """Members that are neither image nor label: how many have which ending."""

    def __len__(self) -> int:
        return len(self._tables["key_end"])

    @property
    def sizes(self) -> np.ndarray:
        """(n,) uint32: bytes of each image."""
        return self._tables["image_size"]

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(table.nbytes for table in self._tables.values())

    @property
    def has_labels(self) -> bool:
        """Whether any sample has a label."""
        return "label_at" in self._tables

    def key(self, i: int) -> str:
        """The key of sample i."""
        ends, keys = self._tables["key_end"], self._tables["keys"]
        start = int(ends[i - 1]) if i else 0
        return self._prefix + keys[start : int(ends[i])].tobytes().decode("utf-8", "surrogateescape")

    def find(self, key: str) -> int | None:
        """The sample of this key."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.key(middle) < key else (low, middle)
        return low if low < len(self) and self.key(low) == key else None

    def image(self, i: int) -> Member:
        """The image of sample i."""
        return self._member(i, "image")

    def label(self, i: int) -> Member | None:
        """Its label; None where it has none."""
        return None if self._tables["label_at"][i] == _NONE else self._member(i, "label")

    def unlabelled(self) -> list[int]:
        """The samples that have no label."""
        if not self.has_labels:
            return list(range(len(self)))
        return np.flatnonzero(self._tables["label_at"] == _NONE).tolist()

    def faults(self, kind: str) -> dict[int, str]:
        """Samples whose `kind` (image, label) cannot be used, with the reason, which begins with the file."""
        return {int(i): f"{self.shard}:{why}" for i, why in self._header["faults"].get(kind, {}).items()}

    def without_labels(self) -> Index:
        """The same images; where labels are is not known to it."""
        # Copies, so that the labels' tables can be forgotten.
        tables = {name: table.copy() for name, table in self._tables.items() if not name.startswith("label")}
        header = self._header | {"faults": {"image": self._header["faults"]["image"]}, "orphans": []}
        return Index(self.shard, self.state, header, tables)

    def digest(self) -> bytes:
        """SHA-256 of keys and sizes in bytes, of images and (where they are known) of labels."""
        total = hashlib.sha256(self._prefix.encode("utf-8", "surrogateescape"))
        for name in ("keys", "key_end", "image_size", "label_size"):
            if name in self._tables:
                total.update(f"\n{name}\n".encode() + self._tables[name].tobytes())
        return total.digest()

    def _member(self, i: int, kind: str) -> Member:
        ending = self._header["endings"][kind][int(self._tables[f"{kind}_ending"][i])]
        at, size = int(self._tables[f"{kind}_at"][i]) * _BLOCK, int(self._tables[f"{kind}_size"][i])
        return Member(self.shard, f"{self.key(i)}.{ending}", at, size, self.state)


def index_of(shard: Path) -> Index:
    """The index of a shard, read from its file or made. DataError as of `read_samples`."""
    state, head = _look(shard)
    places = _places(shard)
    for place in places:
        found = _unpacked(_content(place, state), shard, state, head)
        if found is not None:
            return found
    content = _packed(read_samples(shard), state, head)
    if _look(shard) != (state, head):
        raise DataError(f"{shard}: was changed while it was read; expected a finished shard. Wait until it is written")
    for place in places:
        try:
            atomic_write(place, content)
            break
        except RunError:
            # An index that cannot be kept only costs its making again.
            continue
    made = _unpacked(content, shard, state, head)
    assert made is not None
    return made


def others_of(indices: Sequence[Index]) -> list[str]:
    """A note where shards hold members that are neither image nor label; else nothing."""
    endings = sorted({ending for index in indices for ending in index.others})
    if not endings:
        return []
    total = sum(sum(index.others.values()) for index in indices)
    first = next(index.shard for index in indices if index.others)
    shown = ", ".join(f".{ending:.20}" if ending else "hidden or without an ending" for ending in endings[:5])
    more = ", ..." if len(endings) > 5 else ""
    return [f"{first}: {total} member(s) in all are neither image nor label, and left aside ({shown}{more})"]


def _look(shard: Path) -> tuple[State, str]:
    """What tells that a shard is still the one that was indexed: size, date and a digest of its first bytes."""
    try:
        with opened(shard) as file:
            return state_of(os.fstat(file.fileno())), hashlib.sha256(file.read(_HEAD)).hexdigest()
    except OSError as error:
        raise unreachable(shard, error, "a shard (a tar file)") from error
    except ValueError as error:
        raise DataError(f"{shard}: {error}; expected a shard (a tar file)") from error


def _places(shard: Path) -> list[Path]:
    """Where the index may be kept: beside the shard, else in the user's cache folder."""
    found = [shard.with_name(shard.name + SUFFIX)]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return found
    name = hashlib.sha256(os.fsencode(os.path.realpath(shard))).hexdigest()[:32]
    return [*found, cache / "segshift" / "shards" / f"{name}{SUFFIX}"]


def _content(place: Path, state: State) -> bytes:
    """The bytes of an index file; none where there is no such file, or one that is larger than its shard could need."""
    try:
        with opened(place) as file:
            return file.read() if os.fstat(file.fileno()).st_size <= state.size + 2**16 else b""
    except (OSError, ValueError):
        return b""


# --- the file --------------------------------------------------------------------------------------------------------


def _packed(contents: Contents, state: State, head: str) -> bytes:
    samples = contents.samples
    prefix = _start_of_all(list(samples))
    keys = [key[len(prefix) :].encode("utf-8", "surrogateescape") for key in samples]
    labelled = any(sample.label is not None or sample.label_fault for sample in samples.values())
    words, letters = [], []
    endings: dict[str, list[str]] = {"image": [""], "label": [""]}
    for kind in ("image", "label") if labelled else ("image",):
        extents: list[Extent | None] = [getattr(sample, kind) for sample in samples.values()]
        if max((extent.at for extent in extents if extent), default=0) // _BLOCK >= _NONE:
            raise DataError("a shard holds more than 2 TiB; expected less. Divide it into several")
        # One byte names 256 of them; only a shard made to be odd has more, in all mixtures of case.
        spelled = ["", *sorted({extent.ending for extent in extents if extent})][:256]
        known = {ending: n for n, ending in enumerate(spelled)}
        endings[kind] = spelled
        words += [
            np.array([extent.at // _BLOCK if extent else _NONE for extent in extents], "<u4"),
            # A member whose bytes are too many for an image has a fault; its size is never used.
            np.array([min(extent.size, _NONE) if extent else 0 for extent in extents], "<u4"),
        ]
        letters.append(np.array([known.get(extent.ending, 0) if extent else 0 for extent in extents], "u1"))
    words.append(np.cumsum([len(key) for key in keys], dtype="<u4"))
    header = {
        "state": list(state),
        "head": head,
        "samples": len(samples),
        "labels": labelled,
        "prefix": prefix,
        "endings": endings,
        "faults": {
            "image": {i: s.image_fault for i, s in enumerate(samples.values()) if s.image_fault},
            "label": {i: s.label_fault for i, s in enumerate(samples.values()) if s.label_fault},
        },
        "orphans": contents.orphans,
        "others": dict(contents.others),
    }
    text = json.dumps(header).encode()
    # So that the tables begin at a multiple of 4.
    text += b" " * (-len(text) % 4)
    tables = b"".join(table.tobytes() for table in [*words, *letters])
    content = b"".join((_MAGIC, len(text).to_bytes(4, "little"), text, tables, *keys))
    return content + hashlib.sha256(content).digest()


def _start_of_all(keys: Sequence[str]) -> str:
    """What all keys, which are in order, begin with."""
    first, last = (keys[0], keys[-1]) if keys else ("", "")
    return first[: next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))]


def _unpacked(content: bytes, shard: Path, state: State, head: str) -> Index | None:
    """The index of a file's content; None where that is damaged, or of another shard."""
    body, seal = content[:-32], content[-32:]
    if not content.startswith(_MAGIC) or hashlib.sha256(body).digest() != seal:
        return None
    try:
        start = len(_MAGIC) + 4
        end = start + int.from_bytes(body[start - 4 : start], "little")
        header = json.loads(body[start:end])
        if header["state"] != list(state) or header["head"] != head:
            return None
        tables = _tables(memoryview(body)[end:], header["samples"], header["labels"])
        found = Index(shard, state, header, tables)
        return found if _sound(header, tables, state) else None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _tables(body: memoryview, count: int, labelled: bool) -> dict[str, np.ndarray]:
    kinds = ("image", "label") if labelled else ("image",)
    names = [(f"{kind}_{what}", "<u4") for kind in kinds for what in ("at", "size")]
    names += [("key_end", "<u4"), *((f"{kind}_ending", "u1") for kind in kinds)]
    found, at = {}, 0
    for name, kind in names:
        found[name] = np.frombuffer(body, kind, count, at)
        at += found[name].nbytes
    found["keys"] = np.frombuffer(body, "u1", offset=at) if at < len(body) else np.zeros(0, "u1")
    return found


def _sound(header: dict[str, Any], tables: dict[str, np.ndarray], state: State) -> bool:
    """Whether every place lies in the shard, and every key and ending is there: whoever writes a file can seal it."""
    for kind in ("image", "label") if header["labels"] else ("image",):
        at, size = tables[f"{kind}_at"], tables[f"{kind}_size"].astype(np.int64)
        there = at != _NONE
        ends = at.astype(np.int64) * _BLOCK + size
        faulty = np.isin(np.arange(len(at)), [int(i) for i in header["faults"][kind]])
        if (ends[there & ~faulty] > state.size).any() or (kind == "image" and (~there & ~faulty).any()):
            return False
        if len(at) and tables[f"{kind}_ending"].max() >= len(header["endings"][kind]):
            return False
    ends = tables["key_end"].astype(np.int64)
    return bool((np.diff(ends, prepend=0) >= 0).all()) and int(ends[-1] if len(ends) else 0) == len(tables["keys"])
