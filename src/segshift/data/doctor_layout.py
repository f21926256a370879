"""`segshift check gta5:PATH`: a public data set as it lies on disk, all splits that are there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from segshift.data.doctor import Findings, Problem, Reading, Track, check_folder, examine
from segshift.data.files import LABEL_SUFFIXES, list_files, read_image
from segshift.data.layout import Item, Layout, Part
from segshift.data.layouts import FOLDER, LAYOUTS, parse
from segshift.data.open_data import lookalikes
from segshift.errors import DataError


def check_data(text: str, track: Track | None = None) -> Findings:
    """Read every file of LAYOUT:PATH, or of a folder in the generic layout, and name all that is wrong.

    Raises DataError where there is nothing to look at; a public data set named without its layout is recognised.
    """
    name, path = parse(text)
    if name != FOLDER:
        return check_layout(LAYOUTS[name], path, track)
    try:
        return check_folder(path, track)
    except DataError as error:
        known = [f"segshift check {name}:{path}" for name in lookalikes(Path(path))]
        hint = f". It looks like {LAYOUTS[lookalikes(Path(path))[0]].title}: {' or '.join(known)}" if known else ""
        raise DataError(f"{error}{hint}") from error


def check_layout(layout: Layout, path: Path | str, track: Track | None = None) -> Findings:
    """Read every file of a public data set once, also where several splits share it.

    Labels that are resized, left over or not there at all are notes. DataError where no split is there.
    """
    root = Path(path)
    splits = layout.splits_in(root) if layout.splits else ("",)
    if not splits or not root.is_dir():
        layout.find(root, layout.splits[0] if layout.splits else None, labelled=False)
    findings = Findings(f"{layout.title} in {root}", space=layout.space)
    readings: dict[Path, Reading] = {}
    for split in splits:
        try:
            items = layout.find(root, split or None, labelled=False)
        except DataError as error:
            findings.problems.append(Problem(str(root), str(error)))
            continue
        if split:
            findings.splits[split] = len(items)
        new = [item for item in items if item.image not in readings]
        readings |= _pair(layout, root, split, new, findings) if new else {}
    examine(list(readings.values()), findings, track)
    return findings


def _pair(layout: Layout, root: Path, split: str, items: list[Item], findings: Findings) -> dict[Path, Reading]:
    """How each image of a split and its label are read; what does not pair up is told."""
    found: dict[Path, Reading] = {}
    for part in layout.parts[split]:
        inside = [item for item in items if item.name.startswith(part.prefix)]
        labels = _labels(root, part)
        missing = bool(part.labels) and not any((root / place.folder).is_dir() for place in part.labels)
        if missing:
            findings.notes.append(f"{root / part.labels[0].folder}: is missing: {len(inside)} images without labels")
        for item in inside:
            label = labels.get(item.name)
            if label is None and part.labels and not missing:
                findings.problems.append(
                    Problem(str(item.image), f"has no label; expected {_expected(root, part, item)}")
                )
            reading = None if label is None else partial(layout.read, label)
            image = partial(read_image, item.image)
            found[item.image] = Reading(str(item.image), str(label), image, reading, layout.resize_labels)
    orphans = layout.orphans(root, split or None)
    if orphans:
        findings.notes.append(f"{orphans[0]}: has no image; {len(orphans)} such label(s) in all, left aside")
    return found


def _labels(root: Path, part: Part) -> Mapping[str, Path]:
    """Label files by the name of their image, those of the first place first."""
    found: dict[str, Path] = {}
    for place in part.labels:
        for name, paths in list_files(root / place.folder, LABEL_SUFFIXES).items():
            if name.endswith(place.end):
                found.setdefault(part.prefix + name.removesuffix(place.end), paths[0])
    return found


def _expected(root: Path, part: Part, item: Item) -> str:
    name = item.name.removeprefix(part.prefix)
    return " or ".join(str(root / place.folder / f"{name}{place.end}.png") for place in part.labels)
