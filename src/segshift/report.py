"""The report of one or several runs: one HTML file that needs nothing else, and the same figures as JSON.

Every figure of the page is read from `results`, so page and JSON cannot differ. Source-only stands beside the adapted
model, a mean says which subset it is over, and what looked at target labels is called oracle.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image
from rich.table import Table

from segshift import draw
from segshift.checkpoint import atomic_write
from segshift.errors import ConfigError, RunError
from segshift.evaluate import Scores, compare
from segshift.run_folder import Run, read_run

ORACLE = "oracle (target labels)"
PANELS = 6
"""Most images a report shows."""

_WIDEST = 640
"""Pixels; wider panel pictures are scaled down in the page."""
_POINTS = 200
"""Most points of a loss curve; more steps are averaged in equal groups."""


@dataclass(frozen=True)
class _Row:
    """A model in the tables: its name, where it comes from, and the row its differences refer to."""

    label: str
    kind: str  # "warmup", "adapted" or "oracle"
    run: Run
    scores: Scores | None
    base: int | None

    @property
    def picture(self) -> str:
        return "warmup.png" if self.kind == "warmup" else "final.png"


def results(runs: Sequence[Path], oracle: Path | None = None) -> dict[str, Any]:
    """All figures of a report as plain JSON values; shares are fractions of 1, None where there is no figure.

    `rows` holds a model each: `miou` (subset -> value, classes averaged, size of the subset, difference), `iou`
    (class -> value, difference) and the accuracies; differences are to the row named in `compared_with`.
    `runs` holds each run's rounds. Raises RunError for a folder that is not a run, or runs over different classes.
    """
    return _results(*_read_all(runs, oracle))


def write_report(
    runs: Sequence[Path], out: Path, oracle: Path | None = None, title: str = "Segshift: domain adaptation report"
) -> Path:
    """Write the report of `runs` to the HTML file `out`, and `results.json` beside it; returns `out`.

    `oracle` is the run folder of a model trained on target labels. Parts a run does not have are said to be missing.
    """
    read, supervised = _read_all(runs, oracle)
    rows = _rows(read, supervised)
    figures = _results(read, supervised)
    panels, legend = _panels(rows)
    page = _environment().get_template("report.html.j2")
    html = page.render(
        title=title,
        figures=figures,
        runs=[_run_view(run, entry) for run, entry in zip(read, figures["runs"], strict=True)],
        oracle=supervised and _run_view(supervised, _run_figures(supervised)),
        panels=panels,
        legend=legend,
        legend_colors=draw.CURVE_COLORS,
    )
    out = Path(out)
    atomic_write(out, html.encode())
    atomic_write(out.with_name("results.json"), (json.dumps(figures, indent=1) + "\n").encode())
    return out


def score_table(runs: Sequence[Path], oracle: Path | None = None) -> Table | str:
    """The report's headline as a table for the terminal: one column a model, one row a class, then the means."""
    read, supervised = _read_all(runs, oracle)
    rows = {row.label: row.scores for row in _rows(read, supervised) if row.scores is not None}
    return compare(rows, read[0].space) if rows else "no scores: the target has no labelled test images"


def panel_picture(runs: Sequence[Path], limit: int = PANELS) -> Image.Image:
    """The panel image | truth | source-only | adapted of the runs' test images as one picture.

    Raises RunError when the first run keeps no panels.
    """
    read, _ = _read_all(runs, None)
    rows = _rows(read, None)
    space = read[0].space
    found: dict[str, list[np.ndarray]] = {}
    labels = []
    names = _panel_names(rows, limit)
    if not names:
        raise RunError(f"{runs[0]} holds no evaluation/panels; expected those of a run with a test set")
    for name in names:
        for title, file in _panel_files(rows, name):
            pixels = _read_pixels(file, color=title == "image")
            if title != "image":
                labels.append(pixels)
                pixels = draw.colorize(pixels, space)
            found.setdefault(title, []).append(pixels)
    columns = [(title, arrays) for title, arrays in found.items() if len(arrays) == len(names)]
    return draw.panel(columns, draw.legend(labels, space))


