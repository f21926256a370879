"""The picture of `segshift table selectors`: figures over coverage, and what becomes of each class at one coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from segshift.reporting.draw import Curve, Kind, class_name, one_line, saved

STYLES: tuple[tuple[str, Literal["-"] | tuple[float, tuple[float, float]]], ...] = (
    ("#6b7280", "-"), ("#3b82d6", "-"), ("#d9772b", "-"), ("#8b5fd0", "-"),
    ("#15803d", "-"), ("#22a861", (0, (4, 1.6))), ("#6cc493", (0, (1.2, 1.2))),
)  # fmt: skip
"""Colour and dashes of the curves, in the order given: one hue for the variants of a selector."""

_RECALL = LinearSegmentedColormap.from_list("recall", ("#f7fafc", "#b9d7ea", "#4f97c7", "#1d4f7c"))
_SHEET = 11.6, 3.3
"""Inches: width, and height of the curves; the map's grows with its rows."""


class Mark(NamedTuple):
    """A published setting, on or off the curve of its selector."""

    curve: str
    x: float
    y: float


class Panel(NamedTuple):
    """Curves over coverage, both axes in percent."""

    title: str
    curves: Sequence[Curve]
    marks: Sequence[Mark]
    everything: float
    """The figure where every pixel gets its likeliest class."""


class Heat(NamedTuple):
    """A map of numbers in percent; nan is drawn as not reached."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Float[np.ndarray, "rows columns"]
    divide: int
    """A line is drawn before this column."""


class Sheet(NamedTuple):
    """What is drawn of one model."""

    title: str
    panels: Sequence[Panel]
    heat: Heat


def draw_selectors(sheets: Sequence[Sheet], kind: Kind) -> bytes:
    """The sheets under one another, as the content of a PNG or SVG file."""
    heights = [_SHEET[1] + 1.55 + 0.3 * len(sheet.heat.rows) for sheet in sheets]
    figure = Figure(figsize=(_SHEET[0], sum(heights)), layout="constrained", facecolor="white")
    parts = figure.subfigures(len(sheets), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, sheet, height in zip(parts, sheets, heights, strict=True):
        part.suptitle(one_line(sheet.title), fontsize=11, x=0.01, ha="left", weight="bold")
        above, below = part.subfigures(2, 1, height_ratios=(_SHEET[1] + 0.65, height - _SHEET[1] - 0.65))
        _draw_curves(above, sheet.panels)
        _draw_heat(below.subplots(), sheet.heat)
    return saved(figure, kind, dpi=150)


def _draw_curves(figure: SubFigure, panels: Sequence[Panel]) -> None:
    """The panels side by side, one legend for all under them."""
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
    names = [one_line(curve.label) for curve in panels[0].curves]
    handles = [Line2D([], [], color=c, linestyle=s, linewidth=2) for c, s in STYLES[: len(names)]]
    handles += [
        Line2D([], [], color="#444444", linestyle="", marker="D", markersize=6, markerfacecolor="white"),
        Line2D([], [], color="#444444", linestyle="", marker="x", markersize=6),
    ]
    names += ["as published (Δ .1: ours)", "every pixel labelled"]
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=8.5, frameon=False, handlelength=2.4)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    styles = dict(zip((curve.label for curve in panel.curves), STYLES, strict=False))
    for curve in panel.curves:
        color, dashes = styles[curve.label]
        axes.plot(curve.x, curve.y, color=color, linestyle=dashes, linewidth=1.8, zorder=3, solid_joinstyle="round")
        if curve.spread is not None:
            low, high = np.subtract(curve.y, curve.spread), np.add(curve.y, curve.spread)
            axes.fill_between(curve.x, low, high, color=color, alpha=0.1, linewidth=0, zorder=2)
    for mark in panel.marks:
        axes.plot(mark.x, mark.y, color=styles[mark.curve][0], marker="D", markersize=5.5, markerfacecolor="white",
                  markeredgewidth=1.5, zorder=5)  # fmt: skip
    axes.plot(100, panel.everything, color="#444444", marker="x", markersize=6, clip_on=False, zorder=5)
    axes.set_title(one_line(panel.title), fontsize=10, loc="left")
    axes.set_xlabel("coverage: share of all pixels that get a label, in %", fontsize=8.5)
    axes.set_xlim(5, 102)
    axes.set_xticks(range(10, 101, 10))
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.tick_params(labelsize=8.5, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color("#aaaaaa")


def _draw_heat(axes: Axes, heat: Heat) -> None:
    axes.set_facecolor("#e5e5e5")
    largest = float(np.nanmax(heat.values)) if np.isfinite(heat.values).any() else 1.0
    axes.imshow(heat.values, cmap=_RECALL, vmin=0, vmax=max(largest, 1.0), aspect="auto")
    for (row, column), value in np.ndenumerate(heat.values):
        if np.isfinite(value):
            color = "white" if value > 0.55 * largest else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8.5, color=color)
    for row in np.flatnonzero(~np.isfinite(heat.values).any(1)).tolist():
        axes.text((len(heat.columns) - 1) / 2, row, "not reached", ha="center", va="center", fontsize=8.5)
    axes.axvline(heat.divide - 0.5, color="#444444", linewidth=1.2)
    axes.set_xticks(
        range(len(heat.columns)),
        [class_name(name) for name in heat.columns],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(heat.rows)), [class_name(name) for name in heat.rows])
    axes.set_title(one_line(heat.title), fontsize=10, loc="left")
    axes.tick_params(labelsize=8.5, length=0)
    axes.spines[:].set_visible(False)
