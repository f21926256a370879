"""Label spaces: names, ids, colours, the subsets over which a mean IoU is taken, and maps between id systems.

Facts about data sets are theirs: Cityscapes ids and colours from its published label table, CamVid 11 as
in the SegNet release.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import yaml

from segshift.errors import ConfigError, DataError

IGNORE = 255
"""The label of a pixel that never enters a loss or a score."""
MAX_CLASSES = 255
"""Labels are 8-bit images, and 255 is taken."""
LONGEST_NAME = 200
"""Characters of a class's name."""
LARGEST_FILE = 2**17
"""Bytes of a `classes.yaml`: several times what 255 classes need, and read within seconds whatever is in it."""
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
"""Kinds of characters that move a terminal's cursor, break lines, or that no file can hold (half a pair)."""


@dataclass(frozen=True)
class LabelSpace:
    """Classes 0 .. k-1 in order; 255 is ignored.

    `subsets` maps a name to class ids: "mIoU over 16 classes" is never ambiguous, it is a named subset.
    The subset "all" always exists.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    subsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise DataError(f"label space {self.name}: {len(self.classes)} classes; expected 1 to {MAX_CLASSES}")
        if len(set(self.classes)) != len(self.classes):
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise DataError(f"label space {self.name}: class names used twice: {', '.join(twice)}")
        if len(self.colors) != len(self.classes):
            raise DataError(f"label space {self.name}: {len(self.colors)} colours for {len(self.classes)} classes")
        every = tuple(range(len(self.classes)))
        for subset, ids in self.subsets.items():
            if not ids or any(not 0 <= i < len(self.classes) for i in ids) or len(set(ids)) != len(ids):
                raise DataError(
                    f"label space {self.name}: subset {subset} is {shown(ids)}; expected ids 0 to {len(self) - 1}, "
                    "each once"
                )
        if self.subsets.get("all", every) != every:
            raise DataError(
                f"label space {self.name}: subset all is {shown(self.subsets['all'])}; expected another name"
            )
        object.__setattr__(self, "subsets", {"all": every, **self.subsets})

    def __len__(self) -> int:
        return len(self.classes)

    def palette(self) -> np.ndarray:
        """(256, 3) uint8: a colour for each id; black where there is no class, and for 255."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colors
        return table

    def to_dict(self) -> dict[str, Any]:
        """The form of `classes.yaml`; `from_dict` reads it back."""
        rows = [{"id": i, "name": n, "color": list(c)} for i, (n, c) in enumerate(zip(self.classes, self.colors))]
        subsets = {name: list(ids) for name, ids in self.subsets.items() if name != "all"}
        return {"name": self.name, "ignore": IGNORE, "classes": rows, "subsets": subsets}


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Colours for classes that come without one (the PASCAL VOC bit-interleaving scheme, from id 1)."""
    colors = []
    for label in range(1, count + 1):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
        colors.append((rgb[0], rgb[1], rgb[2]))
    return tuple(colors)


def unnamed(count: int) -> LabelSpace:
    """class_0 .. class_{count-1}: the label space of a source without `classes.yaml`."""
    return LabelSpace("unnamed", tuple(f"class_{i}" for i in range(count)), distinct_colors(count))


def from_dict(content: Any, origin: str) -> tuple[LabelSpace, int]:
    """A label space and its ignore id from the content of a `classes.yaml`.

    Errors name `origin` and the entry: ids must be 0 .. k-1 (any order), names distinct text, colours three
    numbers 0 to 255 (optional), subsets distinct ids.
    """
    where = f"{origin}: "
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(
            f"{where}expected a mapping with a list `classes` of {{id, name, color}}; found {shown(content)}"
        )
    if len(entries) > MAX_CLASSES:
        raise DataError(f"{where}{len(entries)} classes; expected 1 to {MAX_CLASSES}")
    ignore = content.get("ignore", IGNORE)
    if type(ignore) is not int or not 0 <= ignore <= 255:
        raise DataError(f"{where}ignore is {shown(ignore)}; expected a number from 0 to 255")
    rows: dict[int, tuple[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or "name" not in entry:
            raise DataError(f"{where}class entry {shown(entry)}; expected {{id: 0, name: road, color: [128, 64, 128]}}")
        if entry["id"] in rows:
            raise DataError(f"{where}id {shown(entry['id'])} is given twice")
        rows[entry["id"]] = (text_of(entry["name"], f"{where}name of class {shown(entry['id'])}"), entry.get("color"))
    if sorted(rows) != list(range(len(rows))):
        found = ", ".join(shown(i) for i in sorted(rows))
        raise DataError(f"{where}ids are {found:.200}; expected 0 to {len(rows) - 1} without a gap")
    if ignore in rows:
        raise DataError(f"{where}ignore is {ignore}, which is also the id of {rows[ignore][0]}; expected an unused id")
    space = LabelSpace(
        text_of(content["name"], f"{where}name") if "name" in content else _folder_name(Path(origin)),
        tuple(rows[i][0] for i in range(len(rows))),
        tuple(color_of(rows[i], spare, where) for i, spare in enumerate(distinct_colors(len(rows)))),
        _subsets(content.get("subsets") or {}, where),
    )
    return space, ignore


def text_of(value: Any, what: str) -> str:
    """A name. YAML takes `no`, `on` and an empty place for something else than text: these are asked back."""
    text = str(value) if type(value) in (int, float) else value
    if not isinstance(text, str):
        raise DataError(f"{what} is {shown(value)}; expected text (a word such as no or null needs quotes)")
    if not text.strip() or len(text) > LONGEST_NAME or any(category(c) in _CONTROL for c in text):
        raise DataError(f"{what} is {shown(text)}; expected 1 to {LONGEST_NAME} characters, none of them for control")
    return text


def _folder_name(file: Path) -> str:
    """The name of a space whose file says none: folders may be called what no name may be."""
    name = "".join("_" if category(c) in _CONTROL else c for c in file.parent.name).strip()
    return name[:LONGEST_NAME] or "classes"


def color_of(row: tuple[str, Any], spare: tuple[int, int, int], where: str) -> tuple[int, int, int]:
    name, color = row
    if color is None:
        return spare
    is_rgb = isinstance(color, (list, tuple)) and len(color) == 3
    if not is_rgb or any(type(v) is not int or not 0 <= v <= 255 for v in color):
        raise DataError(f"{where}colour of {name} is {shown(color)}; expected three numbers from 0 to 255")
    return color[0], color[1], color[2]


def _subsets(subsets: Any, where: str) -> dict[str, tuple[int, ...]]:
    if not isinstance(subsets, dict) or not all(isinstance(ids, list) for ids in subsets.values()):
        raise DataError(f"{where}subsets is {shown(subsets)}; expected names with lists of ids")
    for name, ids in subsets.items():
        text_of(name, f"{where}name of a subset")
        if any(type(i) is not int for i in ids):
            raise DataError(f"{where}subset {name} is {shown(ids)}; expected a list of class ids")
    return {str(name): tuple(ids) for name, ids in subsets.items()}


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 70


def shown(value: Any) -> str:
    """A value as an error shows it: short, however large or deep it is, also where it contains itself."""
    try:
        return f"{_Short().repr(value):.80}"
    except ValueError:
        # Python writes no decimal number of more than 4300 digits.
        return f"a {type(value).__name__} that is too long to show"


def _repeated_key(root: yaml.Node | None) -> str | None:
    """A key that a mapping holds twice: the second would take the place of the first without a word."""
    open_nodes, known = [root], {id(root)}
    while open_nodes:
        node = open_nodes.pop()
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if counts and counts.most_common(1)[0][1] > 1:
                return counts.most_common(1)[0][0]
            children = [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        # A node may stand in many places, its own inside among them.
        open_nodes += [child for child in children if id(child) not in known]
        known |= {id(child) for child in children}
    return None


def _parsed(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    if (key := _repeated_key(node)) is not None:
        raise ValueError(f"key {shown(key)} is given twice")
    return None if node is None else loader.construct_document(node)


def read_classes(path: Path) -> tuple[LabelSpace, int]:
    """Read a `classes.yaml`: (label space, the file's id for ignored pixels). DataError names the file."""
    return from_dict(read_yaml(path, "names the classes", "the names of classes"), str(path))


def read_yaml(path: Path, does: str, holds: str) -> Any:
    """What a small YAML file says. DataError names the file; `does` and `holds` say what was expected of it."""
    try:
        if not path.is_file():
            raise DataError(f"{path}: is missing, or no file; expected a file that {does}")
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path}: holds {path.stat().st_size} bytes; expected at most {LARGEST_FILE}")
        return _parsed(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise DataError(f"{path}: cannot be read as YAML (lists in lists, too deep)") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); expected {holds}") from error
    # Values that look like dates or numbers and are none end in whatever Python says to them.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        reason = " ".join(str(error).split()).replace(' in "<unicode string>",', " in")
        raise DataError(f"{path}: cannot be read as YAML ({reason:.300}); expected text in UTF-8") from error


