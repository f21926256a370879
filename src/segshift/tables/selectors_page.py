"""From lines of `segshift table selectors` to its page: tables as Markdown, every figure as CSV, the picture."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segshift.checkpoint import atomic_write
from segshift.options import TableOptions
from segshift.reporting.draw import Curve
from segshift.reporting.draw_selectors import Heat, Mark, Panel, Sheet, draw_selectors
from segshift.tables.declare import Table
from segshift.tables.plan import Job
from segshift.tables.report import Line, Report
from segshift.tables.results import Entry, Results
from segshift.tables.selectors import HEADLINES

FIGURES = (
    ("accuracy", "accuracy"), ("P-mIoU", "miou"), ("precision, rarer half", "rarer_precision"),
    ("recall, rarer half", "rarer_recall"),
)  # fmt: skip
"""Heading and name of each figure that is a fraction."""
CURVES = (
    ("accuracy of the labels", "accuracy"),
    ("P-mIoU", "miou"),
    ("recall, rarer half of the classes", "rarer_recall"),
)
HEAT = 0.5
"""The level at which classes are drawn apart."""
PER_CLASS = ("precision", "recall", "kept", "share")
"""Figures that a line has of each class, in the order of the label space."""

Found = Mapping[str, Any]
"""A selector at one setting: an entry of a line's `selectors`."""


class Setting(NamedTuple):
    """Which entry of a line it is."""

    selector: str
    name: str
    """Of a published setting; empty at a level."""
    level: float | None


class Model(NamedTuple):
    """A row of the table: the lines of its seeds, as far as they are measured."""

    label: str
    entries: Mapping[int, Entry]
    """By seed."""
    seeds: int
    """How many there will be."""

    @property
    def whole(self) -> bool:
        """Whether all seeds are measured."""
        return len(self.entries) == self.seeds

    def settings(self) -> list[Setting]:
        """In the order of measuring."""
        first = next(iter(self.entries.values()))
        return [Setting(found["selector"], found["setting"], found["level"]) for found in first.content["selectors"]]

    def of(self, setting: Setting) -> list[Found]:
        """What each seed found there."""
        every = (found for entry in self.entries.values() for found in entry.content["selectors"])
        return [found for found in every if (found["selector"], found["setting"], found["level"]) == setting]

    def reached(self, setting: Setting) -> list[Found]:
        """The same, of the seeds that have the coverage asked for."""
        return [found for found in self.of(setting) if not found["out_of_reach"]]

    def everywhere(self, setting: Setting) -> list[Found]:
        """The same where all seeds have it, else nothing: a curve over other seeds at each point would jump."""
        found = self.reached(setting)
        return found if len(found) == len(self.entries) else []


def read(jobs: Sequence[Job], results: Results) -> list[Model]:
    """The models of the jobs of which at least one seed is measured."""
    models: dict[str, dict[int, Entry]] = {}
    for job in jobs:
        entry = results.find(job.key, job.data)
        if entry is not None:
            models.setdefault(job.row.label, {})[job.key.seed] = entry
    seeds = len({job.key.seed for job in jobs})
    return [Model(label, entries, seeds) for label, entries in models.items()]


def write(place: Path, table: Table, models: Sequence[Model], options: TableOptions) -> tuple[Report, Report]:
    """table.md, table.csv, selectors.png and selectors.svg, as far as models are measured; the two tables."""
    reports = (
        Report(f"{table.name}: {table.summary}", (), _headings("knob"), _matched(models), ()),
        Report("Published settings", (), _headings("coverage"), _published(models), _notes(table, models, options)),
    )
    text = "\n".join(report.markdown().replace("# Published", "## Published") for report in reports)
    atomic_write(place / "table.md", text.encode())
    atomic_write(place / "table.csv", _csv(models).encode())
    sheets = [_sheet(model) for model in models]
    for kind in ("png", "svg"):
        atomic_write(place / f"selectors.{kind}", draw_selectors(sheets, kind))
    return reports


# --- tables --------------------------------------------------------------------------------------------------------


def _headings(first: str) -> tuple[str, ...]:
    return (first, *(heading for heading, _ in FIGURES), "classes labelled")


def _matched(models: Sequence[Model]) -> tuple[Line, ...]:
    """Each selector at each headline level, and what the model itself makes of all pixels."""
    lines = []
    for model in models:
        for level in HEADLINES:
            for setting in model.settings():
                if setting.level == level:
                    found = model.reached(setting)
                    mean, sd = _spread([f["value"] for f in found], "{:.3f}")
                    knob = f"{found[0]['knob']} {mean}" if found else "-"
                    lines.append(_line(model, f"{model.label}, {_share(level)}", setting.selector, found, (knob, sd)))
        every = [entry.content["all"] for entry in model.entries.values()]
        lines.append(_line(model, f"{model.label}, 100 %", "every pixel, likeliest class", every, ("-", "")))
    return tuple(lines)


def _published(models: Sequence[Model]) -> tuple[Line, ...]:
    lines = []
    for model in models:
        for setting in model.settings():
            if setting.name:
                found = model.of(setting)
                first = _spread([100 * f["coverage"] for f in found])
                lines.append(_line(model, model.label, f"{setting.selector}: {setting.name}", found, first))
    return tuple(lines)


def _line(model: Model, part: str, label: str, found: Sequence[Found], first: tuple[str, str]) -> Line:
    figures = [_spread([100 * f[name] for f in found if f[name] is not None]) for _, name in FIGURES]
    labelled = _spread([f["classes_labelled"] for f in found])
    seeds = str(len(found)) if len(found) == model.seeds else f"{len(found)} of {model.seeds}"
    return Line(part, "", label, False, seeds, {}, (first, *figures, labelled))


