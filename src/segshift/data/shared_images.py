"""The same image in two places: a leak where one of them is scored, and odd where it stands twice in one split.

Images are compared by their files' bytes (`segshift.data.contents`), so one that was compressed anew is not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import combinations
from typing import NamedTuple

from segshift.data.contents import alike
from segshift.data.member import File

Splits = Mapping[str, Sequence[File]]
"""Image files by split; "" where there are no splits. A file may be in several."""
_SHOWN = 3


class Shared(NamedTuple):
    """Images that stand in several places."""

    leaks: list[tuple[File, str]]
    """A file, and what is wrong with it."""
    notes: list[str]


def held_out(split: str) -> bool:
    """Whether a split, by its name, is for scoring: test, val, Rio/Test, fog/val, validation, testing ..."""
    return any(part.startswith(("test", "val")) for part in split.casefold().split("/"))


def within(splits: Splits) -> Shared:
    """The images that a data set has more than once.

    In two splits of which one is held out, it is a leak; else a note. What several splits share by listing the same
    file (fog/val and val) is none of either.
    """
    of = _places(splits)
    leaks: list[tuple[File, str]] = []
    notes: list[str] = []
    for same in alike(of):
        # One file of each combination of splits speaks for all of them: thousands of blank images may be alike.
        first: dict[Set[str], File] = {}
        for path in same:
            first.setdefault(frozenset(of[path]), path)
        pair = next((pair for pair in combinations(first, 2) if _leak(*pair)), None)
        if pair is None:
            notes.append(f"{same[0]}: holds the same bytes as {_listed(same[1:])}: the image counts {len(same)} times")
            continue
        scored, other = (first[splits] for splits in sorted(pair, key=_scored, reverse=True))
        leaks.append((scored, _leaked(f"split {of[scored][0]}", other, f"split {of[other][0]}", len(same))))
    return Shared(leaks, notes)


def between(sets: Mapping[str, Splits]) -> list[tuple[File, str]]:
    """Leaks between data sets, by what these are called: images that more than one of them has."""
    of: dict[File, dict[str, str]] = {}
    for where, splits in sets.items():
        for path, names in _places(splits).items():
            of.setdefault(path, {})[where] = f"split {names[0]} of {where}" if names[0] else where
    groups = alike(of)
    grouped = {path for same in groups for path in same}
    # Data sets may also list the very same file.
    groups += [(path,) for path, where in of.items() if len(where) > 1 and path not in grouped]
    found = []
    for same in groups:
        places = [(where, path) for path in same for where in of[path]]
        first = places[0]
        other = next((place for place in places if place[0] != first[0]), None)
        if other is not None:
            (where, path), (its, original) = other, first
            found.append((path, _leaked(of[path][where], original, of[original][its], len(places))))
    return found


def _places(splits: Splits) -> dict[File, list[str]]:
    """The splits that each file is in."""
    of: dict[File, list[str]] = {}
    for split, paths in splits.items():
        for path in paths:
            of.setdefault(path, []).append(split)
    return of


def _leak(one: Set[str], other: Set[str]) -> bool:
    return not one & other and (_scored(one) or _scored(other))


def _scored(splits: Set[str]) -> bool:
    return any(map(held_out, splits))


def _leaked(place: str, other: File, its_place: str, count: int) -> str:
    more = f", and {count - 2} more such file(s)" if count > 2 else ""
    return (
        f"in {place}, holds the same bytes as {other} in {its_place}{more}: a figure would be that of an image already "
        "seen; expected each image in one place. Delete all but one"
    )


def _listed(paths: Sequence[File]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(map(str, paths[:_SHOWN])) + (f" and {more} more" if more > 0 else "")
