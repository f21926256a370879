"""Classes of two label spaces brought to common ones by one YAML: merged, dropped, renamed, reordered.

    classes: [road, building, vehicle]      # the common classes, in the order of their ids
    source:                                 # classes of the source's data that have other names
      house: building                       # CLASS: COMMON renames
      vehicle: [car, truck]                 # COMMON: [CLASS, ...] merges
      drop: [sky, pole]                     # pixels of these are ignored (255)
    target:
      car: vehicle
      "*": drop                             # every class that is not named here, nor common, is ignored

A class that has the name of a common one needs no line. One that has not, and is not named, is an error: nothing is
dropped without a word. `target: same` takes the source's lines; a side that is left out has the common classes by their
names. In place of a name stands a number where the data has none: the id in its labels. An entry of `classes` may carry
a colour, `{name: road, color: [128, 64, 128]}`, and `subsets: {static: [road, building]}` names groups of them over
which a mean IoU is reported too.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from segshift.data.dataset import LabelledDataset
from segshift.data.protocols import Renumbered
from segshift.errors import DataError
from segshift.taxonomy import (
    CAMVID,
    CITYSCAPES,
    MAX_CLASSES,
    LabelSpace,
    color_of,
    distinct_colors,
    id_table,
    read_yaml,
    shown,
    subset_ids,
    text_of,
)

Side = Literal["source", "target"]
DROP = "drop"
REST = "*"
SAME = "same"
_OTHER: dict[Side, Side] = {"source": "target", "target": "source"}
_KEYS = ("name", "classes", "subsets", *get_args(Side))


@dataclass(frozen=True)
class Lines:
    """What a class map says of one side's classes."""

    named: Mapping[str | int, str]
    """Class of the data (its name, or its id) -> common class, or `DROP`."""
    drops_rest: bool = False
    """Whether classes that are neither named nor common are dropped."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Common classes, and what becomes of each side's own."""

    file: str
    space: LabelSpace
    """The common classes."""
    sides: Mapping[Side, Lines]

    def table(self, side: Side, own: LabelSpace, what: str) -> np.ndarray:
        """(256,) uint8: an id of `own` -> that of the common class, or 255. `what` names the data in messages.

        DataError: a line names a class that the data does not have, or a class of the data goes nowhere.
        """
        lines, goes = self.sides[side], dict[int, str]()
        for key, common in lines.named.items():
            label = _id_of(key, own)
            if label is None:
                hint = _near(str(key), own.classes)
                raise DataError(
                    f"{self.file}: {side}: {key!r} is no class of {what}; expected one of its classes: "
                    f"{_some(own.classes)}. Correct the name, or delete it{hint}"
                )
            if label in goes:
                raise DataError(f"{self.file}: {side}: {own.classes[label]!r} is named twice, by name and by id")
            goes[label] = common
        nowhere = []
        for label, name in enumerate(own.classes):
            if label not in goes and name in self.space.classes:
                goes[label] = name
            elif label not in goes and not lines.drops_rest:
                nowhere.append(name)
        if nowhere:
            raise self._nowhere(side, nowhere, what)
        kept = {label: self.space.classes.index(common) for label, common in goes.items() if common != DROP}
        if not kept:
            raise DataError(
                f"{self.file}: {side}: every class of {what} is dropped; expected at least one that is kept: {DROP} "
                "fewer of them"
            )
        return id_table(kept)

    def _nowhere(self, side: Side, names: Sequence[str], what: str) -> DataError:
        lines = ", ".join(f"{_quoted(name)}: {_nearest(name, self.space.classes) or DROP}" for name in names[:3])
        same = all(name in self.sides[_OTHER[side]].named for name in names)
        alike = f". For the lines of {_OTHER[side]}: {side}: {SAME}" if same else ""
        return DataError(
            f"{self.file}: {side}: {len(names)} class(es) of {what} go nowhere ({_some(names)}); expected each to be "
            f"one of classes ({_some(self.space.classes)}), or named below {side}:, such as {lines}. To ignore all "
            f'that are not named: "{REST}": {DROP}{alike}'
        )

    def sentence(self) -> str:
        """The whole map in words, for the protocol of a run."""
        source, target = (_said(self.sides[side]) for side in get_args(Side))
        said = [f"{side}: {text}" for side, text in (("source", source), ("target", target)) if text]
        if source == target and source:
            said = [f"both: {source}"]
        by = f" ({'; '.join(said)})" if said else ", each by its own name"
        return f"Classes: {len(self.space)} common to source and target, by the class map {Path(self.file).name}{by}."


