"""Which shards a text names: a folder, a pattern, or a list of them, on one disk or on several.

    DIR                             DIR/*.tar, or of a split DIR/SPLIT/*.tar
    DIR/city-{000000..000099}.tar   a pattern: {a,b}, {000..099} (every number must be there), *, ? and [...]
    LIST.txt                        a file of such names, one a line, relative to its folder; # begins a comment

Anywhere in the text, `{split}` stands for the split's name: `/disk{0,1}/city/{split}-*.tar`. A text without it that is
no folder has no splits: all of it is training images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segshift.data.files import is_folder
from segshift.data.folder import classes_file
from segshift.data.image_header import unreachable
from segshift.errors import DataError
from segshift.paths import fault
from segshift.taxonomy import read_classes

SPLIT = "{split}"
_USUAL = ("train", "val", "test")
"""Splits that are looked for where the text itself cannot be asked which there are."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
_WORDS = re.compile(r"[^a-z]+")
_PACKED = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def find_shards(text: str, split: str | None) -> tuple[Path, ...]:
    """The shards of a split, in the order of their images' names. DataError where one is missing, or there is none."""
    if "://" in text or text.startswith("pipe:"):
        raise DataError(f"{text}: is an address; expected shards in a file system. Mount what holds them, or copy them")
    if SPLIT in text:
        if split is None:
            there = ", ".join(splits_in(text)) or "none"
            raise DataError(f"{text}: no split is named; expected one in the place of {SPLIT}. Splits found: {there}")
        shards = _named(text.replace(SPLIT, split))
    elif is_folder(Path(text)):
        shards = _of_folder(Path(text), split)
    elif split is None or split.casefold() == "train":
        shards = _named(text)
    else:
        raise DataError(
            f"{text}: has no split {split!r}, for all its shards are training images; expected a folder with a folder "
            f"of shards for each split, or a name with {SPLIT} in it, such as DIR/{SPLIT}-*.tar"
        )
    return _in_order(shards)


def splits_in(text: str) -> tuple[str, ...]:
    """Names of the splits that are there; of a text with `{split}`, those called train, val and test."""
    if SPLIT not in text:
        root = Path(text)
        if not is_folder(root):
            return ()
        return tuple(sorted(child.name for child in root.iterdir() if is_folder(child) and _tars(child)))
    return tuple(split for split in _USUAL if _is_there(text.replace(SPLIT, split)))


def holds_shards(folder: Path) -> bool:
    """Whether there are shards in a folder, or in a folder in it."""
    return is_folder(folder) and (bool(_tars(folder)) or bool(splits_in(str(folder))))


def declared_classes(text: str, split: str | None) -> Path | None:
    """The `classes.yaml` of a split's shards; None where they have none. DataError as of both functions it joins."""
    return classes_beside(find_shards(text, split), text)


def classes_beside(shards: tuple[Path, ...], text: str) -> Path | None:
    """The `classes.yaml` beside the shards, beside the file that lists them, or one folder up.

    DataError where there are several, of shards on several disks, that do not name the same classes.
    """
    listed = Path(text)
    folders = [listed.parent] if listed.suffix == ".txt" else []
    folders += list(dict.fromkeys(shard.parent for shard in shards))
    found = list(dict.fromkeys(path for folder in folders if (path := classes_file(folder)) is not None))
    for other in found[1:]:
        (one, ignore), (two, other_ignore) = read_classes(found[0]), read_classes(other)
        if (one.classes, ignore) != (two.classes, other_ignore):
            raise DataError(
                f"{other}: names other classes than {found[0]}, and both are of these shards; expected the same in both"
            )
    return found[0] if found else None


def _is_there(text: str) -> bool:
    try:
        return bool(_named(text))
    except DataError:
        return False


