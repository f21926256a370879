"""The CPSL paper's tables and figures as declared: what each row changes, which share runs, what was printed."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from tests.fakes.rows import (
    adaptation_of,
    assert_every_row_gives_a_recipe,
    assert_keys_name_recipes,
    planned,
)
from tests.fakes.run_folder import make_run
from tests.tables.test_lines import Bench, miou
from tests.tables.test_lines import line as line_of
from tests.tables.test_results import content
from tests.tables.test_run import figures, lines

from segshift import recipes, tables
from segshift.phase import Phase
from segshift.tables import cpsl
from segshift.tables.declare import Table
from segshift.tables.pictures import write_pictures
from segshift.tables.published import of_table, read
from segshift.tables.sweep import write_figure
from segshift.taxonomy import CAMVID, CITYSCAPES

PAPER = Path(__file__).resolve().parents[3] / "shared" / "papers" / "cpsl.txt"
GROUP = "gta5-cityscapes-deeplab-v2"
THEIRS = [table for table in cpsl.TABLES if table.published]
SYNTHIA13 = {CITYSCAPES.classes[i] for i in CITYSCAPES.subsets["synthia13"]}
SWEEPS = {
    "table4": ("samples", [64, 128, 256, 512, 1024, 2048]),
    "table6": ("labelling_weight", [0, 0.01, 0.1, 0.5]),
    "table7": ("consistency_weight", [1, 5, 10, 20, 30]),
    "table8": ("temperature", [0.05, 0.08, 0.1, 0.15]),
}
ABLATED = {
    "cpsl-no-sl": {"self_labelling": False},
    "cpsl-no-cb": {"partition": "equal", "sampling": "random"},
    "cpsl-no-st": {"self_training": False},
    "cpsl-no-init": {"initialise": False},
    "cpsl-no-aug": {"augment": None},
    "cpsl-no-mom": {"momentum": 0.0},
}


def adaptation(table: str, key: str, group: str = "minicity") -> Phase:
    return adaptation_of(f"cpsl/{table}", key, group)


def changes(table: str, key: str) -> dict[str, Any]:
    """The options in which a row differs from the recipe; all else is the recipe's."""
    recipe = recipes.find("minicity/cpsl").adaptation
    phase = adaptation(table, key)
    assert recipe is not None
    assert {**vars(phase), "method": None} == {**vars(recipe), "method": None}
    return {name: value for name, value in vars(phase.method).items() if value != vars(recipe.method)[name]}


@pytest.mark.parametrize("table", cpsl.TABLES, ids=lambda table: table.name)
def test_every_row_gives_a_recipe(table: Table) -> None:
    assert_every_row_gives_a_recipe(table)


def test_the_same_key_is_the_same_recipe_in_every_table_and_another_key_another() -> None:
    assert_keys_name_recipes(cpsl.TABLES)


def test_ablations_leave_one_part_out() -> None:
    assert [row.key for row in tables.find("cpsl/table3").rows] == [*ABLATED, "cpsl"]
    assert {key: changes("table3", key) for key in ABLATED} == ABLATED
    assert {key: changes("rows", key) for key in ABLATED} == ABLATED


@pytest.mark.parametrize("table", SWEEPS)
def test_a_sensitivity_table_varies_one_option(table: str) -> None:
    option, values = SWEEPS[table]
    rows = tables.find(f"cpsl/{table}").rows
    assert [vars(adaptation(table, row.key).method)[option] for row in rows] == values
    for row, value in zip(rows, values, strict=True):
        assert changes(table, row.key) == ({} if row.key == "cpsl" else {option: value})
        assert f" {value:g}" in row.label
        assert row.key == "cpsl" or row.key.endswith(f"{value:g}")
    # The paper's own setting, on its own pair too, is the recipe.
    theirs = adaptation(table, "cpsl", GROUP).method
    assert vars(theirs)[option] == vars(adaptation(table, "cpsl").method)[option]


@pytest.mark.parametrize("table", [*SWEEPS, "table3", "figure8", "rows", "choices"])
def test_tables_share_the_run_of_the_recipe(table: str, tmp_path: Path) -> None:
    """Warm-up, adversarial warm-up and CPSL are trained once for all tables; each row starts from that warm-up."""
    first, jobs = planned("cpsl/table1", tmp_path), planned(f"cpsl/{table}", tmp_path)
    assert (jobs["cpsl"].key, jobs["cpsl"].training) == (first["cpsl"].key, first["cpsl"].training)
    below = {job.training.warmup for job in jobs.values() if job.row.recipe == "cpsl"}
    assert below == {first["adaptsegnet"].training}


