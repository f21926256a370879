"""The IAST paper's tables as they are declared: what each row changes, which share runs, what the paper printed."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from segshift import recipes, tables
from segshift.options import TableOptions
from segshift.recipe import Recipe
from segshift.recipe_identity import identity
from segshift.tables import iast
from segshift.tables.declare import Row, Table
from segshift.tables.plan import Job, plan
from segshift.tables.published import of_table, read
from segshift.taxonomy import CITYSCAPES

PAPER = Path(__file__).resolve().parents[3] / "shared" / "papers" / "iast.txt"
SYNTHIA13 = {CITYSCAPES.classes[i] for i in CITYSCAPES.subsets["synthia13"]}
THEIRS = [table for table in iast.TABLES if table.groups]


def recipe_of(row: Row, group: str) -> Recipe:
    recipe = recipes.find(f"{group}/{row.recipe}", warmup=row.warmup or None)
    return row.change(recipe) if row.change else recipe


def find(table: str, key: str) -> Row:
    return next(row for row in tables.find(table).rows if row.key == key)


def options_of(table: str, key: str, group: str = "minicity") -> dict[str, Any]:
    """The options of a row's self-training."""
    phase = recipe_of(find(table, key), group).adaptation
    assert phase is not None
    return vars(phase.method)


def planned(name: str, out: Path, *rows: str) -> dict[str, Job]:
    jobs = plan(tables.find(name), TableOptions(name, data="minicity", seeds=(0,), rows=rows, out=out))
    return {job.row.key: job for job in jobs}


@pytest.mark.parametrize("table", iast.TABLES, ids=lambda table: table.name)
def test_every_row_gives_a_recipe(table: Table) -> None:
    """On the paper's own pair, and on one where it stands in."""
    for row in table.rows:
        for group in {table.group_of(row, "minicity"), *table.groups.values()}:
            recipe = recipe_of(row, group)
            assert recipe.adaptation is not None or row.key.startswith(("source-only", "baseline"))


def test_the_same_key_is_the_same_recipe_in_every_table() -> None:
    found: dict[str, set[str]] = {}
    for table in iast.TABLES:
        for row in table.on("minicity"):
            recipe = recipe_of(row, "minicity")
            found.setdefault(row.key.removesuffix("+mst"), set()).add(identity(recipe))
    assert {key: len(ids) for key, ids in found.items() if len(ids) > 1} == {}
    # Source-free IAST is IAST on source-only: its self-training looks at target images alone.
    by_identity: dict[str, list[str]] = {}
    for key, (seen,) in found.items():
        by_identity.setdefault(seen, []).append(key)
    assert [keys for keys in by_identity.values() if len(keys) > 1] == [["iast@source-only", "iast-source-free"]]


def test_tables_share_their_runs(tmp_path: Path) -> None:
    point = "iast@alpha0.2-beta0.9-gamma0"
    second, fourth = planned("iast/table2", tmp_path, point)[point], planned("iast/table4", tmp_path)
    assert (second.key, second.training.folder) == (fourth[point].key, fourth[point].training.folder)
    places = {
        (job.key, job.training.folder)
        for name in ("iast/table3", "iast/table4", "iast/table5", "iast/table6", "iast/rows", "iast/cares")
        for job in planned(name, tmp_path, "iast").values()
    }
    assert len(places) == 1
    constant = [planned(name, tmp_path, "constant")["constant"] for name in ("iast/table2", "iast/table5")]
    assert (constant[0].key, constant[0].training.folder) == (constant[1].key, constant[1].training.folder)


def test_a_row_starts_from_its_warmup(tmp_path: Path) -> None:
    """The warm-up below IAST is the run of the row that it is compared with."""
    jobs = planned("iast/table9", tmp_path)
    for base in ("adaptsegnet", "advent", "source-only"):
        below = jobs[f"iast@{base}"].training.warmup
        assert below is not None
        assert below.folder == jobs[base].training.folder
    ladder = planned("iast/table5", tmp_path)
    warmups = {key: job.training.warmup for key, job in ladder.items() if job.training.warmup is not None}
    below = {key: warmup.folder for key, warmup in warmups.items() if key not in ("adabn", "adaptsegnet-ls")}
    assert set(below) == {"constant", "ias", "ias+rc", "iast", "iast+mst"}
    assert set(below.values()) == {ladder["adaptsegnet-ls"].training.folder}


