"""`segshift check DATA [DATA ...]`: what it prints of one data set and of several, and its exit status."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console
from tests.fakes.folder import make_folder_pair
from tests.fakes.layouts import make_camvid

from segshift.cli import main
from segshift.data.doctor import Findings, Problem
from segshift.data.doctor_folder import check_folder, list_folder
from segshift.data.doctor_print import render
from segshift.data.shared_images import between, within

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    # Contact sheets go to the current folder.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return make_folder_pair(tmp_path, images=2, size=32)


def check(*words: object) -> int:
    return main(["check", *map(str, words)])


def test_sound_data_sets(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_camvid(tmp_path / "camvid", 1)
    assert check(*pair, f"camvid:{tmp_path / 'camvid'}") == 0
    said = capsys.readouterr().out
    for line in (
        f"{pair[0]}: 4 images (test 2, train 2)",
        f"{pair[1]}: 4 images (test 2, train 2)",
        "3 images (train 1, val 1, test 1)",
        "images in more than one of these 3 data sets: 0",
    ):
        assert line in said
    assert said.count("no problems\n") == 4
    assert check(pair[0]) == 0
    assert "these" not in capsys.readouterr().out


def test_an_image_of_another_data_set(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    copy = pair[1] / "test" / "images" / "dusk_001.jpg"
    shutil.copy(pair[0] / "train" / "images" / "day_001.jpg", copy)
    assert check(*pair) == 1
    *_, told, line, count = capsys.readouterr().out.splitlines()
    assert told == "images in more than one of these 2 data sets: 1"
    original = pair[0] / "train" / "images" / "day_001.jpg"
    assert line.startswith(f"problem: {copy}: in split test of {pair[1]}, holds the same bytes as {original} in split ")
    assert count == "1 problems"
    assert [check(folder) for folder in pair] == [0, 0]


def test_a_fault_in_one_of_several_counts(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (pair[0] / "train" / "labels" / "day_000.png").unlink()
    assert check(*pair) == 1
    said = capsys.readouterr().out
    assert f"{pair[1]}: 4 images" in said
    assert said.count("1 problems") == 1


def test_what_cannot_be_looked_at_is_told_before_anything_is_read(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        ((pair[0], tmp_path / "nowhere"), "nowhere: does not exist"),
        ((), "no data set is named; expected at least one"),
        ((pair[0], f"{pair[0]}/"), f"{pair[0]} and {pair[0]}/ are the same data set"),
        ((pair[0], "--max-pixels", "0"), "max_pixels = 0; expected at least 1"),
        ((tmp_path,), f"Data sets inside it: day, dusk: segshift check {pair[0]} {pair[1]}"),
    ):
        assert check(*words) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert expected in err
        assert err.startswith("error: ")


def test_larger_images_than_allowed(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(pair[0], "--max-pixels", 32 * 32) == 0
    capsys.readouterr()
    assert check(pair[0], "--max-pixels", 32 * 32 - 1) == 1
    said = capsys.readouterr().out
    assert said.count("too large, 32x32 (height x width) are 1024 pixels; expected at most 1023") == 8


def test_names_are_shown_in_one_line_whatever_they_hold(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, file in (("images", "[red]a\x1b[2J\nproblem: b.jpg"), ("labels", "\u202egnp.txt.png")):
        (pair[0] / "train" / kind / file).write_bytes(b"")
    assert check(pair[0]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert [line.partition("/train/")[2].partition(": ")[0] for line in said.splitlines() if "/train/" in line] == [
        "images/[red]a\\x1b[2J\\nproblem", "labels/\\u202egnp.txt.png", "images/[red]a\\x1b[2J\\nproblem",
    ]  # fmt: skip


def test_a_name_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    """Where the system's encoding is plain ASCII, names come with a half surrogate for each byte beyond it."""
    findings = Findings("stra\udcc3\udc9fe", problems=[Problem("stra\udcc3\udc9fe/1.png", "is odd")])
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        render(findings, Console(file=out, width=40))
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[0] == "stra\\udcc3\\udc9fe: 0 images"
    assert "problem: stra\\udcc3\\udc9fe/1.png: is odd" in lines


