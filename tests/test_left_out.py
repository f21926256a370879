"""Files left out, from the command line: what a run, a prediction and an evaluation say of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fakes.tiny import tiny, weights

from segshift import recipes
from segshift.cli import main
from segshift.data.intake import FileRules
from segshift.errors import ConfigError, DataError
from segshift.overrides import AdaptOptions, apply
from segshift.prediction.inputs import LooseImages
from segshift.recipes import find

Said = pytest.CaptureFixture[str]


def run(words: str, capsys: Said) -> tuple[int, str, str]:
    code = main(words.split())
    said, err = capsys.readouterr()
    return code, said, err


@pytest.fixture
def pair(domains: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return Path(shutil.copytree(domains[0], tmp_path / "day")), Path(shutil.copytree(domains[1], tmp_path / "dusk"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos; a broken one, and two of one name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.png", "c.jpg", "d.jpg", "d.png"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "c.jpg").write_bytes((folder / "c.jpg").read_bytes()[:-500])
    return folder


def test_the_short_options_of_adapt() -> None:
    recipe = find("own/cbst")
    plain = apply(AdaptOptions(recipe=recipe, source="a", target="b"))
    assert (plain.data.on_bad_file, plain.data.max_pixels) == ("stop", 89_478_485)
    data = apply(AdaptOptions(recipe=recipe, source="a", target="b", on_bad_file="skip", max_pixels=10)).data
    assert (data.on_bad_file, data.max_pixels) == ("skip", 10)
    with pytest.raises(ConfigError, match="max_pixels = 0; expected at least 1"):
        apply(AdaptOptions(recipe=recipe, source="a", target="b", max_pixels=0))


def test_a_run_lists_what_it_left_out(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """The run is that on the data without the bad files, to the bit."""
    monkeypatch.setattr(recipes, "find", lambda name, *_: tiny(name.split("/")[1], *pair))
    (pair[0] / "train" / "labels" / "day_001.png").unlink()
    broken = pair[1] / "test" / "images" / "dusk_000.jpg"
    broken.write_bytes(b"")
    words = f"adapt own/source-only --source {pair[0]} --target {pair[1]} --out {tmp_path}"
    code, _, err = run(f"{words}/stopped", capsys)
    assert (code, "day_001 is missing" in err) == (1, True)
    code, said, _ = run(f"{words}/skipped --on-bad-file skip", capsys)
    assert code == 0
    assert "source: left out 1 image(s)" in said
    info = json.loads((tmp_path / "skipped" / "run.json").read_text())
    assert list(info["left_out"]) == ["source", "test"]
    assert info["left_out"]["test"] == [
        f"{broken}: the file is empty (0 bytes); expected an image. Restore it, or delete it"
    ]
    before = weights(tmp_path / "skipped")
    assert run(f"resume {tmp_path / 'skipped'}", capsys)[0] == 0
    broken.unlink()
    (pair[1] / "test" / "labels" / "dusk_000.png").unlink()
    (pair[0] / "train" / "images" / "day_001.jpg").unlink()
    assert run(f"{words}/whole", capsys)[0] == 0
    assert weights(tmp_path / "whole") == before == weights(tmp_path / "skipped")


def test_evaluate(source_only: Path, pair: tuple[Path, Path], tmp_path: Path, capsys: Said) -> None:
    label = pair[1] / "test" / "labels" / "dusk_003.png"
    Image.new("L", (64, 64), 77).save(label)
    words = f"evaluate {source_only} --data {pair[1]} --split test --out {tmp_path / 'scores.json'}"
    code, _, err = run(words, capsys)
    assert code == 1
    assert f"{label}: holds ids [77]" in err
    code, said, _ = run(f"{words} --on-bad-file skip", capsys)
    assert code == 0
    assert f"{pair[1]}: left out 1 image(s) that cannot be used (on_bad_file = skip; {tmp_path / 'scores.json'}" in said
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["images"] == 4
    assert list(found.pop("left_out")) == ["dusk_003"]
    label.unlink()
    (pair[1] / "test" / "images" / "dusk_003.jpg").unlink()
    assert run(words, capsys)[0] == 0
    assert json.loads((tmp_path / "scores.json").read_text()) == found
    code, _, err = run(f"{words} --max-pixels 4095", capsys)
    assert code == 1
    assert "64x64 (height x width) are 4096 pixels; expected at most 4095" in err


def test_predict(source_only: Path, photos: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "out"
    words = f"predict {source_only} {photos} --out {out}"
    code, _, err = run(words, capsys)
    assert (code, "d.jpg, d.png share the name d" in err) == (1, True)
    code, said, _ = run(f"{words} --on-bad-file skip", capsys)
    assert code == 0
    assert "2 images: labels in" in said
    assert (
        f"{photos}: left out 2 image(s) that cannot be used (on_bad_file = skip; {out / 'left_out.json'} lists all)"
        in said
    )
    listed = json.loads((out / "left_out.json").read_text())
    assert [entry["image"] for entry in listed] == ["c", "d"]
    assert listed[0]["why"].startswith(f"{photos / 'c.jpg'}: cannot be read as an image")
    assert sorted(path.name for path in (out / "labels").iterdir()) == ["a.png", "b.png"]
    code, _, err = run(f"{words} --on-bad-file skip --max-pixels 2079", capsys)
    assert code == 1
    assert "all 4 images cannot be used and are left out" in err
    for name in ("c.jpg", "d.jpg"):
        (photos / name).unlink()
    code, said, _ = run(f"{words} --on-bad-file skip", capsys)
    assert code == 0
    assert "left out" not in said
    assert json.loads((out / "left_out.json").read_text()) == []


def test_what_is_predicted_is_named_where_it_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match="is a symbolic link to"):
        LooseImages(tmp_path / "link.png").image(0)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="holds no image"):
        LooseImages(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="holds no image"):
        LooseImages(tmp_path / "nowhere", FileRules(on_bad_file="skip"))
