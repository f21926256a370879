"""Folders that hold no data set, or one that leads astray; file names that would harm a terminal, a page or a shell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.faults.bad_inputs import Place, assert_refused, fresh, run


class Case(NamedTuple):
    """A spoilt folder: what `check` says of it, and what a run does. None: nothing is wrong."""

    name: str
    make: Callable[[Place], object]
    check: str | None
    adapt: str | None


def removed(folder: str) -> Callable[[Place], object]:
    return lambda place: shutil.rmtree(place.root / folder)


def emptied(folder: str) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        shutil.rmtree(place.root / folder)
        (place.root / folder).mkdir()

    return make


def a_file(folder: str) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        shutil.rmtree(place.root / folder)
        place.put(folder, b"a file")

    return make


def copied(old: str, new: str) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        (place.root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place.root / old, place.root / new)

    return make


def linked(name: str, to: str, instead: str | None = None) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        if instead is not None:
            (place.root / instead).unlink()
        (place.root / name).symlink_to(to.replace("{day}", str(place.day)))

    return make


def hidden(place: Place) -> None:
    for image in (place.day / "train" / "images").iterdir():
        image.rename(image.with_name(f".{image.name}"))


IMAGES, LABELS = "{day}/train/images", "{day}/train/labels"
FIRST = "day/train/images/day_000.jpg"
NO_TRAIN = "{day}: has no split 'train' ({day}/train/images is missing). Splits found: "
NO_LABEL = "the label of image day_000 is missing"
KINDS = ".bmp .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
CASES = (
    Case("no folder", removed("day"), "{day}: ", "{day}: does not exist; expected a folder of images"),
    Case("empty folder", emptied("day"), "{day}: holds no images/", f"{NO_TRAIN}none"),
    Case("a file", a_file("day"), "{day}: is no folder", "{day}: is no folder; expected a folder of images"),
    Case(
        "no file in images/",
        emptied("day/train/images"),
        f"problem: {IMAGES}: holds no image; expected files named {KINDS}",
        f"{IMAGES}: holds no image; expected at least 1 file named {KINDS}",
    ),
    Case("hidden files alone", hidden, f"problem: {IMAGES}: holds no image", f"{IMAGES}: holds no image; expected at"),
    Case(
        "no file in labels/",
        emptied("day/train/labels"),
        f"problem: {IMAGES}/day_000.jpg: has no label; expected {LABELS}/day_000.png",
        f"{LABELS}/day_000.png: {NO_LABEL} (2 of 2 images have none)",
    ),
    Case(
        "two files of a stem",
        copied(FIRST, "day/train/images/day_000.jpeg"),
        f"problem: {IMAGES}/day_000.jpg: shares its name with day_000.jpeg; expected one file of that name",
        f"{IMAGES}: day_000.jpeg, day_000.jpg share the name day_000; expected one. Rename or delete the rest",
    ),
    Case(
        "two labels of a stem",
        copied("day/train/labels/day_000.png", "day/train/labels/day_000.PNG"),
        f"problem: {LABELS}/day_000.png: shares its name with day_000.PNG; expected one file of that name",
        f"{LABELS}: day_000.PNG, day_000.png share the name day_000; expected one. Rename or delete the rest",
    ),
    Case(
        "an image without a label, deeper",
        copied(FIRST, "day/train/images/deeper/day_000.jpg"),
        f"problem: {IMAGES}/deeper/day_000.jpg: has no label; expected {LABELS}/deeper/day_000.png",
        f"{LABELS}/deeper/day_000.png: the label of image deeper/day_000 is missing",
    ),
    Case(
        "the same image twice",
        copied(FIRST, "day/train/images/day_001.jpg"),
        f"note: {IMAGES}/day_000.jpg: holds the same bytes as {IMAGES}/day_001.jpg",
        None,
    ),
    Case(
        "a training image in the test split",
        copied("dusk/train/images/dusk_000.jpg", "dusk/test/images/dusk_001.jpg"),
        None,
        "1 of its images are test images too, by their files' content (target = test: dusk_000 = dusk_001)",
    ),
    Case(
        "a link to nowhere",
        linked("day/train/images/day_000.png", "nowhere", FIRST),
        f"problem: {IMAGES}/day_000.png: is a symbolic link to nowhere, which does not exist; expected an image",
        f"{IMAGES}/day_000.png: is a symbolic link to nowhere, which does not exist; expected an image",
    ),
    Case(
        "a link to itself",
        linked("day/train/images/day_000.png", "day_000.png", FIRST),
        f"problem: {IMAGES}/day_000.png: is a symbolic link that leads back to itself; expected an image",
        f"{IMAGES}/day_000.png: is a symbolic link that leads back to itself; expected an image",
    ),
    Case("a folder that links to itself", linked("day/train/images/again", "again"), None, None),
    Case("a folder linked into itself", linked("day/train/images/again", "../images"), None, None),
    Case("an image linked from elsewhere", linked("day/train/images/day_000.png", "../../../moved", FIRST), None, None),
)


def spoilt(case: Case, pair: Path, root: Path) -> Place:
    place = fresh(pair, root)
    shutil.copy(place.root / FIRST, place.root / "moved")
    case.make(place)
    return place


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_check(case: Case, pair: Path, tmp_path: Path) -> None:
    place = spoilt(case, pair, tmp_path)
    said = run("check", place.day, "--sheet", "none")
    if case.check is None or case.check.startswith("note"):
        assert (said.code, "no problems" in said.text) == (0, True), said.text
    if case.check is not None:
        assert_refused(said, place.fill(case.check), code=0 if case.check.startswith("note") else 1)


@pytest.mark.usefixtures("tiny_recipes")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_run(case: Case, pair: Path, tmp_path: Path) -> None:
    place = spoilt(case, pair, tmp_path)
    out = tmp_path / "run"
    said = run("adapt", "own/source-only", "--source", place.day, "--target", place.dusk, "--out", out)
    if case.adapt is None:
        assert said.code == 0, said.text
        assert (out / "report.html").is_file()
    else:
        assert_refused(said, place.fill(case.adapt))
        assert not out.exists()


NAMES = (
    "a\nb", "a\rb", "a\tb", "\x1b[31mred\x1b]0;title\x07", "\u202egnp.exe", "\x7f", "emoji 😀", "Straße", "道路",
    "cafe\u0301", os.fsdecode(b"bytes \xff\xfe"), "n" * 200, "a..", "x...", "a b ",
    "<script>alert(1)<", "[bold]x[red]", "[x", "$x$_^{\\frac", "%s%n{0}{x!r}", "--out", "-rf", "a'b\"c`d`",
    "$(touch MARK)", "; touch MARK", "~", "*", "nul", "a" * 60 + "&amp;", "day_000.jpg", "__", "javascript:alert(1)",
)  # fmt: skip
"""Names without suffix that a file may have here, and that some reader of names trips over."""


def named(place: Place, name: str) -> None:
    for domain in ("day", "dusk"):
        for split in ("train", "test"):
            folder = place.root / domain / split
            shutil.copy(folder / "images" / f"{domain}_000.jpg", folder / "images" / f"{name}.jpg")
            shutil.copy(folder / "labels" / f"{domain}_000.png", folder / "labels" / f"{name}.png")
            # Of their own content each, else they would be leaks.
            with (folder / "images" / f"{name}.jpg").open("ab") as file:
                file.write(f"{domain}{split}{name}".encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:24] for name in NAMES])
def test_a_fault_in_a_file_of_an_odd_name_is_shown_harmlessly(name: str, pair: Path, tmp_path: Path) -> None:
    place = fresh(pair, tmp_path)
    named(place, name)
    (place.day / "train" / "labels" / f"{name}.png").write_bytes(b"")
    said = run("check", place.day, "--sheet", "none")
    assert said.code == 1
    assert "the file is empty (0 bytes)" in said.text
    (line,) = (line for line in said.text.split("\n") if "the file is empty" in line)
    assert f"{place.day}/train/labels/" in line
    assert not {"\x1b", "\x07", "\r", "\u202e", "\x7f"} & set(said.text)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_recipes")
def test_odd_names_go_through_a_run_and_are_predicted(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them as images of one run and its tests; no shell, no markup, no path makes more of them than a name."""
    monkeypatch.chdir(tmp_path)
    place = fresh(pair, tmp_path)
    for name in NAMES:
        named(place, name)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "run")}
    said = run("adapt", "own/cbst", "--source", place.day, "--target", place.dusk, "--out", tmp_path / "run")
    assert said.code == 0, said.text
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "run")} == before
    assert "<script>alert" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    said = run("predict", tmp_path / "run", place.dusk / "test", "--out", tmp_path / "out")
    assert said.code == 0, said.text
    assert {path.name for path in (tmp_path / "out" / "labels").iterdir()} >= {f"{name}.png" for name in NAMES}
    assert not {"\x1b", "\x07", "\u202e"} & set(said.text)
