"""Pictures: the panel image | truth | source-only | adapted, and curves as SVG."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from PIL import Image, ImageDraw, ImageFont

from segshift.errors import ConfigError
from segshift.painting import LabelArray, Rgb
from segshift.paths import printable
from segshift.taxonomy import LabelSpace

LegendEntry = tuple[str, tuple[int, int, int]]
Kind = Literal["png", "svg"]
"""Of a picture file."""

CURVE_COLORS = ("#3b82d6", "#d9772b", "#2a9d78", "#c2559d", "#8b7bd8", "#a58a1f", "#d1495b", "#6b8896")
"""Mid-tone colours, told apart on white and on black, in the order series take them."""

_INK, _FAINT = "#010203", "#040506"
"""Stand-ins that matplotlib draws with; `curves` replaces them by colours that follow the page."""

_GAP, _TITLE, _LINE = 8, 26, 24
"""Pixels of a panel: between pictures, for a title, for a line of the legend."""


def legend(labels: Iterable[LabelArray], space: LabelSpace) -> list[LegendEntry]:
    """(name, colour) of the classes that occur in any of the labels, in the order of their ids."""
    seen = np.zeros(256, bool)
    for label in labels:
        seen[np.unique(label)] = True
    return [(name, space.colors[i]) for i, name in enumerate(space.classes) if seen[i]]


def panel(
    columns: Sequence[tuple[str, Sequence[Rgb]]], entries: Sequence[LegendEntry] = (), cell_width: int = 320
) -> Image.Image:
    """A picture with titled columns, one row for each image, and a legend of `entries` under them.

    Each array is scaled to `cell_width` pixels (nearest neighbour upwards, area mean downwards).
    Raises ConfigError when there is no column or columns differ in length.
    """
    lengths = {title: len(arrays) for title, arrays in columns}
    if not columns or len(set(lengths.values())) > 1:
        raise ConfigError(f"columns hold {lengths or 'nothing'}; expected at least one, all with as many pictures")
    rows = [[_fit(array, cell_width) for array in row] for row in zip(*(arrays for _, arrays in columns), strict=True)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = len(columns) * (cell_width + _GAP) + _GAP
    lines = _legend_lines(entries, width - 2 * _GAP)
    below = _TITLE + sum(heights) + _GAP * len(rows)
    sheet = Image.new("RGB", (width, below + _LINE * len(lines) + (_GAP if lines else 0)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (title, _) in enumerate(columns):
        left = _GAP + i * (cell_width + _GAP)
        draw.text((left, _TITLE / 2), _shorten(title, cell_width), fill="black", font=_font(15), anchor="lm")
        top = _TITLE
        for row, height in zip(rows, heights, strict=True):
            sheet.paste(row[i], (left, top))
            top += height + _GAP
    for number, line in enumerate(lines):
        _draw_legend_line(draw, line, below + _LINE * number + _LINE // 2)
    return sheet


def _fit(array: Rgb, width: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(array))
    if picture.width == width:
        return picture
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.BOX if width < picture.width else Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu Sans along, which knows more letters than Pillow's own font.
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _shorten(text: str, width: int) -> str:
    """The text cut to `width` pixels at title size, with an ellipsis where it was cut."""
    text = one_line(text)
    if _font(15).getlength(text) <= width:
        return text
    while text and _font(15).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _legend_lines(entries: Sequence[LegendEntry], width: int) -> list[list[tuple[int, LegendEntry]]]:
    """Entries broken into lines of at most `width` pixels, each with its left edge."""
    lines: list[list[tuple[int, LegendEntry]]] = []
    left = width
    for name, color in ((class_name(name), color) for name, color in entries):
        length = 18 + round(_font(13).getlength(name)) + 16
        if not lines or left + length > width:
            lines.append([])
            left = 0
        lines[-1].append((left, (name, color)))
        left += length
    return lines


def _draw_legend_line(draw: ImageDraw.ImageDraw, line: Sequence[tuple[int, LegendEntry]], middle: int) -> None:
    for left, (name, color) in line:
        x = _GAP + left
        draw.rectangle((x, middle - 6, x + 12, middle + 6), fill=color, outline=(90, 90, 90))
        draw.text((x + 18, middle), name, fill="black", font=_font(13), anchor="lm")


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    marks: Sequence[float] = (),
    size: tuple[float, float] = (5.2, 2.6),
) -> str:
    """Lines y over x as one `<svg>` element to stand in a page; `marks` are dashed verticals; size in inches.

    Takes CURVE_COLORS in order and writes no series name: the page gives the legend. Ink is `currentColor`, so the
    picture follows a light or dark page. The scale is logarithmic when all values are positive and span more than 30.
    """
    values = [v for _, ys in series.values() for v in ys if np.isfinite(v)]
    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot(facecolor="none")
    for i, (xs, ys) in enumerate(series.values()):
        axes.plot(xs, ys, color=CURVE_COLORS[i % len(CURVE_COLORS)], linewidth=1.6, solid_joinstyle="round")
    for x in marks:
        axes.axvline(x, color=_FAINT, linewidth=0.8, linestyle=(0, (3, 3)))
    if values and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        y_label += ", log scale"
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(x_label, color=_INK, fontsize=9.5)
    axes.set_ylabel(y_label, color=_INK, fontsize=9.5)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.tick_params(which="both", colors=_INK, labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    return _to_svg(figure)


class Curve(NamedTuple):
    """A line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None
    """Half the height of a band around it, at each x."""
    strong: bool = False
    """Drawn thicker than the others, and on top."""


