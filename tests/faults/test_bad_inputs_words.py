"""Words on the command line that make no sense: which one, what was expected, and nothing is begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.bad_inputs import Place, assert_refused, fresh, run

ADAPT = "adapt own/cbst --source {day} --target {dusk}"
OUT = "--out {root}/run"
ROWS: tuple[tuple[str, str, int], ...] = (
    ("chekc {day}", "there is no command 'chekc'. Did you mean check? Commands: demo", 2),
    ("\N{RIGHT-TO-LEFT OVERRIDE}adapt", "there is no command ", 2),
    ("adapt", "", 0),
    ("adapt own/cbts", "…own/cbts…Did you mean own/cbst", 1),
    ("adapt own", "…own…", 1),
    ("adapt ../own/cbst", "…../own/cbst…", 1),
    ("adapt --source {day}", "adapt: expected a recipe before --source", 1),
    ("adapt own/cbst", "recipe own/cbst needs --source DIR and --target DIR", 1),
    ("adapt own/cbst --source {day}", "recipe own/cbst needs --target DIR", 1),
    (f"adapt own/cbst --source {{root}}/none --target {{dusk}} {OUT}", "{root}/none: does not exist", 1),
    (f"adapt own/cbst --source {{day}} --target {{root}}/none {OUT}", "{root}/none: does not exist", 1),
    (f"{ADAPT} --out {{root}}/file", "{root}/file…: ", 1),
    (f"{ADAPT} --out {{root}}/file/below", "{root}/file/below: cannot be written (Not a directory)", 1),
    (f"{ADAPT} {OUT} --threads 0", "threads = 0; expected at least 1", 1),
    (f"{ADAPT} {OUT} --threads many", "…many…", 2),
    (f"{ADAPT} {OUT} --treads 1", "…--threads", 2),
    (f"{ADAPT} {OUT} --seed -1", "…seed = -1…expected seed >= 0", 1),
    (f"{ADAPT} {OUT} --adaptation.rounds -1", "rounds = -1, steps = 2, batch = 2, adabn_batch = 8; expected", 1),
    (f"{ADAPT} {OUT} --adaptation.method.portion nan", "portion: nan; expected a share of the pixels above 0", 1),
    (f"{ADAPT} {OUT} --data.short-side 3", "short_side = 3; expected at least 16 pixels, or None", 1),
    (f"{ADAPT} {OUT} --data.on-bad-file perhaps", "…perhaps…", 2),
    (f"{ADAPT} {OUT} --warmup {{root}}/none", "warmup = {root}/none: there is no such file or folder", 1),
    (f"{ADAPT} {OUT} --warmup {{day}}", "{day}: holds no model/model.json; expected a finished run", 1),
    (f"{ADAPT} {OUT} --weights {{root}}/none", "weights = {root}/none: SmallNet has no backbone to load them into", 1),
    (f"{ADAPT} {OUT} --retain perhaps", "retain = 'perhaps'; expected True or False", 1),
    (f"{ADAPT} {OUT} --translate oil", "…oil…", 2),
    ("resume", "…Missing from segshift resume", 2),
    ("resume {root}", "{root} is not a run folder: {root}/run.json is missing", 1),
    ("resume {root}/file", "{root}/file is not a run folder: {root}/file/run.json is missing", 1),
    ("predict {root} {day} --out {root}/out", "{root}: holds no model/model.json; expected a finished run", 1),
    ("predict {model} {root}/none --out {root}/out", "{root}/none: holds no image; expected a file, a folder", 1),
    ("predict {model} {root}/file --out {root}/out", "{root}/file: ", 1),
    ("predict {model} {day}/train --out {root}/file", "{root}/file/labels…: cannot be written", 1),
    ("predict {model} {day}/train --out {root}/out --scales 0", "scales = (0.0,); expected numbers above 0", 1),
    ("predict {model} {day}/train --out {root}/out --scales nan", "scales = (nan,); expected numbers above 0", 1),
    ("predict {model} {day}/train", "…Missing…", 2),
    ("evaluate {model} --data {day}", "{day}: holds no images/…Splits found: test, train", 1),
    ("evaluate {model} --data {day} --split val", "{day}: has no split 'val'…Splits found: test, train", 1),
    ("evaluate {model} --data nowhere:{day} --split test", "…nowhere…", 1),
    ("evaluate {model} --data {day} --split test --out {day}", "{day}: cannot be written (", 1),
    ("evaluate {model} --data {day} --split test --score-as coco", "…coco…", 2),
    ("report", "report: expected at least one run folder", 1),
    ("report {root}", "{root} is not a run folder: {root}/run.json is missing", 1),
    ("check", "check: no data set is named; expected at least one", 1),
    ("check {root}/none", "{root}/none: ", 1),
    ("check {root}/file", "{root}/file: ", 1),
    ("check nowhere:{day}", "…nowhere…", 1),
    ("check {day} --max-pixels 0", "…max_pixels = 0; expected", 1),
    ("table cbst/table99 --source {day} --target {dusk}", "…cbst/table99…", 1),
    ("recipes --all", "…--all", 2),
)  # fmt: skip


@pytest.fixture
def place(pair: Path, tmp_path: Path) -> Place:
    place = fresh(pair, tmp_path)
    place.put("file", b"a file")
    return place


@pytest.mark.usefixtures("tiny_recipes")
@pytest.mark.parametrize(("words", "expected", "code"), ROWS, ids=[row[0] for row in ROWS])
def test_refused(words: str, expected: str, code: int, place: Place, request: pytest.FixtureRequest) -> None:
    if "own/cbts" in words or words in ("adapt own", "adapt ../own/cbst"):
        request.getfixturevalue("monkeypatch").undo()  # of the tiny recipes: names are looked up for real
    model = str(request.getfixturevalue("source_only")) if "{model}" in words else ""
    before = {path for path in place.root.rglob("*") if path.is_file()}
    said = run(*(place.fill(word).replace("{model}", model) for word in words.split()))
    text = " ".join(said.text.replace("│", " ").split()) if code == 2 else said.text
    assert_refused(said._replace(text=text), place.fill(expected), code)
    assert {path for path in place.root.rglob("*") if path.is_file()} == before
