"""`segshift check` on public data sets: all splits, every file once, problems apart from notes."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.fakes.layouts import FAKES, make_acdc, make_cityscapes, make_gta5

from segshift.data.doctor import LISTED, validate
from segshift.data.doctor_layout import check_data
from segshift.data.doctor_print import render
from segshift.data.layout import LayoutLabelled
from segshift.data.layouts import LAYOUTS
from segshift.data.protocols import SomeLabelled
from segshift.errors import ConfigError, DataError


def printed(findings) -> str:
    text = io.StringIO()
    render(findings, Console(file=text, width=100, color_system=None))
    return text.getvalue()


@pytest.mark.parametrize("name", FAKES)
def test_every_data_set_is_sound(name: str, tmp_path: Path) -> None:
    drawn = FAKES[name](tmp_path, 2)
    findings = check_data(f"{name}:{tmp_path}")
    assert findings.problems == []
    assert findings.space is LAYOUTS[name].space
    assert findings.splits == {split: len(images) for split, images in drawn.items() if split}
    # Splits that share an image share the array that was drawn for it.
    drawings = {id(names) for images in drawn.values() for names in images.values()}
    assert findings.images == sum(findings.sizes.values()) == len(drawings)
    assert findings.pixels.sum() == findings.labels * 64 * 96 - (name == "gta5") * (64 * 96 - 48 * 72)


def test_splits_that_share_images_are_read_once(tmp_path: Path) -> None:
    make_acdc(tmp_path, 1)
    findings = check_data(f"acdc:{tmp_path}")
    assert (findings.images, findings.labels) == (12, 8)
    assert (findings.splits["train"], findings.splits["fog/train"]) == (4, 1)


def test_a_resized_label_is_a_note(tmp_path: Path) -> None:
    make_gta5(tmp_path, 3)
    findings = check_data(f"gta5:{tmp_path}")
    assert findings.problems == []
    (note,) = findings.notes
    assert note.startswith(f"{tmp_path / 'labels' / '00002.png'}: is 48x72 pixels (height x width), its image 64x96")
    text = printed(findings)
    assert f"note: {note}" in text
    assert text.endswith("no problems\n")
    dataset = LayoutLabelled(LAYOUTS["gta5"], tmp_path)
    assert [note.split(": ")[0] for note in validate(dataset).notes] == [str(tmp_path / "labels" / "00002.png")]
    assert validate(SomeLabelled(dataset, [1])).notes == validate(dataset).notes


def test_many_notes_are_counted(tmp_path: Path) -> None:
    make_gta5(tmp_path, LISTED + 3)
    for path in (tmp_path / "labels").iterdir():
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(path)
    text = printed(check_data(f"gta5:{tmp_path}"))
    assert text.count("note: ") == LISTED + 1
    assert "and 3 more such notes" in text


def test_every_fault_is_named(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 3)
    image = tmp_path / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    image.write_bytes(image.read_bytes()[:200])
    gone = [tmp_path / f"gtFine/val/frankfurt/frankfurt_00000{i}_000019_gtFine_labelIds.png" for i in (0, 2)]
    for path in gone:
        path.unlink()
    odd = tmp_path / "gtFine/val/frankfurt/frankfurt_000001_000019_gtFine_labelIds.png"
    Image.fromarray(np.full((64, 96), 77, np.uint8)).save(odd)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(
        tmp_path / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    )
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(
        tmp_path / "gtFine/train/ulm/ulm_000009_000019_gtFine_labelIds.png"
    )
    findings = check_data(f"cityscapes:{tmp_path}")
    told = {Path(problem.file).name: problem.text for problem in findings.problems}
    assert set(told) == {
        image.name, "frankfurt_000000_000019_leftImg8bit.png", "frankfurt_000002_000019_leftImg8bit.png", odd.name,
        "ulm_000001_000019_gtFine_labelIds.png",
    }  # fmt: skip
    assert "cannot be read as an image" in told[image.name]
    assert str(gone[0]) in told["frankfurt_000000_000019_leftImg8bit.png"]
    assert "holds ids [77]; expected Cityscapes label ids" in told[odd.name]
    assert "8x8 pixels" in told["ulm_000001_000019_gtFine_labelIds.png"]
    assert [note.partition(": ")[2] for note in findings.notes] == [
        "has no image; 1 such label(s) in all, left aside",
        "is 255 (ignored) everywhere; 1 such file(s) in all",
    ]


def test_labels_that_are_not_there_at_all_are_a_note(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 2)
    shutil.rmtree(tmp_path / "gtFine" / "train")
    findings = check_data(f"cityscapes:{tmp_path}")
    assert findings.problems == []
    assert findings.notes == [f"{tmp_path / 'gtFine/train'}: is missing: 2 images without labels"]
    assert (findings.images, findings.labels) == (8, 2)


def test_a_split_without_images_is_a_fault(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 2)
    shutil.rmtree(tmp_path / "leftImg8bit" / "val" / "frankfurt")
    findings = check_data(f"cityscapes:{tmp_path}")
    assert ["holds no image of Cityscapes" in problem.text for problem in findings.problems] == [True]
    assert findings.splits == {"train": 2, "test": 2, "train_extra": 2}


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: does not exist; expected the folder of GTA5"):
        check_data(f"gta5:{tmp_path / 'none'}")
    with pytest.raises(DataError, match=r"leftImg8bit/train: is missing; .*Splits found: none"):
        check_data(f"cityscapes:{tmp_path}")
    with pytest.raises(ConfigError, match=f"did you mean cityscapes:{tmp_path}"):
        check_data(f"cityscape:{tmp_path}")
    make_cityscapes(tmp_path, 1)
    with pytest.raises(DataError, match=f"looks like Cityscapes: segshift check cityscapes:{tmp_path}$"):
        check_data(str(tmp_path))


def test_two_files_of_one_name_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 2)
    image = tmp_path / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png"
    Image.open(image).save(image.with_suffix(".bmp"))
    findings = check_data(f"cityscapes:{tmp_path}")
    (problem,) = findings.problems
    assert str(problem).startswith(f"{image.parent}: {image.stem}.bmp, {image.name} share the name")
    assert findings.splits == {"train": 1, "val": 2, "test": 2, "train_extra": 2}
    assert findings.images == 7


def test_a_training_image_in_the_test_split_is_a_leak(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 2)
    train = tmp_path / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png"
    val = tmp_path / "leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png"
    shutil.copy(train, val)
    (problem,) = check_data(f"cityscapes:{tmp_path}").problems
    assert problem.file == str(val)
    assert problem.text.startswith(f"in split val, holds the same bytes as {train} in split train")


def test_images_and_labels_may_hold_so_many_pixels(tmp_path: Path) -> None:
    make_gta5(tmp_path, 2)
    assert check_data(f"gta5:{tmp_path}", max_pixels=64 * 96).problems == []
    refused = check_data(f"gta5:{tmp_path}", max_pixels=64 * 96 - 1).problems
    # The last label is smaller than its image.
    assert [Path(problem.file).parent.name for problem in refused] == ["images", "labels", "images"]
    assert all("too large, 64x96" in problem.text and "--max-pixels 6144" in problem.text for problem in refused)
