"""What is to be predicted, from words: files, folders and patterns become images and videos, each with a name."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segshift.data.files import IMAGE_SUFFIXES, is_folder, list_files
from segshift.data.folder import ImageFiles, one_each
from segshift.data.intake import FileRules, Intake, nothing_left
from segshift.errors import ConfigError, DataError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


class LooseImages(ImageFiles):
    """Any images: one file, a folder of them, or a folder with `images/` in it. No labels, no classes."""

    def __init__(self, path: Path, rules: FileRules | None = None) -> None:
        root = path / "images" if is_folder(path / "images") else path
        files = list_files(root, IMAGE_SUFFIXES)
        if _is_file(path):
            files = {path.stem: [path]}
        if not files:
            raise DataError(f"{path}: holds no image; expected a file or a folder of files named {_KINDS}")
        intake = Intake(rules)
        intake.sees(files)
        super().__init__(intake.taken(one_each(files, intake)), intake)


_KINDS = " ".join(IMAGE_SUFFIXES)


class Inputs(NamedTuple):
    """Images and videos that words have come to."""

    images: ImageFiles
    """There may be none."""
    videos: Mapping[str, Path]
    """Name (without the suffix) -> file."""
    beside: tuple[Path, ...] = ()
    """Videos in folders that hold images: they are not taken."""

    @property
    def rules(self) -> FileRules:
        return self.images.rules


def gather(words: Sequence[Path | str], rules: FileRules | None = None, out: Path | None = None) -> Inputs:
    """The images and videos of files, folders (with all below them) and patterns such as `photos/**/*.jpg`.

    A name is the path without its suffix, relative to the folder, to the part of a pattern before its first wildcard,
    or to a file's own folder. A file that several words lead to is taken once. Of folders, videos are taken where they
    hold no image. What lies below `out` is passed over: it was predicted before.

    Raises ConfigError without a word; DataError for a word that leads to nothing, and for two files of one name, unless
    `rules` say to go without them.
    """
    if not words:
        raise ConfigError("there is nothing to predict; expected images, videos, folders or quoted patterns")
    found: dict[str, list[Path]] = {}
    videos: dict[str, list[Path]] = {}
    beside: list[Path] = []
    seen: set[str] = set()
    below = None if out is None else Path(os.path.realpath(out))
    for word in words:
        for name, path in _files_of(word, below, beside):
            where = os.path.realpath(path)
            if where not in seen:
                seen.add(where)
                kind = videos if path.suffix.lower() in VIDEO_SUFFIXES else found
                kind.setdefault(name, []).append(path)
    intake = Intake(rules)
    found, named = (
        dict(sorted(found.items())),
        {_file_name(name, paths): paths for name, paths in sorted(videos.items())},
    )
    intake.sees([*found, *named])
    several = len(words) > 1
    images, moving = _one_each(found, intake, several), _one_each(named, intake, several)
    kept = {name: path for name, path in images.items() if name not in intake.left_out}
    films = {name.removesuffix(path.suffix): path for name, path in moving.items() if name not in intake.left_out}
    if not kept and not films:
        raise nothing_left(intake.left_out)
    return Inputs(ImageFiles(kept, intake), films, tuple(beside))


def _file_name(name: str, paths: Sequence[Path]) -> str:
    """A video's name among those of images: with its suffix, for its output is another."""
    return name + paths[0].suffix


def _one_each(paths: Mapping[str, list[Path]], intake: Intake, several: bool) -> dict[str, Path]:
    """As `folder.one_each`; files of several folders may share a name too."""
    for name, same in paths.items():
        if several and len({path.parent for path in same}) > 1:
            files = ", ".join(map(str, same))
            intake.refuse(
                name,
                f"{files}: share the name {name}, and so their outputs; expected one file of a name. Name the folder "
                "that holds both, or predict them one after the other, each into a folder of its own (--out)",
            )
    clear = {name: same for name, same in paths.items() if name not in intake.left_out}
    return one_each(clear, intake)


def _files_of(word: Path | str, below: Path | None, beside: list[Path]) -> Iterator[tuple[str, Path]]:
    """(name, path) of what one word leads to."""
    path = Path(word)
    if is_folder(path):
        files: Iterable[tuple[str, Path]] = list(_files_in(path, below, beside))
    elif _is_file(path):
        files = [(path.stem, path)]
    elif glob.has_magic(str(word)):
        files = list(_matches(str(word), below))
    else:
        files = []
    if not files:
        kinds = " ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        what = "matches no image or video" if glob.has_magic(str(word)) and not path.exists() else "holds no image"
        raise DataError(f"{word}: {what}; expected a file, a folder of files or a pattern of files named {kinds}")
    yield from files


def _files_in(folder: Path, below: Path | None, beside: list[Path]) -> Iterator[tuple[str, Path]]:
    root = folder / "images" if is_folder(folder / "images") else folder
    images = list(_flat(list_files(root, IMAGE_SUFFIXES), below))
    videos = list(_flat(list_files(root, VIDEO_SUFFIXES), below))
    if images:
        beside += [path for _, path in videos]
    yield from images or videos


def _flat(files: Mapping[str, list[Path]], below: Path | None) -> Iterator[tuple[str, Path]]:
    for name, paths in files.items():
        yield from ((name, path) for path in paths if not _inside(path, below))


def _matches(pattern: str, below: Path | None) -> Iterator[tuple[str, Path]]:
    """Files that a pattern matches, by their path below its last folder without a wildcard."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    fixed, wild = Path(*parts[:first]), Path(*parts[first:])
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    for path in sorted(fixed.glob(str(wild))):
        if path.suffix.lower() in suffixes and path.is_file() and not _inside(path, below):
            yield path.relative_to(fixed).as_posix()[: -len(path.suffix)], path


def _is_file(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not is_folder(path))


def _inside(path: Path, below: Path | None) -> bool:
    return below is not None and below in Path(os.path.realpath(path)).parents