# Reading


def _read_all(runs: Sequence[Path], oracle: Path | None) -> tuple[list[Run], Run | None]:
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
    return read, supervised


# Figures


def _rows(runs: Sequence[Run], oracle: Run | None) -> list[_Row]:
    """Source-only (once, where all runs share it), each adapted model, the oracle; labels are distinct."""
    rows: list[_Row] = []
    shared = len({_warmup_key(run) for run in runs}) == 1
    for run in runs:
        # A run that is a warm-up and nothing else has one model, its last.
        is_warmup = run.warmup is None and run.info["label"] == run.warmup_label
        if not is_warmup and (not shared or not rows):
            rows.append(_Row(run.warmup_label, "warmup", run, run.warmup, None))
        base = max((i for i, row in enumerate(rows) if row.kind == "warmup"), default=None)
        rows.append(_Row(str(run.info["label"]), "adapted", run, run.final, base))
    if oracle:
        rows.append(_Row(ORACLE, "oracle", oracle, oracle.final, 0 if shared else None))
    for detail in (lambda row: f"seed {row.run.info.get('seed')}", lambda row: row.run.folder):
        count = Counter(row.label for row in rows)
        rows = [replace(row, label=f"{row.label}, {detail(row)}") if count[row.label] > 1 else row for row in rows]
    return rows


def _warmup_key(run: Run) -> str:
    scores = run.warmup.confusion.tolist() if run.warmup else run.info.get("seed")
    return json.dumps([run.warmup_label, scores])


def _results(runs: Sequence[Run], oracle: Run | None) -> dict[str, Any]:
    rows = _rows(runs, oracle)
    return {
        "space": runs[0].space.to_dict(),
        "rows": [_row_figures(row, rows) for row in rows if row.scores],
        "notes": _notes(rows, oracle),
        "runs": [_run_figures(run) for run in runs],
    }


def _row_figures(row: _Row, rows: Sequence[_Row]) -> dict[str, Any]:
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
    }


def _notes(rows: Sequence[_Row], oracle: Run | None) -> list[str]:
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


def _run_figures(run: Run) -> dict[str, Any]:
    keys = ("name", "label", "seed", "command", "started", "device", "processes", "threads", "data", "versions")
    known = {key: run.info.get(key) for key in keys}
    return {"folder": run.folder, **known, "rounds": [dict(statistics) for statistics in run.rounds]}


# Page


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segshift", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda v: "\N{EN DASH}" if v is None else f"{100 * v:.1f}"
    environment.filters["points"] = lambda v: "" if v is None else f"{100 * v:+.1f}".replace("-", "\N{MINUS SIGN}")
    environment.filters["threshold"] = lambda v: "\N{EN DASH}" if v is None else f"{v:.4f}"
    environment.filters["pretty"] = lambda v: json.dumps(v, indent=2, ensure_ascii=False)
    return environment