def read_class_map(path: Path | str) -> ClassMap:
    """The class map in a YAML file. DataError names the file, the entry, what was expected, and the nearest name."""
    file = str(path)
    content = read_yaml(Path(path), "maps classes", "a class map")
    if not isinstance(content, dict) or "classes" not in content:
        raise DataError(
            f"{file}: expected a mapping with `classes`, a list of the common classes, and `source` and `target`; "
            f"found {shown(content)}"
        )
    for key in content:
        if key not in _KEYS:
            hint = _near(str(key), _KEYS)
            raise DataError(f"{file}: has an entry {shown(key)}; expected only {', '.join(_KEYS)}{hint}")
    name = text_of(content["name"], f"{file}: name") if "name" in content else Path(file).stem
    space = _space(name, content["classes"], file)
    subsets = content.get("subsets") or {}
    if not isinstance(subsets, dict) or not all(isinstance(of, list) for of in subsets.values()):
        raise DataError(f"{file}: subsets is {shown(subsets)}; expected names with lists of common classes")
    ids = {text_of(key, f"{file}: name of a subset"): subset_ids(space, of) for key, of in subsets.items()}
    space = LabelSpace(space.name, space.classes, space.colors, ids)
    sides: dict[Side, Any] = {side: content.get(side) for side in get_args(Side)}
    for side, other in _OTHER.items():
        if sides[side] == SAME:
            if sides[other] == SAME:
                raise DataError(f"{file}: source and target are both {SAME!r}; expected lines of one of them")
            sides[side] = sides[other]
    return ClassMap(file, space, {side: _lines(sides[side], side, space, file) for side in get_args(Side)})


def mapped(dataset: LabelledDataset, by: ClassMap, side: Side) -> Renumbered:
    """A labelled data set under the common classes of a map. DataError as of `ClassMap.table`."""
    return Renumbered(dataset, by.space, by.table(side, dataset.space, repr(dataset)))


def require_all_learned(source: Renumbered, by: ClassMap) -> None:
    """DataError where no class of the source becomes some common class: nothing could ever learn it."""
    empty = [name for label, name in enumerate(by.space.classes) if label not in source.ids_used]
    if empty:
        raise DataError(
            f"{by.file}: classes: no class of the source goes to {_some(empty)}, so it could never be learned; "
            "expected one that does. Name it below source:, or take it out of classes and drop it below target:"
        )


def _space(name: str, entries: Any, file: str) -> LabelSpace:
    """The common classes, with colours: their own, those a well-known data set has for the name, or spare ones."""
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CLASSES:
        raise DataError(f"{file}: classes is {shown(entries)}; expected a list of 1 to {MAX_CLASSES} names")
    rows: list[tuple[str, Any]] = []
    for label, entry in enumerate(entries):
        if not isinstance(entry, dict):
            rows.append((text_of(entry, f"{file}: class {label}"), None))
            continue
        if "name" not in entry or entry.get("id", label) != label:
            raise DataError(
                f"{file}: classes: {shown(entry)}; expected a name, or {{name: road, color: [128, 64, 128]}}: ids are "
                "the order of the list"
            )
        rows.append((text_of(entry["name"], f"{file}: class {label}"), entry.get("color")))
    for reserved in (DROP, REST):
        if any(reserved == row[0] for row in rows):
            raise DataError(f"{file}: a common class is called {reserved!r}, which here means a line; rename it")
    known = dict(zip(CAMVID.classes, CAMVID.colors)) | dict(zip(CITYSCAPES.classes, CITYSCAPES.colors))
    given = [color_of(row, (0, 0, 0), f"{file}: ") if row[1] is not None else known.get(row[0]) for row in rows]
    spare = iter(color for color in distinct_colors(MAX_CLASSES) if color not in given)
    colors = tuple(color or next(spare) for color in given)
    return LabelSpace(name, tuple(row[0] for row in rows), colors)


