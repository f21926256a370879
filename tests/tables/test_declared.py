"""Tables as they are declared: every row can be run, and the published figures are the paper's."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from segshift import recipes, tables
from segshift.errors import ConfigError
from segshift.tables.declare import NETWORKS, SHORT_CLASSES
from segshift.tables.published import of_table, read
from segshift.taxonomy import CITYSCAPES

PAPER = Path(__file__).resolve().parents[3] / "shared" / "papers" / "cbst.txt"
SYNTHIA13 = {CITYSCAPES.classes[i] for i in CITYSCAPES.subsets["synthia13"]}
MISPRINTS = {
    ("table2", "fcn8s", "cbst", "mIoU*"): 40.7,
    ("table3", "resnet38", "st", "mIoU"): 48.4,
    ("table4", "resnet38", "source-only", "mIoU"): 35.6,
}
"""Printed means that are not the mean of the printed IoUs, and what that mean is."""


def test_every_row_has_its_recipe() -> None:
    known = {entry.name for entry in recipes.entries()}
    for table in tables.TABLES.values():
        assert table.groups or table.data in recipes.GROUPS
        assert len({row.name for row in table.rows}) == len(table.rows)
        for row in table.rows:
            assert f"{table.group_of(row, None)}/{row.recipe}" in known
            assert row.network in (table.groups or {""})
            assert row.warmup in ("", *recipes.WARMUPS)
            assert not row.over or row.base in {other.name for other in table.rows}
        keys = {row.key for row in table.rows}
        assert all({key for key, _ in panel.rows} | {panel.usual} <= keys for panel in table.panels)


def test_declarations_load_no_torch() -> None:
    program = "import sys; from segshift import tables; tables.find('cbst/table3'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_names_that_do_not_exist_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"no table 'cbst/tabel3'. Did you mean cbst/table3"):
        tables.find("cbst/tabel3")
    rows = tables.find("cbst/table3").rows
    with pytest.raises(ConfigError, match=r"no row 'cbst-ps' in this table. Did you mean cbst-sp"):
        tables.select(rows, ("cbst-ps",))
    assert [row.name for row in tables.select(rows, ("resnet38/st", "cbst-sp"))] == [
        "fcn8s/cbst-sp",
        "resnet38/st",
        "resnet38/cbst-sp",
    ]


def test_rows_that_differ_in_the_network_are_one_elsewhere() -> None:
    table = tables.find("cbst/table3")
    assert [row.name for row in table.on("minicity")] == ["source-only", "st", "cbst", "cbst-sp", "cbst-sp+mst"]
    assert table.on(None) == table.rows
    assert {table.group_of(row, None) for row in table.rows} == {"gta5-cityscapes-fcn8s", "gta5-cityscapes-resnet38"}
    assert table.group_of(table.on("minicity")[0], "minicity") == "minicity"


def test_ten_folds_of_four_cities() -> None:
    table = tables.find("cbst/table1")
    cases = table.cases(None)
    assert len(cases) == 40
    assert {case.split for case in cases if case} == {"Rome/Test", "Rio/Test", "Tokyo/Test", "Taipei/Test"}
    assert table.cases("minicity") == (None,)


def test_the_grid_of_figure_5_is_around_the_papers_setting() -> None:
    table = tables.find("cbst/figure5")
    for panel in table.panels:
        assert panel.usual in {key for key, _ in panel.rows}
        assert panel.usual.endswith("@0.2/0.05")
    recipe = recipes.find("minicity/cbst-sp")
    row = next(row for row in table.rows if row.key == "cbst-sp@0.1/0.05")
    assert row.change is not None
    phase = row.change(recipe).adaptation
    assert phase is not None
    assert (phase.rounds, vars(phase.method)["portion"], vars(phase.method)["portion_step"]) == (6, 0.1, 0.05)


def test_the_ladder_ends_at_the_recipe() -> None:
    rows = {row.key: row for row in tables.find("cbst/cares").rows}
    last = rows["adabn-before"]
    assert last.change is not None
    cared = last.change(recipes.find("minicity/cbst-naive")).adaptation
    full = recipes.find("minicity/cbst").adaptation
    assert cared is not None
    assert full is not None
    assert vars(full) == {**vars(cared), "adabn_after": "target"}


# --- published figures ---------------------------------------------------------------------------------------------


def test_published_means_are_those_of_the_published_rows() -> None:
    lines = read("cbst.csv")
    assert len(lines) == 32
    misprints = {}
    for line in lines:
        for name, printed in line.means.items():
            values = [float(value) for key, value in line.iou.items() if name == "mIoU" or key in SYNTHIA13]
            # Both are rounded to .1, so they may be .1 apart.
            mean = statistics.mean(values)
            if abs(mean - float(printed)) > 0.1 + 1e-9:
                misprints[line.table, line.network, line.row, name] = round(mean, 1)
                assert f"{mean:.1f}" in line.note
                assert printed in line.note
    assert misprints == MISPRINTS


@pytest.mark.parametrize(
    ("table", "classes", "lines"), [("table1", 13, 12), ("table2", 16, 6), ("table3", 19, 9), ("table4", 19, 5)]
)
def test_published_tables_are_whole(table: str, classes: int, lines: int) -> None:
    found = of_table(("cbst.csv", table))
    assert len(found) == lines
    assert {len(line.iou) for line in found} == {classes}
    declared = tables.find(f"cbst/{table}")
    assert {(line.network, line.row) for line in found} == {(row.network, row.key) for row in declared.rows}
    assert {line.case for line in found} == set(declared.cities or ("",))
    assert set(SHORT_CLASSES) == set(CITYSCAPES.classes)
    assert all(line.network in NETWORKS for line in found)


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
def test_published_figures_stand_in_the_paper() -> None:
    text = " ".join(PAPER.read_text(encoding="utf-8").split())
    for line in read("cbst.csv"):
        assert " ".join([*line.iou.values(), *line.means.values()]) in text, line
