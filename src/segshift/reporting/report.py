"""The report of one or several runs: one HTML file that needs nothing else, and the same figures as JSON.

Every figure of the page is read from `results`, so page and JSON cannot differ. Source-only stands beside the adapted
model, a mean says which subset it is over, and what looked at target labels is called oracle.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from segshift.checkpoint import atomic_write
from segshift.errors import RunError
from segshift.painting import colorize
from segshift.paths import printable
from segshift.reporting import draw
from segshift.reporting.candidates import candidate_view
from segshift.reporting.draw_calibration import reliability
from segshift.reporting.draw_cpsl import DISTRIBUTIONS, WHO_IS_RIGHT
from segshift.reporting.figures import figures_of, read_all, run_figures
from segshift.reporting.pictures import (
    PANELS,
    Pictures,
    css,
    embedded,
    panel_files,
    panel_names,
    picked_views,
    read_pixels,
)
from segshift.reporting.rows import rows_of
from segshift.reporting.sections import WIDEST
from segshift.run_folder import Run

_MANY = 400
"""Pixels that pictures are wide at most where there are several runs: a page stays below a few megabytes."""
_NAMED = 20
"""Most files left out that the page names of each domain; results.json names all."""
_SHADES = 5
"""Shades of the adapted models' colour that the page has."""
_POINTS = 200
"""Most points of a loss curve; more steps are averaged in equal groups."""
_PHASES = {
    "warmup": "Warm-up",
    "alignment": "Second warm-up",
    "adaptation": "Adaptation",
    "distillation": "Distillation",
}


def write_report(
    runs: Sequence[Path], out: Path, oracle: Path | None = None, title: str = "Segshift: domain adaptation report"
) -> Path:
    """Write the report of `runs` to the HTML file `out`, and `results.json` beside it; returns `out`.

    `oracle` is the run folder of a model trained on target labels. Parts a run does not have are said to be missing.
    """
    read, supervised = read_all(runs, oracle)
    rows = rows_of(read, supervised)
    figures = figures_of(read, supervised)
    pictures = Pictures(read[0].space, *([] if len(read) == 1 else [_MANY]))
    page = _environment().get_template("report.html.j2")
    html = page.render(
        title=title,
        figures=figures,
        groups=_groups(figures),
        runs=_run_views(read, figures, pictures),
        oracle=supervised and _run_view(supervised, run_figures(supervised)),
        panels=[pictures.view(name, panel_files(rows, name)) for name in panel_names(rows)],
        calibration=_calibration(figures),
        widest_matrix=WIDEST,
        pictures=pictures,
        legend_colors=draw.CURVE_COLORS,
        most_named=_NAMED,
    )
    out = Path(out)
    atomic_write(out, html.encode())
    atomic_write(out.with_name("results.json"), (json.dumps(figures, indent=1) + "\n").encode())
    return out


def panel_picture(runs: Sequence[Path], limit: int = PANELS) -> Image.Image:
    """The panel image | truth | source-only | adapted of the runs' test images as one picture.

    Raises RunError when the first run keeps no panels.
    """
    read, _ = read_all(runs, None)
    rows = rows_of(read, None)
    space = read[0].space
    found: dict[str, list[np.ndarray]] = {}
    labels = []
    names = panel_names(rows, limit)
    if not names:
        raise RunError(f"{runs[0]} holds no evaluation/panels; expected those of a run with a test set")
    for name in names:
        for title, file in panel_files(rows, name):
            pixels = read_pixels(file, color=title == "image")
            if title != "image":
                labels.append(pixels)
                pixels = colorize(pixels, space)
            found.setdefault(title, []).append(pixels)
    columns = [(title, arrays) for title, arrays in found.items() if len(arrays) == len(names)]
    return draw.panel(columns, draw.legend(labels, space))


# Page


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segshift", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda v: "\N{EN DASH}" if v is None else f"{100 * v:.1f}"
    environment.filters["share"] = _share
    environment.globals["with_words"] = _with_words
    environment.filters["points"] = lambda v: "" if v is None else f"{100 * v:+.1f}".replace("-", "\N{MINUS SIGN}")
    # Thresholds on potentials (spatial priors) are far below 1.
    environment.filters["threshold"] = lambda v: "\N{EN DASH}" if v is None else f"{v:.4f}" if v >= 0.01 else f"{v:.2e}"
    environment.filters["pretty"] = lambda v: json.dumps(v, indent=2, ensure_ascii=False)
    return environment