def test_a_student_starts_from_the_run_of_cpsl(tmp_path: Path) -> None:
    jobs = planned("cpsl/rows", tmp_path)
    assert jobs["cpsl-distill"].training.warmup == jobs["cpsl"].training
    assert jobs["cpsl-distill"].row.over == "cpsl"


def test_figures_score_the_same_training_ten_times(tmp_path: Path) -> None:
    for table, key in (("figure4", "cpsl"), ("figure4", "cpsl-equal"), ("figure7", "cpsl-no-cb")):
        source = "choices" if key == "cpsl-equal" else "table3"
        usual, cut = adaptation(source, key), adaptation(table, f"{key}@10")
        assert (cut.rounds, cut.length) == (10, usual.length)
        same = {"rounds": 0, "steps": 0}
        assert vars(cut) | same == vars(usual) | same
    jobs = planned("cpsl/figure4", tmp_path)
    assert all(job.recipe.settings.evaluate_rounds for job in jobs.values())
    assert planned("cpsl/figure7", tmp_path)["cpsl@10"].training == jobs["cpsl@10"].training
    assert not planned("cpsl/figure8", tmp_path)["cpsl"].recipe.settings.evaluate_rounds


def test_a_round_that_is_counted_in_passes_is_cut_too() -> None:
    row = tables.find("cpsl/figure4").rows[0]
    recipe = recipes.find("minicity/cpsl")
    assert recipe.adaptation is not None and row.change is not None
    vars(recipe.adaptation)["target_epochs"] = 4.0
    cut = row.change(recipe).adaptation
    assert cut is not None
    assert (cut.rounds, cut.target_epochs) == (10, 4.0 * recipe.adaptation.rounds / 10)


def test_panels_show_both_figures() -> None:
    for name in ("figure4", "figure7"):
        table = tables.find(f"cpsl/{name}")
        assert [panel.figure for panel in table.panels] == ["mIoU", "MPA"]
        for panel in table.panels:
            assert [key for key, _ in panel.rows] == [row.key for row in table.rows]
            assert panel.usual == "cpsl@10"


def test_choices_vary_one_thing_each() -> None:
    rows = [row for row in tables.find("cpsl/choices").rows if row.recipe == "cpsl" and row.change]
    options = [changes("choices", row.key) for row in rows]
    assert all(len(found) == 1 for found in options)
    varied = {name for found in options for name in found}
    assert varied == {
        "partition", "sampling", "floor", "bank_from", "features", "head", "initialise", "target_loss", "consistency",
        "distribution_momentum", "momentum", "iterations", "epsilon",
    }  # fmt: skip


# --- mean pixel accuracy, curves, pictures -------------------------------------------------------------------------


def test_accuracy_stands_after_the_means_and_before_differences(tmp_path: Path) -> None:
    bench = Bench("cpsl/rows", tmp_path, (0, 1), "camvid-dusk")
    for seed, right in ((0, 60), (1, 70)):
        bench.put("cpsl", seed, right)
        bench.put("adaptsegnet", seed, right - 10)
    report = bench.report()
    classes = f"({len(CAMVID)} classes)"
    assert report.headings[-3:] == (f"mIoU {classes}", f"MPA {classes}", "Δ")
    # Of every class 60 and 70 pixels of 100 are right.
    mean = statistics.mean([miou(60), miou(70)])
    over = mean - statistics.mean([miou(50), miou(60)])
    found = [figure[0] for figure in line_of(report, "CPSL").figures[-3:]]
    assert found == [f"{mean:.1f}", "65.0", f"{over:+.1f}"]
    assert line_of(report, "CPSL").figures[-2][1] == f"{statistics.stdev([60, 70]):.1f}"
    assert line_of(report, "oracle").figures[-3:] == (("-", ""),) * 3
    assert f"MPA {classes} sd" in report.csv().splitlines()[0]
    assert "Eq. 15-16" in " ".join(report.notes)


