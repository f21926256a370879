"""The protocol in plain sentences: what was adapted to, what was scored, with which classes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tests.fakes.layouts import make_bdd, make_cityscapes, make_gta5, make_nthu, make_synthia

from segshift.data.data_config import DataConfig, MiniCityOptions
from segshift.data.describe import protocol
from segshift.data.open_data import open_oracle, open_source, open_target, open_test


def said(config: DataConfig, oracle: bool = False) -> list[str]:
    source = open_source(config)
    target = open_oracle(config, source.space) if oracle else open_target(config)
    return protocol(config, source, target, open_test(config, source.space))


def test_a_test_set_of_its_own(tmp_path: Path) -> None:
    make_gta5(tmp_path / "g", 3)
    make_cityscapes(tmp_path / "c", 2)
    config = DataConfig(str(tmp_path / "g"), str(tmp_path / "c"), "gta5", "cityscapes")
    assert said(config) == [
        "Source: 3 labelled images of GTA5 (all of it).",
        "Target: 2 images of Cityscapes, split train, trained on without their labels.",
        "Scored: 2 images of Cityscapes, split val.",
    ]
    assert said(config, oracle=True)[1].endswith("trained on with their labels (oracle).")


def test_the_target_itself(tmp_path: Path) -> None:
    make_synthia(tmp_path / "s", 3)
    make_cityscapes(tmp_path / "c", 2)
    config = DataConfig(
        str(tmp_path / "s"), str(tmp_path / "c"), "synthia", "cityscapes", target_split="val", transductive=True
    )
    _, _, scored, classes = said(config)
    assert scored.startswith("Scored: these same 2 images (transductive), their labels read for scoring alone.")
    assert "terrain, truck and train are never trained" in classes
    assert "The oracle was trained on the very labels it is scored with." in said(config, oracle=True)[2]
    config = replace(config, classes="synthia13")
    assert said(config)[3:] == [
        "Classes: the 13 of the subset synthia13; pixels of all other classes are ignored, in training and in scoring."
    ]


def test_folds_and_merged_classes(tmp_path: Path) -> None:
    make_cityscapes(tmp_path / "c", 2)
    make_nthu(tmp_path / "n", 3)
    config = DataConfig(
        str(tmp_path / "c"), str(tmp_path / "n"), "cityscapes", "nthu", target_split="Rio/Test", score_as="nthu13",
        folds=3, fold=1,
    )  # fmt: skip
    _, target, scored, merged = said(config)
    assert target == "Target: 2 images of NTHU Cross-City, split Rio/Test, trained on without their labels."
    assert (
        scored
        == "Scored: the other 1 images of that set, fold 1 (of 0 to 2): every 3rd in name order, cross-validation."
    )
    assert merged.startswith(
        "Scored as nthu13, 13 classes, in truth and prediction alike: wall counts as building, fence"
    )
    assert "pole counts as building, terrain counts as vegetation, truck counts as car" in merged
    assert merged.endswith("train is none of them: an error wherever it is predicted.")


def test_bdd100k_is_not_bdd_v(tmp_path: Path) -> None:
    make_gta5(tmp_path / "g", 2)
    make_bdd(tmp_path / "b", 2)
    config = DataConfig(str(tmp_path / "g"), str(tmp_path / "b"), "gta5", "bdd")
    assert said(config)[-1].startswith("BDD100K is not the BDD-V (3,333 training and 745 validation images)")


def test_the_embedded_street_and_folders(domains: tuple[Path, Path]) -> None:
    config = DataConfig(minicity=MiniCityOptions(train=3, test=2, size=(32, 64)))
    assert said(config) == [
        "Source: 3 labelled images of MiniCity's source town, split train.",
        "Target: 3 images of MiniCity's target town, split train, trained on without their labels.",
        "Scored: 2 images of MiniCity's target town, split test.",
    ]
    assert said(DataConfig(str(domains[0]), str(domains[1])))[2] == "Scored: 5 images of the folder dusk, split test."


def test_translated_source_images(domains: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(domains[0] / "train" / "images", tmp_path / "by_cyclegan" / "images")
    config = DataConfig(str(domains[0]), str(domains[1]), translated=str(tmp_path / "by_cyclegan"))
    plain = said(replace(config, translated=None))
    assert said(config) == [
        plain[0],
        "Source images are translated ones from the folder by_cyclegan; labels are those of the source.",
        *plain[1:],
    ]


def test_images_that_are_left_out(tmp_path: Path) -> None:
    make_gta5(tmp_path / "g", 3)
    make_cityscapes(tmp_path / "c", 2)
    for label in sorted((tmp_path / "g" / "labels").iterdir())[:2]:
        label.unlink()
    next((tmp_path / "c/gtFine/val").rglob("*_labelIds.png")).unlink()
    config = DataConfig(str(tmp_path / "g"), str(tmp_path / "c"), "gta5", "cityscapes", on_bad_file="skip")
    assert said(config) == [
        "Source: 1 labelled images of GTA5 (all of it).",
        "Target: 2 images of Cityscapes, split train, trained on without their labels.",
        "Scored: 1 images of Cityscapes, split val.",
        "Images left out, for their files cannot be used (run.json names them): 2 of the source, 1 of the test.",
    ]