def id_table(mapping: Mapping[int, int]) -> np.ndarray:
    """(256,) uint8 look-up table from file ids to train ids; ids not named become 255."""
    table = np.full(256, IGNORE, np.uint8)
    for file_id, train_id in mapping.items():
        table[file_id] = train_id
    return table


def subset_ids(space: LabelSpace, names: Sequence[str]) -> tuple[int, ...]:
    """Ids of class names; a name that does not exist is an error."""
    missing = [n for n in names if n not in space.classes]
    if missing:
        raise DataError(f"classes {missing} are not in {space.name}; expected some of {', '.join(space.classes)}")
    return tuple(space.classes.index(n) for n in names)


def subset_space(space: LabelSpace, name: str) -> tuple[LabelSpace, np.ndarray]:
    """The classes of a named subset as a label space of their own, and the (256,) uint8 table that leads there.

    Ids are renumbered 0 .. k-1 in the order of the subset; every other id becomes 255. Subsets that lie within this
    one, itself included, go along, so that a mean over 13 of 16 classes keeps its name. ConfigError where the subset
    is unknown.
    """
    if name not in space.subsets:
        raise ConfigError(f"classes {name!r} are no subset of {space.name}; expected one of {', '.join(space.subsets)}")
    ids = space.subsets[name]
    table = id_table({old: new for new, old in enumerate(ids)})
    if name == "all":
        return space, table
    inside = {n: tuple(int(table[i]) for i in of) for n, of in space.subsets.items() if set(of) <= set(ids)}
    inside.pop("all", None)
    classes, colors = tuple(space.classes[i] for i in ids), tuple(space.colors[i] for i in ids)
    return LabelSpace(name, classes, colors, inside), table


