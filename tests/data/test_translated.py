"""A folder of translated source images: matched by name, checked before a run, trained on with the source's labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fakes.layouts import make_cityscapes, make_gta5
from tests.fakes.tiny import tiny, weights

from segshift import tables
from segshift.data.dataset import LabelledDataset
from segshift.data.doctor import validate
from segshift.data.files import read_image
from segshift.data.folder import Folder
from segshift.data.open_data import DataConfig, open_oracle, open_source, open_target, open_test
from segshift.data.resizing import resize_label
from segshift.data.translated import Translated
from segshift.errors import ConfigError, DataError, RunError
from segshift.options import TableOptions
from segshift.overrides import AdaptOptions, apply
from segshift.recipes import find
from segshift.run_data import open_all
from segshift.runs import resume, start
from segshift.tables.plan import Job, plan


def translate(images: Path, into: Path, rename: Callable[[Path], Path] = lambda path: path) -> Path:
    """Write a negative of each image below `images`, under its own relative path or the one `rename` makes of it."""
    for path in sorted(images.rglob("*.*")):
        to = into / rename(path.relative_to(images)).with_suffix(".png")
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - read_image(path).permute(1, 2, 0).numpy()).save(to)
    return into


def resized(path: Path, height: int, width: int) -> None:
    with Image.open(path) as image:
        smaller = image.resize((width, height))
    smaller.save(path)


@pytest.fixture
def day(domains: tuple[Path, Path], tmp_path: Path) -> Path:
    """A source of its own: day_000 to day_004."""
    return Path(shutil.copytree(domains[0], tmp_path / "day"))


@pytest.fixture
def into(day: Path, tmp_path: Path) -> Path:
    """Its translated images."""
    return translate(day / "train" / "images", tmp_path / "translated")


def opened(day: Path, folder: Path) -> Translated:
    return Translated(Folder(day, "train"), folder)


# --- what it is ---------------------------------------------------------------------------------------------------


def test_images_of_the_folder_and_all_else_of_the_source(day: Path, into: Path) -> None:
    source, found = Folder(day, "train"), opened(day, into)
    assert isinstance(found, LabelledDataset)
    assert found.names == source.names and found.space == source.space
    for i, name in enumerate(source.names):
        assert found.label(i).equal(source.label(i))
        assert found.image(i).equal(255 - source.image(i))
        assert found.image(i).equal(read_image(into / f"{name}.png"))
    assert found.notes == []
    assert validate(found).notes == []


def test_the_fingerprint_is_of_both(day: Path, into: Path) -> None:
    def fingerprint() -> str:
        return opened(day, into).fingerprint()

    first = fingerprint()
    assert first == fingerprint() != Folder(day, "train").fingerprint()
    with (into / "day_001.png").open("ab") as file:
        file.write(b"more")
    second = fingerprint()
    with (day / "train" / "labels" / "day_001.png").open("ab") as file:
        file.write(b"more")
    assert len({first, second, fingerprint()}) == 3


# --- how images are found -----------------------------------------------------------------------------------------


def test_an_images_folder_another_suffix_and_files_that_are_left_aside(day: Path, into: Path, tmp_path: Path) -> None:
    inside = tmp_path / "outer" / "images"
    shutil.copytree(into, inside)
    shutil.copytree(day / "train" / "labels", tmp_path / "outer" / "labels")
    with Image.open(inside / "day_002.png") as image:
        image.save(inside / "day_002.BMP")
    (inside / "day_002.png").unlink()
    shutil.copy(inside / "day_000.png", inside / "other.png")
    found = opened(day, tmp_path / "outer")
    assert found.image(2).equal(opened(day, into).image(2))
    assert found.notes == [f"{inside / 'other.png'}: is no source image's; 1 such file(s) in all, left aside"]
    assert validate(found).notes == found.notes


def sub_folders(day: Path) -> None:
    """The source's images and labels in two sub-folders: a/day_000 ..., b/day_003 ..."""
    for kind in ("images", "labels"):
        for i, path in enumerate(sorted((day / "train" / kind).iterdir())):
            to = path.parent / ("a" if i < 3 else "b") / path.name
            to.parent.mkdir(exist_ok=True)
            path.rename(to)


def test_sub_folders_are_mirrored_or_left_out(day: Path, tmp_path: Path) -> None:
    sub_folders(day)
    images = day / "train" / "images"
    mirrored = opened(day, translate(images, tmp_path / "mirrored"))
    flat = opened(day, translate(images, tmp_path / "flat", lambda path: Path(path.name)))
    deep = opened(day, translate(images, tmp_path / "deep", lambda path: Path("x", "y", path.name)))
    assert mirrored.names == ("a/day_000", "a/day_001", "a/day_002", "b/day_003", "b/day_004")
    for i in range(5):
        assert mirrored.image(i).equal(flat.image(i)) and mirrored.image(i).equal(deep.image(i))


