"""Contact sheets of data sets: what is on them, where they go, and what a damaged data set looks like."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.fakes.folder import CLASSES, make_folder_pair
from tests.fakes.layouts import make_camvid

from segshift.cli import main
from segshift.data.doctor import read
from segshift.data.doctor_layout import list_data
from segshift.data.files import image_size
from segshift.errors import ConfigError
from segshift.reporting.contact_sheet import draw_sheet, sheet_paths


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_folder_pair(tmp_path, images=2, size=32)


def drawn(text: object, **options: Any) -> np.ndarray:
    listing = list_data(str(text))
    read(listing)
    return np.asarray(Image.open(io.BytesIO(draw_sheet(listing, **options))))


def colours(sheet: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(map(int, color)) for color in np.unique(sheet.reshape(-1, 3), axis=0)}


def test_every_class_is_in_the_legend_in_its_colour(pair: tuple[Path, Path]) -> None:
    assert set(CLASSES.values()) <= colours(drawn(pair[0])[:130])


def test_images_stand_beside_their_labels(pair: tuple[Path, Path]) -> None:
    """A label of one class, painted over a black image, is its colour darkened, next to the black."""
    for folder in pair[0].glob("*/images"):
        for image in folder.iterdir():
            Image.new("RGB", (40, 30)).save(image)
            Image.new("L", (40, 30), 3).save(folder.parent / "labels" / f"{image.stem}.png")
    sheet = drawn(pair[0])
    painted = tuple(round(0.65 * value) for value in CLASSES["block"])
    left, right = (sheet == 0).all(2), (np.abs(sheet.astype(int) - painted) <= 1).all(2)
    assert right.sum() == pytest.approx(left.sum(), rel=0.01)
    assert right.sum() > 100_000
    assert np.flatnonzero(left.any(0))[0] < np.flatnonzero(right.any(0))[0]


def test_images_alone_where_there_are_no_labels(pair: tuple[Path, Path]) -> None:
    for labels in pair[0].glob("*/labels"):
        labels.rename(labels.with_name("aside"))
    sheet = drawn(pair[0])
    assert sheet.shape[1] == 1600
    assert not set(CLASSES.values()) & colours(sheet[:60])


def test_a_few_of_many_evenly(pair: tuple[Path, Path]) -> None:
    assert drawn(pair[0], most=2).shape[0] < drawn(pair[0]).shape[0]


def test_what_cannot_be_shown_is_a_frame_with_words(pair: tuple[Path, Path]) -> None:
    images, labels = pair[0] / "train" / "images", pair[0] / "train" / "labels"
    (images / "day_000.jpg").write_bytes(b"")
    (labels / "day_001.png").write_bytes(b"")
    (pair[0] / "test" / "labels" / "day_000.png").unlink()
    Image.new("RGB", (3, 900)).save(images / "\u202e[red]\\n\x1b tall name.png")
    sheet = drawn(pair[0])
    assert (sheet == (233, 235, 238)).all(2).sum() > 4 * 300 * 300 // 2


@pytest.mark.parametrize("layout", ["folder", "camvid"])
def test_the_command_says_where_the_sheet_is(
    layout: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if layout == "camvid":
        make_camvid(tmp_path / "streets", 1)
    text, name = (
        (str(pair[0]), "check-day.png") if layout == "folder" else ("camvid:streets", "check-camvid-streets.png")
    )
    assert main(["check", text]) == 0
    assert f"contact sheet: {name}\n" in capsys.readouterr().out
    assert image_size(tmp_path / name)[1] == 1600
    assert main(["check", text, "--sheet", "none"]) == 0
    assert "contact sheet" not in capsys.readouterr().out
    assert main(["check", text, "--sheet", "out/mine.png"]) == 0
    assert (tmp_path / "out" / "mine.png").read_bytes() == (tmp_path / name).read_bytes()


def test_a_place_that_cannot_be_written(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked for the usual place, so it is said and the check goes on; a place that was asked for is an error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "check-day.png").mkdir()
    assert main(["check", str(pair[0])]) == 0
    assert "no contact sheet: check-day.png: cannot be written" in capsys.readouterr().out
    (tmp_path / "file").write_bytes(b"")
    assert main(["check", str(pair[0]), "--sheet", "file"]) == 1
    assert "a part of this path is a file" in capsys.readouterr().err


def test_a_file_for_several_sets() -> None:
    with pytest.raises(ConfigError, match=r"sheet = a\.png: there are 2 data sets; expected a folder"):
        sheet_paths(["a", "b"], "a.png")


WORDS = st.text(st.sampled_from("ab./ :?*é\n"), min_size=1, max_size=12)


@given(texts=st.lists(WORDS, min_size=1, max_size=5, unique=True))
def test_sheets_have_names_of_their_own_and_stay_in_the_folder(texts: list[str]) -> None:
    paths = [path for path in sheet_paths(texts, "sheets").values() if path is not None]
    assert len(set(paths)) == len(texts)
    assert all(path.parent == Path("sheets") and path.name.startswith("check-") for path in paths)
