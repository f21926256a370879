"""The report of one or several runs: one HTML file that needs nothing else, and the same figures as JSON.

Every figure of the page is read from `results`, so page and JSON cannot differ. Source-only stands beside the adapted
model, a mean says which subset it is over, and what looked at target labels is called oracle.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from segshift import draw
from segshift.checkpoint import atomic_write
from segshift.draw_cpsl import DISTRIBUTIONS, WHO_IS_RIGHT
from segshift.errors import RunError
from segshift.painting import colorize
from segshift.paths import printable
from segshift.report_figures import Row, figures_of, read_all, rows_of, run_figures
from segshift.run_folder import Run

PANELS = 6
"""Most images a report shows."""

_WIDEST = 640
"""Pixels; wider panel pictures are scaled down in the page."""
_NAMED = 20
"""Most files left out that the page names of each domain; results.json names all."""
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
    panels, legend = _panels(rows)
    page = _environment().get_template("report.html.j2")
    html = page.render(
        title=title,
        figures=figures,
        runs=[_run_view(run, entry) for run, entry in zip(read, figures["runs"], strict=True)],
        oracle=supervised and _run_view(supervised, run_figures(supervised)),
        panels=panels,
        legend=legend,
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
    names = _panel_names(rows, limit)
    if not names:
        raise RunError(f"{runs[0]} holds no evaluation/panels; expected those of a run with a test set")
    for name in names:
        for title, file in _panel_files(rows, name):
            pixels = _read_pixels(file, color=title == "image")
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
    environment.filters["points"] = lambda v: "" if v is None else f"{100 * v:+.1f}".replace("-", "\N{MINUS SIGN}")
    # Thresholds on potentials (spatial priors) are far below 1.
    environment.filters["threshold"] = lambda v: "\N{EN DASH}" if v is None else f"{v:.4f}" if v >= 0.01 else f"{v:.2e}"
    environment.filters["pretty"] = lambda v: json.dumps(v, indent=2, ensure_ascii=False)
    return environment


def _visible(value: object) -> object:
    """Text of the page before it is escaped: without what would show in another order than it stands, or not at all."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _run_view(run: Run, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A run's part of the page: its rounds by class, curves and recipe."""
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
        "classes": [{"name": n, "color": _css(c)} for n, c in zip(run.space.classes, run.space.colors, strict=True)],
        "per_class": {name: values for name, values in lists.items() if all(len(v) == k for v in values)},
        "overall": {name: values for name, values in lists.items() if not all(len(v) == k for v in values)},
        "kept": rates,
        "prior": _embedded(run.path / "spatial-prior.png"),
        "who_is_right": _embedded(run.path / WHO_IS_RIGHT),
        "distributions": _embedded(run.path / DISTRIBUTIONS),
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
        "svg": Markup(draw.curves(thin, "step", "loss", marks)),
    }


def _averaged(values: Sequence[float]) -> list[float]:
    groups = np.array_split(np.asarray(values, float), min(_POINTS, len(values)))
    return [float(group.mean()) for group in groups]


def _panel_names(rows: Sequence[Row], limit: int) -> list[str]:
    found = rows[0].run.path.glob("evaluation/panels/*/image.png")
    return sorted(file.parent.name for file in found)[:limit]


def _panel_files(rows: Sequence[Row], name: str) -> list[tuple[str, Path]]:
    """(title, file) of an image's pictures that exist: image, truth, and each row's prediction but the oracle's."""
    first = rows[0].run.path / "evaluation" / "panels" / name
    files = [("image", first / "image.png"), ("truth", first / "truth.png")]
    for row in rows:
        if row.kind != "oracle":
            files.append((row.label, row.run.path / "evaluation" / "panels" / name / row.picture))
    return [(title, file) for title, file in files if file.is_file()]


def _panels(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
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
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
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


def _embedded(file: Path) -> str | None:
    """A PNG that the run keeps, as it is; None where it keeps none."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" if file.is_file() else None


def _css(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