def _run_view(run: Run, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A run's part of the page: its rounds by class, curves and recipe."""
    k = len(run.space)
    names = sorted({name for r in figures["rounds"] for name in r.get("thresholds", {})})
    lists = {name: [list(r.get("thresholds", {}).get(name, ())) for r in figures["rounds"]] for name in names}
    rates = [
        [kept / predicted if predicted else None for kept, predicted in zip(r["kept_per_class"], r["predicted"])]
        for r in figures["rounds"]
    ]
    return {
        **figures,
        "classes": [{"name": n, "color": _css(c)} for n, c in zip(run.space.classes, run.space.colors, strict=True)],
        "per_class": {name: values for name, values in lists.items() if all(len(v) == k for v in values)},
        "overall": {name: values for name, values in lists.items() if not all(len(v) == k for v in values)},
        "kept": rates,
        "charts": [chart for phase in ("warmup", "adaptation") if (chart := _chart(run, phase))],
        "recipe": run.info.get("recipe"),
    }


def _chart(run: Run, phase: str) -> dict[str, Any] | None:
    """A phase's loss curves over the steps of the log; rounds begin at the dashed lines."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    marks: list[float] = []
    before: tuple[int, int] | None = None
    shift = x = 0
    for line in run.log:
        if line["phase"] != phase:
            continue
        if before and line["step"] <= before[1]:  # counts from the start in each round
            shift = x
        x = shift + line["step"]
        if before and line["round"] != before[0]:
            marks.append(x)
        before = (line["round"], line["step"])
        for name, value in line.get("losses", {}).items():
            xs, ys = series.setdefault(name, ([], []))
            xs.append(x)
            ys.append(math.nan if value is None else value)
    if not series:
        return None
    thin = {name: (_averaged(xs), _averaged(ys)) for name, (xs, ys) in series.items()}
    title = {"warmup": "Warm-up", "adaptation": "Adaptation"}[phase]
    return {
        "title": title,
        "names": list(thin),
        "rounds": bool(marks),
        "svg": Markup(draw.curves(thin, "step", "loss", marks)),
    }


def _averaged(values: Sequence[float]) -> list[float]:
    groups = np.array_split(np.asarray(values, float), min(_POINTS, len(values)))
    return [float(group.mean()) for group in groups]


def _panel_names(rows: Sequence[_Row], limit: int) -> list[str]:
    found = rows[0].run.path.glob("evaluation/panels/*/image.png")
    return sorted(file.parent.name for file in found)[:limit]


def _panel_files(rows: Sequence[_Row], name: str) -> list[tuple[str, Path]]:
    """(title, file) of an image's pictures that exist: image, truth, and each row's prediction but the oracle's."""
    first = rows[0].run.path / "evaluation" / "panels" / name
    files = [("image", first / "image.png"), ("truth", first / "truth.png")]
    for row in rows:
        if row.kind != "oracle":
            files.append((row.label, row.run.path / "evaluation" / "panels" / name / row.picture))
    return [(title, file) for title, file in files if file.is_file()]


def _panels(rows: Sequence[_Row]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Pictures of the page as data URIs, and the legend of the classes that occur in them."""
    space = rows[0].run.space
    palette = [int(v) for v in space.palette().reshape(-1)]
    labels = []
    views = []
    for name in _panel_names(rows, PANELS):
        pictures = []
        for title, file in _panel_files(rows, name):
            pixels = _read_pixels(file, color=title == "image")
            picture = Image.fromarray(pixels)
            if title != "image":
                labels.append(pixels)
                picture.putpalette(palette)
            pictures.append({"title": title, "uri": _data_uri(picture)})
        views.append({"name": name, "pictures": pictures})
    return views, [{"name": name, "color": _css(color)} for name, color in draw.legend(labels, space)]


def _read_pixels(path: Path, color: bool) -> np.ndarray:
    """uint8 (h, w, 3) of an image, uint8 (h, w) of a label."""
    try:
        with Image.open(path) as picture:
            if color:
                return np.asarray(picture.convert("RGB"))
            pixels = np.asarray(picture)
    except OSError as error:
        raise RunError(f"{path}: cannot be read as an image ({error}); score the run again") from error
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise RunError(f"{path}: shape {pixels.shape}, {pixels.dtype}; expected an 8-bit label of one channel")
    return pixels


def _data_uri(picture: Image.Image) -> str:
    """A photograph as JPEG, a label as palette PNG (its colours must stay exact)."""
    photograph = picture.mode == "RGB"
    if picture.width > _WIDEST:
        size = (_WIDEST, max(1, round(picture.height * _WIDEST / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS if photograph else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    if photograph:
        picture.save(buffer, "JPEG", quality=90)
    else:
        picture.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if photograph else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
