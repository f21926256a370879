"""How a table is shown: on the terminal, as Markdown, as CSV; and its plan in words.

Ours and published figures are apart in every form: a published line says so, and no mean is taken over both.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as Sheet
from rich.text import Text

from segshift.tables.declare import SHORT_CLASSES
from segshift.tables.plan import Job, Training
from segshift.tables.results import Results


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
    figures: Sequence[tuple[str, str]]
    """(mean over seeds, standard deviation or nothing), in the order of the headings."""
    rounds: Sequence[tuple[str, str]] = ()
    """Likewise, of the later rounds' pseudo-labels."""


@dataclass(frozen=True)
class Report:
    """A table, ready to be shown."""

    title: str
    classes: tuple[str, ...]
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    rounds: tuple[str, ...] = ()
    """Headings that only the CSV has: of pseudo-labels of the second round and later."""

    def markdown(self) -> str:
        """The table with its caption; published lines are in italics and say so."""
        heads = [*self._words(), *(SHORT_CLASSES.get(name, name) for name in self.classes), *self.headings]
        rows = [
            "| " + " | ".join(heads) + " |",
            "|---" * (len(heads) - self._numbers()) + "|---:" * self._numbers() + "|",
        ]
        for line in self.lines:
            cells = [*self._named(line), line.seeds, *(line.iou.get(name, "-") for name in self.classes)]
            cells += [_joined(figure) for figure in line.figures]
            rows.append(
                "| " + " | ".join(f"*{c}*" if line.published and c not in ("", "-") else c for c in cells) + " |"
            )
        return "\n".join([f"# {self.title}", "", *rows, "", *(f"- {note}" for note in self.notes), ""])

    def csv(self) -> str:
        """One line each, with standard deviations in columns of their own and `origin` ours or published."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        heads = [name for heading in (*self.headings, *self.rounds) for name in (heading, f"{heading} sd")]
        writer.writerow(["origin", "part", "network", "row", "seeds", *self.classes, *heads])
        for line in self.lines:
            origin = "published" if line.published else "ours"
            figures = [cell for figure in (*line.figures, *line.rounds) for cell in figure]
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
            cells += [_joined(figure) for figure in line.figures]
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


def _joined(figure: tuple[str, str]) -> str:
    return f"{figure[0]} ± {figure[1]}" if figure[1] else figure[0]


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
    trainings = {training.folder: training for job in jobs for training in _chain(job.training)}
    left = sum(not finished(training) for training in trainings.values())
    return "\n".join(
        [*lines, f"{len(jobs)} scores from {len(trainings)} runs, {left} of them not finished; {results.path}"]
    )


def _chain(training: Training) -> list[Training]:
    """A run and the warm-ups below it."""
    return [training, *(_chain(training.warmup) if training.warmup is not None else [])]


def _state(job: Job, finished: Callable[[Training], bool]) -> str:
    training = job.training
    if finished(training):
        return f"to be scored from {training.folder}"
    if (training.folder / "run.json").exists():
        return f"to be resumed in {training.folder}"
    return f"to be trained in {training.folder}"
