"""Tables of the `datasets` library: from `hf:PLACE[?OPTIONS]` to columns of image files, read row by row.

    hf:DIR                     a folder that `save_to_disk` wrote; or one of parquet or arrow files, or an image folder
    hf:OWNER/NAME              a data set of the Hugging Face hub, or one that was loaded from there before
    hf:DIR?image=photo&label=mask
                               columns of other names; also classes=COLUMN or classes=FILE.yaml, config=NAME

Splits are those of the data set. A table is mapped into memory, not read into it; images stay encoded until one is
asked for. No code of a data set is run and nothing is unpickled: only tables and folders of images are opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segshift.data.files import is_folder
from segshift.data.folder import classes_file
from segshift.data.member import File, Row
from segshift.errors import ConfigError, DataError
from segshift.extras import optional
from segshift.taxonomy import IGNORE, LabelSpace, distinct_colors, read_classes

_OPTIONS = ("image", "label", "classes", "config")
_IMAGES = ("image", "images", "img", "pixel_values", "picture", "photo", "rgb")
_LABELS = (
    "label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "segmentation_mask",
    "semantic_segmentation", "semantic", "ground_truth", "gt", "seg",
)  # fmt: skip
_CLASSES = ("classes", "class_names", "label_names", "categories")
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TABLES = ("Parquet", "Arrow", "ImageFolder")
"""Builders that read tables and pictures, and nothing that could hold a program."""


_BESIDE = -1
_MISSING = -2


class Place(NamedTuple):
    """What stands behind `hf:`."""

    where: str
    """A folder, or a name of the hub."""
    options: Mapping[str, str]

    @property
    def folder(self) -> Path | None:
        """None where it is a name of the hub."""
        path = Path(self.where)
        return path if is_folder(path) else None


class Named(NamedTuple):
    """The classes that a table names."""

    space: LabelSpace
    ignore: int
    text: str
    """What says them."""


def parse_place(text: str) -> Place:
    """`PLACE[?OPTIONS]`. ConfigError for an option that there is none of."""
    where, _, query = text.partition("?")
    pairs = [part.partition("=") for part in query.split("&")] if query else []
    options = {name: value for name, _, value in pairs}
    wrong = next((name for name, value in options.items() if name not in _OPTIONS or not value), None)
    if not where or wrong is not None:
        found = f"option {wrong!r}" if where else "no name"
        raise ConfigError(
            f"hf:{text}: {found}; expected hf:DIR or hf:OWNER/NAME, and then ?{'=..&'.join(_OPTIONS)}=.. where wanted"
        )
    return Place(where, options)


def open_splits(text: str) -> dict[str, Any]:
    """Split -> its table; "" alone where there are no splits. Nothing of it is in memory.

    ConfigError without the `datasets` library; DataError where there is no such data set, or it cannot be read.
    """
    place = parse_place(text)
    library = _library()
    folder = place.folder
    try:
        if folder is not None and ((folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()):
            found = library.load_from_disk(str(folder))
        elif folder is not None:
            found = _of_files(library, folder)
        else:
            found = _of_hub(library, place)
    except (ConfigError, DataError):
        raise
    # The library raises what it likes: errors of its own, of pyarrow, of fsspec, of the network.
    except Exception as error:
        raise _unreadable(place, error) from error
    return dict(found) if isinstance(found, dict) else {"": found}


def table_of(text: str, split: str | None) -> Any:
    """The table of a split. A data set without splits is all training images. DataError says which splits there are."""
    splits = open_splits(text)
    if set(splits) == {""} and (split is None or split.casefold() == "train"):
        return splits[""]
    if split in splits and split:
        return splits[split]
    there = ", ".join(name for name in splits if name) or "none, it is all training images"
    asked = "no split is named" if split is None else f"has no split {split!r}"
    raise DataError(f"hf:{text}: {asked}; expected one that it has. Splits found: {there}")


def image_column(text: str, table: Any) -> str:
    """The column of images. DataError where it cannot be told."""
    return _column(text, table, "image", _IMAGES)


def label_column(text: str, table: Any) -> str | None:
    """The column of labels, other than that of images; None where there is none. DataError where several may be it."""
    image = image_column(text, table)
    if "label" not in parse_place(text).options and not [c for c in _pictures(table) if c != image]:
        return None
    return _column(text, table, "label", _LABELS, but=image)


def classes_of(text: str, table: Any) -> Named | None:
    """The classes that a data set names: in `classes.yaml` in its folder, or by a column of class labels; else None."""
    place = parse_place(text)
    asked = place.options.get("classes")
    folder = place.folder
    if asked is not None and asked.endswith((".yaml", ".yml")):
        return _of_yaml(folder / asked if folder is not None and (folder / asked).is_file() else Path(asked))
    if asked is None and folder is not None and (path := classes_file(folder)) is not None:
        return _of_yaml(path)
    for column in _CLASSES if asked is None else (asked,):
        names = _class_names(table.features.get(column))
        if names:
            space = LabelSpace(Path(place.where).name or column, tuple(names), distinct_colors(len(names)))
            return Named(space, IGNORE, "\n".join(names))
    if asked is not None:
        raise DataError(
            f"hf:{text}: classes={asked}: is no column of class labels; expected one, or a file .yaml. Columns found: "
            f"{', '.join(table.features)}"
        )
    return None


class Column:
    """A column of image files of a table, read one row at a time: `Cells`."""

    def __init__(self, text: str, split: str | None, table: Any, name: str) -> None:
        library = _library()
        self.name, self._place = name, parse_place(text)
        self.table = f"{self._place.where}:{split}" if split else self._place.where
        # The other columns are not even looked at.
        self._cells = table.select_columns([name]).cast_column(name, library.Image(decode=False))
        stored = self._cells.data.column(name)
        self.sizes = _lengths(stored)
        """(rows,) int64: bytes of each file; `_BESIDE` where it lies beside the table, `_MISSING` for none."""

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def missing(self) -> np.ndarray:
        """The rows that hold no file at all."""
        return np.flatnonzero(self.sizes == _MISSING)

    def is_missing(self, row: int) -> bool:
        """Whether a row holds no file at all."""
        return self.sizes[row] == _MISSING

    def file(self, row: int) -> File:
        """Where the file of a row is. DataError where it is a file that is no part of the data set."""
        size = int(self.sizes[row])
        if size >= 0:
            return Row(self.table, self.name, row, size, self)
        path = Path(str(self._cells[row][self.name]["path"]))
        roots = self._roots()
        if not any(path.resolve().is_relative_to(root) for root in roots):
            raise DataError(
                f"{self.table}:{self.name}[{row}]: its image is the file {path}, which is no part of the data set; "
                "expected images in the table, or below its folder. Write it anew with save_to_disk"
            )
        return path

    def content(self, row: int) -> bytes:
        """The bytes of a row's file."""
        return self._cells[row][self.name]["bytes"]

    def _roots(self) -> list[Path]:
        if self._place.folder is not None:
            return [self._place.folder.resolve()]
        config = _library().config
        return [Path(str(folder)).resolve() for folder in (config.HF_DATASETS_CACHE, config.HF_CACHE_HOME)]