def test_no_accuracy_is_printed(tmp_path: Path) -> None:
    """The paper draws it and gives no number; other tables have no such column."""
    bench = Bench("cpsl/figure4", tmp_path, (0,))
    assert bench.report().headings == ("mIoU", "MPA")
    assert Bench("cpsl/table3", tmp_path, (0,)).report().headings == ("mIoU", "Δ")
    report = Bench("cpsl/table2", tmp_path, (0,)).report()
    assert line_of(report, "CPSL (ours)", published=True).figures == (("54.4", ""), ("61.7", ""))
    assert line_of(report, "AdaptSegNet", published=True).figures == (("-", ""), ("45.9", ""))


def test_curves_of_both_figures_and_their_points(tmp_path: Path) -> None:
    bench = Bench("cpsl/figure4", tmp_path, (0, 1))
    for job in bench.jobs[:3]:
        shift = 0.1 * job.key.seed
        rounds = {"rounds": {"0": {"all": 0.2}, "1": {"all": 0.3 + shift}}}
        rounds |= {} if job.row.key == "cpsl-equal@10" else {"accuracies": {"0": 0.5, "1": 0.6 + shift}}
        bench.results.append(job.key, content() | rounds | {"data": {}})
    write_figure(tmp_path, bench.table, bench.jobs, bench.results)
    rows = [text.split(",") for text in (tmp_path / "figure4.csv").read_text().splitlines()]
    assert rows[0] == ["row", "round", "mIoU", "sd", "MPA", "MPA sd", "seeds"]
    assert ["cpsl@10", "1", "35.00", "7.07", "65.00", "7.07", "2"] in rows
    assert ["cpsl-equal@10", "1", "30.00", "", "", "", "1"] in rows  # a line from before it was kept
    svg = ElementTree.parse(tmp_path / "figure4.svg")
    words = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("unequal (CPSL)") == words.count("partition") == 2
    assert "mIoU and MPA in %, on target labels (oracle diagnostics)" in words


