"""What is in a data set, and what is wrong with it: every file is read once, every fault is named.

`check_folder` looks at a folder as it lies on disk (`segshift check`; `doctor_layout` does so for public data sets),
`check` at any data set, and `validate` stops a run before its first step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from segshift.data.dataset import ImageDataset
from segshift.data.files import IMAGE_SUFFIXES, LABEL_SUFFIXES, list_files, read_image, read_label
from segshift.data.folder import (
    classes_file,
    locate,
    read_ids,
    require_same_size,
    require_same_space,
    splits_of,
    worker_threads,
)
from segshift.data.protocols import notes_of
from segshift.errors import DataError, SegshiftError
from segshift.taxonomy import IGNORE, LabelSpace, read_classes, unnamed

if TYPE_CHECKING:
    from rich.console import Console

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
class Findings:
    """What reading every file once has shown."""

    where: str
    images: int = 0
    labels: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    """Images in each split; empty where there are no splits."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(height, width) of the images that could be read."""
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Label pixels of each id, 255 (ignored) included."""
    occurs: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    """Labels in which the id occurs."""
    space: LabelSpace | None = None
    """None where there are no labels."""
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


class _Seen(NamedTuple):
    size: tuple[int, int] | None
    pixels: np.ndarray | None
    problems: list[Problem]
    notes: list[str]


def check(dataset: ImageDataset, where: str | None = None, track: Track | None = None) -> Findings:
    """Read every image, and every label where the data set has them; `track` shows progress."""
    findings = Findings(where or repr(dataset), space=getattr(dataset, "space", None))
    label = getattr(dataset, "label", None)
    items = [
        Reading(name, name, partial(dataset.image, i), None if label is None else partial(label, i))
        for i, name in enumerate(dataset.names)
    ]
    examine(items, findings, track)
    findings.notes += notes_of(dataset)
    return findings


def validate(dataset: ImageDataset, role: str = "source", track: Track | None = None) -> Findings:
    """`check`, and one DataError that lists every fault (the first 20 by name) where there is any.

    `role` (source, target, test) begins the message. Notes are in what is returned, and stop nothing.
    """
    findings = check(dataset, track=track)
    if findings.problems:
        count = len(findings.problems)
        lines = "\n".join(f"  {problem}" for problem in findings.problems[:LISTED])
        more = f"\n  and {count - LISTED} more" if count > LISTED else ""
        raise DataError(
            f"{role}: {count} of the data set's files cannot be used; expected images and labels that can be read and"
            f" fit together. Mend or remove them, then start again:\n{lines}{more}"
        )
    return findings


def check_folder(path: Path | str, track: Track | None = None) -> Findings:
    """Read every file of a folder (all its splits), and name all that is wrong rather than stop at the first.

    Without `classes.yaml` any id is a class. Raises DataError only where there is no `images/` to look at.
    """
    root = Path(path)
    findings = Findings(str(root))
    own_images = (root / "images").is_dir()
    splits = splits_of(root) if root.is_dir() and not own_images else ()
    folders = [root / split for split in splits] or [_only_folder(root)]
    items: list[Reading] = []
    for folder in folders:
        found = _items_of(folder, findings)
        if splits:
            findings.splits[folder.name] = len(found)
        items += found
    examine(items, findings, track)
    if findings.space is None and findings.pixels[:IGNORE].any():
        findings.space = unnamed(int(np.flatnonzero(findings.pixels[:IGNORE])[-1]) + 1)
    return findings


def _only_folder(root: Path) -> Path:
    try:
        return locate(root, None)
    except DataError as error:
        inside = sorted(child.name for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
        domains = [name for name in inside if splits_of(root / name)]
        hint = f". Data sets inside it: {', '.join(domains)}: check them one by one" if domains else ""
        raise DataError(f"{error}{hint}") from error


def _items_of(folder: Path, findings: Findings) -> list[Reading]:
    """What is to be read in one split; files that do not pair up are noted as problems."""
    images, labels = list_files(folder / "images", IMAGE_SUFFIXES), list_files(folder / "labels", LABEL_SUFFIXES)
    read = _label_reader(folder, findings)
    note = findings.problems.append
    if not images:
        note(Problem(str(folder / "images"), f"holds no image; expected files named {' '.join(IMAGE_SUFFIXES)}"))
    for same in (*images.values(), *labels.values()):
        if len(same) > 1:
            note(Problem(str(same[1]), f"shares its name with {same[0].name}; expected one file of that name"))
    items = []
    for name, (image, *_) in images.items():
        label = labels.get(name, [None])[0]
        if label is None and (folder / "labels").is_dir():
            note(Problem(str(image), f"has no label; expected {folder / 'labels' / name}.png"))
        reading = None if label is None else partial(read, label)
        items.append(Reading(str(image), str(label), partial(read_image, image), reading))
    for name in labels.keys() - images.keys():
        note(Problem(str(labels[name][0]), f"is a label without an image; expected one named {name} in images/"))
    return items


def _label_reader(folder: Path, findings: Findings) -> Callable[[Path], Tensor]:
    """How a split's labels are read: against `classes.yaml`, or as they are where there is none that can be used."""
    path = classes_file(folder)
    if path is None:
        return read_label
    try:
        space, ignore = read_classes(path)
        findings.space = findings.space or space
        require_same_space(findings.space, space, str(path))
    except DataError as error:
        if not any(problem.file == str(path) for problem in findings.problems):
            findings.problems.append(Problem(str(path), str(error)))
        return read_label
    return partial(read_ids, space=space, ignore=ignore)


