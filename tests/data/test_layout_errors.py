"""What is wrong with a public data set on disk, and the message it earns: file, value, cure."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tests.fakes.layouts import make_acdc, make_camvid, make_cityscapes, make_gta5, make_loveda, make_nthu, make_synthia

from segshift.data.layout import LayoutImages, LayoutLabelled
from segshift.data.layouts import layout
from segshift.errors import DataError

TRUNCATE = 40
"""Bytes that are left of a file: past its header, short of its end."""


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    make_cityscapes(tmp_path, images=2)
    return tmp_path


@pytest.fixture
def gta5(tmp_path) -> Path:
    make_gta5(tmp_path, images=3)
    return tmp_path


def message(kind, name: str, root: Path, split: str | None = None) -> str:
    """What opening it says."""
    with pytest.raises(DataError) as caught:
        kind(layout(name), root, split)
    return str(caught.value)


def test_folder_that_does_not_exist(tmp_path):
    text = message(LayoutImages, "gta5", tmp_path / "no")
    assert text == f"{tmp_path / 'no'}: does not exist; expected the folder of GTA5, which holds images/"


def test_root_that_is_a_file(tmp_path):
    (tmp_path / "cs.zip").write_bytes(b"PK")
    assert "cs.zip: is no folder; expected the folder of Cityscapes" in message(
        LayoutImages, "cityscapes", tmp_path / "cs.zip", "val"
    )


def test_folder_of_images_is_missing(gta5):
    shutil.rmtree(gta5 / "images")
    assert message(LayoutImages, "gta5", gta5) == f"{gta5 / 'images'}: is missing; expected the images of GTA5 there"


def test_folder_one_too_high_or_too_deep(tmp_path):
    inside = tmp_path / "RAND_CITYSCAPES"
    make_synthia(inside, images=1)
    hint = f"SYNTHIA-RAND-CITYSCAPES is in {inside}: name that folder"
    assert hint in message(LayoutLabelled, "synthia", tmp_path)
    assert hint in message(LayoutLabelled, "synthia", inside / "RGB")


def test_city_of_nthu_named_as_the_root(tmp_path):
    make_nthu(tmp_path, images=1)
    text = message(LayoutLabelled, "nthu", tmp_path / "Rio", "Test")
    assert f"NTHU Cross-City is in {tmp_path}: name that folder" in text


def test_split_that_the_data_set_does_not_have(cityscapes):
    text = message(LayoutImages, "cityscapes", cityscapes, "validation")
    assert "Cityscapes has no split 'validation'; expected one of train, val, test, train_extra." in text
    assert text.endswith("Splits found: train, val, test, train_extra")


def test_split_that_is_not_on_disk_lists_those_that_are(cityscapes):
    shutil.rmtree(cityscapes / "leftImg8bit" / "train")
    text = message(LayoutLabelled, "cityscapes", cityscapes, "train")
    assert text.startswith(f"{cityscapes / 'leftImg8bit/train'}: is missing; expected the images of Cityscapes, split")
    assert text.endswith("Splits found: val, test, train_extra")


def test_no_split_named(cityscapes):
    text = message(LayoutImages, "cityscapes", cityscapes)
    assert "no split is named; expected one of train, val, test, train_extra. Splits found: train, val" in text


def test_split_of_a_set_that_has_none(gta5):
    assert "GTA5 has no splits, but split 'val' was asked for. Name none" in message(LayoutImages, "gta5", gta5, "val")


def test_part_of_a_joint_split_is_missing(tmp_path):
    make_acdc(tmp_path, images=1)
    shutil.rmtree(tmp_path / "rgb_anon" / "rain")
    text = message(LayoutLabelled, "acdc", tmp_path, "val")
    assert "rgb_anon/rain/val: is missing" in text
    # The joint splits are not whole, so they do not count as found.
    assert ". Splits found: fog/train, fog/val, fog/test, night/train" in text
    assert "rain/" not in text.partition("Splits found")[2]
    assert len(LayoutLabelled(layout("acdc"), tmp_path, "fog/val").names) == 1


@pytest.mark.parametrize(
    ("make", "name", "split", "public"),
    [
        (make_cityscapes, "cityscapes", "test", "train, val"),
        (make_cityscapes, "cityscapes", "train_extra", "train, val"),
        (make_nthu, "nthu", "Rio/Train", "Rio/Test, Rome/Test, Taipei/Test, Tokyo/Test"),
        (make_loveda, "loveda", "Test/Rural", "Train, Val, Train/Urban, Train/Rural, Val/Urban, Val/Rural"),
    ],
)
def test_split_without_public_labels(tmp_path, make, name, split, public):
    make(tmp_path, 1)
    assert len(LayoutImages(layout(name), tmp_path, split).names) == 1
    text = message(LayoutLabelled, name, tmp_path, split)
    assert f"split '{split}' of {layout(name).title} has no public labels" in text
    assert text.endswith(f"Found: {public}")


def test_image_without_a_label(cityscapes):
    label = cityscapes / "gtFine/val/frankfurt/frankfurt_000001_000019_gtFine_labelIds.png"
    label.unlink()
    text = message(LayoutLabelled, "cityscapes", cityscapes, "val")
    image = cityscapes / "leftImg8bit/val/frankfurt/frankfurt_000001_000019_leftImg8bit.png"
    trained = label.with_name(label.name.replace("labelIds", "labelTrainIds"))
    assert text == f"{image}: has no label; expected {label} or {trained}. Restore the label, or delete the image"
    assert len(LayoutImages(layout("cityscapes"), cityscapes, "val").names) == 2


def test_no_label_at_all(gta5):
    shutil.rmtree(gta5 / "labels")
    assert "00001.png: has no label (3 of 3 images have none); expected" in message(LayoutLabelled, "gta5", gta5)


def test_empty_folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("nothing")
    text = message(LayoutImages, "gta5", tmp_path)
    assert text.startswith(f"{tmp_path / 'images'}: holds no image of GTA5; expected at least 1 file named .bmp")


def test_images_of_other_names(cityscapes):
    for path in (cityscapes / "leftImg8bit/val").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_leftImg8bit", "")))
    text = message(LayoutImages, "cityscapes", cityscapes, "val")
    assert "holds no image of Cityscapes; expected at least 1 file named *_leftImg8bit with an ending of" in text


def test_two_images_of_one_name(gta5):
    shutil.copy(gta5 / "images/00002.png", gta5 / "images/00002.jpg")
    assert "00002.jpg, 00002.png share the name 00002" in message(LayoutImages, "gta5", gta5)


@pytest.mark.parametrize(
    ("name", "make", "file", "split", "unknown", "expected"),
    [
        ("cityscapes", make_cityscapes, "gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png", "val", 34,
         "Cityscapes label ids, 0 to 33"),
        ("gta5", make_gta5, "labels/00001.png", None, 35, "GTA5 label ids, 0 to 34"),
        ("camvid", make_camvid, "testannot/0001TP_000000.png", "test", 12, "CamVid ids as SegNet groups them, 0 to 11"),
        ("loveda", make_loveda, "Val/Rural/masks_png/0.png", "Val", 8, "LoveDA ids, 0 (no data) to 7"),
        ("acdc", make_acdc, "gt/fog/val/GOPR0475/GOPR0475_frame_000000_gt_labelTrainIds.png", "val", 19,
         "Cityscapes train ids, 0 to 18"),
    ],
)  # fmt: skip
def test_id_that_the_data_set_does_not_know(tmp_path, name, make, file, split, unknown, expected):
    make(tmp_path, 1)
    path = tmp_path / file
    ids = np.asarray(Image.open(path)).copy()
    ids[3, 4] = unknown
    Image.fromarray(ids).save(path)
    dataset = LayoutLabelled(layout(name), tmp_path, split)
    with pytest.raises(DataError) as caught:
        dataset.label(dataset.label_paths.index(path))
    text = str(caught.value)
    assert text.startswith(f"{path}: holds ids [{unknown}]; expected {expected}")
    assert "Restore the original file, or open it as the data set it belongs to" in text


def test_unknown_and_eight_bit_labels_of_synthia(tmp_path):
    make_synthia(tmp_path, images=2)
    dataset = LayoutLabelled(layout("synthia"), tmp_path)
    first, second = dataset.label_paths
    whole = dataset.label(0)

    raw = cv2.imread(str(first), cv2.IMREAD_UNCHANGED)
    assert raw is not None
    cv2.imwrite(str(first), raw[:, :, 2])
    assert (dataset.label(0) == whole).all()  # 16-bit grey holds the same class

    raw[0, 0, 2] = 300
    cv2.imwrite(str(first), raw)
    with pytest.raises(DataError, match=r"0000000.png: holds ids \[300\]; expected SYNTHIA ids, 0 to 22"):
        dataset.label(0)

    cv2.imwrite(str(second), raw.astype(np.uint8))
    with pytest.raises(DataError, match=r"0000001.png: pixels have 8 bits; expected 16 bits"):
        dataset.label(1)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no image"])
@pytest.mark.parametrize(
    ("name", "make", "file"),
    [("gta5", make_gta5, "00001.png"), ("synthia", make_synthia, "0000000.png")],
)
def test_damaged_label(tmp_path, name, make, file, damage):
    make(tmp_path, 1)
    dataset = LayoutLabelled(layout(name), tmp_path)
    (path,) = dataset.label_paths
    content = bytearray(path.read_bytes())
    content[-30] ^= 0xFF
    cases = {"truncated": path.read_bytes()[:-TRUNCATE], "flipped": bytes(content), "empty": b"", "no image": b"hello"}
    path.write_bytes(cases[damage])
    with pytest.raises(DataError) as caught:
        dataset.label(0)
    assert str(caught.value).startswith(f"{path}: ")
    assert path.name == file
    assert "Restore it, or delete it" in str(caught.value)


def test_truncated_image(gta5):
    dataset = LayoutImages(layout("gta5"), gta5)
    dataset.image_paths[2].write_bytes(dataset.image_paths[2].read_bytes()[:-TRUNCATE])
    with pytest.raises(DataError, match=r"00003.png: cannot be read as an image .* Restore it, or delete it"):
        dataset.image(2)


def test_label_of_another_size_is_refused_where_the_layout_does_not_expect_it(cityscapes):
    dataset = LayoutLabelled(layout("cityscapes"), cityscapes, "val")
    Image.new("L", (48, 32), 7).save(dataset.label_paths[0])
    with pytest.raises(DataError, match=r"labelIds.png: is 32x48 pixels .* but .*leftImg8bit.png is 64x96"):
        dataset.label(0)
    assert dataset.notes == []
