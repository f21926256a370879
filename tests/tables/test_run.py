"""`segshift table` end to end on tiny images: every row, killed and gone on with, scored again on several scales."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes.layouts import make_cityscapes, make_nthu
from tests.fakes.tiny import rounds, tiny, weights

from segshift import checkpoint, recipe_bases, recipes, runs, tables
from segshift.cli import main
from segshift.data.open_data import open_for
from segshift.evaluate import Scores
from segshift.models.network import load_model
from segshift.options import TableOptions
from segshift.predict import score
from segshift.recipe import Recipe
from segshift.scan import Views
from segshift.tables import cbst
from segshift.tables.declare import Case
from segshift.tables.lines import report_of
from segshift.tables.plan import Job, Training, plan
from segshift.tables.report import shown
from segshift.tables.results import Key, Results
from segshift.taxonomy import CITYSCAPES, MERGES

NTHU14 = MERGES["nthu13"].space
Said = pytest.CaptureFixture[str]
Table = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("small")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def figures(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def scored(run: Path, data: str, split: str, views: Views, score_as: str = "own") -> Scores:
    """A model's scores on labelled images, by another way than the table's."""
    model = load_model(run)
    return score(model.network, open_for(model.space, data, split, score_as), model.short_side, views)


def test_all_rows_of_one_pair(table: Table, tmp_path: Path, domains: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    code, said, err = table("cbst/rows --data own --seeds 0")
    assert (code, err) == (0, "")
    entries = lines(out)
    assert len(entries) == len(tables.find("cbst/rows").rows)
    runs = list((out / "runs").glob("*/seed-*/*"))
    assert len(runs) == 7, "one run a recipe: scales are no run, the warm-up is shared"
    written = figures(out / "cbst" / "rows" / "own" / "table.csv")
    assert [row["row"] for row in written] == [row.label for row in tables.find("cbst/rows").rows]
    assert {row["origin"] for row in written} == {"ours"}
    by_label = {row["row"]: row for row in written}
    for label, views in (("CBST", "1"), ("CBST+MST", "0.5 0.75 1")):
        mine = next(e for e in entries if (e["row"], e["views"]) == ("cbst", views))
        assert by_label[label]["mIoU (5 classes)"] == f"{100 * mine['scores']['miou']['all']:.1f}"
        assert by_label[label]["sky"] == f"{100 * mine['scores']['iou']['sky']:.1f}"
    assert "CBST-SP+MST" in said
    assert str(domains[0]) not in (out / "results.jsonl").read_text(), "no whole path of this machine"
    # Scored again on several scales: what `segshift evaluate` says of the same model.
    model = next(folder for folder in runs if folder.name.startswith("cbst-sp-"))
    again = scored(model, str(domains[1]), "test", Views(scales=(0.5, 0.75, 1.0)))
    multi = next(e for e in entries if (e["row"], e["views"]) == ("cbst-sp", "0.5 0.75 1"))
    assert torch.equal(Scores.from_dict(multi["scores"]).confusion, again.confusion)
    # Nothing is done twice, by this table or by another with the same rows.
    before = {run: weights(run) for run in runs}
    assert table("cbst/rows --data own --seeds 0")[0] == 0
    code, said, _ = table("cbst/table3 --data own --seeds 0")
    assert code == 0
    assert len(lines(out)) == len(entries)
    assert {run: weights(run) for run in (out / "runs").glob("*/seed-*/*")} == before
    assert "CBST (published)" not in said
    joined = " ".join(said.split())
    assert "SmallNet stands in for the paper's FCN8s-VGG16 and ResNet-38 on GTA5 → Cityscapes" in joined
    assert "For reference only, published mIoU on GTA5 → Cityscapes, ResNet-38: source-only 35.4" in joined


def test_a_table_that_was_killed_goes_on(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "cbst/rows --data own --seeds 0 --rows source-only st cbst cbst+mst"
    out = tmp_path / "out"
    save, count = checkpoint.save, 0

    def killed(path: Path, state: Any) -> None:
        nonlocal count
        save(path, state)
        count += path.parent.parent.name.startswith("cbst")
        if count == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        assert table(words)[0] == 130
    assert [entry["row"] for entry in lines(out)] == ["source-only", "st"]
    _, said, _ = table(f"{words} --dry-run")
    assert "st, seed 0: done" in said
    assert "cbst, seed 0: to be resumed in" in said
    assert "4 scores from 3 runs, 1 of them not finished" in said
    began, resumed = [], []
    start, resume = runs.start, runs.resume
    monkeypatch.setattr(runs, "start", lambda *a, **k: began.append(a) or start(*a, **k))
    monkeypatch.setattr(runs, "resume", lambda folder: resumed.append(folder) or resume(folder))
    first = lines(out)
    assert table(words)[0] == 0
    assert (len(began), [folder.name.split("-")[0] for folder in resumed]) == (0, ["cbst"])
    assert lines(out)[:2] == first
    assert [(entry["row"], entry["views"]) for entry in lines(out)[2:]] == [("cbst", "1"), ("cbst", "0.5 0.75 1")]
    # The same weights as a run that nothing interrupted.
    whole = tmp_path / "whole"
    warmup = next((out / "runs" / "warmups" / "seed-0").iterdir())
    alone = runs.start(tiny("cbst", *_domains(warmup)), whole, warmup)
    assert weights(resumed[0]) == weights(alone)
    assert rounds(resumed[0]) == rounds(alone)


def _domains(run: Path) -> tuple[Path, Path]:
    data = json.loads((run / "run.json").read_text())["recipe"]["data"]
    return Path(data["source"]), Path(data["target"])


def test_published_lines_stand_under_ours_on_the_papers_pair(table: Table, tmp_path: Path) -> None:
    code, said, err = table("cbst/table3 --seeds 0 --rows fcn8s/source-only resnet38/st resnet38/cbst-sp+mst")
    assert (code, err) == (0, "")
    place = tmp_path / "out" / "cbst" / "table3" / "published-pair"
    written = figures(place / "table.csv")
    assert [(row["origin"], row["network"], row["row"]) for row in written] == [
        ("ours", "FCN8s-VGG16", "source-only"),
        ("published", "FCN8s-VGG16", "source-only"),
        ("ours", "ResNet-38", "ST"),
        ("published", "ResNet-38", "ST"),
        ("ours", "ResNet-38", "CBST-SP+MST"),
        ("published", "ResNet-38", "CBST-SP+MST"),
    ]
    assert [row["mIoU (5 classes)"] for row in written if row["origin"] == "published"] == ["24.3", "41.5", "47.0"]
    assert [row["sky"] for row in written if row["origin"] == "published"] == ["37.0", "49.2", "65.4"]
    joined = " ".join(said.split())
    assert "Lines marked (published) are the paper's printed figures, not ours" in joined
    assert "ResNet-38 ST (published): misprint: the 19 printed IoUs have mean 48.4 and not 41.5" in joined
    markdown = (place / "table.md").read_text()
    assert "| *ResNet-38* | *CBST-SP+MST (published)* |" in markdown
    groups = {(entry["group"], entry["row"], entry["views"]) for entry in lines(tmp_path / "out")}
    assert ("gta5-cityscapes-resnet38", "cbst-sp", "0.5 0.75 1") in groups
    assert ("gta5-cityscapes-resnet38", "cbst-sp", "1") not in groups, "a row that was not asked for"


@pytest.mark.slow
def test_curves_over_rounds(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cbst, "ROUNDS", 2)
    words = "cbst/figure5 --data own --seeds 0 1 --rows st-sp@0.1/0.05 st-sp@0.2/0.05 cbst-sp@0.2/0.1"
    code, said, err = table(words)
    assert (code, err) == (0, "")
    place = tmp_path / "out" / "cbst" / "figure5" / "own"
    points = figures(place / "figure5.csv")
    assert {row["row"] for row in points} == {"st-sp@0.1/0.05", "st-sp@0.2/0.05", "cbst-sp@0.2/0.1"}
    assert [int(row["round"]) for row in points if row["row"] == "cbst-sp@0.2/0.1"] == [0, 1, 2]
    entries = [e for e in lines(tmp_path / "out") if e["row"] == "cbst-sp@0.2/0.1"]
    last = 100 * np.mean([e["rounds"]["2"]["all"] for e in entries])
    assert float(points[-1]["mIoU"]) == pytest.approx(last, abs=0.005)
    assert [e["rounds"]["2"]["all"] for e in entries] == [e["scores"]["miou"]["all"] for e in entries]
    with Image.open(place / "figure5.png") as picture:
        assert picture.width > 1000
    drawn = (place / "figure5.svg").read_text()
    for word in ("ST-SP, different p0", "CBST-SP, different Δp", "p0/Δp", "0.1/0.05", "oracle diagnostics"):
        assert word in drawn
    assert "nothing is chosen by these curves" in " ".join(said.split())


def test_what_cannot_be_run_is_said_first(table: Table, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    for words, hints in (
        ("cbst/tabel3", ("Did you mean cbst/table3",)),
        ("cbst/rows --data own --rows cbts", ("no row 'cbts'", "Did you mean cbst")),
        ("cbst/rows --data ownn", ("data = 'ownn'", "minicity")),
        ("cbst/rows --data own --seeds 0 0", ("seeds = 0 0", "each once")),
        ("cbst/table3 --weights resnet83=x", ("'resnet83' is no network", "resnet38")),
        ("cbst/table4 --weights fcn8s=x", ("no such network", "resnet38=FILE")),
        ("cbst/rows --data own --weights fcn8s=x", ("FILE alone",)),
        ("cbst/rows --data own --weights a b", ("two files for all networks",)),
        ("cbst/rows --data own --weights a", ("weights = a: SmallNet has no backbone",)),
    ):
        code, _, err = table(words)
        assert code == 1, words
        assert all(hint in " ".join(err.split()) for hint in hints), (words, err)
    assert main(["table", "cbst/table3"]) == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "--source and --target missing; expected --source gta5:DIR --target cityscapes:DIR" in err
    out.mkdir()
    (out / "results.jsonl").write_text("{}\n")
    code, _, err = table("cbst/rows --data own")
    assert code == 1
    assert "results.jsonl, line 1: group, row, seed, recipe, scores missing" in err
    assert not (out / "runs").exists()


def test_a_run_begun_on_other_processes_is_not_resumed(table: Table, tmp_path: Path) -> None:
    words = "cbst/rows --data own --seeds 0 --rows source-only"
    assert table(words)[0] == 0
    run = next((tmp_path / "out" / "runs" / "warmups" / "seed-0").iterdir())
    (tmp_path / "out" / "results.jsonl").unlink()
    (run / "report.html").unlink()
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(info | {"processes": 2}))
    code, _, err = table(words)
    assert code == 1
    assert "was begun on 2 processes, and this command has 1" in " ".join(err.split())


def test_other_images_are_another_run(domains: tuple[Path, Path], tmp_path: Path) -> None:
    options = TableOptions("cbst/rows", str(domains[0]), str(domains[1]), "own", (0,), ("cbst",), tmp_path)
    swapped = replace(options, target=str(domains[0]))
    first, second = (plan(tables.find("cbst/rows"), o)[0] for o in (options, swapped))
    assert first.key == second.key
    assert first.training.folder != second.training.folder
    assert first.training.warmup is not None
    assert second.training.warmup is not None
    assert first.training.warmup.folder == second.training.warmup.folder, "the source is the same"
    assert first.data != second.data


@pytest.mark.slow
def test_cross_validation_of_cities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    """Table 1 cut down to two cities of two folds, on the data sets' own layouts."""
    make_cityscapes(tmp_path / "cityscapes", images=2)
    make_nthu(tmp_path / "nthu", images=3)
    declared = replace(tables.find("cbst/table1"), cities=("Rome", "Rio"), folds=2)
    monkeypatch.setitem(tables.TABLES, "cbst/table1", declared)

    def find(name: str, *_: str) -> Recipe:
        data = recipe_bases.base(name.split("/", maxsplit=1)[0], name).data
        data = replace(data, short_side=32, folds=2)
        return replace(tiny(name.split("/")[1], tmp_path, tmp_path), name=name, data=data)

    monkeypatch.setattr(recipes, "find", find)
    words = f"table cbst/table1 --source cityscapes:{tmp_path / 'cityscapes'} --target nthu:{tmp_path / 'nthu'}"
    assert main(f"{words} --seeds 0 --threads 1 --out {tmp_path / 'out'} --rows source-only cbst".split()) == 0
    assert capsys.readouterr().err == ""
    entries = lines(tmp_path / "out")
    assert len(entries) == 8
    assert len(list((tmp_path / "out" / "runs" / "warmups" / "seed-0").iterdir())) == 1
    assert len(list((tmp_path / "out" / "runs").glob("cityscapes-nthu-resnet38/seed-0/*/fold-*/*"))) == 4
    for city in ("Rome", "Rio"):
        mine = [e for e in entries if e["split"] == f"{city}/Test"]
        assert [(e["row"], e["fold"], e["scores"]["images"]) for e in mine] == [
            ("source-only", 0, 2),
            ("cbst", 0, 2),
            ("source-only", 1, 1),
            ("cbst", 1, 1),
        ]
        assert {e["scores"]["space"]["name"] for e in mine} == {"nthu13"}
    # Source-only of all folds is one model on all of a city's images.
    warmup = next((tmp_path / "out" / "runs" / "warmups" / "seed-0").iterdir())
    whole = scored(warmup, f"nthu:{tmp_path / 'nthu'}", "Rio/Test", Views(), "nthu13")
    pooled = sum(
        np.array(e["scores"]["confusion"]) for e in entries if (e["row"], e["split"]) == ("source-only", "Rio/Test")
    )
    assert np.array_equal(pooled, whole.confusion.numpy())
    written = figures(tmp_path / "out" / "cbst" / "table1" / "published-pair" / "table.csv")
    rio = next(row for row in written if (row["part"], row["row"], row["origin"]) == ("Rio", "source-only", "ours"))
    assert (
        next(value for key, value in rio.items() if key.startswith("Mean nthu13"))
        == f"{100 * whole.mean_iou('nthu13'):.1f}"
    )