def _spread(values: Sequence[float], form: str = "{:.1f}") -> tuple[str, str]:
    """(mean, standard deviation of the sample); a dash without a number, nothing for one alone."""
    if not values:
        return "-", ""
    return form.format(statistics.mean(values)), form.format(statistics.stdev(values)) if len(values) > 1 else ""


def _share(level: float) -> str:
    return f"{100 * level:g} %"


def _notes(table: Table, models: Sequence[Model], options: TableOptions) -> tuple[str, ...]:
    """What stands under the tables."""
    entry = next(iter(models[0].entries.values()))
    scores, data = entry.scores, entry.content["data"]["withheld"]
    occurring = sum(scores.occurs)
    rarer = entry.content["rarer_half"]
    notes = [
        *table.reading,
        f"Rarer half: the {len(rarer)} of {occurring} classes with the fewest pixels in the withheld labels "
        f"({', '.join(rarer)}). All figures but the knob in percent; n: seeds; ± standard deviation (of the sample).",
        f"Data: {options.data or table.data}, {data['images']} images of the target; network: "
        f"{entry.content['network']}; settings of IAST other than alpha: beta .9, gamma 8, thresholds from .9.",
        *_unreached(models),
    ]
    missing = [f"{model.label} ({len(model.entries)} of {model.seeds} seeds)" for model in models if not model.whole]
    return (*notes, *([f"Not finished yet: {', '.join(missing)}; the same command goes on."] if missing else []))


def _unreached(models: Sequence[Model]) -> list[str]:
    """Which selector is missing at which level, and why."""
    notes = []
    for model in models:
        missed: dict[tuple[str, str], list[Found]] = {}
        for setting in model.settings():
            for found in model.of(setting):
                if found["out_of_reach"]:
                    missed.setdefault((setting.selector, found["out_of_reach"]), []).append(found)
        for (selector, why), found in missed.items():
            levels = sorted({f["level"] for f in found})
            always = len(found) == len(levels) * len(model.entries)
            nearest = sorted({round(100 * f["coverage"], 1) for f in found})
            span = f"{nearest[0]} %" if len(nearest) == 1 else f"{nearest[0]} to {nearest[-1]} %"
            notes.append(
                f"{model.label}: {selector} does not reach {', '.join(map(_share, levels))}"
                f"{'' if always else ' in every seed'}; its nearest coverage is {span}: {why}."
            )
    return notes


def _csv(models: Sequence[Model]) -> str:
    """A line for each model, seed, selector and setting; fractions of 1; empty where there is nothing to divide."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    scalars = ("coverage", "accuracy", "miou", "miou_classes", "classes_labelled", "rarer_precision", "rarer_recall")
    named = ("selector", "setting", "level", "out_of_reach", "knob", "value")
    everything = {**dict.fromkeys(named, ""), "selector": "every pixel"}
    for number, model in enumerate(models):
        classes = next(iter(model.entries.values())).scores.space.classes
        if number == 0:
            heads = [f"{name} of {c}" for name in PER_CLASS for c in classes]
            writer.writerow(["model", "seed", *named, *scalars, *heads])
        for seed, entry in model.entries.items():
            for found in (*entry.content["selectors"], {**everything, **entry.content["all"]}):
                figures = [value for name in PER_CLASS for value in found[name]]
                writer.writerow([model.label, seed, *(found[name] for name in (*named, *scalars)), *figures])
    return out.getvalue()


# --- picture -------------------------------------------------------------------------------------------------------


def _sheet(model: Model) -> Sheet:
    """Curves over coverage, where every measured seed reaches it; and the recall of each class at one level."""
    panels = tuple(_panel(model, title, name) for title, name in CURVES)
    scores = next(iter(model.entries.values())).scores
    pixels = scores.confusion.sum(1)
    common = [int(c) for c in pixels.argsort(descending=True, stable=True) if pixels[c] > 0]
    names = [scores.space.classes[c] for c in common]
    at = [setting for setting in model.settings() if setting.level == HEAT]
    values = np.array([[_class_mean(model.everywhere(setting), c) for c in common] for setting in at])
    title = (
        f"recall of each class in %, {_share(HEAT)} of all pixels labelled; "
        "from frequent to rare, the rarer half right of the line"
    )
    heat = Heat(title, [setting.selector for setting in at], names, values, len(common) - len(common) // 2)
    seeds = len(model.entries)
    named = f"{model.label}, {seeds} seed{'' if seeds == 1 else 's'}: labels against withheld truth (oracle)"
    return Sheet(named, panels, heat)


def _panel(model: Model, title: str, name: str) -> Panel:
    curves: dict[str, list[tuple[float, float, float]]] = {}
    marks = []
    for setting in model.settings():
        mine = curves.setdefault(setting.selector, [])
        found = model.of(setting) if setting.name else model.everywhere(setting)
        values = [100 * f[name] for f in found if f[name] is not None]
        if setting.name and values:
            coverage = statistics.mean(100 * f["coverage"] for f in found)
            marks.append(Mark(setting.selector, coverage, statistics.mean(values)))
        elif values and setting.level is not None:
            mine.append((100 * setting.level, statistics.mean(values), _deviation(values)))
    drawn = []
    for selector, points in curves.items():
        x, y, spread = zip(*points, strict=True) if points else ((), (), ())
        drawn.append(Curve(selector, x, y, spread if len(model.entries) > 1 else None))
    every = [100 * entry.content["all"][name] for entry in model.entries.values()]
    return Panel(f"{title} in %", drawn, marks, statistics.mean(every))


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _class_mean(found: Sequence[Found], c: int) -> float:
    """Mean recall of class c over seeds, in percent; nan without one."""
    values = [100 * f["recall"][c] for f in found if f["recall"][c] is not None]
    return statistics.mean(values) if values else math.nan
