"""Names that come from others: where a name may lead, and how a text may look on a terminal."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from segshift.errors import DataError


def inside(folder: Path, name: str, suffix: str = "") -> Path:
    """`folder/name` with `suffix` added to the last part, where `name` is a relative path that stays in the folder.

    Parts are divided by "/". Both systems' tricks are refused on either: absolute names, drives, "..", names of
    dots and spaces alone, and names no file can have (empty, with NUL, with half a surrogate). Raises DataError.

    Only the name is looked at. A link that lies in the folder was put there by whoever made the folder; it is followed.
    """
    why = fault(name)
    if why:
        raise DataError(
            f"{folder}: the name {name!r:.200} {why}; expected a relative path to a file below the "
            "folder, with / between its parts: correct the list that names it"
        )
    path = Path(folder, name)
    return path.with_name(path.name + suffix)


def fault(name: str) -> str:
    """Why a name cannot be used below a folder, in words that follow it; empty where it can."""
    seen = PureWindowsPath(name)  # knows both separators, and what no other system calls a drive
    if "\0" in name:
        return "holds a NUL character"
    if seen.drive or seen.root:
        return "is absolute"
    # Windows drops dots and spaces at the end of a part, so that ".. " is "..".
    if any(not part.strip(" .") for part in seen.parts):
        return "has a part of dots or spaces alone"
    if not seen.parts:
        return "is empty"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return "holds characters that no file name can have"
    return ""


def printable(text: str) -> str:
    """The text with everything that has no shape of its own as escapes; newlines and spaces stay.

    A file may be called what clears a terminal, moves its cursor, or shows the letters after it in reverse: control
    characters, direction marks, what else is invisible, and halves of surrogates are written `\\x1b`, `\\u202e`,
    `\\udcff`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