def _lines(content: Any, side: Side, space: LabelSpace, file: str) -> Lines:
    where = f"{file}: {side}: "
    if content is None:
        return Lines({})
    if not isinstance(content, dict):
        raise DataError(
            f"{where}is {shown(content)}; expected lines such as car: vehicle, or vehicle: [car, truck], or the word "
            f"{SAME} for those of the other side"
        )
    named: dict[str | int, str] = {}
    drops_rest = False
    for key, value in content.items():
        if key == REST:
            if value != DROP:
                raise DataError(f'{where}"{REST}" is {shown(value)}; expected {DROP}: classes are not named else')
            drops_rest = True
            continue
        if isinstance(value, list):
            pairs = [(_own(name, where), _common(key, space, where)) for name in value]
        else:
            pairs = [(_own(key, where), _common(value, space, where))]
        for own, common in pairs:
            if own in named:
                raise DataError(f"{where}{own!r} is named twice; expected each class once")
            named[own] = common
    return Lines(named, drops_rest)


def _own(name: Any, where: str) -> str | int:
    return name if type(name) is int else text_of(name, f"{where}a class")


def _common(name: Any, space: LabelSpace, where: str) -> str:
    text = text_of(name, f"{where}a common class")
    if text == DROP or text in space.classes:
        return text
    raise DataError(
        f"{where}{text!r} is no common class; expected one of classes ({_some(space.classes)}), or {DROP}"
        f"{_near(text, space.classes)}"
    )


def _id_of(key: str | int, own: LabelSpace) -> int | None:
    """The id of a class; a number is an id where no class is called so."""
    if str(key) in own.classes:
        return own.classes.index(str(key))
    return key if isinstance(key, int) and 0 <= key < len(own) else None


def _said(lines: Lines) -> str:
    """One side's lines in words: `car, truck as vehicle; sky dropped`."""
    into: dict[str, list[str]] = {}
    for own, common in lines.named.items():
        into.setdefault(common, []).append(str(own))
    said = [f"{', '.join(names)} as {common}" for common, names in into.items() if common != DROP]
    dropped = [*into.get(DROP, ()), *(["all others"] if lines.drops_rest else [])]
    return "; ".join([*said, *([f"{', '.join(dropped)} dropped"] if dropped else [])])


def skeleton(source: LabelSpace, target: LabelSpace) -> str:
    """A class map to start from, as text: the classes both have by name are common, others are to be thought about.

    A class that only one side has is written as dropped, with the nearest name of the other side as a comment.
    """
    common = [name for name in source.classes if name in target.classes]
    rows = [f"classes: [{', '.join(map(_quoted, common))}]"]
    if not common:
        rows = ["classes: []   # name the classes that both shall have, in the order of their ids"]
    for side, own, other in (("source", source, target), ("target", target, source)):
        alone = [name for name in own.classes if name not in common]
        rows += [f"{side}:" if alone else f"{side}: {{}}   # its classes are all common"]
        for name in alone:
            near = _nearest(name, other.classes)
            hint = f"   # like {near} of the {'target' if side == 'source' else 'source'}?" if near else ""
            rows.append(f"  {_quoted(name)}: {DROP}{hint}")
    return "\n".join(rows) + "\n"


def _quoted(name: str) -> str:
    """A name as YAML takes it for text."""
    plain = all(c.isalnum() or c in " _-" for c in name) and name[:1].isalpha() and name == name.strip()
    reserved = name.casefold() in {"yes", "no", "on", "off", "true", "false", "null", "y", "n", DROP, SAME}
    return name if plain and not reserved else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _nearest(name: str, among: Sequence[str]) -> str | None:
    folded = {other.casefold(): other for other in among}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    inside = [other for other in folded if len(other) > 2 and (other in name.casefold() or name.casefold() in other)]
    return folded[near[0]] if near else folded[inside[0]] if inside else None


def _near(name: str, among: Sequence[str]) -> str:
    near = _nearest(name, among)
    return "" if near is None else f". Did you mean {near}?"


def _some(names: Sequence[str], most: int = 25) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