def test_pictures_are_of_the_first_seed_and_of_what_is_there(tmp_path: Path) -> None:
    bench = Bench("cpsl/figure8", tmp_path, (3, 4))
    write_pictures(tmp_path / "none", bench.table, bench.jobs)
    assert not (tmp_path / "none").exists()
    runs = {key: make_run(tmp_path / key, label=key) for key in ("cpsl", "cpsl-no-cb")}
    jobs = [
        replace(job, training=replace(job.training, folder=runs[job.row.key] if job.key.seed == 3 else tmp_path))
        for job in bench.jobs
    ]
    write_pictures(tmp_path, bench.table, jobs)
    # Image, truth, source-only, and each row.
    with Image.open(tmp_path / "figure8.png") as picture:
        assert picture.width == 5 * 328 + 8
    write_pictures(tmp_path / "none", tables.find("cpsl/table3"), jobs)
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("small")
def test_a_figure_from_end_to_end(table: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """CPSL on the tiny domains: its score and its pictures."""
    code, said, err = table("cpsl/figure8 --data own --seeds 0 --rows cpsl")
    assert (code, err) == (0, "")
    out = tmp_path / "out"
    (row,) = figures(out / "cpsl" / "figure8" / "own" / "table.csv")
    (entry,) = lines(out)
    heading = next(name for name in row if name.startswith("MPA") and not name.endswith("sd"))
    assert row[heading] == f"{100 * entry['scores']['mean_pixel_accuracy']:.1f}"
    assert (out / "cpsl" / "figure8" / "own" / "figure8.png").is_file()
    assert "not picked by score" in " ".join(said.split())


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_every_table_runs(table: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """All in one folder, so that a row is trained once for all the tables that have it."""
    out, keys = tmp_path / "out", set()
    for declared in cpsl.TABLES:
        code, said, err = table(f"{declared.name} --data own --seeds 0")
        assert (code, err) == (0, "")
        assert "Not finished yet" not in said
        rows, place = declared.on("own"), out / declared.name / "own"
        written = figures(place / "table.csv")
        assert [(row["row"], row["seeds"]) for row in written] == [(row.label, "1") for row in rows]
        if declared.panels:
            name = declared.name.rpartition("/")[2]
            points = [text.split(",") for text in (place / f"{name}.csv").read_text().splitlines()[1:]]
            assert {(row, int(n)) for row, n, *_ in points} == {(row.key, n) for row in rows for n in range(11)}
            assert all(point[2] and point[4] for point in points)
        keys |= {row.key for row in rows}
    assert len(lines(out)) == len(keys)


# --- published figures ---------------------------------------------------------------------------------------------


def test_every_published_line_belongs_to_a_row() -> None:
    lines = read(cpsl.PUBLISHED)
    assert len(lines) == 38
    for table in THEIRS:
        of_it = of_table(table.published)
        assert [(line.network, line.row) for line in of_it] == [(row.network, row.key) for row in table.rows]
        for line in of_it:
            assert set(line.means) <= {name for name, _ in table.means}
            assert set(line.others) <= {"Δ"}
    assert {line.table for line in lines} == {table.published[1] for table in THEIRS if table.published}


def test_published_means_are_those_of_the_published_rows() -> None:
    counts: dict[str, list[int]] = {}
    misprints: dict[tuple[str, str, str], float] = {}
    for line in read(cpsl.PUBLISHED):
        if not line.iou:
            continue
        counts.setdefault(line.table, []).append(len(line.iou))
        for name, printed in line.means.items():
            values = [float(value) for key, value in line.iou.items() if name == "mIoU" or key in SYNTHIA13]
            # Both are rounded to .1, so they may be .1 apart.
            mean = statistics.mean(values)
            if abs(mean - float(printed)) > 0.1 + 1e-9:
                misprints[line.table, line.row, name] = round(mean, 1)
                assert f"mean {mean:.1f} and not {printed}" in line.note
    assert counts == {"table1": [19] * 6, "table2": [13, *[16] * 5], "table3": [19] * 7}
    assert misprints == {
        ("table2", "cpsl-distill", "mIoU"): 58.2,
        ("table3", "cpsl-no-st", "mIoU"): 39.6,
        ("table3", "cpsl-no-init", "mIoU"): 50.4,
    }


def test_published_differences_are_those_of_the_rows_compared() -> None:
    lines = {line.row: line for line in of_table((cpsl.PUBLISHED, "table3"))}
    for key in ABLATED:
        difference = float(lines[key].means["mIoU"]) - float(lines["cpsl"].means["mIoU"])
        assert f"{difference:+.1f}" == lines[key].others["Δ"]


def test_the_setting_of_the_paper_has_one_published_figure() -> None:
    lines = [line for line in read(cpsl.PUBLISHED) if line.row == "cpsl" and line.table != "table2"]
    assert {line.means["mIoU"] for line in lines} == {"55.7"}
    assert len(lines) == 6


def printed() -> list[list[str]]:
    """The lines of the paper's tables as cells, without bold type."""
    text = PAPER.read_text(encoding="utf-8").replace("**", "")
    return [[cell.strip() for cell in line.split("\t")] for line in text.splitlines() if "\t" in line]


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
def test_published_rows_stand_in_the_paper() -> None:
    rows = [[cell for cell in row if cell != "-"] for row in printed()]
    for line in read(cpsl.PUBLISHED):
        cells = [*line.iou.values(), *reversed(line.means.values())]
        if not line.iou:
            continue
        if line.row == "cpsl-distill" and line.table == "table1":
            # The text has this row and ProDA's in one line.
            row = next(row for row in rows if row[0] == "ProDA+distill CPSL+distill")
            assert [cell.split()[1] for cell in row[1:]] == cells
        else:
            found = [row[1 : len(cells) + 1] for row in rows]
            assert cells in found, line


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
def test_published_sensitivities_stand_in_the_paper() -> None:
    rows = printed()
    for table in ("table6", "table7", "table8"):
        _, values = SWEEPS[table]
        figures = [line.means["mIoU"] for line in of_table((cpsl.PUBLISHED, table))]
        after = rows[next(i for i, row in enumerate(rows) if row[1:] == [f"{value:g}" for value in values]) + 1]
        assert after == ["mIoU", *figures]
    # Table 4 stands beside Table 3 in print, and its column is broken over lines in the text.
    text = " ".join(PAPER.read_text(encoding="utf-8").replace("**", "").split())
    figures = [line.means["mIoU"] for line in of_table((cpsl.PUBLISHED, "table4"))]
    assert f"mIoU {' '.join(figures)}" in text
