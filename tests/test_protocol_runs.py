"""Protocols through the command line: whole runs on small fakes of the public data sets, and what stops one early."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fakes.layouts import make_cityscapes, make_gta5, make_nthu, make_synthia
from tests.fakes.run_folder import make_run
from tests.fakes.tiny import tiny

from segshift import recipes
from segshift.cli import main
from segshift.data.open_data import DataConfig
from segshift.overrides import place
from segshift.recipe import Recipe
from segshift.reporting.figures import results
from segshift.reporting.report import write_report

Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """`recipes.find` gives the tiny versions, without data; a terminal on which no line is broken."""

    def find(name: str, variant: str = "paper", warmup: str | None = None) -> Recipe:
        assert warmup is None
        recipe = tiny(name.split("/")[1], Path(), Path())
        return Recipe(**{**vars(recipe), "data": DataConfig(short_side=48), "name": f"own/{variant}-{recipe.label}"})

    monkeypatch.setattr(recipes, "find", find)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of fakes, which tests do not change."""
    root = tmp_path_factory.mktemp("layouts")
    for name, make in {
        "gta5": make_gta5,
        "cityscapes": make_cityscapes,
        "synthia": make_synthia,
        "nthu": make_nthu,
    }.items():
        make(root / name, 4)
    return root


