"""The figures of a report: one or several runs' scores beside one another, as plain values and as a table.

Source-only stands beside the adapted model, a mean says which subset it is over, and what looked at target labels is
called oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from rich.table import Table

from segshift.errors import ConfigError, RunError
from segshift.evaluate import compare
from segshift.guards import run_warnings
from segshift.json_shape import require
from segshift.label_views import FILE as VIEWS
from segshift.label_views import read_counts
from segshift.reporting.candidates import read_candidates
from segshift.reporting.rows import Row, rows_of
from segshift.reporting.sections import calibration_figures, class_shares, confusion_figures, image_figures
from segshift.reporting.seeds import group_figures, headline
from segshift.run_folder import Run, read_run
from segshift.taxonomy import LabelSpace


class _Views(TypedDict):
    round: int
    images: int
    distributions: dict[str, list[float]]
    agree: float | None
    outcomes: dict[str, float | None] | None
    outcomes_per_class: dict[str, dict[str, float | None]] | None
    accuracy: dict[str, float | None] | None


def results(runs: Sequence[Path], oracle: Path | None = None) -> dict[str, Any]:
    """All figures of a report as plain JSON values; shares are fractions of 1, None where there is no figure.

    `rows` holds a model each: `miou` (subset -> value, classes averaged, size of the subset, difference), `iou`
    (class -> value, difference) and the accuracies; differences are to the row named in `compared_with`.
    `groups` holds rows that differ in their seed alone, taken together (mean, sd, n), `headline` the first sentences,
    `calibration` the bins of confidence of each row whose run kept them.
    `runs` holds each run's rounds, and the quality of their pseudo-labels (oracle) where it was measured. Raises
    RunError for a folder that is not a run, or runs over different classes.
    """
    return figures_of(*read_all(runs, oracle))


def score_table(runs: Sequence[Path], oracle: Path | None = None) -> Table | str:
    """The report's headline as a table for the terminal: one column a model, one row a class, then the means."""
    read, supervised = read_all(runs, oracle)
    rows = {row.label: row.scores for row in rows_of(read, supervised) if row.scores is not None}
    return compare(rows, _scored_space(read[0])) if rows else "no scores: the target has no labelled test images"


def read_all(runs: Sequence[Path], oracle: Path | None) -> tuple[list[Run], Run | None]:
    """The runs and the oracle's, read. RunError where they are over different classes, or scored differently."""
    if not runs:
        raise ConfigError("runs is empty; expected at least one run folder")
    read = [read_run(path) for path in runs]
    supervised = None if oracle is None else read_run(oracle)
    for run in [*read, *([supervised] if supervised else [])]:
        if run.space.classes != read[0].space.classes:
            raise RunError(
                f"{run.path} has the classes of {run.space.name} ({len(run.space)}), {read[0].path} those of "
                f"{read[0].space.name} ({len(read[0].space)}); expected equal classes: report them separately"
            )
        if _scored_space(run).classes != _scored_space(read[0]).classes:
            raise RunError(
                f"{run.path} is scored as {_scored_space(run).name}, {read[0].path} as {_scored_space(read[0]).name}; "
                "expected one way of scoring: report them separately"
            )
    return read, supervised


# Figures


def figures_of(runs: Sequence[Run], oracle: Run | None) -> dict[str, Any]:
    """`results` of runs that are read already."""
    rows = rows_of(runs, oracle)
    groups = group_figures(rows)
    return {
        "headline": headline(rows, groups),
        "space": _scored_space(runs[0]).to_dict(),
        "protocol": _protocols([*runs, *([oracle] if oracle else [])]),
        "rows": [_row_figures(row, rows) for row in rows if row.scores],
        "groups": groups,
        "calibration": calibration_figures(rows),
        "notes": _notes(rows, oracle),
        "runs": [run_figures(run, 3 if len(runs) == 1 else 2) for run in runs],
    }


def _scored_space(run: Run) -> LabelSpace:
    """The label space of the figures: the model's, unless classes were merged before scoring."""
    scores = run.final or run.warmup
    return scores.space if scores else run.space


