"""Data sets of the `datasets` library: the pixels of the files they were made of, and what is said of wrong ones."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fakes.folder import CLASSES, make_folder_pair
from tests.fakes.tiny import tiny

from segshift.cli import main
from segshift.data.contents import digests
from segshift.data.data_config import DataConfig
from segshift.data.describe import protocol
from segshift.data.folder import Folder
from segshift.data.hf_datasets import HfImages, HfLabelled
from segshift.data.hf_tables import parse_place
from segshift.data.intake import FileRules
from segshift.data.open_data import declared_space, open_for, open_source, open_target, open_test
from segshift.errors import ConfigError, DataError
from segshift.runs import start

datasets: Any = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No bars, no way to the hub, and a cache of the test's own."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_folder_pair(tmp_path, images=3, size=32)


def rows_of(folder: Path, split: str, image: str, label: str | None) -> dict[str, list[Any]]:
    files = sorted((folder / split / "images").iterdir())
    rows: dict[str, list[Any]] = {image: [{"bytes": file.read_bytes(), "path": None} for file in files]}
    if label is not None:
        labels = [folder / split / "labels" / f"{file.stem}.png" for file in files]
        rows[label] = [{"bytes": file.read_bytes(), "path": None} for file in labels]
    return rows


def table(rows: dict[str, list[Any]], named: bool = True) -> Any:
    features = {name: datasets.Image() for name in rows}
    if named:
        rows = rows | {"classes": [[0]] * len(next(iter(rows.values())))}
        features["classes"] = datasets.List(datasets.ClassLabel(names=list(CLASSES)))
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def saved(folder: Path, out: Path, image: str = "image", label: str | None = "label", named: bool = True) -> Path:
    parts = {split: table(rows_of(folder, split, image, label), named) for split in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(out))
    return out


def assert_alike(found: HfLabelled, folder: Folder) -> None:
    assert len(found.names) == len(folder.names)
    for i in range(len(folder.names)):
        assert found.image(i).equal(folder.image(i))
        assert found.label(i).equal(folder.label(i))


def test_a_saved_data_set_holds_the_same_pixels(pair: tuple[Path, Path], tmp_path: Path) -> None:
    place = str(saved(pair[0], tmp_path / "saved"))
    found = HfLabelled(place, "train")
    assert_alike(found, Folder(pair[0], "train"))
    assert list(found.names) == ["train-000000", "train-000001", "train-000002"]
    assert found.names[1:] == ["train-000001", "train-000002"]
    assert found.space.classes == tuple(CLASSES)
    by_row, by_file = digests(found), digests(Folder(pair[0], "train"))
    assert by_row is not None
    assert by_file is not None
    assert list(by_row.values()) == list(by_file.values())
    assert str(found.image_paths[1]) == f"{place}:train:image[1]"


def test_parquet_and_an_image_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    for split in ("train", "test"):
        table(rows_of(pair[0], split, "photo", "mask")).to_parquet(str(tmp_path / "parquet" / f"{split}-0.parquet"))
    assert_alike(HfLabelled(str(tmp_path / "parquet"), "test"), Folder(pair[0], "test"))
    lines = []
    folder = tmp_path / "pictures"
    for file in sorted((pair[0] / "train" / "images").iterdir()):
        for kind, name in (("images", file.name), ("labels", f"{file.stem}.png")):
            (folder / "train" / kind).mkdir(parents=True, exist_ok=True)
            (folder / "train" / kind / name).write_bytes((pair[0] / "train" / kind / name).read_bytes())
        lines.append(f'{{"file_name": "images/{file.name}", "mask_file_name": "labels/{file.stem}.png"}}')
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    (folder / "classes.yaml").write_bytes((pair[0] / "classes.yaml").read_bytes())
    found = HfLabelled(str(folder), "train")
    assert_alike(found, Folder(pair[0], "train"))
    assert len(found.fingerprint()) == 16


def test_one_table_has_no_splits(pair: tuple[Path, Path], tmp_path: Path) -> None:
    table(rows_of(pair[0], "train", "image", "label")).save_to_disk(str(tmp_path / "one"))
    assert HfImages(str(tmp_path / "one"), "train").names[0] == "train-000000"
    assert HfImages(str(tmp_path / "one")).names[0] == "row-000000"
    with pytest.raises(DataError, match=r"has no split 'test'; .* Splits found: none, it is all training images"):
        HfImages(str(tmp_path / "one"), "test")


def test_target_images_are_opened_without_the_column_of_labels(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Labels that are no pictures at all stop nobody who adapts to the images."""
    rows = rows_of(pair[0], "train", "image", "label")
    rows["label"] = [{"bytes": b"no picture", "path": None}] * 3
    table(rows).save_to_disk(str(tmp_path / "bad"))
    config = DataConfig(
        source=str(tmp_path / "bad"), target=str(tmp_path / "bad"), source_layout="hf", target_layout="hf"
    )
    target = open_target(config)
    assert [target.image(i).shape for i in range(3)] == [(3, 32, 32)] * 3
    assert not hasattr(target, "label")
    files = HfImages(str(tmp_path / "bad"), "train")
    assert files._images._cells.column_names == ["image"]
    with pytest.raises(DataError, match=r"bad:train:label\[0\]: cannot be read as a label \(no known image format\)"):
        open_source(config).label(0)