class Chart(NamedTuple):
    """One picture of a sheet of charts."""

    title: str
    curves: Sequence[Curve]
    legend: str
    """Title of the legend."""


def chart(
    charts: Sequence[Chart],
    columns: int,
    x_label: str,
    y_label: str,
    kind: Kind,
    same_height: bool = True,
) -> bytes:
    """A sheet of charts with legends, all on the same axes, as the content of a PNG or SVG file.

    Curves take colours from dark to light in the order given, as values of one parameter do. `same_height` = False:
    each chart's y axis fits its own curves, where charts show different figures.
    """
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(4.6 * columns + 0.4, 3.1 * rows + 0.3), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, columns, sharex=True, sharey=same_height, squeeze=False).flatten()
    for axes, entry in zip(grid, charts, strict=False):
        _draw_chart(axes, entry)
    for axes in grid[len(charts) :]:
        axes.set_axis_off()
    figure.get_layout_engine().set(h_pad=0.12)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    figure.supxlabel(one_line(x_label), fontsize=10)
    figure.supylabel(one_line(y_label), fontsize=10)
    return saved(figure, kind, dpi=150)


def saved(figure: Figure, kind: Kind, dpi: float | Literal["figure"] = "figure") -> bytes:
    """A figure as the content of a PNG or SVG file: the only way out of matplotlib.

    Whatever the figure says is shown as it is written: a class called `$\\frac{$` is no formula. Letters that the font
    does not have become boxes in a PNG; in an SVG, text is text, and a browser has its own fonts.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    # Labels of axes are made while the figure is drawn, so they must find the setting.
    settings: dict[Any, Any] = {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "segshift"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
        figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def one_line(text: str, longest: int = 200) -> str:
    """A name as a picture can show it: one line, cut where it is too long, and nothing that no SVG file can hold."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def class_name(name: str) -> str:
    """`one_line` of a class, short enough for an axis."""
    return one_line(name, 40)


def _draw_chart(axes: Axes, entry: Chart) -> None:
    colors = mpl.colormaps["viridis"](np.linspace(0.0, 0.88, max(len(entry.curves), 2)))
    for curve, color in zip(entry.curves, colors, strict=False):
        width, order = (2.6, 4) if curve.strong else (1.4, 3)
        axes.plot(curve.x, curve.y, color=color, linewidth=width, zorder=order, marker="o", markersize=2 * width,
                  label=one_line(curve.label), solid_joinstyle="round")  # fmt: skip
        if curve.spread is not None:
            low, high = np.subtract(curve.y, curve.spread), np.add(curve.y, curve.spread)
            axes.fill_between(curve.x, low, high, color=color, alpha=0.12, linewidth=0, zorder=2)
    axes.set_title(one_line(entry.title), fontsize=11, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.tick_params(labelsize=9, length=0, labelbottom=True, labelleft=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color("#aaaaaa")
    if entry.curves:
        axes.legend(title=one_line(entry.legend), fontsize=8.5, title_fontsize=8.5, frameon=False, loc="center left",
                    bbox_to_anchor=(1.0, 0.5))  # fmt: skip


def _to_svg(figure: Figure) -> str:
    """The figure as an inline `<svg>`: no prolog, no metadata, ids of its own, page colours, scalable width."""
    svg = saved(figure, "svg").decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)[ >].*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg).replace("xlink:href", "href")
    # Several pictures share a page, where an id may stand once.
    key = f"s{zlib.crc32(svg.encode()):x}"
    svg = re.sub(r'id="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{key}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    return svg.replace(_INK, "currentColor").replace(_FAINT, "var(--line, #8886)")
