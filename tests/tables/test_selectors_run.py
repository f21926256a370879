"""`segshift table selectors` end to end on tiny images: measured once, gone on with after a kill, written as a page."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segshift import selectors
from segshift.evaluate import Scores
from segshift.models.network import load_model
from segshift.tables import selectors_page, selectors_run
from segshift.taxonomy import IGNORE

Table = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("small")
WORDS = "selectors --data own"


@pytest.fixture(autouse=True)
def levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three levels, to be quick; two of them are printed."""
    monkeypatch.setattr(selectors, "LEVELS", (0.2, 0.5, 0.7))


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "selectors.jsonl").read_text().splitlines()]


def page(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "selectors" / "own").iterdir()}


def test_two_models_are_measured_and_shown(table: Table, tmp_path: Path, domains: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    code, said, err = table(f"{WORDS} --seeds 0 --rows adabn source-only")
    assert (code, err) == (0, "")
    entries = lines(out)
    assert [(e["row"], e["seed"]) for e in entries] == [("adabn", 0), ("source-only", 0)]
    first = entries[0]
    assert first["data"]["withheld"]["images"] == 5
    assert {"command", "date", "versions", "threads", "cores"} <= first.keys()
    assert str(domains[1]) not in json.dumps(first), "no whole path of this machine"
    place = out / "selectors" / "own"
    with (place / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["selector"] for row in rows))
    assert names[:4] == ["constant", "CBST", "IAST", "BDL"]
    assert (len(names), names[-1]) == (8, "every pixel")
    assert len(rows) == 2 * (7 * 3 + 8 + 1)
    for row in rows:
        if row["level"] and not row["out_of_reach"]:
            assert float(row["coverage"]) == pytest.approx(float(row["level"]), abs=0.002)
    markdown = (place / "table.md").read_text()
    half = next(r for r in rows if (r["model"], r["selector"], r["level"]) == ("AdaBN", "constant", "0.5"))
    assert (
        f"| AdaBN, 50 % | constant | 1 | threshold {float(half['value']):.3f} | {100 * float(half['accuracy']):.1f} |"
        in (markdown)
    )
    assert "## Published settings" in markdown
    assert "| source-only | CBST: portion .2 | 1 | 20." in markdown
    assert "oracle diagnosis" in " ".join(said.split())
    with Image.open(place / "selectors.png") as picture:
        assert picture.width > 1500
        assert picture.height > 1500, "a sheet each"
    drawn = (place / "selectors.svg").read_text()
    for word in ("AdaBN, 1 seed", "source-only, 1 seed", "P-mIoU in %", "category-adaptive, per image", "ground"):
        assert word in drawn
    left = [path.name for path in out.glob("runs/**/selectors")]
    assert left == [], "no predictions are left behind"


@pytest.mark.slow
def test_the_model_is_the_rows_and_the_labels_are_withheld_ones(
    table: Table, tmp_path: Path, domains: tuple[Path, Path]
) -> None:
    """The figures of all pixels, by another way: predictions of both views, labels from their files."""
    out = tmp_path / "out"
    assert table(f"{WORDS} --seeds 0")[0] == 0
    # The line may stand in the file of other tables, which share the model.
    assert table(f"cbst/rows --data own --seeds 0 --rows adabn --results {out / 'selectors.jsonl'}")[0] == 0
    entry, other = lines(out)
    assert (entry["row"], other["row"]) == ("adabn", "adabn"), "the row where none is named"
    assert (entry["views"].startswith("selectors-"), other["views"]) == (True, "1")
    assert len(list((out / "runs" / "own" / "seed-0").iterdir())) == 1
    model = load_model(next((out / "runs" / "own" / "seed-0").glob("adabn-*")))
    model.network.eval()
    counts = np.zeros((5, 5), dtype=np.int64)
    for path in sorted((domains[1] / "train" / "images").iterdir()):
        with Image.open(path) as image, Image.open(domains[1] / "train" / "labels" / f"{path.stem}.png") as label:
            pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
            known = np.asarray(label.resize((48, 48), Image.Resampling.NEAREST))
        small = torch.nn.functional.interpolate(pixels, (48, 48), mode="bilinear", antialias=True)
        prob = torch.zeros(1, 5, 48, 48)
        with torch.no_grad():
            for flipped in (False, True):
                logits = model.network(small.flip(3) if flipped else small).logits
                logits = logits.flip(3) if flipped else logits
                prob += torch.nn.functional.interpolate(logits, (48, 48), mode="bilinear").softmax(1)
        predicted = prob[0].argmax(0).numpy()
        np.add.at(counts, (known[known != IGNORE], predicted[known != IGNORE]), 1)
    scores = Scores.from_dict(entry["scores"])
    # Images are rounded to whole colours when they are resized there; a few pixels fall otherwise.
    assert np.abs(scores.confusion.numpy() - counts).sum() < 0.02 * counts.sum()
    assert entry["all"]["accuracy"] == pytest.approx(scores.pixel_accuracy, abs=1e-5)


