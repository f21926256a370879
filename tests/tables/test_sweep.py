"""Curves over rounds: the points are means over seeds, the picture names its curves."""

from __future__ import annotations

import csv
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.fakes.tiny import tiny
from tests.tables.test_results import content

from segshift import tables
from segshift.reporting.draw import Chart, Curve, chart
from segshift.tables.plan import Job, Training
from segshift.tables.results import Key, Results
from segshift.tables.sweep import points, write_figure

TABLE = tables.find("cbst/figure5")


def jobs(folder: Path, seeds: int) -> list[Job]:
    recipe = tiny("cbst", folder, folder)
    return [
        Job(row, None, recipe, Training(recipe, folder), Key("own", row.key, seed, "2-x", None, None, "1"), {})
        for seed in range(seeds)
        for row in TABLE.rows
    ]


def test_points_are_means_over_the_seeds_that_are_done(tmp_path: Path) -> None:
    planned, results = jobs(tmp_path, 3), Results(tmp_path / "results.jsonl")
    assert points(planned, results) == []
    write_figure(tmp_path / "none", TABLE, planned, results)
    assert not (tmp_path / "none").exists()
    for job, value in ((planned[0], 0.2), (planned[len(TABLE.rows)], 0.3), (planned[1], 0.5)):
        results.append(job.key, content(rounds={"0": {"all": 0.1}, "1": {"all": value}}) | {"data": {}})
    found = {(p.row, p.round): p for p in points(planned, results)}
    first, second = TABLE.rows[0].key, TABLE.rows[1].key
    assert found[first, 1].mean == pytest.approx(25)
    assert found[first, 1].sd == pytest.approx(5 * 2**0.5)
    assert (found[second, 1].mean, found[second, 1].seeds) == (50, 1)
    assert len(found) == 4
    write_figure(tmp_path, TABLE, planned, results)
    with (tmp_path / "figure5.csv").open() as file:
        rows = list(csv.reader(file))
    assert [first, "1", "25.00", "7.07", "2"] in rows
    assert [second, "0", "10.00", "", "1"] in rows
    assert (tmp_path / "figure5.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_names_its_curves_and_is_the_same_each_time() -> None:
    curves = [Curve("0.1/0.05", [0, 1], [10, 12]), Curve("0.2/0.05", [0, 1], [10, 13], [1, 1], strong=True)]
    charts = [Chart("ST-SP", curves, "p0/Δp"), Chart("CBST-SP", curves[:1], "p0/Δp"), Chart("empty", [], "p0/Δp")]
    drawn = chart(charts, 2, "round", "mIoU (%)", "svg")
    assert drawn == chart(charts, 2, "round", "mIoU (%)", "svg")
    words = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    for word, count in (("ST-SP", 1), ("CBST-SP", 1), ("0.1/0.05", 2), ("0.2/0.05", 1), ("p0/Δp", 2), ("round", 1)):
        assert words.count(word) == count
    strong, weak = (
        chart([Chart("x", [curve], "")], 1, "", "", "svg") for curve in (curves[1], curves[1]._replace(strong=False))
    )
    assert strong != weak
