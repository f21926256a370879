"""Curves over rounds from the results of a table with panels: mean IoU, or mean pixel accuracy."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segshift.checkpoint import atomic_write
from segshift.reporting.draw import Chart, Curve, chart
from segshift.tables.declare import Panel, Table
from segshift.tables.plan import Job
from segshift.tables.results import Entry, Results

LABEL = "{figures} in %, on target labels (oracle diagnostics)"


class Point(NamedTuple):
    """A row's score after a round, over its seeds, in percent."""

    row: str
    round: int
    mean: float
    sd: float
    seeds: int


def points(jobs: Sequence[Job], results: Results, figure: str = "mIoU") -> list[Point]:
    """A figure of each row and round, as far as its runs are finished; round 0 is the model training began with.

    `figure`: mIoU over all classes, or MPA, the mean pixel accuracy.
    """
    found: dict[tuple[str, int], list[float]] = {}
    for job in jobs:
        entry = results.find(job.key, job.data)
        for number, value in (_rounds(entry, figure) if entry else {}).items():
            found.setdefault((job.row.key, number), []).append(100 * value)
    return [
        Point(row, number, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values))
        for (row, number), values in found.items()
    ]


def _rounds(entry: Entry, figure: str) -> Mapping[int, float]:
    return entry.accuracies if figure == "MPA" else {n: miou["all"] for n, miou in entry.rounds.items()}


def write_figure(place: Path, table: Table, jobs: Sequence[Job], results: Results) -> None:
    """Write NAME.png, NAME.svg and NAME.csv (the points), NAME being the figure's; nothing without a point or panel."""
    figures = tuple(dict.fromkeys(panel.figure for panel in table.panels))
    found = {figure: points(jobs, results, figure) for figure in figures}
    if not any(found.values()):
        return
    name = table.name.rpartition("/")[2]
    charts = [Chart(panel.title, _curves(panel, found[panel.figure]), panel.legend) for panel in table.panels]
    label = LABEL.format(figures=" and ".join(figures))
    for kind in ("png", "svg"):
        drawn = chart(charts, 2, "round (0: warm-up)", label, kind, same_height=len(figures) == 1)
        atomic_write(place / f"{name}.{kind}", drawn)
    atomic_write(place / f"{name}.csv", _csv(found).encode())


def _csv(found: Mapping[str, Sequence[Point]]) -> str:
    """A line for each row and round, two columns for each figure."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    heads = [name for i, figure in enumerate(found) for name in (figure, f"{figure} sd" if i else "sd")]
    writer.writerow(["row", "round", *heads, "seeds"])
    others = {figure: {(p.row, p.round): p for p in points} for figure, points in found.items()}
    for first in next(iter(found.values())):
        cells: list[str] = []
        for figure in found:
            point = others[figure].get((first.row, first.round))
            cells += ["", ""] if point is None else [f"{point.mean:.2f}", f"{point.sd:.2f}" if point.seeds > 1 else ""]
        writer.writerow([first.row, first.round, *cells, first.seeds])
    return out.getvalue()


def _curves(panel: Panel, found: Sequence[Point]) -> list[Curve]:
    curves = []
    for key, label in panel.rows:
        mine = sorted((p for p in found if p.row == key), key=lambda p: p.round)
        if mine:
            spread = [p.sd for p in mine] if max(p.seeds for p in mine) > 1 else None
            curves.append(Curve(label, [p.round for p in mine], [p.mean for p in mine], spread, key == panel.usual))
    return curves