def test_selectors_are_those_of_table_2() -> None:
    for row in tables.find("iast/table2").rows[:6]:
        options = options_of("iast/table2", row.key)
        words = [options["alpha"][0], options["beta"], options["gamma"]]
        assert row.key == "iast@alpha{:g}-beta{:g}-gamma{:g}".format(*words)
        assert (options["selector"], len(options["alpha"])) == ("instance_adaptive", 1)
        assert options["ignored_weight"] > 0
    for key, selector in (("constant", "constant"), ("class-balanced", "class_balanced")):
        alone, regularised = options_of("iast/table2", key), options_of("iast/table2", f"{key}+r")
        assert alone["selector"] == regularised["selector"] == selector
        assert (alone["ignored_weight"], alone["confident_weight"]) == (0, 0)
        house = options_of("iast/table3", "iast")
        assert regularised == house | {"selector": selector}


def test_the_ladder_of_table_5_adds_one_part_a_row() -> None:
    steps = [options_of("iast/table5", key) for key in ("constant", "ias", "ias+rc", "iast")]
    differ = [{name for name in after if after[name] != before[name]} for before, after in pairwise(steps)]
    assert differ == [{"selector"}, {"confident_weight"}, {"ignored_weight"}]
    assert (steps[-1]["ignored_weight"], steps[-1]["confident_weight"], steps[-1]["gamma"]) == (3, 0.1, 8)


def test_weights_are_those_of_table_3() -> None:
    for row in tables.find("iast/table3").rows:
        options = options_of("iast/table3", row.key)
        i, c = options["ignored_weight"], options["confident_weight"]
        assert row.key == ("iast" if (i, c) == (3, 0.1) else f"iast@i{i:g}-c{c:g}")
        assert f"lambda_i {i:g}, lambda_c {c:g}" in row.label


@pytest.mark.parametrize("group", ["minicity", "cityscapes-cityscapes-deeplab-v2"])
def test_a_baseline_is_the_warmup_of_iast_on_the_same_share(group: str) -> None:
    for name, share in (("1/8", 0.125), ("1/4", 0.25), ("1/2", 0.5)):
        baseline = recipe_of(find("iast/table8", f"baseline@{name}"), group)
        adapted = recipe_of(find("iast/table8", f"iast-semi@{name}"), group)
        assert baseline.data == adapted.data
        assert baseline.data.labelled_share == share
        assert (baseline.warmup, baseline.adaptation, baseline.alignment) == (adapted.warmup, None, None)
        assert adapted.adaptation is not None
        assert vars(adapted.adaptation.method)["retain"] is not None


def test_each_share_has_its_own_warmup(tmp_path: Path) -> None:
    jobs = planned("iast/table8", tmp_path)
    folders = {key: job.training.folder for key, job in jobs.items() if key.startswith("baseline")}
    assert len(set(folders.values())) == 4
    for name in ("1/8", "1/4", "1/2"):
        below = jobs[f"iast-semi@{name}"].training.warmup
        assert below is not None
        assert below.folder == folders[f"baseline@{name}"]
    images = [jobs[f"baseline@{name}"].data["source"]["images"] for name in ("1/8", "1/4", "1/2", "full")]
    assert images == [30, 60, 120, 239]


def test_cares_are_left_out_one_by_one() -> None:
    whole = recipe_of(find("iast/cares", "iast"), "minicity").adaptation
    plain = recipe_of(find("iast/cares", "iast-plain"), "minicity")
    assert whole is not None
    assert plain.adaptation is not None
    assert plain.alignment is not None
    left = set()
    for row in tables.find("iast/cares").rows:
        phase = recipe_of(row, "minicity").adaptation
        if row.label.startswith("- ") and row.key != "iast-plain":
            assert phase is not None
            changed = {name for name in vars(whole) if vars(phase)[name] != vars(whole)[name]}
            assert changed
            left |= changed
    assert left == {name for name in vars(whole) if vars(plain.adaptation)[name] != vars(whole)[name]}
    for phase in (plain.alignment, plain.adaptation):
        assert (phase.adabn_before, phase.adabn_after) == ("none", "none")
    assert vars(plain.adaptation.method)["augment"] is None


# --- published figures ---------------------------------------------------------------------------------------------


def test_every_published_line_belongs_to_a_row() -> None:
    lines = read("iast.csv")
    assert len(lines) == 62
    for table in THEIRS:
        rows = {(row.network, row.key) for row in table.rows}
        of_it = of_table(table.published)
        assert of_it
        assert {(line.network, line.row) for line in of_it} <= rows
        assert len({line.row for line in of_it}) == len(of_it)
        headings = {name for name, _ in table.means}
        for line in of_it:
            assert set(line.means) <= headings, line
            assert set(line.others) <= {name for name, _ in table.labels} | {"Δ"}
            assert not line.case
    assert {line.table for line in lines} == {table.published[1] for table in THEIRS if table.published}


