"""`segshift check gta5:PATH`: a public data set as it lies on disk, all splits that are there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from segshift.data.doctor import Findings, Problem, Reading, Track, check_folder, examine
from segshift.data.files import read_image
from segshift.data.layout import Item, Layout, expected_label, label_files
from segshift.data.layouts import FOLDER, LAYOUTS, parse
from segshift.data.recognise import lookalikes
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
        known = lookalikes(Path(path))
        commands = " or ".join(f"segshift check {name}:{path}" for name in known)
        hint = f". It looks like {LAYOUTS[known[0]].title}: {commands}" if known else ""
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
        labels = label_files(root, part)
        missing = bool(part.labels) and not any((root / place.folder).is_dir() for place in part.labels)
        if missing:
            findings.notes.append(f"{root / part.labels[0].folder}: is missing: {len(inside)} images without labels")
        for item in inside:
            name = item.name.removeprefix(part.prefix)
            label = labels[name][0] if name in labels else None
            if label is None and part.labels and not missing:
                told = f"has no label; expected {expected_label(root, part, name)}"
                findings.problems.append(Problem(str(item.image), told))
            reading = None if label is None else partial(layout.read, label)
            image = partial(read_image, item.image)
            found[item.image] = Reading(str(item.image), str(label), image, reading, layout.resize_labels)
    findings.notes += layout.orphans(root, split or None)
    return found