@pytest.mark.slow
def test_nothing_is_measured_twice(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    measured, asked = selectors_run.measured, []
    monkeypatch.setattr(selectors_page, "draw_selectors", lambda sheets, kind: f"{len(sheets)} {kind}".encode())

    def killed(runner: Any, job: Any) -> dict[str, Any]:
        asked.append(job.key.seed)
        if asked == [0, 1]:
            raise KeyboardInterrupt
        return measured(runner, job)

    monkeypatch.setattr(selectors_run, "measured", killed)
    assert table(f"{WORDS} --seeds 0 1")[0] == 130
    assert [entry["seed"] for entry in lines(out)] == [0]
    assert "1 of 2 seeds" in (out / "selectors" / "own" / "table.md").read_text()
    with (out / "selectors.jsonl").open("a") as file:
        file.write('{"format": 2, "group": "ow')  # as a kill while writing leaves it
    code, said, _ = table(f"{WORDS} --seeds 0 1 --dry-run")
    assert (code, asked) == (0, [0, 1])
    assert "adabn, seed 0: done" in said
    assert "adabn, seed 1: to be scored from" in said
    assert table(f"{WORDS} --seeds 0 1")[0] == 0
    assert asked == [0, 1, 1]
    assert [entry["seed"] for entry in lines(out)] == [0, 1]
    whole = page(out)
    assert table(f"{WORDS} --seeds 0 1")[0] == 0
    assert asked == [0, 1, 1]
    assert page(out) == whole
    found = [
        next(f for f in entry["selectors"] if (f["selector"], f["level"]) == ("CBST", 0.2))["accuracy"]
        for entry in lines(out)
    ]
    cell = f"{100 * np.mean(found):.1f} ± {100 * np.std(found, ddof=1):.1f}"
    line = next(line for line in whole["table.md"].decode().splitlines() if "20 % | CBST | 2 | portion" in line)
    assert line.split(" | ")[4] == cell, "mean and deviation over the seeds"
    # Other levels are another measurement; the model is there.
    monkeypatch.setattr(selectors, "LEVELS", (0.5,))
    assert table(f"{WORDS} --seeds 0")[0] == 0
    assert asked == [0, 1, 1, 0]


def test_a_target_without_labels_is_said_before_anything_is_trained(
    table: Table, tmp_path: Path, domains: tuple[Path, Path]
) -> None:
    target = tmp_path / "unlabelled"
    shutil.copytree(domains[1], target)
    shutil.rmtree(target / "train" / "labels")
    code, _, err = table(f"{WORDS} --seeds 0", target=target)
    assert code == 1
    assert "the images that are adapted to have no labels" in " ".join(err.split())
    assert "expected a folder labels/ beside images/" in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_a_dry_run_trains_nothing(table: Table, tmp_path: Path) -> None:
    code, said, err = table(f"{WORDS} --seeds 0 --dry-run")
    assert (code, err) == (0, "")
    assert "adabn, seed 0: to be trained in" in said
    assert not (tmp_path / "out").exists()


def test_the_declaration_loads_no_torch() -> None:
    program = "import sys; from segshift import tables; tables.find('selectors'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