def test_from_a_config(pair: tuple[Path, Path], tmp_path: Path) -> None:
    day, dusk = saved(pair[0], tmp_path / "a"), saved(pair[1], tmp_path / "b", named=False)
    config = DataConfig(source=str(day), target=str(dusk), source_layout="hf", target_layout="hf")
    source, target = open_source(config), open_target(config)
    test = open_test(config, source.space)
    assert test is not None
    assert test.label(2).equal(Folder(pair[1], "test").label(2))
    assert declared_space(config) is None
    said = protocol(config, source, target, test)
    assert said[0] == "Source: 3 labelled images of the data set a, split train."
    assert open_for(source.space, f"hf:{dusk}", "test").label(0).equal(test.label(0))
    (dusk / "classes.yaml").write_bytes((pair[1] / "classes.yaml").read_bytes())
    space = declared_space(config)
    assert space is not None
    assert space.classes == tuple(CLASSES)


def test_fingerprints_follow_rows_labels_and_classes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    place = saved(pair[0], tmp_path / "saved", named=False)
    (place / "classes.yaml").write_bytes((pair[0] / "classes.yaml").read_bytes())
    first = HfLabelled(str(place), "train").fingerprint()
    assert first == HfLabelled(str(place), "train").fingerprint()
    without = FileRules(on_bad_file="skip", without={"train-000001": "is odd"})
    (place / "classes.yaml").write_text((place / "classes.yaml").read_text().replace("hill", "mound"))
    others = [
        HfLabelled(str(place), "train").fingerprint(),
        HfLabelled(str(place), "test").fingerprint(),
        HfImages(str(place), "train").fingerprint(),
        HfLabelled(str(place), "train", rules=without).fingerprint(),
    ]
    assert len({first, *others}) == 5


def test_rows_without_an_image_or_a_label(pair: tuple[Path, Path], tmp_path: Path) -> None:
    rows = rows_of(pair[0], "train", "image", "label")
    rows["image"][0] = None
    rows["label"][2] = None
    table(rows).save_to_disk(str(tmp_path / "gaps"))
    with pytest.raises(DataError, match=r"gaps:train:image\[0\]: there is no image in this row; expected one"):
        HfImages(str(tmp_path / "gaps"), "train")
    found = HfLabelled(str(tmp_path / "gaps"), "train", rules=FileRules(on_bad_file="skip"))
    assert list(found.names) == ["train-000001"]
    assert found.label(0).equal(Folder(pair[0], "train").label(1))
    assert list(found.left_out) == ["train-000000", "train-000002"]
    assert len(found.listed) == 3


def test_checks_are_those_of_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    rows = rows_of(pair[0], "train", "image", "label")
    rows["image"][0] = {"bytes": rows["image"][0]["bytes"][:-200], "path": None}
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((8, 32), np.uint8)).save(small)
    rows["label"][1] = {"bytes": small.read_bytes(), "path": None}
    table(rows).save_to_disk(str(tmp_path / "bad"))
    found = HfLabelled(str(tmp_path / "bad"), "train")
    with pytest.raises(DataError, match=r"bad:train:image\[0\]: cannot be read as an image"):
        found.image(0)
    with pytest.raises(DataError, match=r"label\[1\]: is 8x32 pixels \(height x width\), but .*image\[1\] is 32x32"):
        found.label(1)
    with pytest.raises(DataError, match=r"image\[2\]: too large, 32x32"):
        HfLabelled(str(tmp_path / "bad"), "train", rules=FileRules(max_pixels=1000)).image(2)