def test_a_file_name_that_two_source_images_share_says_nothing(day: Path, tmp_path: Path) -> None:
    sub_folders(day)
    for kind, suffix in (("images", "jpg"), ("labels", "png")):
        folder = day / "train" / kind
        (folder / "b" / f"day_003.{suffix}").rename(folder / "b" / f"day_000.{suffix}")
    images = day / "train" / "images"
    mirrored = translate(images, tmp_path / "mirrored")
    found = opened(day, mirrored)
    assert found.names[3] == "b/day_000"
    assert found.image(3).equal(read_image(mirrored / "b" / "day_000.png"))
    flat = translate(images, tmp_path / "flat", lambda path: Path(path.name))
    with pytest.raises(DataError, match="2 of 5 source images have no translated one: a/day_000, b/day_000; expected"):
        opened(day, flat)
    # The exact name goes before what lies elsewhere, and each of the two needs its own.
    (mirrored / "b" / "day_000.png").unlink()
    with pytest.raises(DataError, match="1 of 5 source images have no translated one: b/day_000;"):
        opened(day, mirrored)


def test_public_data_sets_by_the_name_of_the_file_too(tmp_path: Path) -> None:
    make_cityscapes(tmp_path / "city", 3)
    make_gta5(tmp_path / "gta5", 3)
    train = tmp_path / "city" / "leftImg8bit" / "train"
    config = DataConfig(str(tmp_path / "city"), source_layout="cityscapes")
    plain = open_source(config)
    short = {
        "mirrored": lambda path: path,
        "flat": lambda path: Path(path.name),
        "short": lambda path: path.with_name(path.name.replace("_leftImg8bit", "")),
    }
    for name, rename in short.items():
        found = open_source(replace(config, translated=str(translate(train, tmp_path / name, rename))))
        assert isinstance(found, Translated)
        assert all(found.image(i).equal(255 - plain.image(i)) for i in range(len(plain.names)))
        assert all(found.label(i).equal(plain.label(i)) for i in range(len(plain.names)))
    gta5 = translate(tmp_path / "gta5" / "images", tmp_path / "cyclegan")
    found = open_source(DataConfig(str(tmp_path / "gta5"), source_layout="gta5", translated=str(gta5)))
    # The source's own notes are kept: one of the fake's labels has another size than its image.
    assert len(validate(found).notes) == 1


def test_what_is_missing_is_told(day: Path, into: Path, tmp_path: Path) -> None:
    for i in (0, 1, 3, 4):
        (into / f"day_00{i}.png").unlink()
    with pytest.raises(DataError) as caught:
        opened(day, into)
    told = str(caught.value)
    assert told.startswith(f"{into}: 4 of 5 source images have no translated one: day_000, day_001, day_003, ...;")
    assert "such as day_000.png (.bmp .jpeg" in told and "Translate these too, or leave translated out" in told
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"5 of 5 source images .*Name the folder that holds the translated images"):
        opened(day, tmp_path / "empty")
    for wrong, state in ((tmp_path / "none", "does not exist"), (into / "day_002.png", "is no folder")):
        with pytest.raises(DataError, match=f"{wrong.name}: {state}; expected a folder of translated source images"):
            opened(day, wrong)


def test_two_candidates_are_told(day: Path, into: Path) -> None:
    with Image.open(into / "day_001.png") as image:
        image.save(into / "day_001.jpg")
    with pytest.raises(DataError, match=r"day_001\.jpg, day_001\.png may each be the translated image of day_001;"):
        opened(day, into)
    (into / "day_001.jpg").unlink()
    for place in ("x", "y"):
        (into / place).mkdir()
        shutil.copy(into / "day_001.png", into / place)
    assert opened(day, into).image(1).equal(read_image(into / "day_001.png"))
    (into / "day_001.png").unlink()
    with pytest.raises(DataError, match=r"x/day_001\.png, y/day_001\.png may each be .* expected one file"):
        opened(day, into)


# --- sizes and damage ---------------------------------------------------------------------------------------------


def test_labels_follow_the_size_of_the_images(day: Path, into: Path) -> None:
    for i, size in ((1, (32, 32)), (3, (96, 97))):
        resized(into / f"day_00{i}.png", *size)
    source, found = Folder(day, "train"), opened(day, into)
    findings = validate(found)
    assert findings.problems == []
    assert findings.notes == [
        f"{into / 'day_001.png'}: is 32x32 pixels (height x width), its label 64x64: 2 label(s) in all were resized to "
        "such images (nearest pixel)"
    ]
    assert found.label(1).equal(resize_label(source.label(1), (32, 32)))
    assert found.label(3).shape == found.image(3).shape[1:] == (96, 97)
    assert found.label(0).equal(source.label(0))


