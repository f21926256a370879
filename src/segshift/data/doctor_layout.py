"""`segshift check gta5:PATH`: a public data set as it lies on disk, all splits that are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from segshift.data.doctor import Findings, Listed, Problem, Reading, Track, name_notes, read
from segshift.data.doctor_folder import list_folder
from segshift.data.doctor_hf import list_hf
from segshift.data.doctor_shards import list_shards
from segshift.data.files import MAX_PIXELS, is_folder, read_image
from segshift.data.intake import FileRules, Intake
from segshift.data.layout import Item, Layout, expected_label, label_files
from segshift.data.layouts import FOLDER, HF, LAYOUTS, SHARDS, parse
from segshift.data.recognise import lookalikes
from segshift.data.shard_paths import holds_shards
from segshift.errors import ConfigError, DataError


def check_data(text: str, track: Track | None = None, max_pixels: int = MAX_PIXELS) -> Findings:
    """Read every file of LAYOUT:PATH, or of a folder in the generic layout, and name all that is wrong.

    Raises DataError where there is nothing to look at; a public data set named without its layout is recognised.
    """
    return read(list_data(text, max_pixels), track)


def list_all(texts: Sequence[str], max_pixels: int = MAX_PIXELS) -> dict[str, Listed]:
    """The files of several data sets, by what they were called: all are found before any is read.

    ConfigError where none is named, or one twice, or no pixel is allowed; DataError as of `list_data`.
    """
    if not texts:
        raise ConfigError("check: no data set is named; expected at least one, such as: segshift check gta5:DIR")
    if max_pixels < 1:
        raise ConfigError(f"max_pixels = {max_pixels}; expected at least 1, the pixels that an image may hold")
    known: dict[tuple[str, str], str] = {}
    for text in texts:
        name, path = parse(text)
        place = (name, os.path.realpath(path))
        if place in known:
            raise ConfigError(f"check: {known[place]} and {text} are the same data set; expected each once")
        known[place] = text
    return {text: list_data(text, max_pixels) for text in texts}


def list_data(text: str, max_pixels: int = MAX_PIXELS) -> Listed:
    """The files of LAYOUT:PATH, or of a folder in the generic layout; larger images than `max_pixels` will be refused.

    DataError where there is nothing to look at.
    """
    name, path = parse(text)
    if name == SHARDS:
        return list_shards(path, max_pixels)
    if name == HF:
        return list_hf(path, max_pixels)
    if name != FOLDER:
        return list_layout(LAYOUTS[name], path, max_pixels)
    try:
        return list_folder(path, max_pixels)
    except DataError as error:
        if holds_shards(Path(path)):
            raise DataError(f"{error}. It holds shards: segshift check {SHARDS}:{path}") from error
        known = lookalikes(Path(path))
        commands = " or ".join(f"segshift check {name}:{path}" for name in known)
        hint = f". It looks like {LAYOUTS[known[0]].title}: {commands}" if known else ""
        raise DataError(f"{error}{hint}") from error


def list_layout(layout: Layout, path: Path | str, max_pixels: int = MAX_PIXELS) -> Listed:
    """The files of a public data set, each once, also where several splits share it.

    Labels left over or not there at all are notes. DataError where no split is there.
    """
    root = Path(path)
    splits = layout.splits_in(root) if layout.splits else ("",)
    if not splits or not is_folder(root):
        layout.find(root, layout.splits[0] if layout.splits else None, labelled=False)
    findings = Findings(f"{layout.title} in {root}", space=layout.space)
    readings: dict[Path, Reading] = {}
    for split in splits:
        # Files that cannot be told apart are left out here, and named, so that the rest is still looked at.
        intake = Intake(FileRules(max_pixels, "skip"))
        try:
            items = layout.find(root, split or None, labelled=False, intake=intake)
            new = [item for item in items if item.image not in readings]
            readings |= _pair(layout, root, split, new, findings, max_pixels) if new else {}
        except DataError as error:
            findings.problems.append(Problem(str(root), str(error)))
            continue
        if split:
            findings.splits[split] = len(items)
        findings.files[split] = [item.image for item in items]
        told = {problem.text for problem in findings.problems}
        findings.problems += [Problem(str(root), why) for why in intake.left_out.values() if why not in told]
        findings.notes += name_notes([item.name for item in new], f"{root}: ")
    return Listed(findings, list(readings.values()))


def _pair(
    layout: Layout, root: Path, split: str, items: list[Item], findings: Findings, max_pixels: int
) -> dict[Path, Reading]:
    """How each image of a split and its label are read; what does not pair up is told."""
    found: dict[Path, Reading] = {}
    for part in layout.parts[split]:
        inside = [item for item in items if item.name.startswith(part.prefix)]
        labels = label_files(root, part)
        missing = bool(part.labels) and not any(is_folder(root / place.folder) for place in part.labels)
        if missing:
            findings.notes.append(f"{root / part.labels[0].folder}: is missing: {len(inside)} images without labels")
        for item in inside:
            name = item.name.removeprefix(part.prefix)
            label = labels[name][0] if name in labels else None
            if label is None and part.labels and not missing:
                told = f"has no label; expected {expected_label(root, part, name)}"
                findings.problems.append(Problem(str(item.image), told))
            reading = None if label is None else partial(layout.read, label, max_pixels)
            image = partial(read_image, item.image, max_pixels)
            found[item.image] = Reading(str(item.image), str(label), image, reading, layout.resize_labels)
    findings.notes += layout.orphans(root, split or None)
    return found