def _of_folder(root: Path, split: str | None) -> list[Path]:
    own = _tars(root)
    if split is not None and is_folder(root / split) and (inside := _tars(root / split)):
        return inside
    if own and (split is None or split.casefold() == "train"):
        words = {word for shard in own for word in _WORDS.split(shard.stem.casefold())}
        if len(named := [usual for usual in _USUAL if usual in words]) > 1:
            raise DataError(
                f"{root}: holds shards of several splits, by their names ({', '.join(named)}); expected to be told "
                f"where the split stands: shards:{root}/{SPLIT}-*.tar, or as they are called"
            )
        return own
    there = ", ".join(splits_in(str(root))) or "none"
    if own:
        raise DataError(f"{root}: has no split {split!r}, it holds shards itself. Splits found: {there}")
    packed = next((path for path in sorted(root.iterdir()) if path.name.endswith(_PACKED)), None)
    if packed is not None:
        raise _not_plain(packed)
    what = "holds no shard" if split is None else f"has no split {split!r}, and holds no shard itself"
    raise DataError(f"{root}: {what}; expected files named .tar. Splits found: {there}")


def _named(text: str) -> list[Path]:
    """The shards of a folder, a list or a pattern."""
    path = Path(text)
    if is_folder(path):
        return _of_folder(path, None)
    if path.suffix == ".txt":
        return _of_list(path)
    found: list[Path] = []
    for name in expanded(text):
        matches = [Path(name)] if Path(name).exists() else _matches(name)
        if not matches:
            raise DataError(f"{name}: does not exist; expected a shard (a tar file) there")
        found += matches
    for shard in found:
        if shard.suffix.lower() != ".tar":
            raise _not_plain(shard)
    return found


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern)
    found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    return sorted(match for match in found if not match.name.startswith("."))


def _of_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError):
            raise unreachable(path, error, "a file that lists shards, one a line") from error
        raise DataError(f"{path}: is no text; expected the names of shards, one a line") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise DataError(f"{path}: names no shard; expected one a line")
    for name in names:
        if name.endswith(".txt"):
            raise DataError(f"{path}: lists {name}, another list; expected shards, files named .tar")
    return [shard for name in names for shard in _named(str(path.parent / Path(name).expanduser()))]


def expanded(text: str) -> Iterator[str]:
    """Each name that braces stand for: {a,b} is a, then b; {08..11} is 08, 09, 10, 11. They are not nested."""
    match = next((found for found in _BRACES.finditer(text) if _choices(found[1]) is not None), None)
    if match is None:
        yield text
        return
    for choice in _choices(match[1]) or ():
        for rest in expanded(text[match.end() :]):
            yield text[: match.start()] + choice + rest


def _choices(inside: str) -> Iterator[str] | list[str] | None:
    numbers = _NUMBERS.fullmatch(inside)
    if numbers is not None:
        first, last = numbers[1], numbers[2]
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        return (f"{n:0{width}d}" for n in range(int(first), int(last) + 1))
    return inside.split(",") if "," in inside else None


def _tars(folder: Path) -> list[Path]:
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise unreachable(folder, error, "a folder of shards") from error
    return [path for path in names if path.suffix.lower() == ".tar" and not path.name.startswith(".")]


def _in_order(shards: list[Path]) -> tuple[Path, ...]:
    """The shards in the order of their images' names, which begin with theirs."""
    by_stem: dict[str, Path] = {}
    for shard in shards:
        if why := fault(shard.stem):
            raise DataError(f"{shard}: its name {why}; expected one that folders can bear: rename it")
        other = by_stem.setdefault(shard.stem, shard)
        if other is not shard:
            same = "is named twice" if other == shard else f"has the name of {other}"
            raise DataError(
                f"{shard}: {same}; expected shards of different names, as those of their images begin with it. Rename "
                "one, or name it once"
            )
    return tuple(by_stem[stem] for stem in sorted(by_stem, key=lambda stem: f"{stem}/"))


def _not_plain(shard: Path) -> DataError:
    if shard.name.endswith(_PACKED):
        return DataError(
            f"{shard}: is compressed, so no image in it can be reached without unpacking those before it; expected a "
            "plain tar file. Unpack it once (gunzip, unxz, unzstd)"
        )
    return DataError(f"{shard}: expected a shard, a file named .tar; or a file named .txt that lists shards")
