"""The figures that papers print, from the files under `segshift/published/`; never mixed with measured ones."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

MEANS = ("mIoU", "mIoU*")
"""Columns of the files that are means over classes."""
OTHERS = ("Proportion", "P-mIoU", "Δ")
"""Columns about pseudo-labels, and differences between rows."""
_WORDS = ("status", "table", "case", "network", "row", "note")


@dataclass(frozen=True)
class Published:
    """A line of a paper's table, in percent, as it is printed."""

    table: str
    case: str
    """City, where the table has several."""
    network: str
    row: str
    iou: Mapping[str, str]
    """Class -> figure as printed; classes that the line does not have are left out."""
    means: Mapping[str, str]
    """mIoU and mIoU*, as far as they are printed."""
    others: Mapping[str, str]
    """Of OTHERS what is printed."""
    note: str
    """A misprint, in words."""

    def mean(self, heading: str) -> str:
        """The mean that a table shows under this heading; a dash where none is printed."""
        return self.means.get(heading if heading in MEANS else MEANS[0], "-")


@cache
def read(file: str) -> tuple[Published, ...]:
    """All lines of a file of published figures."""
    text = files("segshift").joinpath("published", file).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = []
    for line in csv.DictReader(lines):
        assert line["status"] == "published", f"{file}: {line}"
        printed = {name: value for name, value in line.items() if value and name not in _WORDS}
        means, others = ({name: printed.pop(name) for name in names if name in printed} for names in (MEANS, OTHERS))
        table, case, network, row, note = (line[name] for name in _WORDS[1:])
        found.append(Published(table, case, network, row, printed, means, others, note))
    return tuple(found)


def of_table(published: tuple[str, str] | None) -> tuple[Published, ...]:
    """The lines of (file, table); nothing for None."""
    return () if published is None else tuple(line for line in read(published[0]) if line.table == published[1])