def adapt(row: str, source: str, target: str, out: Path, *words: str) -> int:
    return main(["adapt", f"own/{row}", "--source", source, "--target", target, "--out", str(out), *words])


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_gta5_to_cityscapes_on_the_target_itself(made: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    words = ("--data.target-split", "val", "--data.transductive", "True")
    assert adapt("cbst", f"gta5:{made / 'gta5'}", f"cityscapes:{made / 'cityscapes'}", out, *words) == 0
    said = capsys.readouterr().out
    # A note, not a fault: the fake has one label of another size than its image.
    assert "source: note: " in said and "00002.png: is 48x72 pixels (height x width)" in said
    assert "final: mIoU all (19 classes) " in said and "mIoU synthia13 (13 classes) " in said
    info = read(out / "run.json")
    data = info["recipe"]["data"]
    assert (data["source"], data["source_layout"], data["target_layout"]) == (str(made / "gta5"), "gta5", "cityscapes")
    assert (data["target_split"], data["transductive"]) == ("val", True)
    assert info["protocol"][2].startswith("Scored: these same 4 images (transductive)")
    assert list(info["data_notes"]) == ["source"] and "00002.png" in info["data_notes"]["source"][0]
    assert {role: entry["images"] for role, entry in info["data"].items()} == {"source": 4, "target": 4, "test": 4}
    page = (out / "report.html").read_text()
    assert page.index('id="protocol"') < page.index('id="scores"')
    assert all(escape(sentence, quote=False) in page.replace("&#39;", "'") for sentence in info["protocol"])
    assert "00002.png: is 48x72 pixels" in page
    assert main(["resume", str(out)]) == 0
    scores = tmp_path / "scores.json"
    words = [
        "evaluate",
        str(out),
        "--data",
        f"cityscapes:{made / 'cityscapes'}",
        "--split",
        "val",
        "--out",
        str(scores),
    ]
    assert main(words) == 0
    assert read(scores) == read(out / "evaluation" / "final.json")


def test_synthia_with_its_16_classes(made: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    source, target = f"synthia:{made / 'synthia'}", f"cityscapes:{made / 'cityscapes'}"
    assert adapt("cbst", source, target, out, "--data.classes", "synthia16") == 0
    said = capsys.readouterr().out
    assert "mIoU all (16 classes)" in said and "mIoU synthia13 (13 classes)" in said
    assert read(out / "model" / "model.json")["space"]["name"] == "synthia16"
    final = read(out / "evaluation" / "final.json")
    assert len(final["confusion"]) == 16
    assert "terrain" not in final["iou"]
    assert len(read(out / "round-1" / "statistics.json")["predicted"]) == 16
    assert any("the 16 of the subset synthia16" in sentence for sentence in read(out / "run.json")["protocol"])
    assert main(["evaluate", str(out), "--data", target, "--out", str(tmp_path / "scores.json")]) == 0
    assert read(tmp_path / "scores.json") == final
    assert "label space synthia16" in " ".join(capsys.readouterr().out.split())


def test_one_fold_of_nthu_scored_on_13_classes(made: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    source, target = f"cityscapes:{made / 'cityscapes'}", f"nthu:{made / 'nthu'}"
    words = ["--data.target-split", "Rome/Test", "--data.folds", "4", "--data.fold", "3", "--data.score-as", "nthu13"]
    assert adapt("cbst", source, target, out, *words) == 0
    said = capsys.readouterr().out
    assert "mIoU nthu13 (13 classes)" in said
    info = read(out / "run.json")
    assert {role: entry["images"] for role, entry in info["data"].items()} == {"source": 4, "target": 3, "test": 1}
    assert (info["space"]["name"], info["scored_space"]["name"]) == ("cityscapes", "nthu13")
    final = read(out / "evaluation" / "final.json")
    assert len(final["confusion"]) == 14 and "pole" not in final["iou"]
    assert sum(final["confusion"][-1]) == 0  # no truth is outside the 13
    figures = results([out])
    assert figures["space"]["name"] == "nthu13"
    assert figures["rows"][1]["miou"]["nthu13"]["of"] == 13
    panel = next((out / "evaluation" / "panels").iterdir())
    with Image.open(panel / "truth.png") as truth:
        assert 5 in np.unique(np.asarray(truth))  # pole, as the model knows it
    words = ["evaluate", str(out), "--data", target, "--split", "Rome/Test", "--out", str(tmp_path / "own.json")]
    assert main([*words, "--score-as", "nthu13"]) == 0
    assert len(read(tmp_path / "own.json")["confusion"]) == 14
    assert main(words) == 0
    assert len(read(tmp_path / "own.json")["confusion"]) == 19


def test_the_scores_of_a_merge_are_those_of_its_summed_matrix(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert adapt("source-only", f"cityscapes:{made / 'cityscapes'}", f"nthu:{made / 'nthu'}", out,
                 "--data.target-split", "Rio/Train", "--data.test-split", "Rome/Test") == 0  # fmt: skip
    from segshift.data.protocols import merge_of
    from segshift.predict import evaluate_folder
    from segshift.scan import Views
    from segshift.taxonomy import CITYSCAPES

    table = merge_of(CITYSCAPES, "nthu13").table[:19].astype(int)
    own, merged = (
        evaluate_folder(out, f"nthu:{made / 'nthu'}", "Rome/Test", Views(), score_as=how).scores
        for how in ("own", "nthu13")
    )
    expected = np.zeros((14, 14), int)
    np.add.at(expected, (table[:, None], table[None, :]), own.confusion.numpy())
    assert merged.confusion.tolist() == expected.tolist()
    assert merged.confusion[-1].sum() == 0


def without(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def foreign(path: Path) -> None:
    Image.fromarray(np.full((64, 96), 77, np.uint8)).save(path)


LABEL = "gtFine/val/frankfurt/frankfurt_000001_000019_gtFine_labelIds.png"
IMAGE = "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png"


@pytest.mark.parametrize(
    ("which", "spoil", "file", "told"),
    [
        ("gta5", without, "images", ("gta5/images: is missing", "expected the images of GTA5 there")),
        ("gta5", without, "labels/00001.png", ("images/00001.png: has no label", "expected", "Restore the label")),
        ("gta5", foreign, "labels/00003.png", ("labels/00003.png: holds ids [77]", "expected GTA5", "Restore")),
        ("gta5", truncated, "labels/00003.png", ("labels/00003.png: cannot be read", "Restore it, or delete it")),
        ("gta5", truncated, "images/00003.png", ("images/00003.png: cannot be read", "Restore it, or delete it")),
        ("cityscapes", without, "leftImg8bit/train", ("leftImg8bit/train: is missing", "Splits found: val, test")),
        ("cityscapes", without, LABEL, ("frankfurt_000001", "has no label", "expected", LABEL, "Restore the label")),
        ("cityscapes", foreign, LABEL, (LABEL, "holds ids [77]", "expected Cityscapes label ids, 0 to 33")),
        ("cityscapes", truncated, IMAGE, (IMAGE, "cannot be read as an image", "Restore it, or delete it")),
    ],
)
def test_faults_of_files_are_told_before_the_first_step(
    which: str,
    spoil: Callable[[Path], None],
    file: str,
    told: tuple[str, ...],
    made: Path,
    tmp_path: Path,
    capsys: Said,
) -> None:
    for name in ("gta5", "cityscapes"):
        shutil.copytree(made / name, tmp_path / name)
    spoil(tmp_path / which / file)
    out = tmp_path / "run"
    assert adapt("cbst", f"gta5:{tmp_path / 'gta5'}", f"cityscapes:{tmp_path / 'cityscapes'}", out) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert all(text in error for text in told), error
    assert not out.exists()


def test_protocols_that_do_not_fit_are_told_before_the_first_step(made: Path, tmp_path: Path, capsys: Said) -> None:
    gta5, cityscapes = f"gta5:{made / 'gta5'}", f"cityscapes:{made / 'cityscapes'}"
    out = tmp_path / "run"
    for source, target, words, told in (
        (gta5, f"cityscapes:{tmp_path / 'none'}", (), ("none: does not exist", "expected the folder of Cityscapes")),
        (gta5, str(made / "cityscapes"), (), ("looks like Cityscapes", f"name it {cityscapes}")),
        (gta5.replace("gta5", "gta-5", 1), cityscapes, (), ("data set 'gta-5' is not known", "did you mean gta5:")),
        (gta5, cityscapes, ("--data.target-split", "val"), ("so is target_split", "--data.transductive True")),
        (gta5, cityscapes, ("--data.folds", "9"), ("holds 4 images for folds = 9", "Use fewer folds")),
        (gta5, cityscapes, ("--data.classes", "synthia12"), ("'synthia12' are no subset", "synthia16, synthia13")),
        (
            gta5,
            cityscapes,
            ("--data.folds", "2", "--data.fold", "2"),
            ("fold = 2, folds = 2; expected a fold of 0 to 1",),
        ),
        (gta5, "minicity", (), ("expected two folders, or minicity twice",)),
    ):
        assert adapt("cbst", source, target, out, *words) == 1, words
        error = capsys.readouterr().err
        assert all(text in error for text in told), error
    assert not out.exists()


def test_the_layout_of_a_path() -> None:
    assert place("gta5:/data/x", "folder") == ("/data/x", "gta5")
    assert place("/data/x", "synthia") == ("/data/x", "synthia")
    assert place("folder:/data/x", "synthia") == ("/data/x", "folder")
    assert place("minicity", "synthia") == ("minicity", "folder")
    assert place("", "nthu") == ("", "nthu")


def test_check_of_a_public_data_set(made: Path, tmp_path: Path, capsys: Said) -> None:
    assert main(["check", f"cityscapes:{made / 'cityscapes'}", "--sheet", str(tmp_path)]) == 0
    assert "16 images (train 4, val 4, test 4, train_extra 4)" in capsys.readouterr().out
    assert main(["check", f"gta5:{made / 'gta5'}", "--sheet", str(tmp_path)]) == 0
    assert "note: " in capsys.readouterr().out
    shutil.copytree(made / "gta5", tmp_path / "gta5")
    (tmp_path / "gta5" / "labels" / "00004.png").unlink()
    assert main(["check", f"gta5:{tmp_path / 'gta5'}", "--sheet", "none"]) == 1
    assert "problem: " in capsys.readouterr().out
    assert main(["check", f"gta5:{tmp_path / 'none'}"]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "example"),
    [("predict run photos", "segshift predict runs/own/cbst photos --out labelled"),
     ("evaluate run", "segshift evaluate runs/own/cbst --data cityscapes:DIR --split val")],
)  # fmt: skip
def test_a_missing_argument_comes_with_an_example(words: str, example: str, capsys: Said) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"such as: {example}\n")


def test_the_report_says_each_protocol_once_and_escapes_it(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, label=name) for name in ("ST", "CBST", "other")]
    for run, sentence in zip(runs, ("Scored: <b>x</b> & y.", "Scored: <b>x</b> & y.", "Scored: z."), strict=True):
        info = read(run / "run.json")
        (run / "run.json").write_text(json.dumps({**info, "protocol": [sentence]}))
    figures = results(runs)
    assert figures["protocol"] == [
        {"runs": ["ST", "CBST"], "sentences": ["Scored: <b>x</b> & y."]},
        {"runs": ["other"], "sentences": ["Scored: z."]},
    ]
    page = write_report(runs, tmp_path / "report.html").read_text()
    assert page.count("Scored: &lt;b&gt;x&lt;/b&gt; &amp; y.") == 1
    assert "<b>x</b>" not in page
    assert results([make_run(tmp_path / "silent")])["protocol"] == []
