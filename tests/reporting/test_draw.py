"""Colours land where the label says, and pictures have the shape they should."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from segshift.errors import ConfigError
from segshift.reporting.draw import CURVE_COLORS, curves, legend, panel
from segshift.taxonomy import CAMVID

LABEL = np.array([[0, 3, 3], [8, 255, 0]], np.uint8)


def test_legend_names_the_classes_that_occur():
    assert [name for name, _ in legend([LABEL, np.full((2, 2), 1, np.uint8)], CAMVID)] == [
        "sky", "building", "road", "car",
    ]  # fmt: skip


def test_panel_places_each_picture_under_its_title():
    red, blue = (np.full((20, 40, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    picture = np.asarray(panel([("image", [red, blue]), ("a very long title " * 20, [blue, red])], cell_width=80))
    assert picture.shape[1] == 2 * 80 + 3 * 8
    middles = [[tuple(map(int, picture[y, x])) for x in (48, 136)] for y in (26 + 20, 26 + 40 + 8 + 20)]
    assert middles == [[(255, 0, 0), (0, 0, 255)], [(0, 0, 255), (255, 0, 0)]]
    # The long title stops at its column: the gap left and right of it stays white.
    assert (picture[:26, -8:] == 255).all()
    assert (picture[:26, :8] == 255).all()


def test_panel_legend_wraps_into_lines():
    cell = np.zeros((10, 20, 3), np.uint8)
    entries = [(name, color) for name, color in zip(CAMVID.classes, CAMVID.colors, strict=True)]
    plain = panel([("image", [cell])], cell_width=200)
    wrapped = panel([("image", [cell])], entries, cell_width=200)
    assert wrapped.width == plain.width
    assert wrapped.height > plain.height + 3 * 24
    colors = set(map(tuple, np.asarray(wrapped).reshape(-1, 3).tolist()))
    assert set(CAMVID.colors) <= colors


@pytest.mark.parametrize("columns", [[], [("a", []), ("b", [np.zeros((2, 2, 3), np.uint8)])]])
def test_panel_needs_equal_columns(columns):
    with pytest.raises(ConfigError, match="expected at least one, all with as many pictures"):
        panel(columns)


def test_curves_are_one_element_that_stands_alone():
    before = dict(mpl.rcParams)
    svg = curves({"<script>": ([1, 2, 3], [1.0, 0.5, 0.2]), "$x_{": ([1, 2, 3], [0.1, 0.2, 0.3])}, "step", "loss", [2])
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert set(root.attrib) == {"viewBox"}
    assert "http" not in svg
    assert "script" not in svg
    ids = re.findall(r'id="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) <= set(ids)
    assert all(svg.count(f"stroke: {color}") == 1 for color in CURVE_COLORS[:2])
    assert dict(mpl.rcParams) == before


def test_curves_are_logarithmic_only_where_it_helps():
    assert "log scale" in curves({"a": ([1, 2], [0.001, 1.0])}, "step", "loss")
    assert "log scale" not in curves({"a": ([1, 2], [0.0, 1.0])}, "step", "loss")
    assert "log scale" not in curves({"a": ([1, 2], [0.5, float("nan")])}, "step", "loss")