def _share(value: float | None) -> str:
    """In percent; what would be rounded away is told from nothing at all."""
    if not value:
        return "\N{EN DASH}" if value is None else "0"
    return f"{100 * value:.1f}" if value >= 0.0005 else "<0.1"


def _visible(value: object) -> object:
    """Text of the page before it is escaped: without what would show in another order than it stands, or not at all."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _groups(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of rows with the shade of their colour: several adapted models differ in it."""
    adapted = [group["label"] for group in figures["groups"] if group["kind"] == "adapted"]
    return [
        {
            **group,
            "many": len(group["seeds"]) > 1,
            "shade": f"shade-{adapted.index(group['label']) % _SHADES}" if group["kind"] == "adapted" else "",
        }
        for group in figures["groups"]
    ]


def _calibration(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A diagram for each adapted model: the model it started from, itself, and the oracle."""
    known = {model["label"]: model for model in figures["calibration"]}
    oracle = [model for model in figures["calibration"] if model["kind"] == "oracle"]
    charts = []
    for row in figures["rows"]:
        if row["kind"] == "adapted" and row["label"] in known:
            base = known.get(row["compared_with"])
            models = [*([] if base is None else [base]), *oracle, known[row["label"]]]
            charts.append({"title": row["label"], "models": models, "svg": reliability(models)})
    return charts


def _run_views(runs: Sequence[Run], figures: Mapping[str, Any], pictures: Pictures) -> list[dict[str, Any]]:
    """The runs' parts of the page; those of one name are told apart by their seeds too."""
    views = [_run_view(run, entry, pictures) for run, entry in zip(runs, figures["runs"], strict=True)]
    names = [view["label"] for view in views]
    for view in views:
        if names.count(view["label"]) > 1:
            view["told_by"] = f"seed {view['seed']}, {view['folder']}"
    return views


def _run_view(run: Run, figures: Mapping[str, Any], pictures: Pictures | None = None) -> dict[str, Any]:
    """A run's part of the page: its rounds by class, curves, recipe and picked images."""
    k = len(run.space)
    names = sorted({name for r in figures["rounds"] for name in r.get("thresholds", {})})
    lists = {name: [list(r.get("thresholds", {}).get(name, ())) for r in figures["rounds"]] for name in names}
    rates = [
        # A method need not say what pixels were predicted as: then no share of them is known.
        [kept / n if n else None for kept, n in zip(r["kept_per_class"], r["predicted"] or [0] * k, strict=True)]
        for r in figures["rounds"]
    ]
    return {
        **figures,
        "to_know": bool(figures["left_out"] or figures["resumed"] or figures["warnings"]),
        "classes": [{"name": n, "color": css(c)} for n, c in zip(run.space.classes, run.space.colors, strict=True)],
        "per_class": {name: values for name, values in lists.items() if all(len(v) == k for v in values)},
        "overall": {name: values for name, values in lists.items() if not all(len(v) == k for v in values)},
        "kept": rates,
        "picked": [] if pictures is None else list(picked_views(run, pictures, figures["images"])),
        "base": run.warmup_label,
        "candidates": candidate_view(run, figures["candidates"]),
        "told_by": figures["folder"],
        "prior": embedded(run.path / "spatial-prior.png"),
        "who_is_right": embedded(run.path / WHO_IS_RIGHT),
        "distributions": embedded(run.path / DISTRIBUTIONS),
        "charts": [chart for phase in _PHASES if (chart := _chart(run, phase))],
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
    return {
        "title": _PHASES[phase],
        "names": list(thin),
        "rounds": bool(marks),
        "svg": _with_words(draw.curves(thin, "step", "loss", marks, (5.6, 2.7)), _said(_PHASES[phase], thin)),
    }


def _with_words(drawn: str, said: str) -> Markup:
    """A drawn SVG and what it shows in words, for who cannot see it."""
    return Markup('<svg role="img" aria-label="{}"').format(printable(said)) + Markup(drawn.removeprefix("<svg"))


def _said(title: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """A loss chart in words."""
    ends = [f"{name} from {ys[0]:.3g} to {ys[-1]:.3g}" for name, (_, ys) in series.items()]
    return f"{title}, loss over steps: {'; '.join(ends)}"


def _averaged(values: Sequence[float]) -> list[float]:
    groups = np.array_split(np.asarray(values, float), min(_POINTS, len(values)))
    return [float(group.mean()) for group in groups]