def test_rows_without_a_published_line_are_our_controls() -> None:
    alone = {
        (table.name, row.key)
        for table in THEIRS
        for row in table.rows
        if row.key not in {line.row for line in of_table(table.published)}
    }
    assert alone == {
        ("iast/table2", "constant+r"),
        ("iast/table2", "class-balanced+r"),
        ("iast/table5", "adabn"),
        ("iast/table5", "iast+mst"),
    }


def test_published_means_are_those_of_the_published_rows() -> None:
    lines = [line for line in read("iast.csv") if line.iou]
    assert len(lines) == 11
    for line in lines:
        for name, printed in line.means.items():
            values = [float(value) for key, value in line.iou.items() if name == "mIoU" or key in SYNTHIA13]
            # Both are rounded to .1, so they may be .1 apart.
            assert statistics.mean(values) == pytest.approx(float(printed), abs=0.1 + 1e-9), (line.row, name)
    counts = {(line.table, line.row): len(line.iou) for line in lines}
    assert counts.pop(("table7", "adaptsegnet")) == 13
    assert {table: {n for (t, _), n in counts.items() if t == table} for table, _ in counts} == {
        "table6": {19},
        "table7": {16},
    }


@pytest.mark.parametrize("name", ["iast/table5", "iast/table9", "iast/table9-synthia"])
def test_published_differences_are_those_of_the_rows_compared(name: str) -> None:
    table = tables.find(name)
    lines = {line.row: line for line in of_table(table.published)}
    heading = table.means[0][0]
    over = {row.key: row.over for row in table.rows if row.over in lines and row.key in lines}
    assert over
    for key, base in over.items():
        difference = float(lines[key].means[heading]) - float(lines[base].means[heading])
        assert f"{difference:+.1f}" == lines[key].others["Δ"]


def test_one_run_has_one_published_figure_but_for_a_slip() -> None:
    """The same row on the same pair: AdvEnt's mean is printed rounded in one table and cut off in the others."""
    found: dict[tuple[str, str], set[str]] = {}
    for table in THEIRS:
        for line in of_table(table.published):
            for name, value in line.means.items():
                found.setdefault((f"{table.pair} {name}", line.row), set()).add(value)
    slips = {key: values for key, values in found.items() if len(values) > 1}
    assert slips == {("GTA5 → Cityscapes mIoU", "advent"): {"45.4", "45.5"}}
    noted = [line for line in read("iast.csv") if line.note]
    assert [(line.table, line.row) for line in noted] == [("table1", "advent")]
    assert "Tables 6 and 9 print 45.4" in noted[0].note


def figures_of(part: str) -> list[list[str]]:
    """The cells of a printed table, without what is before its name and without bold type."""
    text = PAPER.read_text(encoding="utf-8").partition(f"**{part}.**")[2][:6000]
    rows = [line.replace("<b>", "").replace("</b>", "").split("\t") for line in text.splitlines()]
    return [[cell.strip() for cell in row] for row in rows if len(row) > 1]


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
@pytest.mark.parametrize("number", ["6", "7"])
def test_published_rows_stand_in_the_paper(number: str) -> None:
    printed = [[cell for cell in row if cell != "-"] for row in figures_of(f"Table {number}")]
    for line in of_table(("iast.csv", f"table{number}")):
        cells = [*line.iou.values(), *line.means.values()]
        assert any(row[-len(cells) :] == cells for row in printed), line


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
@pytest.mark.parametrize("number", ["2", "3", "5"])
def test_published_columns_stand_in_the_paper(number: str) -> None:
    lines = of_table(("iast.csv", f"table{number}"))
    columns = {"2": ("Proportion", "mIoU"), "3": ("mIoU",), "5": ("mIoU", "Δ")}[number]
    ours = [[(line.others | line.means)[name].replace("+0.", "+.") for name in columns] for line in lines]
    printed = [row[-len(columns) :] for row in figures_of(f"Table {number}")[1 : len(lines) + 1]]
    assert ours == [[cell.replace("+0.", "+.") for cell in row] for row in printed]


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
def test_published_table_4_stands_in_the_paper() -> None:
    printed = {row[0]: row[1:] for row in figures_of("Table 4")[:4]}
    lines = of_table(("iast.csv", "table4"))
    assert [line.others["Proportion"] for line in lines] == [
        f"{100 * float(cell):.0f}" for cell in printed["Proportion"]
    ]
    assert [line.others["P-mIoU"] for line in lines] == printed["P-mIoU(%)"]
    assert [line.means["mIoU"] for line in lines] == printed["mIoU (%)"]