def _library() -> Any:
    return optional("datasets", "huggingface", "hf:")


def _of_files(library: Any, folder: Path) -> Any:
    """The tables, or the images, of a folder that the library did not write itself."""
    for kind in ("parquet", "arrow"):
        if next(folder.rglob(f"*.{kind}"), None) is not None:
            return library.load_dataset(kind, data_dir=str(folder))
    if not any(path.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff") for path in folder.rglob("*")):
        raise DataError(
            f"{folder}: holds no data set of the datasets library; expected what save_to_disk wrote, parquet or arrow "
            "files, or a folder of images with metadata"
        )
    return library.load_dataset("imagefolder", data_dir=str(folder))


def _of_hub(library: Any, place: Place) -> Any:
    path = Path(place.where)
    if path.is_absolute() or place.where.startswith((".", "~")) or not _HUB.fullmatch(place.where):
        state = "is no folder" if path.exists() else "does not exist"
        raise DataError(f"{place.where}: {state}; expected a folder of a data set, or a name of the hub, OWNER/NAME")
    config = place.options.get("config")
    builder = library.load_dataset_builder(place.where, config)
    kind = type(builder).__mro__[0].__name__
    if not any(known in base.__name__ for base in type(builder).__mro__ for known in _TABLES):
        raise DataError(f"hf:{place.where}: is stored as {kind}; expected one of {', '.join(_TABLES)}")
    return library.load_dataset(place.where, config)


def _unreadable(place: Place, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:300]
    if place.folder is not None:
        return DataError(
            f"{place.where}: cannot be read as a data set of the datasets library ({reason}); expected what "
            "save_to_disk wrote, parquet or arrow files, or a folder of images. Write it again"
        )
    return DataError(
        f"hf:{place.where}: is no folder here, and could not be had from the Hugging Face hub ({reason}). Correct the "
        "name, or connect to the internet; without one, save it where there is (save_to_disk), copy that folder, and "
        "name it: hf:DIR"
    )


def _pictures(table: Any) -> list[str]:
    image = _library().Image
    return [name for name, feature in table.features.items() if isinstance(feature, image)]


def _column(text: str, table: Any, role: str, usual: Sequence[str], but: str | None = None) -> str:
    """The column of a role: the one that is named, one that is called as usual, or the only one there is."""
    pictures = [name for name in _pictures(table) if name != but]
    asked = parse_place(text).options.get(role)
    if asked is None:
        called = [name for word in usual for name in pictures if name.casefold() == word]
        free = [name for name in pictures if role == "label" or name.casefold() not in _LABELS]
        chosen = called[:1] or (free if len(free) == 1 else [])
        if chosen:
            return chosen[0]
    elif asked in pictures:
        return asked
    what = f"column {asked!r} holds no images" if asked is not None else f"no column can be told to hold the {role}s"
    found = ", ".join(_pictures(table)) or "none"
    raise DataError(
        f"hf:{text}: {what}; expected one of the feature Image. Columns of images: {found} (all: "
        f"{', '.join(table.features)}). Name it: hf:{parse_place(text).where}?{role}=COLUMN"
    )


def _class_names(feature: Any) -> list[str]:
    """Names of a ClassLabel, or of a list of such; none of anything else."""
    inner = getattr(feature, "feature", feature)
    names = getattr(inner, "names", None)
    return list(names) if isinstance(inner, _library().ClassLabel) and names else []


def _of_yaml(path: Path) -> Named:
    space, ignore = read_classes(path)
    return Named(space, ignore, path.read_text(encoding="utf-8"))


def _lengths(stored: Any) -> np.ndarray:
    """(rows,) int64 of a column of images: bytes, `_BESIDE` or `_MISSING`. Only lengths are read."""
    # It makes its functions when it is imported, where no type checker sees them.
    compute: Any = import_module("pyarrow.compute")
    lengths = compute.binary_length(compute.struct_field(stored, "bytes")).fill_null(_BESIDE).to_numpy()
    path = compute.is_valid(compute.struct_field(stored, "path")).to_numpy()
    return np.where((lengths < 0) & ~path, _MISSING, lengths).astype(np.int64)
