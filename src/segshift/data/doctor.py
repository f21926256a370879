"""What is in a data set, and what is wrong with it: every file is read once, every fault is named.

For `segshift check`, `doctor_folder` and `doctor_layout` list the files as they lie on disk, `read` reads them, and
`doctor_print` prints what it found. `check` looks at any data set, and `validate` stops a run before its first step.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from segshift.data import oddities
from segshift.data.contents import spread
from segshift.data.dataset import ImageDataset
from segshift.data.folder import require_same_size, worker_threads
from segshift.data.member import File
from segshift.data.protocols import notes_of
from segshift.data.shared_images import within
from segshift.data.sizes import Sizes
from segshift.errors import DataError, SegshiftError
from segshift.taxonomy import IGNORE, LabelSpace, unnamed

LISTED = 20
"""Faults an error names one by one, and notes that are printed; the rest are counted."""
Track = Callable[[Iterator[int], int], Iterator[int]]
"""Wraps an iterator of known length to show progress."""


class Problem(NamedTuple):
    """One fault."""

    file: str
    text: str

    def __str__(self) -> str:
        # An error's text begins with the file it is about, often by its whole path.
        return self.text if self.file in self.text.partition(": ")[0] else f"{self.file}: {self.text}"


@dataclass
class Part:
    """What reading has shown of one split."""

    images: int = 0
    labels: int = 0
    problems: int = 0
    """Faults of its images and their labels."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) of the images that could be read."""


@dataclass
class Findings:
    """What reading every file once has shown."""

    where: str
    images: int = 0
    labels: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    """Images in each split; empty where there are no splits."""
    files: dict[str, list[File]] = field(default_factory=dict)
    """Image files of each split, of "" where there are no splits; empty where a data set is not looked at on disk."""
    parts: dict[str, Part] = field(default_factory=dict)
    """Likewise of each split, of "" where there are no splits."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) of the images that could be read."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Label pixels of each id, 255 (ignored) included."""
    occurs: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Labels in which the id occurs."""
    space: LabelSpace | None = None
    """None where there are no labels."""
    named: bool = True
    """Whether the data set says what its classes are, so that those of two sets can be compared."""
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is odd but handled when the data set is used, such as a label that is resized to its image."""


class Reading(NamedTuple):
    """One image, and how to read it and its label."""

    image_file: str
    label_file: str
    image: Callable[[], Tensor]
    label: Callable[[], Tensor] | None
    resized: bool = False
    """Whether a label of another size than its image is handled: a note, no problem."""


class Listed(NamedTuple):
    """The files of a data set as they lie on disk, none of which has been read."""

    findings: Findings
    """What the list itself shows: splits, and files that do not pair up."""
    readings: list[Reading]


class _Seen(NamedTuple):
    size: tuple[int, int] | None
    pixels: np.ndarray | None
    problems: list[Problem]
    notes: list[str]
    odd: list[tuple[str, str]]
    """(what is odd, the file)."""


def check(
    dataset: ImageDataset,
    where: str | None = None,
    track: Track | None = None,
    sizes: Sizes | None = None,
    most: int | None = None,
) -> Findings:
    """Read every image, and every label where the data set has them; `track` shows progress.

    `sizes`: what a run can work on; an image of another size has a fault. None: any. `most`: the images that are read,
    evenly spread over the set; None: all. Where the set has more, a note says so.
    """
    findings = Findings(where or repr(dataset), space=getattr(dataset, "space", None))
    label = getattr(dataset, "label", None)
    chosen, names = spread(len(dataset.names), most), dataset.names
    items = [
        Reading(names[i], names[i], partial(_fitting, dataset, i, sizes), None if label is None else partial(label, i))
        for i in chosen
    ]
    examine(items, findings, track)
    findings.notes += notes_of(dataset)
    if len(chosen) < len(names):
        findings.notes.insert(0, _unread(len(chosen), len(names)))
    else:
        findings.notes += name_notes(names)
    return findings


def _unread(read: int, images: int) -> str:
    return (
        f"{read} of {images} images were read and checked, evenly spread (check = {read}); the others are first read "
        "when they are drawn, and one that cannot be used stops the run there. Names were not compared by case, nor "
        "images with each other within the set"
    )


def _fitting(dataset: ImageDataset, index: int, sizes: Sizes | None) -> Tensor:
    """An image. DataError where it cannot be read, or is of no size that a run can work on."""
    image = dataset.image(index)
    fault = "" if sizes is None else sizes.fault((image.shape[1], image.shape[2]))
    if fault:
        raise DataError(fault)
    return image