# --- figures of a table, without training ------------------------------------------------------------------------


def fabricated(
    name: str, folder: Path, seeds: tuple[int, ...], skip: int = 0
) -> tuple[TableOptions, list[Job], Results]:
    """Jobs of a table's rows on its own pair, and results with random scores for all but the last `skip`."""
    declared = tables.find(name)
    options = TableOptions(name, "gta5:x", "cityscapes:y", seeds=seeds)
    space = NTHU14 if declared.cities else CITYSCAPES
    results = Results(folder / "results.jsonl")
    recipe = tiny("cbst", folder, folder)
    jobs = []
    for seed in seeds:
        for case in declared.cases(None):
            for row in declared.rows:
                split, fold = (None, None) if case is None else (case.split, case.fold)
                key = Key(declared.groups[row.network], row.key, seed, "2-x", split, fold, "1")
                jobs.append(Job(row, case, recipe, Training(recipe, folder), key, {}))
    for number, job in enumerate(jobs[: len(jobs) - skip]):
        rng = np.random.default_rng(number)
        k = len(space)
        matrix = torch.from_numpy(rng.integers(0, 50, (k, k)) + 400 * np.eye(k, dtype=np.int64))
        results.append(job.key, {"data": {}, "scores": Scores(space, matrix, 10).to_dict()})
    return options, jobs, results


