"""The lines of a table from finished runs: columns about pseudo-labels, differences between rows, printed figures."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.tiny import tiny

from segshift import tables
from segshift.evaluate import Scores
from segshift.options import TableOptions
from segshift.tables.lines import report_of
from segshift.tables.plan import Job, Training
from segshift.tables.report import Line, Report
from segshift.tables.results import Key, Results
from segshift.taxonomy import CAMVID, CITYSCAPES, LabelSpace

GAMMA0 = "iast@alpha0.2-beta0.9-gamma0"


def scores(space: LabelSpace, right: int) -> dict[str, Any]:
    """Of every class `right` pixels of 100 are right, the others taken for the next class."""
    k = len(space)
    matrix = torch.eye(k, dtype=torch.int64) * right + torch.eye(k, dtype=torch.int64).roll(1, 1) * (100 - right)
    return Scores(space, matrix, 1).to_dict()


def miou(right: int) -> float:
    return 100 * right / (200 - right)


class Bench:
    """A table, and a results file to put figures into."""

    def __init__(self, name: str, folder: Path, seeds: tuple[int, ...], data: str | None = None) -> None:
        self.table, self.space = tables.find(name), CITYSCAPES if data is None else CAMVID
        self.options = TableOptions(name, "gta5:x", "cityscapes:y", data, seeds)
        self.results = Results(folder / "results.jsonl")
        recipe = tiny("cbst", folder, folder)
        self.jobs = [
            Job(row, None, recipe, Training(recipe, folder), Key("g", row.key, seed, "2-x", None, None, "1"), {})
            for seed in seeds
            for row in self.table.on(data)
        ]

    def put(self, key: str, seed: int, right: int, labels: dict[str, Any] | None = None) -> None:
        job = next(job for job in self.jobs if (job.row.key, job.key.seed) == (key, seed))
        self.results.append(job.key, {"data": {}, "scores": scores(self.space, right), "labels": labels})

    def report(self) -> Report:
        return report_of(self.table, self.options, self.jobs, self.results)


def line(report: Report, label: str, published: bool = False) -> Line:
    return next(line for line in report.lines if (line.label, line.published) == (label, published))


def rows_of(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report.csv())))


def test_figures_of_pseudo_labels_stand_before_the_mean(tmp_path: Path) -> None:
    bench = Bench("iast/table4", tmp_path, (0, 1))
    for seed, proportion in ((0, 0.3), (1, 0.4)):
        labels = {str(n): {"proportion": proportion + n / 10, "accuracy": 0.9, "miou": 0.5 + n / 10} for n in (1, 2, 3)}
        bench.put(GAMMA0, seed, 60 + seed, labels)
    bench.put("iast", 0, 70)  # a line from before they were measured
    report = bench.report()
    assert report.headings == ("Proportion, round 1", "P-mIoU, round 1", "mIoU (19 classes)")
    sd = f"{statistics.stdev([30, 40]):.1f}"
    assert line(report, "gamma 0").figures[:2] == (("45.0", sd), ("60.0", "0.0"))
    assert [figure[0] for figure in line(report, "gamma 8 (IAST)").figures] == ["-", "-", f"{miou(70):.1f}"]
    assert [figure[0] for figure in line(report, "gamma 0", published=True).figures] == ["36", "65.6", "50.5"]
    # The other rounds are in the CSV alone.
    assert "round 2" not in report.markdown()
    row = next(row for row in rows_of(report) if (row["row"], row["origin"]) == ("gamma 0", "ours"))
    assert [row[f"Proportion, round {n}"] for n in (1, 2, 3)] == ["45.0", "55.0", "65.0"]
    assert [row[f"P-mIoU, round {n}"] for n in (1, 2, 3)] == ["60.0", "70.0", "80.0"]
    assert row["P-mIoU, round 3 sd"] == "0.0"
    printed = next(row for row in rows_of(report) if (row["row"], row["origin"]) == ("gamma 0", "published"))
    assert (printed["Proportion, round 1"], printed["Proportion, round 2"]) == ("36", "")
    notes = " ".join(report.notes)
    assert "oracle diagnosis" in notes
    assert "round 1, when a row labels with the model of its warm-up" in notes
    assert notes.count("beta = 1.0") == 1


def test_a_target_without_labels_has_a_proportion_alone(tmp_path: Path) -> None:
    bench = Bench("iast/table4", tmp_path, (0,), "camvid-dusk")
    bench.put("iast", 0, 50, {"1": {"proportion": 0.25}})
    assert [figure[0] for figure in line(bench.report(), "gamma 8 (IAST)").figures] == ["25.0", "-", f"{miou(50):.1f}"]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=3), st.integers(0, 2))
def test_differences_are_taken_seed_by_seed(tmp_path_factory: Any, pairs: list[tuple[int, int]], alone: int) -> None:
    """A seed that only one of two rows has is in its mean, and in no difference."""
    folder = tmp_path_factory.mktemp("results")
    bench = Bench("iast/table9", folder, tuple(range(len(pairs) + alone)))
    for seed, (base, adapted) in enumerate(pairs):
        bench.put("advent", seed, base)
        bench.put("iast@advent", seed, adapted)
    for seed in range(len(pairs), len(pairs) + alone):
        bench.put("iast@advent", seed, 50)
    report = bench.report()
    assert report.headings[-1] == "Δ"
    differences = [miou(adapted) - miou(base) for base, adapted in pairs]
    mean, sd = line(report, "IAST on AdvEnt").figures[-1]
    assert float(mean) == pytest.approx(statistics.mean(differences), abs=0.051)
    assert mean[0] in "+-"
    assert (sd == "") is (len(pairs) == 1)
    if sd:
        assert float(sd) == pytest.approx(statistics.stdev(differences), abs=0.051)
    assert line(report, "AdvEnt").figures[-1] == ("-", "")
    assert line(report, "IAST on AdvEnt", published=True).figures[-1] == ("+4.4", "")
    assert "iast@advent over advent" in " ".join(report.notes)


def test_printed_means_stand_under_their_own_heading(tmp_path: Path) -> None:
    """AdaptSegNet has mIoU* alone in Table 7; Table 9 has nothing but mIoU* on SYNTHIA."""
    bench = Bench("iast/table7", tmp_path, (0,))
    bench.put("adaptsegnet", 0, 50)
    report = bench.report()
    assert report.headings == ("mIoU synthia16 (16 classes)", "mIoU* synthia13 (13 classes)")
    assert line(report, "AdaptSegNet", published=True).figures == (("-", ""), ("46.7", ""))
    assert line(report, "AdvEnt", published=True).figures == (("41.2", ""), ("48.0", ""))
    (tmp_path / "other").mkdir()
    bench = Bench("iast/table9-synthia", tmp_path / "other", (0,))
    bench.put("adaptsegnet", 0, 50)
    report = bench.report()
    assert report.headings == ("mIoU* synthia13 (13 classes)", "Δ")
    assert line(report, "AdaptSegNet", published=True).figures == (("46.7", ""), ("-", ""))


def test_elsewhere_printed_figures_are_named_with_their_mean(tmp_path: Path) -> None:
    bench = Bench("iast/table9-synthia", tmp_path, (0,), "camvid-dusk")
    bench.put("advent", 0, 50)
    report = bench.report()
    assert report.headings == (f"mIoU ({len(CAMVID)} classes)", "Δ"), "no asterisk without the subset"
    assert not any(line.published for line in report.lines)
    notes = " ".join(report.notes)
    assert "published mIoU* on SYNTHIA → Cityscapes, DeepLab-v2: adaptsegnet 46.7" in notes
    bench = Bench("iast/table2", tmp_path, (0,), "camvid-dusk")
    notes = " ".join(bench.report().notes)
    assert f"{GAMMA0} 50.5 (Proportion 36.5)" in notes
    assert notes.count("gamma = 0 and with regularisation") == 1, "said on any pair"


def test_rows_without_the_one_they_are_compared_with_have_no_difference(tmp_path: Path) -> None:
    bench = Bench("iast/table9", tmp_path, (0,))
    bench.put("iast@advent", 0, 50)
    bench.options = replace(bench.options, rows=("iast@advent",))
    report = bench.report()
    assert line(report, "IAST on AdvEnt").figures[-1] == ("-", "")
    assert "Δ:" not in " ".join(report.notes)