@dataclass(frozen=True, eq=False)
class Merge:
    """Classes put together before scoring, in predictions and truth alike."""

    name: str
    space: LabelSpace
    table: np.ndarray
    """(256,) uint8: id of the space that is merged -> id of `space`, or 255."""

    def __post_init__(self) -> None:
        used = self.table[self.table != IGNORE]
        if self.table.shape != (256,) or self.table.dtype != np.uint8 or (used >= len(self.space)).any():
            raise DataError(f"merge {self.name}: expected 256 ids of uint8 below {len(self.space)}, or {IGNORE}")


_CITYSCAPES = (
    ("road", (128, 64, 128)), ("sidewalk", (244, 35, 232)), ("building", (70, 70, 70)), ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)), ("pole", (153, 153, 153)), ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)), ("vegetation", (107, 142, 35)), ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)), ("person", (220, 20, 60)), ("rider", (255, 0, 0)), ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)), ("bus", (0, 60, 100)), ("train", (0, 80, 100)), ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)  # fmt: skip

CITYSCAPES = LabelSpace(
    "cityscapes",
    tuple(name for name, _ in _CITYSCAPES),
    tuple(color for _, color in _CITYSCAPES),
    {
        # The classes SYNTHIA shares with Cityscapes, and the 13 that most papers also report.
        "synthia16": (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
        "synthia13": (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18),
    },
)
"""The 19 train ids of Cityscapes."""

CAMVID = LabelSpace(
    "camvid",
    ("sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
"""The 11 classes of CamVid as SegNet groups them."""

LOVEDA = LabelSpace(
    "loveda",
    ("background", "building", "road", "water", "barren", "forest", "agriculture"),
    (
        (255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0), (255, 195, 128),
    ),
)  # fmt: skip
"""The 7 land covers of LoveDA."""

NTHU13 = LabelSpace(
    "nthu13",
    (
        "road", "sidewalk", "building", "traffic light", "traffic sign", "vegetation", "sky", "person", "rider", "car",
        "bus", "motorcycle", "bicycle",
    ),
    (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (250, 170, 30), (220, 220, 0), (107, 142, 35), (70, 130, 180),
        (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 60, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip
"""The 13 classes of NTHU Cross-City, those of Cityscapes by name."""


def _nthu13() -> Merge:
    """CBST §5.1: pole, fence and wall are buildings, truck is car, terrain is vegetation.

    The paper says nothing of train, which is none of the 13: a fourteenth class takes it. No truth holds that class,
    so that a prediction of it is an error like any other, and it enters no mean.
    """
    other = "none of the 13"
    merged = {"pole": "building", "fence": "building", "wall": "building", "truck": "car", "terrain": "vegetation"}
    space = LabelSpace(
        "nthu13", (*NTHU13.classes, other), (*NTHU13.colors, (0, 80, 100)), {"nthu13": tuple(range(len(NTHU13)))}
    )
    names = {i: merged.get(name, name) for i, name in enumerate(CITYSCAPES.classes)}
    return Merge(
        "nthu13",
        space,
        id_table({i: space.classes.index(name if name in NTHU13.classes else other) for i, name in names.items()}),
    )


MERGES = {"nthu13": _nthu13()}
"""Name -> how the 19 Cityscapes train ids are merged."""
