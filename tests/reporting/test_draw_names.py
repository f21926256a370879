"""A name in a picture is shown as it is written, whatever it is made of."""

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from segshift.reporting import draw
from segshift.reporting.draw_cpsl import distribution_sheet
from segshift.reporting.draw_prior import prior_sheet
from segshift.reporting.draw_selectors import Heat, Panel, Sheet, draw_selectors
from segshift.taxonomy import LabelSpace, distinct_colors

NAMES = (
    "$\\frac{", "a_$b$", "$x^2$ $y_1$", "\\$", "$", "道路 🚗", "a\nb\tc", "\x1b[2J\x00", "x\u202ey", "\udcff",
    "<script>alert(1)</script>", '"><img src=x onerror=y>', "&lt;", "]]>", "_hidden", "", "é" * 3000,
)  # fmt: skip
"""Formulas, whole and broken, letters no font has, what no SVG file may hold, and what a page would run."""
SPACE = LabelSpace("odd $_{", NAMES, distinct_colors(len(NAMES)))


SAID = NAMES[:-3]
"""Those that a legend shows too: matplotlib leaves out what begins with a line below."""


def chart(kind: draw.Kind, names: Sequence[str] = SAID) -> bytes:
    charts = [draw.Chart(name, [draw.Curve(f"{name}.", (1, 2), (1.0, 2.0))], f"{name}:") for name in names]
    return draw.chart(charts, 4, SAID[0], SAID[1], kind)


def selectors(kind: draw.Kind) -> bytes:
    panels = [Panel(name, [draw.Curve(SAID[0], (10, 90), (1.0, 2.0))], [], 2.0) for name in SAID[:2]]
    heat = Heat(SAID[2], SAID, SAID[:3], np.full((len(SAID), 3), 1.0), 1)
    return draw_selectors([Sheet(SAID[3], panels, heat)], kind)


@pytest.mark.parametrize("sheet", [chart, selectors])
def test_pictures_say_what_they_were_given(sheet: Callable[[draw.Kind], bytes]):
    root = ElementTree.fromstring(sheet("svg"))
    said = {"".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {draw.one_line(name) for name in SAID} <= said
    assert sheet is selectors or {f"{draw.one_line(name)}:" for name in SAID} <= said
    assert not [element.tag for element in root.iter() if element.tag.endswith(("}script", "}img"))]
    inside = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in inside)


def test_a_png_of_any_name_is_drawn():
    assert chart("png", SAID[5:7]).startswith(b"\x89PNG")


def test_classes_of_any_name_are_drawn():
    prior = np.random.default_rng(0).random((len(SPACE), 4, 8), np.float32)
    prior[3] = 0
    assert prior_sheet(prior, SPACE).startswith(b"\x89PNG")
    share = [1 / len(SPACE)] * len(SPACE)
    assert distribution_sheet({"truth": share}, SPACE, "labels of $\\frac{ images").startswith(b"\x89PNG")
    cell = np.zeros((4, 4, 3), np.uint8)
    picture = draw.panel([(name, [cell]) for name in NAMES], list(zip(NAMES, SPACE.colors, strict=True)), 40)
    assert set(SPACE.colors) <= set(map(tuple, np.asarray(picture).reshape(-1, 3).tolist()))


def test_a_formula_is_drawn_as_its_letters():
    """As long as what it is written with, where the formula would be an x and a small 2."""

    def width(text: str) -> int:
        figure = Figure(figsize=(4, 1), dpi=100)
        figure.text(0, 0.5, text)
        svg = draw.saved(figure, "svg").decode()
        found = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert found == [text]
        [drawn] = figure.findobj(Text, include_self=False)
        assert isinstance(drawn, Text)
        return round(drawn.get_window_extent().width)

    assert width("$x^2$") == width("$x^2") + width("$")


def test_labels_of_axes_are_written_as_before():
    """A logarithmic axis would write formulas."""
    svg = draw.curves({"a": ([1, 2, 3], [1000.0, 1.0, 0.001])}, "step", "loss")
    said = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"1000", "1", "0.001"} <= set(said)
    assert not [text for text in said if "$" in text or "\\" in text]