def validate(
    dataset: ImageDataset,
    role: str = "source",
    track: Track | None = None,
    sizes: Sizes | None = None,
    most: int | None = None,
) -> Findings:
    """`check`, and one DataError that lists every fault (the first 20 by name) where there is any.

    `role` (source, target, test) begins the message. Notes are in what is returned, and stop nothing.
    """
    findings = check(dataset, track=track, sizes=sizes, most=most)
    if findings.problems:
        count = len(findings.problems)
        lines = "\n".join(f"  {problem}" for problem in findings.problems[:LISTED])
        more = f"\n  and {count - LISTED} more" if count > LISTED else ""
        raise DataError(
            f"{role}: {count} of the data set's files cannot be used; expected images and labels that can be read and"
            " fit together. Mend or remove them, or leave them out with --on-bad-file skip, then start again:\n"
            f"{lines}{more}"
        )
    return findings


def read(listing: Listed, track: Track | None = None) -> Findings:
    """Read every listed file once, and compare the images' bytes; `track` shows progress.

    Where the classes have no names, any id is one.
    """
    findings = listing.findings
    parts: dict[str, list[Part]] = {}
    for split, files in findings.files.items():
        findings.parts[split] = Part()
        for file in files:
            parts.setdefault(str(file), []).append(findings.parts[split])
    for problem in findings.problems:
        for part in parts.get(problem.file, ()):
            part.problems += 1
    examine(listing.readings, findings, track, parts)
    if findings.space is None and findings.pixels[:IGNORE].any():
        findings.space = unnamed(int(np.flatnonzero(findings.pixels[:IGNORE])[-1]) + 1)
        findings.named = False
    shared = within(findings.files)
    findings.problems += [Problem(str(path), text) for path, text in shared.leaks]
    findings.notes += shared.notes
    return findings


def name_notes(names: Sequence[str], where: str = "") -> list[str]:
    """A note for each group of names that some file systems take for one; `where` begins it."""
    return [
        f"{where}{', '.join(same)}: differ by case, or by how accents are coded, alone: one overwrites the other where "
        "a file system takes them for the same name"
        for same in oddities.clashes(names)
    ]


def examine(
    items: Sequence[Reading],
    findings: Findings,
    track: Track | None = None,
    parts: Mapping[str, Sequence[Part]] | None = None,
) -> None:
    """Read all items once, and add what they show to the findings, and to the `parts` of an item's image file."""
    parts = parts or {}
    odd: dict[str, list[str]] = {}
    # In the items' order, so that the findings do not depend on which thread was the fastest.
    with closing(_ahead(items)) as seen_in_order:
        indices = iter(range(len(items)))
        for index in track(indices, len(items)) if track else indices:
            seen = next(seen_in_order)
            findings.images += 1
            findings.labels += items[index].label is not None
            if seen.size is not None:
                findings.sizes[seen.size] += 1
            if seen.pixels is not None:
                findings.pixels += seen.pixels
                findings.occurs += seen.pixels > 0
            for part in parts.get(items[index].image_file, ()):
                part.images += 1
                part.labels += items[index].label is not None
                part.problems += len(seen.problems)
                part.sizes.update([] if seen.size is None else [seen.size])
            findings.problems += seen.problems
            findings.notes += seen.notes
            for text, file in seen.odd:
                odd.setdefault(text, []).append(file)
    findings.notes += oddities.notes(odd)


def _ahead(items: Sequence[Reading]) -> Generator[_Seen]:
    """What each item shows, in order, read by several threads that run only a few items ahead.

    So that little is held in memory, and whoever interrupts does not wait for thousands of files.
    """
    threads = worker_threads()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Seen]] = deque()
        for item in items:
            waiting.append(pool.submit(_see, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _see(item: Reading) -> _Seen:
    """Read one image and its label."""
    seen = _Seen(None, None, [], [], [])
    try:
        image = item.image()
        seen = seen._replace(size=(image.shape[1], image.shape[2]))
        seen.odd.extend((text, item.image_file) for text in oddities.of_image(image))
    except SegshiftError as error:
        seen.problems.append(Problem(item.image_file, str(error)))
    if item.label is None:
        return seen
    try:
        label = item.label()
        pixels = np.bincount(label.numpy().reshape(-1), minlength=256)
        seen = seen._replace(pixels=pixels)
        seen.odd.extend((text, item.label_file) for text in oddities.of_label(pixels))
        found = (label.shape[0], label.shape[1])
        if seen.size is not None and seen.size != found and item.resized:
            sizes = f"is {found[0]}x{found[1]} pixels (height x width), its image {seen.size[0]}x{seen.size[1]}"
            seen.notes.append(f"{item.label_file}: {sizes}: the label is resized when it is used (nearest pixel)")
        elif seen.size is not None:
            require_same_size(item.label_file, found, item.image_file, seen.size)
    except SegshiftError as error:
        # A data set that compares the sizes itself stumbles over an unreadable image a second time.
        if not any(str(error) == known.text for known in seen.problems):
            seen.problems.append(Problem(item.label_file, str(error)))
    return seen


def listed(notes: Sequence[str]) -> list[str]:
    """The first notes, and a line that counts the rest."""
    more = len(notes) - LISTED
    return [*notes[:LISTED], *([f"and {more} more such notes"] if more > 0 else [])]
