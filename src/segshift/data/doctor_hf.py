"""`segshift check hf:TEXT`: a data set of the `datasets` library as it is, all its splits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from segshift.data.doctor import Findings, Listed, Problem, Reading
from segshift.data.files import MAX_PIXELS, read_image, read_label
from segshift.data.folder import read_ids, require_same_space
from segshift.data.hf_tables import Column, classes_of, image_column, label_column, open_splits
from segshift.data.member import File
from segshift.errors import DataError


def list_hf(text: str, max_pixels: int = MAX_PIXELS) -> Listed:
    """The images of a data set, by split; images and labels of more than `max_pixels` will be refused.

    A row that cannot be used is a problem. Without names of classes any id is one. DataError where there is no such
    data set, or its column of images cannot be told.
    """
    findings, readings = Findings(f"hf {text}"), []
    for split, table in open_splits(text).items():
        images = Column(text, split, table, image_column(text, table))
        named = label_column(text, table)
        labels = None if named is None else Column(text, split, table, named)
        reader = _label_reader(text, table, findings, max_pixels)
        files: list[File] = []
        for row in range(len(images)):
            image = _file(images, row, findings)
            label = None if labels is None else _file(labels, row, findings)
            if image is None:
                continue
            files.append(image)
            reading = None if label is None else partial(reader, label)
            readings.append(Reading(str(image), str(label), partial(read_image, image, max_pixels), reading))
        findings.files[split] = files
        if split:
            findings.splits[split] = len(files)
    return Listed(findings, readings)


def _file(column: Column, row: int, findings: Findings) -> File | None:
    """Where the file of a row is; None, and a problem, where it cannot be used."""
    if column.is_missing(row):
        findings.problems.append(Problem(f"{column.table}:{column.name}[{row}]", "is empty; expected an image"))
        return None
    try:
        return column.file(row)
    except DataError as error:
        findings.problems.append(Problem(f"{column.table}:{column.name}[{row}]", str(error)))
        return None


def _label_reader(text: str, table: object, findings: Findings, max_pixels: int) -> Callable[[File], Tensor]:
    """How labels are read: against the classes that are named, or as they are where there are none to be used."""
    try:
        named = classes_of(text, table)
        if named is None:
            return partial(read_label, max_pixels=max_pixels)
        findings.space = findings.space or named.space
        require_same_space(findings.space, named.space, f"hf:{text}")
    except DataError as error:
        findings.problems.append(Problem(text, str(error)))
        return partial(read_label, max_pixels=max_pixels)
    return partial(read_ids, space=named.space, ignore=named.ignore, max_pixels=max_pixels)
