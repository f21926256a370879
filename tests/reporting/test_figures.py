"""Figures beyond the tables of scores: seeds taken together, the headline, confusions, calibration, single images."""

import json
import math
import re
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.run_folder import STREET, add_candidates, add_details, make_run

from segshift.errors import RunError
from segshift.evaluate import Scores
from segshift.reporting.figures import results
from segshift.reporting.report import write_report
from segshift.reporting.sections import confusion_figures
from segshift.reporting.seeds import spread
from segshift.scored_details import read_details


def miou(run: Path, which: str = "final") -> float:
    return json.loads((run / "evaluation" / f"{which}.json").read_text())["miou"]["all"]


def change(file: Path, **entries: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = make_run(tmp_path / "cbst", rounds=2, panels=1)
    add_details(folder)
    return folder


def test_one_seed_has_no_uncertainty(run):
    figures = results([run])
    first, second = figures["headline"]
    gain = 100 * (miou(run) - miou(run, "warmup"))
    assert first == (
        f"Adapted by CBST: {100 * miou(run):.1f} % mIoU (7 of 8 classes) on 6 test images, {gain:.1f} points above "
        "source-only."
    )
    assert second.startswith("One seed: no uncertainty is known")
    [entry] = [group for group in figures["groups"] if group["kind"] == "adapted"]
    assert entry["miou"]["all"]["value"] == {"mean": miou(run), "sd": None, "n": 1}


def test_seeds_of_one_recipe_are_taken_together(tmp_path):
    runs = [make_run(tmp_path / f"{name}-{s}", label=name, seed=s, rate=r, rounds=1, panels=0)
            for name, r in (("ST", 0.3), ("CBST", 0.2)) for s in (0, 1, 2)]  # fmt: skip
    oracle = make_run(tmp_path / "oracle", rate=0.1)
    figures = results(runs, oracle)
    groups = {group["label"]: group for group in figures["groups"]}
    assert list(groups) == ["source-only", "ST", "CBST", "oracle (target labels)"]
    cbst = groups["CBST"]
    assert (cbst["seeds"], cbst["compared_with"]) == ([0, 1, 2], "source-only")
    values = [miou(run) for run in runs[3:]]
    gains = [miou(run) - miou(run, "warmup") for run in runs[3:]]
    entry = cbst["miou"]["all"]
    assert entry["value"] == pytest.approx({"mean": statistics.mean(values), "sd": statistics.stdev(values), "n": 3})
    assert entry["difference"] == pytest.approx({"mean": statistics.mean(gains), "sd": statistics.stdev(gains), "n": 3})
    # Three warm-ups, though six runs start from them.
    assert [row["kind"] for row in figures["rows"]].count("warmup") == 3
    assert figures["headline"][1] == (
        f"Adapted by CBST: {100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f} % mIoU (mean ± "
        f"standard deviation over 3 seeds, 7 of 8 classes) on 6 test images, {100 * statistics.mean(gains):.1f} ± "
        f"{100 * statistics.stdev(gains):.1f} points above source-only, paired by seed."
    )
    assert figures["headline"][2].startswith("The oracle, trained on target labels, has ")
    text = write_report(runs[4:], tmp_path / "report.html").read_text()
    assert 'id="seeds"' in text and "seed 2, CBST-2" in text


def test_two_runs_of_one_seed_are_no_spread(tmp_path):
    runs = [make_run(tmp_path / name, seed=3, rate=rate) for name, rate in (("a", 0.2), ("b", 0.4))]
    adapted = [group for group in results(runs)["groups"] if group["kind"] == "adapted"]
    assert [group["label"] for group in adapted] == ["CBST, seed 3, a", "CBST, seed 3, b"]
    assert all(group["miou"]["all"]["value"]["sd"] is None for group in adapted)


def test_a_loss_is_called_one(tmp_path):
    run = make_run(tmp_path / "run", rate=0.9)
    assert "points below source-only." in results([run])["headline"][0]


@given(st.lists(st.one_of(st.none(), st.just(float("nan")), st.floats(0, 1)), max_size=6))
def test_a_spread_is_over_what_there_is(values):
    known = [v for v in values if v is not None and not math.isnan(v)]
    found = spread(values)
    assert found.n == len(known)
    assert (found.mean is None) == (not known) and (found.sd is None) == (len(known) < 2)
    if found.mean is not None:
        assert min(known) - 1e-9 <= found.mean <= max(known) + 1e-9


def test_confusions_are_shares_of_the_truth():
    counts = torch.zeros(8, 8, dtype=torch.int64)
    counts[0, 0], counts[0, 1], counts[2, 0], counts[2, 2], counts[3, 4] = 750, 250, 90, 10, 1
    found = confusion_figures(Scores(STREET, counts, 1))
    assert found["share"][0][:3] == [0.75, 0.25, 0.0]
    assert found["share"][1] is None
    # A class of a thousandth of the pixels is no news.
    assert [(e["truth"], e["predicted"], e["share"]) for e in found["largest"]] == [
        ("building", "road", 0.9), ("road", "sidewalk", 0.25),
    ]  # fmt: skip


def test_the_page_has_confusions_and_calibration(run, tmp_path):
    figures = results([run])
    page = write_report([run], tmp_path / "report.html").read_text()
    largest = figures["rows"][1]["confusion"]["largest"][0]
    assert f"{largest['truth']} taken for {largest['predicted']} {100 * largest['share']:.1f} %" in page
    assert page.count('<table class="matrix">') == 2
    assert [model["label"] for model in figures["calibration"]] == ["source-only", "CBST"]
    for model, which in zip(figures["calibration"], ("warmup", "final"), strict=True):
        details = read_details(run, which)
        assert details is not None and model["ece"] == details.ece
        assert f"{model['label']}: ECE {100 * details.ece:.1f}" in page
    assert "Share of right pixels against confidence. source-only: expected calibration error" in page


def test_picked_images_are_shown_once_and_called_oracle(run, tmp_path):
    images = results([run])["runs"][0]["images"]
    details = read_details(run, "final")
    assert details is not None
    order = sorted(range(6), key=lambda i: details.miou[i])
    assert [entry["name"] for entry in images["worst"]] == [f"target/{i:03d}" for i in order[:3]]
    assert [entry["name"] for entry in images["best"]] == [f"target/{i:03d}" for i in order[:2:-1]]
    page = write_report([run], tmp_path / "report.html").read_text()
    for entry in (*images["worst"], *images["best"]):
        assert page.count(f'alt="truth, {entry["name"]}"') == 1
        assert f"mIoU {100 * entry['miou']:.1f}, source-only {100 * entry['before']:.1f}" in page
    assert "Picked with the test labels (oracle)" in page


def test_pseudo_labels_stand_beside_the_labels_of_the_source(run, tmp_path):
    shares = results([run])["runs"][0]["class_shares"]
    assert shares["source"] == [c / 28 for c in range(8)]
    assert [sum(entry["kept"]) for entry in shares["rounds"]] == pytest.approx([1, 1])
    truth = json.loads((run / "evaluation/final.json").read_text())["confusion"]
    assert shares["truth"] == [sum(row) / sum(map(sum, truth)) for row in truth]
    assert "(50 of 120, evenly spread, counted)" in write_report([run], tmp_path / "report.html").read_text()


def test_what_an_earlier_version_did_not_keep_is_said(tmp_path):
    run = make_run(tmp_path / "old")
    figures = results([run])
    assert figures["calibration"] == [] and figures["runs"][0]["images"] is None
    page = write_report([run], tmp_path / "report.html").read_text()
    for said in ("scores of single images were not kept", "Confidences were not kept", "did not count its source"):
        assert said in page
    assert 'id="candidates"' not in page


def test_candidates_stand_beside_the_oracle(run, tmp_path):
    add_candidates(run)
    with (run / "candidates.jsonl").open("a") as file:
        file.write('{"step": 9')  # a kill
    found = results([run])["runs"][0]["candidates"]
    assert [line["oracle"] for line in found] == pytest.approx([0.3, 0.32, 0.34, 0.36])
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "mean entropy; less is better" in page and "mIoU on test labels (oracle)" in page
    assert "source validation" not in page
    assert "these scores chose nothing" in page
    change(run / "run.json", recipe={"settings": {"select": "snd"}})
    assert "the best by soft neighbourhood density" in write_report([run], tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("candidates.jsonl", "{}\n{}\n", r"candidates\.jsonl, line 1: .*step"),
        ("candidates.jsonl", "x\n{}\n", r"candidates\.jsonl, line 1: cannot be read"),
        ("source-classes.json", "{}", r"source-classes\.json: .*labels"),
        ("source-classes.json", '{"labels": 1, "of": 1, "pixels": {"road": 1}}', r"pixels has no sidewalk"),
        ("evaluation/final.details.json", "{}", r"final\.details\.json"),
    ],
)
def test_damaged_files_are_named(run, tmp_path, file, content, message):
    (run / file).write_text(content)
    with pytest.raises(RunError, match=message):
        write_report([run], tmp_path / "report.html")


def test_headings_of_one_run_are_nested(run, tmp_path):
    page = write_report([run], tmp_path / "report.html").read_text()
    levels = [int(n) for n in re.findall(r"<h([1-6])", page)]
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))
    assert page.count("<caption>") == page.count("<table")
