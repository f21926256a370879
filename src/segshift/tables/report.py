"""A table's lines from the results file, and how they are shown: on the terminal, as Markdown, as CSV.

Ours and published figures are apart in every form: a published line says so, and no mean is taken over both.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as Sheet
from rich.text import Text

from segshift import tables
from segshift.evaluate import Scores, subset_title
from segshift.options import TableOptions
from segshift.tables import published
from segshift.tables.caption import caption
from segshift.tables.declare import NETWORKS, SHORT_CLASSES, Row, Table
from segshift.tables.plan import Job, Training
from segshift.tables.results import Results
from segshift.taxonomy import LabelSpace


@dataclass(frozen=True)
class Line:
    """One line: cells are text in percent, a dash where there is nothing."""

    section: str
    network: str
    label: str
    published: bool
    seeds: str
    """How many seeds stand behind it, such as 2 of 3."""
    iou: Mapping[str, str]
    means: Sequence[tuple[str, str]]
    """(mean, standard deviation or nothing), in the order of the headings."""


@dataclass(frozen=True)
class Report:
    """A table, ready to be shown."""

    title: str
    classes: tuple[str, ...]
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def markdown(self) -> str:
        """The table with its caption; published lines are in italics and say so."""
        heads = [*self._words(), *(SHORT_CLASSES.get(name, name) for name in self.classes), *self.headings]
        rows = [
            "| " + " | ".join(heads) + " |",
            "|---" * (len(heads) - self._numbers()) + "|---:" * self._numbers() + "|",
        ]
        for line in self.lines:
            cells = [*self._named(line), line.seeds, *(line.iou.get(name, "-") for name in self.classes)]
            cells += [_joined(mean) for mean in line.means]
            rows.append(
                "| " + " | ".join(f"*{c}*" if line.published and c not in ("", "-") else c for c in cells) + " |"
            )
        return "\n".join([f"# {self.title}", "", *rows, "", *(f"- {note}" for note in self.notes), ""])

    def csv(self) -> str:
        """One line each, with standard deviations in columns of their own and `origin` ours or published."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        means = [name for heading in self.headings for name in (heading, f"{heading} sd")]
        writer.writerow(["origin", "part", "network", "row", "seeds", *self.classes, *means])
        for line in self.lines:
            origin = "published" if line.published else "ours"
            figures = [cell for mean in line.means for cell in mean]
            iou = [line.iou.get(name, "") for name in self.classes]
            cells = [origin, line.section, line.network, line.label, line.seeds, *iou, *figures]
            writer.writerow(["" if cell == "-" else cell for cell in cells])
        return out.getvalue()

    def sheet(self, per_class: bool) -> Sheet:
        """The table for a terminal, without class columns where they do not fit."""
        sheet = Sheet(box=None, padding=(0, 1, 0, 0), header_style="bold")
        classes = self.classes if per_class else ()
        for word in self._words():
            sheet.add_column(word, justify="right" if word == "n" else "left", no_wrap=True)
        for heading in (*(SHORT_CLASSES.get(name, name) for name in classes), *self.headings):
            sheet.add_column(heading, justify="right", no_wrap=True)
        for line in self.lines:
            cells = [*self._named(line), line.seeds, *(line.iou.get(name, "-") for name in classes)]
            cells += [_joined(mean) for mean in line.means]
            sheet.add_row(*(Text(cell) for cell in cells), style="italic dim" if line.published else "")
        return sheet

    def _words(self) -> list[str]:
        parts = ["part"] if any(line.section for line in self.lines) else []
        return [*parts, *(["network"] if any(line.network for line in self.lines) else []), "row", "n"]

    def _numbers(self) -> int:
        return 1 + len(self.classes) + len(self.headings)

    def _named(self, line: Line) -> list[str]:
        words = self._words()
        named = [line.section] if "part" in words else []
        named += [line.network] if "network" in words else []
        return [*named, f"{line.label} (published)" if line.published else line.label]


def shown(report: Report, console: Console) -> str:
    """The report as text for this console: whole where it fits or is not read on a screen, else the means alone."""
    wide = _text(report.sheet(per_class=True))
    fits = not console.is_terminal or max(map(len, wide.splitlines())) <= console.width
    said = wide if fits else _text(report.sheet(per_class=False))
    more = () if fits else ("IoU of each class: table.md and table.csv, or a wider terminal.",)
    notes = [textwrap.fill(note, min(console.width, 120)) for note in (*report.notes, *more)]
    return "\n".join([report.title, "", said, *notes])


def _text(sheet: Sheet) -> str:
    out = io.StringIO()
    Console(file=out, width=1000, color_system=None, legacy_windows=False).print(sheet)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())


# --- lines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Figures:
    """One seed of one line, as fractions of 1."""

    iou: Mapping[str, float]
    means: tuple[float, ...]


def report_of(table: Table, options: TableOptions, jobs: Sequence[Job], results: Results) -> Report:
    """The table as far as its runs are finished."""
    rows = tables.select(table.on(options.data), options.rows)
    sections = tuple(dict.fromkeys(job.case.city if job.case else "" for job in jobs))
    found = {(section, row.name): _seeds(row, section, options, jobs, results) for section in sections for row in rows}
    every = [scores for seeds in found.values() for folds in seeds for scores in folds]
    means = _means(table, every)
    own = table.on_own_pair(options.data)
    printed = published.of_table(table.published) if own else ()
    lines: list[Line] = []
    for section in sections:
        for row in rows:
            figures = [
                _figures(folds, [subset for _, subset in means], options.folds) for folds in found[section, row.name]
            ]
            lines.append(_ours(row, section, figures, len(options.seeds), len(means)))
            of_row = [p for p in printed if (p.case, p.network, p.row) == (section, row.network, row.key)]
            lines += [_printed(p, row, section, len(means)) for p in of_row]
    classes = _columns(every[0].space, [subset for _, subset in means]) if every else ()
    headings = tuple(_heading(name, subset, every) for name, subset in means)
    missing = [line.label for line in lines if not line.published and line.seeds.startswith("0")]
    notes = caption(table, options, jobs, rows, missing)
    return Report(f"{table.name}: {table.summary}", classes, headings, tuple(lines), notes)