def examine(items: Sequence[Reading], findings: Findings, track: Track | None = None) -> None:
    """Read all items once, and add what they show to the findings."""
    with ThreadPoolExecutor(worker_threads()) as pool:
        # In the items' order, so that the findings do not depend on which thread was the fastest.
        seen_in_order = pool.map(_see, items)
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
            findings.problems += seen.problems
            findings.notes += seen.notes


def _see(item: Reading) -> _Seen:
    """Read one image and its label."""
    seen = _Seen(None, None, [], [])
    try:
        image = item.image()
        seen = seen._replace(size=(image.shape[1], image.shape[2]))
    except SegshiftError as error:
        seen.problems.append(Problem(item.image_file, str(error)))
    if item.label is None:
        return seen
    try:
        label = item.label()
        seen = seen._replace(pixels=np.bincount(label.numpy().reshape(-1), minlength=256))
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


def render(findings: Findings, console: Console) -> None:
    """Print the findings: number of images, sizes, the classes' shares, notes, and every file with a fault by name."""
    from rich.table import Table
    from rich.text import Text

    splits = ", ".join(f"{name} {count}" for name, count in findings.splits.items())
    console.print(Text(f"{findings.where}: {findings.images} images" + (f" ({splits})" if splits else "")))
    console.print(Text(f"{findings.labels} labels" if findings.labels else "no labels"))
    sizes = [f"{h}x{w} ({count})" for (h, w), count in findings.sizes.most_common(5)]
    more = f" and {len(findings.sizes) - 5} more" if len(findings.sizes) > 5 else ""
    console.print(Text(f"sizes (height x width): {', '.join(sizes)}{more}"))
    if findings.labels and findings.space is not None:
        table = Table("id", "class", "pixels", "share", "labels with it", title=None)
        for column in table.columns[2:]:
            column.justify = "right"
        for row in _class_rows(findings, findings.space):
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for note in listed(findings.notes):
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    for problem in findings.problems:
        # One line a fault however narrow the terminal: names are to be copied and searched for.
        console.print(Text(f"problem: {problem}", style="red"), soft_wrap=True)
    console.print(Text(f"{len(findings.problems)} problems" if findings.problems else "no problems", style="bold"))


def _class_rows(findings: Findings, space: LabelSpace) -> list[tuple[str, str, str, str, str]]:
    """Shares of classes are of all pixels that are not ignored; the share of ignored ones is of all."""
    labelled = max(int(findings.pixels[:IGNORE].sum()), 1)
    everything = max(int(findings.pixels.sum()), 1)
    named = [(i, name, labelled) for i, name in enumerate(space.classes)]
    unknown = [(i, "not in classes.yaml", labelled) for i in range(len(space), IGNORE) if findings.pixels[i]]
    rows = [*named, *unknown, (IGNORE, "ignored", everything)]
    return [
        (str(i), name, f"{findings.pixels[i]:,}", f"{findings.pixels[i] / total:.3%}", str(findings.occurs[i]))
        for i, name, total in rows
    ]