def test_files_elsewhere_are_not_read(tmp_path: Path) -> None:
    """A table may name any file of the machine: it is none of its images."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (32, 32)).save(secret)
    (tmp_path / "out").mkdir()
    table({"image": [{"bytes": None, "path": str(secret)}]}).to_parquet(str(tmp_path / "out" / "train.parquet"))
    found = HfImages(str(tmp_path / "out"), "train")
    with pytest.raises(DataError, match=r"its image is the file .*secret\.png, which is no part of the data set"):
        found.image(0)


@pytest.mark.parametrize(
    ("columns", "query", "image", "label"),
    [
        (("image", "label"), "", "image", "label"),
        (("photo", "annotation"), "", "photo", "annotation"),
        (("a", "mask"), "", "a", "mask"),
        (("x", "y"), "?image=y&label=x", "y", "x"),
    ],
)
def test_columns(
    columns: tuple[str, str], query: str, image: str, label: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = rows_of(pair[0], "train", image, label)
    table({name: rows[name] for name in columns}).save_to_disk(str(tmp_path / "t"))
    assert_alike(HfLabelled(f"{tmp_path / 't'}{query}", "train"), Folder(pair[0], "train"))


def test_columns_that_cannot_be_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    table(rows_of(pair[0], "train", "x", "y")).save_to_disk(str(tmp_path / "t"))
    with pytest.raises(DataError, match=r"no column can be told to hold the images; .*: x, y \(all: x, y, classes\)"):
        HfImages(str(tmp_path / "t"), "train")
    with pytest.raises(DataError, match=r"column 'z' holds no images; .*Name it: hf:.*\?image=COLUMN"):
        HfImages(f"{tmp_path / 't'}?image=z", "train")
    table(rows_of(pair[0], "train", "image", None)).save_to_disk(str(tmp_path / "u"))
    with pytest.raises(DataError, match=r"has no column of labels; .* Columns found: image, classes"):
        HfLabelled(str(tmp_path / "u"), "train")
    with pytest.raises(DataError, match="classes=image: is no column of class labels"):
        HfLabelled(f"{tmp_path / 't'}?image=x&label=y&classes=image", "train")
    table(rows_of(pair[0], "train", "image", "label"), named=False).save_to_disk(str(tmp_path / "v"))
    with pytest.raises(DataError, match=r"names no classes; expected a classes\.yaml in its folder"):
        HfLabelled(str(tmp_path / "v"), "train")
    named = HfLabelled(f"{tmp_path / 'v'}?classes={pair[0] / 'classes.yaml'}", "train")
    assert named.space.classes == tuple(CLASSES)


@pytest.mark.parametrize("text", ["", "?image=a", "a?b", "a?picture=b", "a?image="])
def test_words_that_mean_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected hf:DIR or hf:OWNER/NAME"):
        parse_place(text)


def test_a_name_of_the_hub_without_a_connection() -> None:
    with pytest.raises(DataError, match=r"hf:nobody/nothing: is no folder here, and could not be had .* hf:DIR"):
        HfImages("nobody/nothing", "train")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/nowhere: does not exist; expected a folder of a data set"):
        HfImages(str(tmp_path / "nowhere"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no data set of the datasets library"):
        HfImages(str(tmp_path / "empty"), "train")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match="broken: cannot be read as a data set of the datasets library"):
        HfImages(str(tmp_path / "broken"), "train")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r'pip install "segshift\[huggingface\]"'):
        HfImages(str(tmp_path), "train")


def test_check(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = saved(pair[0], tmp_path / "good")
    assert main(["check", f"hf:{place}", "--sheet", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"hf {place}: 6 images (train 3, test 3)" in said
    assert "no problems" in said
    assert (tmp_path / "check-hf-good.png").is_file()
    rows = rows_of(pair[0], "train", "image", "label")
    rows["image"][1] = {"bytes": b"bad", "path": None}
    rows["label"][2] = None
    table(rows).save_to_disk(str(tmp_path / "bad"))
    assert main(["check", f"hf:{tmp_path / 'bad'}", "--sheet", "none"]) == 1
    said = capsys.readouterr().out
    assert f"{tmp_path / 'bad'}:image[1]: cannot be read as an image" in said
    assert f"{tmp_path / 'bad'}:label[2]: is empty; expected an image" in said


@pytest.mark.slow
def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    """The same pixels in folders and in tables train the same weights."""
    day, dusk = make_folder_pair(tmp_path, images=3, size=64)
    recipe = tiny("cbst", day, dusk)
    tables = tiny("cbst", saved(day, tmp_path / "a"), saved(dusk, tmp_path / "b", named=False))
    data = replace(tables.data, source_layout="hf", target_layout="hf")
    one = start(recipe, tmp_path / "folders")
    two = start(replace(tables, data=data), tmp_path / "tables")
    read = [(run / "model" / "model.safetensors").read_bytes() for run in (one, two)]
    assert read[0] == read[1]