def test_subsets_are_named_with_their_size(tmp_path: Path) -> None:
    options, jobs, results = fabricated("cbst/table2", tmp_path, (0, 1, 2), skip=1)
    report = report_of(tables.find("cbst/table2"), options, jobs, results)
    assert report.headings == ("mIoU synthia16 (16 classes)", "mIoU* synthia13 (13 classes)")
    ours = {(line.network, line.label): line for line in report.lines if not line.published}
    assert ours["ResNet-38", "CBST"].seeds == "2 of 3"
    assert ours["ResNet-38", "ST"].seeds == "3"
    scores = [entry.scores for job in jobs if job.row.name == "resnet38/st" if (entry := results.find(job.key, {}))]
    miou = [[100 * s.mean_iou(subset) for s in scores] for subset in ("synthia16", "synthia13")]
    expected = tuple((f"{np.mean(values):.1f}", f"{np.std(values, ddof=1):.1f}") for values in miou)
    assert ours["ResNet-38", "ST"].figures == expected
    published = [line for line in report.lines if line.published and line.network == "FCN8s-VGG16"]
    assert [line.figures for line in published][-1] == (("35.4", ""), ("36.1", ""))
    assert "mean 40.7 and not 36.1" in " ".join(report.notes)


@pytest.mark.parametrize("how", ["pooled", "mean"])
def test_folds_are_pooled_or_averaged(tmp_path: Path, how: Any) -> None:
    options, jobs, results = fabricated("cbst/table1", tmp_path, (0,))
    report = report_of(tables.find("cbst/table1"), replace(options, folds=how), jobs, results)
    assert [line.section for line in report.lines][::6] == ["Rome", "Rio", "Tokyo", "Taipei"]
    line = next(e for e in report.lines if (e.section, e.label, e.published) == ("Rio", "CBST", False))
    mine = [job for job in jobs if job.row.key == "cbst" and job.case == Case("Rio", "Rio/Test", job.key.fold or 0, 10)]
    scores = [entry.scores for job in mine if (entry := results.find(job.key, {}))]
    assert len(scores) == 10
    pooled = Scores(NTHU14, torch.stack([s.confusion for s in scores]).sum(0), 100)
    value = pooled.mean_iou("nthu13") if how == "pooled" else np.mean([s.mean_iou("nthu13") for s in scores])
    assert report.classes == NTHU14.classes[:13]
    assert report.headings == ("Mean nthu13 (13 classes)",)
    assert line.figures == ((f"{100 * value:.1f}", ""),)
    notes = " ".join(report.notes)
    assert ("one confusion matrix over them" in notes) is (how == "pooled")
    next_line = report.lines[report.lines.index(line) + 1]
    assert (next_line.published, next_line.figures) == (True, (("52.2", ""),))


def test_a_city_without_all_its_folds_waits(tmp_path: Path) -> None:
    options, jobs, results = fabricated("cbst/table1", tmp_path, (0,), skip=1)
    report = report_of(tables.find("cbst/table1"), options, jobs, results)
    cells = {(e.section, e.label): e.figures for e in report.lines if not e.published}
    assert cells["Taipei", "CBST"] == (("-", ""),)
    assert cells["Taipei", "ST"] != (("-", ""),)
    assert "Not finished yet: CBST" in " ".join(report.notes)


def test_a_narrow_terminal_gets_the_means(tmp_path: Path) -> None:
    from rich.console import Console

    options, jobs, results = fabricated("cbst/table4", tmp_path, (0,))
    report = report_of(tables.find("cbst/table4"), options, jobs, results)
    narrow = shown(report, Console(width=80, force_terminal=True))
    wide = shown(report, Console(width=220, force_terminal=True))
    assert max(map(len, narrow.splitlines())) <= 100
    assert "Terrain" not in narrow
    assert "a wider terminal" in " ".join(narrow.split())
    assert "Terrain" in wide
    assert shown(report, Console(width=80, force_terminal=False)).count("Terrain") == 1
    assert "CBST-SP (published)" in narrow