def _seeds(row: Row, section: str, options: TableOptions, jobs: Sequence[Job], results: Results) -> list[list[Scores]]:
    """The scores of each seed of which all folds are finished."""
    found = []
    for seed in options.seeds:
        mine = [j for j in jobs if (j.row.name, j.key.seed, j.case.city if j.case else "") == (row.name, seed, section)]
        entries = [results.find(job.key, job.data) for job in mine]
        if all(entries):
            found.append([entry.scores for entry in entries if entry is not None])
    return found


def _means(table: Table, every: Sequence[Scores]) -> list[tuple[str, str]]:
    """(name, subset) of each mean that the label space has; a subset it lacks is `all`, once."""
    if not every:
        return list(table.means) or [("mIoU", "all")]
    subsets = every[0].space.subsets
    wanted = table.means or tuple(("mIoU", subset) for subset in subsets)
    found: dict[str, str] = {}
    for name, subset in wanted:
        found.setdefault(subset if subset in subsets else "all", name)
    return [(name, subset) for subset, name in found.items()]


def _columns(space: LabelSpace, subsets: Sequence[str]) -> tuple[str, ...]:
    """The classes that any printed mean is over, in the order of the label space."""
    ids = sorted({i for subset in subsets for i in space.subsets[subset]})
    return tuple(space.classes[i] for i in ids)


def _heading(name: str, subset: str, every: Sequence[Scores]) -> str:
    """`mIoU* synthia13 (13 classes)`: which classes a mean is over."""
    if not every:
        return name
    title = subset_title(every, subset).removeprefix(f"mIoU {subset}")
    return f"{name}{title}" if subset == "all" else f"{name} {subset}{title}"


def _figures(folds: Sequence[Scores], subsets: Sequence[str], how: str) -> _Figures:
    """One matrix over all folds, or the mean of the folds' figures (each over the classes that occur in it)."""
    if how == "pooled":
        space: LabelSpace = folds[0].space
        matrix = folds[0].confusion.clone()
        for scores in folds[1:]:
            matrix += scores.confusion
        folds = [Scores(space, matrix, sum(scores.images for scores in folds))]
    iou = {name: _mean(float(s.iou[i]) for s in folds) for i, name in enumerate(folds[0].space.classes)}
    return _Figures(iou, tuple(_mean(s.mean_iou(subset) for s in folds) for subset in subsets))


def _ours(row: Row, section: str, figures: Sequence[_Figures], wanted: int, means: int) -> Line:
    count = len(figures)
    seeds = str(count) if count == wanted else f"{count} of {wanted}"
    network = NETWORKS.get(row.network, row.network)
    if not figures:
        return Line(section, network, row.label, False, seeds, {}, (("-", ""),) * means)
    iou = {name: _percent(_mean(f.iou[name] for f in figures)) for name in figures[0].iou}
    columns = zip(*(f.means for f in figures), strict=True)
    spread = tuple(
        (_percent(_mean(values)), _percent(statistics.stdev(values)) if count > 1 else "") for values in columns
    )
    return Line(section, network, row.label, False, seeds, iou, spread)


def _printed(line: published.Published, row: Row, section: str, means: int) -> Line:
    cells = [(value, "") for value in line.means.values()]
    cells += [("-", "")] * (means - len(cells))
    return Line(section, NETWORKS[line.network], row.label, True, "", line.iou, tuple(cells))


def _mean(values) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return statistics.mean(finite) if finite else math.nan


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _joined(mean: tuple[str, str]) -> str:
    return f"{mean[0]} ± {mean[1]}" if mean[1] else mean[0]


# --- the plan in words -------------------------------------------------------------------------------------------


def describe(jobs: Sequence[Job], results: Results, finished: Callable[[Training], bool]) -> str:
    """`--dry-run`: each row and seed with what is done of it, and what is trained for it."""
    lines, groups = [], {}
    for job in jobs:
        groups.setdefault((job.row.name, job.key.seed, job.case.city if job.case else ""), []).append(job)
    for (name, seed, city), mine in groups.items():
        done = sum(results.find(job.key, job.data) is not None for job in mine)
        part = f", {city}" if city else ""
        count = (
            "done"
            if done == len(mine)
            else f"{done} of {len(mine)} folds done"
            if len(mine) > 1
            else _state(mine[0], finished)
        )
        lines.append(f"{name}{part}, seed {seed}: {count}")
    trainings = {job.training.folder: job.training for job in jobs}
    trainings |= {t.warmup.folder: t.warmup for t in trainings.values() if t.warmup is not None}
    left = sum(not finished(training) for training in trainings.values())
    return "\n".join(
        [*lines, f"{len(jobs)} scores from {len(trainings)} runs, {left} of them not finished; {results.path}"]
    )


def _state(job: Job, finished: Callable[[Training], bool]) -> str:
    training = job.training
    if finished(training):
        return f"to be scored from {training.folder}"
    if (training.folder / "run.json").exists():
        return f"to be resumed in {training.folder}"
    return f"to be trained in {training.folder}"