@pytest.mark.parametrize(("size", "fits"), [((100, 101), True), ((100, 103), False), ((103, 100), False)])
def test_another_aspect_is_a_fault(day: Path, into: Path, size: tuple[int, int], fits: bool) -> None:
    resized(into / "day_002.png", *size)
    found = opened(day, into)
    if fits:
        assert validate(found).problems == []
        return
    with pytest.raises(DataError) as caught:
        validate(found)
    told = str(caught.value)
    assert told.startswith("source: 1 of the data set's files cannot be used")
    assert f"{into / 'day_002.png'}: is {size[0]}x{size[1]} pixels (height x width), its label 64x64" in told
    assert "differ by more than 2%, so the label of day_002 would not lie on it" in told


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_damaged_file_is_named(day: Path, into: Path, content: bytes) -> None:
    (into / "day_004.png").write_bytes(content)
    with pytest.raises(DataError) as caught:
        validate(opened(day, into))
    assert str(into / "day_004.png") in str(caught.value)
    assert "1 of the data set's files cannot be used" in str(caught.value)


# --- in a protocol ------------------------------------------------------------------------------------------------


def test_fewer_classes_and_a_labelled_share(tmp_path: Path) -> None:
    make_cityscapes(tmp_path / "city", 4)
    images = tmp_path / "city" / "leftImg8bit" / "train"
    config = DataConfig(
        str(tmp_path / "city"), source_layout="cityscapes", classes="synthia13", labelled_share=0.5,
        translated=str(translate(images, tmp_path / "translated")),
    )  # fmt: skip
    plain, found = open_source(replace(config, translated=None)), open_source(config)
    assert found.names == plain.names and len(found.names) == 2 and len(found.space) == 13
    for i in range(2):
        assert found.image(i).equal(255 - plain.image(i)) and found.label(i).equal(plain.label(i))
    # The other images are the target, and the oracle's: as they are.
    for part in (open_target(config), open_oracle(config, found.space)):
        other = open_target(replace(config, translated=None))
        assert part.names == other.names and part.image(0).equal(other.image(0))
    assert found.fingerprint() != plain.fingerprint()
    test = open_test(config, found.space)
    assert test is not None and "val" in repr(test) and "translated" not in repr(test)


def test_a_source_that_cannot_be_translated_is_refused(into: Path) -> None:
    with pytest.raises(ConfigError, match="source = None: translated images are trained on with the labels"):
        DataConfig(None, translated=str(into))
    with pytest.raises(ConfigError, match="source = minicity: its images are drawn on demand"):
        open_source(DataConfig(translated=str(into)))
    with pytest.raises(ConfigError, match="source = None: translated images"):
        apply(AdaptOptions(find("own/iast-source-free"), target="x", translated=str(into)))


def test_a_source_opened_before_is_taken_over_where_it_is_translated_alike(
    domains: tuple[Path, Path], day: Path, into: Path
) -> None:
    plain = tiny("source-only", day, domains[1])
    recipe = apply(AdaptOptions(plain, translated=str(into)))
    assert recipe.data == replace(plain.data, translated=str(into))
    first = open_all(recipe)
    again, other = open_all(recipe, first), open_all(plain, first)
    assert again.domains.source is first.domains.source
    assert other.domains.source is not None
    assert other.domains.source.image(0).equal(255 - first.domains.labelled().image(0))


def test_a_run_on_translated_images(domains: tuple[Path, Path], source_only: Path, day: Path, into: Path) -> None:
    resized(into / "day_000.png", 60, 60)
    shutil.copy(into / "day_001.png", into / "spare.png")
    run = start(apply(AdaptOptions(tiny("source-only", day, domains[1]), translated=str(into))), day / "run")
    info: dict[str, Any] = json.loads((run / "run.json").read_text())
    plain = json.loads((source_only / "run.json").read_text())
    assert weights(run) != weights(source_only)
    assert info["protocol"] == [
        plain["protocol"][0],
        "Source images are translated ones from the folder translated; labels are those of the source.",
        *plain["protocol"][1:],
    ]
    assert len(info["data_notes"]["source"]) == 2
    assert info["data"]["source"]["fingerprint"] != plain["data"]["source"]["fingerprint"]
    pixels = np.zeros((64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(into / "day_003.png")
    with pytest.raises(RunError, match="the source images have changed"):
        resume(run)


def test_a_table_knows_translated_images_by_their_content(
    domains: tuple[Path, Path], day: Path, into: Path, tmp_path: Path
) -> None:
    """Another folder with the same images is the same run; without them it is another, the warm-up too."""

    def planned(folder: Path | None) -> Job:
        translated = None if folder is None else str(folder)
        options = TableOptions(
            "cbst/rows", str(day), str(domains[1]), "own", (0,), rows=("cbst",), translated=translated
        )
        (job,) = plan(tables.find("cbst/rows"), options)
        return job

    here, moved, plain = (planned(folder) for folder in (into, Path(shutil.copytree(into, tmp_path / "moved")), None))
    assert here.key == moved.key == plain.key
    assert here.data == moved.data != plain.data
    assert here.training.folder == moved.training.folder != plain.training.folder
    for other, same in ((moved, True), (plain, False)):
        assert here.training.warmup is not None and other.training.warmup is not None
        assert (here.training.warmup.folder == other.training.warmup.folder) is same
