"""Curves over rounds from the results of a table with panels: the parameter analysis of the CBST paper's Fig. 5."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from segshift.checkpoint import atomic_write
from segshift.draw import Chart, Curve, chart
from segshift.tables.declare import Panel, Table
from segshift.tables.plan import Job
from segshift.tables.results import Results

LABEL = "mIoU in %, on target labels (oracle diagnostics)"


class Point(NamedTuple):
    """A row's score after a round, over its seeds, in percent."""

    row: str
    round: int
    mean: float
    sd: float
    seeds: int


def points(jobs: Sequence[Job], results: Results) -> list[Point]:
    """mIoU over all classes of each row and round, as far as its runs are finished; round 0 is the warm-up."""
    found: dict[tuple[str, int], list[float]] = {}
    for job in jobs:
        entry = results.find(job.key, job.data)
        for number, miou in (entry.rounds if entry else {}).items():
            found.setdefault((job.row.key, number), []).append(100 * miou["all"])
    return [
        Point(row, number, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))
        for (row, number), values in found.items()
    ]


def write_figure(place: Path, table: Table, jobs: Sequence[Job], results: Results) -> None:
    """Write NAME.png, NAME.svg and NAME.csv (the points), NAME being the figure's; nothing without a point or panel."""
    found = points(jobs, results) if table.panels else []
    if not found:
        return
    name = table.name.rpartition("/")[2]
    charts = [Chart(panel.title, _curves(panel, found), panel.legend) for panel in table.panels]
    for kind in ("png", "svg"):
        atomic_write(place / f"{name}.{kind}", chart(charts, 2, "round (0: warm-up)", LABEL, kind))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "round", "mIoU", "sd", "seeds"])
    writer.writerows((p.row, p.round, f"{p.mean:.2f}", f"{p.sd:.2f}" if p.seeds > 1 else "", p.seeds) for p in found)
    atomic_write(place / f"{name}.csv", out.getvalue().encode())


def _curves(panel: Panel, found: Sequence[Point]) -> list[Curve]:
    curves = []
    for key, label in panel.rows:
        mine = sorted((p for p in found if p.row == key), key=lambda p: p.round)
        if mine:
            spread = [p.sd for p in mine] if max(p.seeds for p in mine) > 1 else None
            curves.append(Curve(label, [p.round for p in mine], [p.mean for p in mine], spread, key == panel.usual))
    return curves
