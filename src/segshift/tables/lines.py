"""From finished runs to a table's lines: means over seeds, figures of pseudo-labels, differences between rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segshift import tables
from segshift.evaluate import Scores, subset_title
from segshift.options import TableOptions
from segshift.tables import published
from segshift.tables.caption import caption
from segshift.tables.declare import NETWORKS, Row, Table
from segshift.tables.plan import Job
from segshift.tables.report import Line, Report
from segshift.tables.results import Entry, Results
from segshift.taxonomy import LabelSpace

DELTA = "Δ"
MPA = "MPA"


@dataclass(frozen=True)
class _Figures:
    """One seed of one line, as fractions of 1."""

    iou: Mapping[str, float]
    means: tuple[float, ...]
    """Of each mean that the table has, and the mean pixel accuracy where it shows that."""
    labels: Mapping[tuple[int, str], float]
    """(round, figure) -> the figure of that round's pseudo-labels, as far as there are any."""


class _Columns(NamedTuple):
    """What a line shows beside its classes."""

    labels: tuple[tuple[str, str], ...]
    """(heading, figure), of the first round."""
    means: tuple[tuple[str, str], ...]
    """(heading, subset)"""
    accuracy: bool
    """Whether the mean pixel accuracy stands after them."""
    delta: bool
    rounds: tuple[int, ...]
    """Later rounds, whose pseudo-labels only the CSV has."""

    def headings(self, every: Sequence[Scores]) -> tuple[str, ...]:
        first = (_round(heading, 1) for heading, _ in self.labels)
        means = (_heading(name, subset, every) for name, subset in self.means)
        return (*first, *means, *self._accuracy(every), *((DELTA,) if self.delta else ()))

    def _accuracy(self, every: Sequence[Scores]) -> tuple[str, ...]:
        """It is over the classes of `all` that occur in the truth, as that subset's mean IoU is."""
        return (_heading(MPA, "all", every),) if self.accuracy else ()

    def later(self) -> tuple[tuple[str, tuple[int, str]], ...]:
        """(heading, (round, figure)) of the columns that only the CSV has."""
        return tuple((_round(heading, n), (n, figure)) for n in self.rounds for heading, figure in self.labels)


_Seeds = Mapping[int, _Figures]


def report_of(table: Table, options: TableOptions, jobs: Sequence[Job], results: Results) -> Report:
    """The table as far as its runs are finished."""
    rows = tables.select(table.on(options.data), options.rows)
    sections = tuple(dict.fromkeys(_section(job) for job in jobs))
    found = {(section, row.name): _finished(row, section, jobs, results) for section in sections for row in rows}
    every = [entry.scores for seeds in found.values() for folds in seeds.values() for entry in folds]
    columns = _columns(table, rows, every, [entry for seeds in found.values() for f in seeds.values() for entry in f])
    figures = {
        place: {seed: _figures(folds, columns, options.folds) for seed, folds in seeds.items()}
        for place, seeds in found.items()
    }
    printed = published.of_table(table.published) if table.on_own_pair(options.data) else ()
    lines: list[Line] = []
    for section in sections:
        for row in rows:
            base = figures.get((section, row.base), {})
            lines.append(_ours(row, section, figures[section, row.name], base, len(options.seeds), columns))
            of_row = [p for p in printed if (p.case, p.network, p.row) == (section, row.network, row.key)]
            lines += [_printed(p, row, section, columns) for p in of_row]
    classes = _classes(every[0].space, [subset for _, subset in columns.means]) if every else ()
    missing = [line.label for line in lines if not line.published and line.seeds.startswith("0")]
    return Report(
        f"{table.name}: {table.summary}",
        classes,
        columns.headings(every),
        tuple(lines),
        caption(table, options, jobs, rows, missing),
        tuple(heading for heading, _ in columns.later()),
    )


def _section(job: Job) -> str:
    return job.case.city if job.case else ""


def _finished(row: Row, section: str, jobs: Sequence[Job], results: Results) -> dict[int, list[Entry]]:
    """Seed -> the result of each fold, of the seeds of which all folds are finished."""
    mine: dict[int, list[Entry | None]] = {}
    for job in jobs:
        if (job.row.name, _section(job)) == (row.name, section):
            mine.setdefault(job.key.seed, []).append(results.find(job.key, job.data))
    done = {seed: [entry for entry in entries if entry is not None] for seed, entries in mine.items()}
    return {seed: entries for seed, entries in done.items() if len(entries) == len(mine[seed])}


# --- columns -------------------------------------------------------------------------------------------------------