def test_a_table_of_the_splits_and_of_the_classes(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (pair[0] / "train" / "labels" / "day_000.png").unlink()
    (pair[0] / "train" / "labels" / "lost.png").write_bytes(b"")
    Image.new("RGB", (40, 50)).save(pair[0] / "train" / "images" / "more.png")
    assert check(pair[0]) == 1
    rows = [line.strip("\u2502|").split("\u2502") for line in capsys.readouterr().out.splitlines() if "\u2502" in line]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert cells["test"] == ["2", "2", "32x32", "0"]
    assert cells["train"] == ["3", "1", "32x32 (2), 50x40 (1)", "2"]
    assert cells["elsewhere"][-1] == "1"
    assert cells["0"][0] == "sky"
    most = max((row for key, row in cells.items() if key.isdigit()), key=lambda row: float(row[2].rstrip("%")))
    assert most[3] == "\u2588" * 16


def test_bars_where_the_terminal_has_no_blocks(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        render(check_folder(pair[0]), Console(file=out, width=100))
    assert "#" * 16 in (tmp_path / "out").read_text()


@pytest.mark.parametrize("labelled", [True, False])
def test_sets_of_different_classes_get_a_class_map_to_start_from(
    labelled: bool, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """That a target has no labels does not hide that its classes are others."""
    text = (pair[1] / "classes.yaml").read_text()
    (pair[1] / "classes.yaml").write_text(text.replace("hill", "hills").replace("block", "other thing"))
    for folder in () if labelled else pair[1].glob("*/labels"):
        shutil.rmtree(folder)
    assert check(*pair) == 0
    said = capsys.readouterr().out
    assert f"{pair[0]} and {pair[1]} have different classes. A class map to start from, for --data.class-map:" in said
    assert yaml.safe_load(said[said.index("classes: [") :]) == {
        "classes": ["sky", "ground", "ball"],
        "source": {"hill": "drop", "block": "drop"},
        "target": {"hills": "drop", "other thing": "drop"},
    }
    assert "hill: drop   # like hills of the target?" in said


def test_sets_of_the_same_classes_in_another_order(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    text = (pair[1] / "classes.yaml").read_text()
    (pair[1] / "classes.yaml").write_text(text.replace("hill", "x").replace("block", "hill").replace("x,", "block,"))
    assert check(*pair) == 0
    said = capsys.readouterr().out
    assert "have the same classes in another order" in said
    assert yaml.safe_load(said[said.index("classes: [") :])["source"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("utf8", ["1", "0"])
def test_names_in_a_plain_locale(pair: tuple[Path, Path], utf8: str) -> None:
    (pair[0] / "train" / "images" / "stra\u00dfe.jpg").write_bytes(b"")
    here = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from segshift.cli import main; sys.exit(main())", "check", str(pair[0])],
        env={**here, "LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": utf8},
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    shown = "stra\u00dfe.jpg".encode() if utf8 == "1" else b"stra\\udcc3\\udc9fe.jpg"
    assert done.stderr == b""
    assert shown + b": the file is empty (0 bytes)" in done.stdout
    assert done.returncode == 1


def test_real_data_share_no_image() -> None:
    roots = [
        SHARED / "data" / name for name in ("camvid/day", "camvid/dusk", "nuclei/fluorescence", "nuclei/histology")
    ]
    if not all(root.is_dir() for root in roots):
        pytest.skip("the real data are not beside this checkout")
    sets = {str(root): list_folder(root).findings.files for root in roots}
    assert sum(len(paths) for splits in sets.values() for paths in splits.values()) > 700
    assert [within(splits) for splits in sets.values()] == [([], [])] * 4
    assert between(sets) == []
