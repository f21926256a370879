"""`segshift check DIR`: a folder in the generic layout as it lies on disk, all its splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from segshift.data.doctor import Findings, Listed, Problem, Reading, Track, name_notes, read
from segshift.data.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAX_PIXELS,
    is_folder,
    list_files,
    read_image,
    read_label,
)
from segshift.data.folder import classes_file, locate, read_ids, require_same_space, splits_of
from segshift.data.oddities import alias, count
from segshift.errors import DataError
from segshift.paths import fault
from segshift.taxonomy import read_classes

Paths = Mapping[str, list[Path]]


def check_folder(path: Path | str, track: Track | None = None, max_pixels: int = MAX_PIXELS) -> Findings:
    """Read every file of a folder (all its splits), and name all that is wrong rather than stop at the first.

    Raises DataError only where there is no `images/` to look at.
    """
    return read(list_folder(path, max_pixels), track)


def list_folder(path: Path | str, max_pixels: int = MAX_PIXELS) -> Listed:
    """The files of a folder, by split; images and labels of more than `max_pixels` will be refused.

    Without `classes.yaml` any id is a class. Raises DataError where there is no `images/` to look at.
    """
    root = Path(path)
    findings = Findings(str(root))
    own_images = is_folder(root / "images")
    splits = splits_of(root) if is_folder(root) and not own_images else ()
    folders = [root / split for split in splits] or [_only_folder(root)]
    readings: list[Reading] = []
    for folder in folders:
        found = _readings_of(folder, findings, max_pixels)
        findings.files[folder.name if splits else ""] = [Path(reading.image_file) for reading in found]
        if splits:
            findings.splits[folder.name] = len(found)
        readings += found
    if splits:
        findings.problems += [
            Problem(str(child), "holds labels/ but no images/; expected both, as its name is that of a split")
            for child in sorted(root.iterdir())
            if child.name not in splits and not child.name.startswith(".") and is_folder(child / "labels")
        ]
    return Listed(findings, readings)


def _only_folder(root: Path) -> Path:
    try:
        return locate(root, None)
    except DataError as error:
        domains = [child for child in sorted(root.iterdir()) if _is_domain(child)] if is_folder(root) else []
        names = ", ".join(child.name for child in domains)
        hint = f". Data sets inside it: {names}: segshift check {' '.join(map(str, domains))}" if domains else ""
        raise DataError(f"{error}{hint}") from error


def _is_domain(folder: Path) -> bool:
    """Whether a folder holds splits; one that cannot be looked into is none, for it would not help to name it."""
    try:
        return is_folder(folder) and bool(splits_of(folder))
    except DataError:
        return False


def _readings_of(folder: Path, findings: Findings, max_pixels: int) -> list[Reading]:
    """What is to be read in one split; files that do not pair up are noted as problems."""
    images, files = _listed(folder / "images", IMAGE_SUFFIXES, findings), {}
    if is_folder(folder / "labels"):
        files = _listed(folder / "labels", IMAGE_SUFFIXES, findings)
    labels = {name: kept for name, same in (files or {}).items() if (kept := [p for p in same if _may_be_label(p)])}
    if images is None:
        return []
    if not images:
        text = f"holds no image; expected files named {' '.join(IMAGE_SUFFIXES)}"
        findings.problems.append(Problem(str(folder / "images"), text))
    for same in (*images.values(), *labels.values()):
        if len(same) > 1:
            text = f"shares its name with {same[0].name}; expected one file of that name"
            findings.problems.append(Problem(str(same[1]), text))
    reader = _label_reader(folder, findings, max_pixels)
    readings = []
    for name, (image, *_) in images.items():
        label = labels.get(name, [None])[0]
        reading = None if label is None else partial(reader, label)
        image_reader = partial(read_image, image, max_pixels=max_pixels)
        readings.append(Reading(str(image), str(label), image_reader, reading))
    # A folder of labels that could not be listed is one problem, not one an image.
    if files is not None and is_folder(folder / "labels"):
        findings.problems += _unpaired(folder, images, labels, files)
    findings.problems += [
        Problem(str(same[0]), f"its name {why}; expected one that its label can bear too: rename it")
        for name, same in images.items()
        if (why := fault(name))
    ]
    findings.notes += [*name_notes(list(images), f"{folder / 'images'}: "), *_left_aside(folder, images, files or {})]
    return readings


def _listed(folder: Path, suffixes: tuple[str, ...], findings: Findings) -> Paths | None:
    """`list_files`; None and a problem where the folder, or one below, cannot be listed."""
    try:
        return list_files(folder, suffixes)
    except DataError as error:
        findings.problems.append(Problem(str(folder), str(error)))
        return None


def _unpaired(folder: Path, images: Paths, labels: Paths, files: Paths) -> list[Problem]:
    """Images without a label, and labels without an image. `files`: all that lies in `labels/`, other kinds too."""
    aliases = {alias(name): same[0] for name, same in labels.items() if name not in images}
    alone = [(name, same[0]) for name, same in images.items() if name not in labels]
    without = [
        Problem(
            str(image),
            f"has no label; expected {folder / 'labels' / name}.png{_near(files.get(name), aliases.get(alias(name)))}",
        )
        for name, image in alone
    ]
    left = [(name, same[0]) for name, same in labels.items() if name not in images]
    text = "is a label without an image; expected one named"
    return without + [Problem(str(label), f"{text} {name} in images/") for name, label in left]


def _may_be_label(path: Path) -> bool:
    return path.suffix.lower() in LABEL_SUFFIXES


def _near(other: list[Path] | None, alike: Path | None) -> str:
    """A hint at the file that may have been meant."""
    if other:
        return f"; {other[0].name} is not read, for labels are PNG: JPEG and the like change ids"
    return f"; {alike.name} differs by case, or by how accents are coded: rename it" if alike else ""


def _left_aside(folder: Path, images: Paths, files: Paths) -> list[str]:
    """Notes of files that nothing reads: of other endings in `images/`, and labels (in `files`) that are no PNG."""
    unknown = [
        str(path)
        for path in sorted((folder / "images").rglob("*"))
        if path.suffix.lower() not in IMAGE_SUFFIXES and _seen(path, folder) and path.is_file()
    ]
    no_png = [str(path) for name in images for path in files.get(name, ()) if not _may_be_label(path)]
    told = (
        (unknown, "has no ending of an image, and is left aside"),
        (no_png, "is no PNG, and is not read as a label"),
    )
    return [f"{found[0]}: {text}; {count(found)}" for found, text in told if found]


def _seen(path: Path, folder: Path) -> bool:
    """Whether no part of the path below the folder is hidden."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _label_reader(folder: Path, findings: Findings, max_pixels: int) -> Callable[[Path], Tensor]:
    """How a split's labels are read: against `classes.yaml`, or as they are where there is none that can be used."""
    path = classes_file(folder)
    plain = partial(read_label, max_pixels=max_pixels)
    if path is None:
        return plain
    try:
        space, ignore = read_classes(path)
        findings.space = findings.space or space
        require_same_space(findings.space, space, str(path))
    except DataError as error:
        if not any(problem.file == str(path) for problem in findings.problems):
            findings.problems.append(Problem(str(path), str(error)))
        return plain
    return partial(read_ids, space=space, ignore=ignore, max_pixels=max_pixels)
