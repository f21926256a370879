"""From words to images and videos: folders, files, patterns, names that two files share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segshift.data.intake import FileRules
from segshift.errors import ConfigError, DataError
from segshift.prediction.inputs import gather


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/a.jpg, photos/deep/b.PNG, a note, and other/c.jpg, other/a.png, other/film.mp4"""
    pixels = np.zeros((12, 15, 3), np.uint8)
    for name in ("photos/a.jpg", "photos/deep/b.PNG", "other/c.jpg", "other/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "photos" / "note.txt").write_text("no image")
    (tmp_path / "other" / "film.mp4").write_bytes(b"")
    return tmp_path


def test_a_folder_a_file_and_a_pattern(photos: Path) -> None:
    assert gather([photos / "photos"]).images.names == ("a", "deep/b")
    assert gather([str(photos / "photos" / "deep" / "b.PNG")]).images.names == ("b",)
    assert gather([f"{photos}/photos/**/*"]).images.names == ("a", "deep/b")
    assert gather([f"{photos}/photos/*.jpg"]).images.names == ("a",)
    assert gather([f"{photos}/*/a.*g", photos / "photos" / "deep"]).images.names == ("b", "other/a", "photos/a")


def test_a_file_that_several_words_lead_to_is_taken_once(photos: Path) -> None:
    found = gather([photos / "photos", f"{photos}/photos/*.jpg", photos / "photos" / "a.jpg"])
    assert found.images.names == ("a", "deep/b")


def test_a_name_that_is_also_a_pattern_is_taken_as_it_is(photos: Path) -> None:
    (photos / "photos" / "a.jpg").rename(photos / "a[1].jpg")
    assert gather([photos / "a[1].jpg"]).images.names == ("a[1]",)


def test_videos_are_taken_where_they_are_named_or_alone(photos: Path) -> None:
    beside = gather([photos / "other"])
    assert (beside.images.names, dict(beside.videos)) == (("a", "c"), {})
    assert beside.beside == (photos / "other" / "film.mp4",)
    assert dict(gather([photos / "other" / "film.mp4"]).videos) == {"film": photos / "other" / "film.mp4"}
    for name in ("a.png", "c.jpg"):
        (photos / "other" / name).unlink()
    assert gather([photos / "other"]).images.listed == ("film.mp4",)


def test_what_was_predicted_before_is_no_input(photos: Path) -> None:
    out = photos / "photos" / "deep"
    assert gather([photos / "photos"], out=out).images.names == ("a",)
    assert gather([f"{photos}/photos/**/*"], out=out).images.names == ("a",)


def test_two_files_of_one_name_are_refused_or_left_out(photos: Path) -> None:
    both = [photos / "photos", photos / "other"]
    with pytest.raises(DataError, match=r"photos/a.jpg, .*other/a.png: share the name a.*into a folder of its own"):
        gather(both)
    found = gather(both, FileRules(on_bad_file="skip"))
    assert found.images.names == ("c", "deep/b")
    assert list(found.images.left_out) == ["a"]
    assert gather([photos], out=photos / "none").images.names == ("other/a", "other/c", "photos/a", "photos/deep/b")


@pytest.mark.parametrize("word", ["none", "photos/*.webp", "empty", "photos/note.tx?"])
def test_words_that_lead_to_nothing(photos: Path, word: str) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=r"(holds no image|matches no image or video); expected a file"):
        gather([photos / word])


def test_no_word_at_all() -> None:
    with pytest.raises(ConfigError, match="nothing to predict"):
        gather([])


def test_patterns_are_relative_to_where_one_is(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert gather(["photos/**/*.PNG"]).images.names == ("deep/b",)
    assert gather([f"*{os.sep}c.jpg"]).images.names == ("other/c",)