def _columns(table: Table, rows: Sequence[Row], every: Sequence[Scores], entries: Sequence[Entry]) -> _Columns:
    rounds = sorted({n for entry in entries for n in entry.labels if n > 1}) if table.labels else ()
    delta = any(row.over for row in rows)
    return _Columns(table.labels, tuple(_means(table, every)), table.accuracy, delta, tuple(rounds))


def _means(table: Table, every: Sequence[Scores]) -> list[tuple[str, str]]:
    """(name, subset) of each mean that the label space has; a subset it lacks is `all`, once."""
    if not every:
        return list(table.means) or [("mIoU", "all")]
    subsets = every[0].space.subsets
    wanted = table.means or tuple(("mIoU", subset) for subset in subsets)
    found: dict[str, str] = {}
    for name, subset in wanted:
        if subset in subsets:
            found.setdefault(subset, name)
        else:
            # The asterisk of mIoU* stands for the subset.
            found.setdefault("all", name.removesuffix("*"))
    return [(name, subset) for subset, name in found.items()]


def _classes(space: LabelSpace, subsets: Sequence[str]) -> tuple[str, ...]:
    """The classes that any printed mean is over, in the order of the label space."""
    ids = sorted({i for subset in subsets for i in space.subsets[subset]})
    return tuple(space.classes[i] for i in ids)


def _heading(name: str, subset: str, every: Sequence[Scores]) -> str:
    """`mIoU* synthia13 (13 classes)`: which classes a mean is over."""
    if not every:
        return name
    title = subset_title(every, subset).removeprefix(f"mIoU {subset}")
    return f"{name}{title}" if subset == "all" else f"{name} {subset}{title}"


def _round(heading: str, n: int) -> str:
    return f"{heading}, round {n}"


# --- figures -------------------------------------------------------------------------------------------------------


def _figures(folds: Sequence[Entry], columns: _Columns, how: str) -> _Figures:
    """One matrix over all folds, or the mean of the folds' figures (each over the classes that occur in it)."""
    scored = [entry.scores for entry in folds]
    labels = {
        (n, figure): _mean(_number(entry.labels.get(n, {}).get(figure)) for entry in folds)
        for n in (1, *columns.rounds)
        for _, figure in columns.labels
    }
    if how == "pooled":
        space: LabelSpace = scored[0].space
        matrix = scored[0].confusion.clone()
        for scores in scored[1:]:
            matrix += scores.confusion
        scored = [Scores(space, matrix, sum(scores.images for scores in scored))]
    iou = {name: _mean(float(s.iou[i]) for s in scored) for i, name in enumerate(scored[0].space.classes)}
    means = tuple(_mean(s.mean_iou(subset) for s in scored) for _, subset in columns.means)
    if columns.accuracy:
        means = (*means, _mean(s.mean_pixel_accuracy for s in scored))
    return _Figures(iou, means, labels)


def _ours(row: Row, section: str, seeds: _Seeds, base: _Seeds, wanted: int, columns: _Columns) -> Line:
    found = list(seeds.values())
    iou = {name: _percent(_mean(f.iou[name] for f in found)) for name in found[0].iou} if found else {}
    figures = [_spread([f.labels[1, figure] for f in found]) for _, figure in columns.labels]
    figures += [_spread([f.means[i] for f in found]) for i in range(len(columns.means) + columns.accuracy)]
    if columns.delta:
        # Seed by seed: what seeds share, such as the warm-up, is no part of the deviation.
        figures.append(_spread([seeds[s].means[0] - base[s].means[0] for s in seeds if s in base], "+"))
    later = tuple(_spread([f.labels[place] for f in found]) for _, place in columns.later())
    count = str(len(found)) if len(found) == wanted else f"{len(found)} of {wanted}"
    network = NETWORKS.get(row.network, row.network)
    return Line(section, network, row.label, False, count, iou, tuple(figures), later)


def _printed(line: published.Published, row: Row, section: str, columns: _Columns) -> Line:
    figures = [line.others.get(heading, "-") for heading, _ in columns.labels]
    figures += [line.mean(heading) for heading, _ in columns.means]
    figures += ["-"] if columns.accuracy else []  # no paper prints it as a number
    figures += [line.others.get(DELTA, "-")] if columns.delta else []
    cells = tuple((figure, "") for figure in figures)
    later = (("-", ""),) * len(columns.later())
    return Line(section, NETWORKS[line.network], row.label, True, "", line.iou, cells, later)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return statistics.mean(finite) if finite else math.nan


def _spread(values: Sequence[float], sign: str = "") -> tuple[str, str]:
    """(mean, standard deviation of the sample) in percent; a dash without a number, nothing for one alone."""
    finite = [value for value in values if not math.isnan(value)]
    return _percent(_mean(finite), sign), _percent(statistics.stdev(finite)) if len(finite) > 1 else ""


def _percent(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{100 * value:{sign}.1f}"