def _protocols(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What each run says of its data and scoring, in sentences; runs that say the same stand together."""
    found: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        found.setdefault(tuple(run.info.get("protocol", ())), []).append(str(run.info["label"]))
    return [{"runs": labels, "sentences": list(said)} for said, labels in found.items() if said]


def _row_figures(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    assert row.scores is not None
    figures = row.scores.to_dict()
    base = rows[row.base] if row.base is not None and rows[row.base].scores else None
    reference = base.scores.to_dict() if base and base.scores else None

    def difference(kind: str, name: str) -> float | None:
        pair = (figures[kind][name], reference[kind].get(name) if reference else None)
        return None if None in pair else pair[0] - pair[1]

    subsets = row.scores.space.subsets
    return {
        "label": row.label,
        "kind": row.kind,
        "run": row.run.folder,
        "seed": row.run.info.get("seed"),
        "images": row.scores.images,
        "compared_with": base.label if base else None,
        "miou": {
            name: {
                "value": value,
                "classes": len(row.scores.counted(name)),
                "of": len(subsets[name]),
                "difference": difference("miou", name),
            }
            for name, value in figures["miou"].items()
        },
        "iou": {name: {"value": v, "difference": difference("iou", name)} for name, v in figures["iou"].items()},
        "pixel_accuracy": figures["pixel_accuracy"],
        "mean_pixel_accuracy": figures["mean_pixel_accuracy"],
        "frequency_weighted_iou": figures["frequency_weighted_iou"],
        "confusion": confusion_figures(row.scores),
    }


def _notes(rows: Sequence[Row], oracle: Run | None) -> list[str]:
    """What a reader must know about rows that are missing or cannot be compared."""
    notes = []
    unscored = [row.label for row in rows if row.scores is None]
    if len(unscored) == len(rows):
        notes.append("No model was scored: the test set has no labels, or scoring has not run yet.")
    elif unscored:
        notes.append(f"Without scores, and so not in the tables: {', '.join(unscored)}.")
    if oracle is None:
        notes.append("No oracle run was given, so there is no upper bound in the tables.")
    if len({tuple(row.scores.confusion.sum(1).tolist()) for row in rows if row.scores}) > 1:
        notes.append("The rows were scored on different truth: their figures do not compare.")
    return notes


def run_figures(run: Run, images: int = 3) -> dict[str, Any]:
    """How a run came about, what is to be known about it, the statistics of its rounds, and its worst and best images
    (up to `images` of each)."""
    keys = ("name", "label", "seed", "command", "started", "device", "processes", "threads", "versions")
    known = {key: run.info.get(key) for key in (*keys, "data", "data_notes")}
    counts = ("what", "space", "confusion", "predicted")  # what the figures are made of
    return {
        "folder": run.folder,
        **known,
        "left_out": {role: list(said) for role, said in run.info.get("left_out", {}).items() if said},
        "resumed": list(run.info.get("resumed", [])),
        "warnings": run_warnings(run),
        "rounds": [dict(statistics) for statistics in run.rounds],
        "distilled": [dict(statistics) for statistics in run.distilled],
        "label_quality": [{k: v for k, v in entry.items() if k not in counts} for entry in run.label_quality],
        "label_views": _label_views(run),
        "class_shares": class_shares(run, run.final or run.warmup),
        "images": image_figures(run, images),
        "candidates": read_candidates(run),
    }


def _label_views(run: Run) -> dict[str, Any] | None:
    views = read_counts(run.path)
    if views is None:
        return None
    where, cure = str(run.path / VIEWS), "delete it and resume the run, which counts again"
    require(views, _Views, where, cure)
    counted = run.space.classes if views["outcomes"] is None else views["outcomes_per_class"] or {}
    missing = [name for name in run.space.classes if name not in counted]
    if missing:
        raise RunError(f"{where}: outcomes_per_class has no {', '.join(missing)}; {cure}")
    return views
