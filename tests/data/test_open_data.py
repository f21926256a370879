"""From a recipe's words to data sets: the embedded street, folders, which split is scored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.layouts import FAKES, make_acdc, make_camvid, make_cityscapes, make_gta5, make_nthu, make_synthia

from segshift.data.data_config import DataConfig, MiniCityOptions
from segshift.data.dataset import LabelledDataset, OracleTarget, Unlabelled
from segshift.data.folder import Folder
from segshift.data.layouts import LAYOUTS
from segshift.data.open_data import (
    open_for,
    open_oracle,
    open_source,
    open_target,
    open_test,
)
from segshift.data.protocols import ScoredAs
from segshift.errors import ConfigError, DataError
from segshift.taxonomy import CITYSCAPES, IGNORE, LabelSpace, distinct_colors, subset_space

STREET = DataConfig(minicity=MiniCityOptions(train=3, test=2, size=(32, 64), seed=4))


def test_the_embedded_street() -> None:
    source, target = open_source(STREET), open_target(STREET)
    oracle, test = open_oracle(STREET, CITYSCAPES), open_test(STREET, CITYSCAPES)
    assert test is not None
    assert [len(d.names) for d in (source, target, oracle, test)] == [3, 3, 3, 2]
    assert source.space is CITYSCAPES
    assert source.image(0).shape == (3, 32, 64)
    assert isinstance(target, Unlabelled)
    assert not hasattr(target, "label")
    assert isinstance(oracle, OracleTarget)
    assert oracle.names == target.names
    assert not set(test.names) & set(target.names)
    other = replace(STREET, minicity=replace(STREET.minicity, seed=5))
    assert open_source(other).fingerprint() != source.fingerprint()


def test_folders(domains: tuple[Path, Path]) -> None:
    config = DataConfig(str(domains[0]), str(domains[1]))
    source, target, test = open_source(config), open_target(config), open_test(config, open_source(config).space)
    assert isinstance(source, LabelledDataset)
    assert source.space.classes == ("sky", "hill", "ground", "block", "ball")
    assert not isinstance(target, LabelledDataset)
    assert isinstance(test, Folder)
    assert test.folder == domains[1] / "test"
    assert open_oracle(config, source.space).label(0).shape == target.image(0).shape[1:]


def test_which_split_is_scored(domains: tuple[Path, Path], tmp_path: Path) -> None:
    dusk = tmp_path / "dusk"
    shutil.copytree(domains[1], dusk)
    config = DataConfig(str(domains[0]), str(dusk))
    space = open_source(config).space

    def scored(config: DataConfig) -> str | None:
        test = open_test(config, space)
        return None if test is None else test.folder.name  # type: ignore[attr-defined]

    shutil.copytree(dusk / "test", dusk / "val")
    assert scored(config) == "test"
    assert scored(replace(config, test_split="val")) == "val"
    shutil.rmtree(dusk / "test" / "labels")
    assert scored(config) == "val"
    shutil.rmtree(dusk / "val")
    assert scored(config) is None
    with pytest.raises(DataError, match="no split 'nights'"):
        open_test(replace(config, test_split="nights"), space)
    with pytest.raises(DataError, match="test_split is 'train', and so is target_split"):
        open_test(replace(config, test_split="train"), space)


def test_an_unlabelled_target_needs_no_splits(domains: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(domains[1] / "train" / "images", tmp_path / "images")
    config = DataConfig(str(domains[0]), str(tmp_path), target_split=None)
    assert len(open_target(config).names) == 5
    assert open_test(config, open_source(config).space) is None
    with pytest.raises(DataError, match="labels: is missing"):
        open_oracle(config, open_source(config).space)


def test_wrong_values_are_errors(domains: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="short_side = 8"):
        DataConfig(short_side=8)
    with pytest.raises(DataError, match="does not exist"):
        open_source(DataConfig(str(tmp_path / "nowhere"), str(domains[1])))
    with pytest.raises(DataError, match="Splits found: test, train"):
        open_target(DataConfig(str(domains[0]), str(domains[1]), target_split=None))


@pytest.fixture
def cityscapes(tmp_path: Path) -> str:
    make_cityscapes(tmp_path / "cs", 4)
    return str(tmp_path / "cs")


@pytest.fixture
def gta5(tmp_path: Path) -> str:
    make_gta5(tmp_path / "gta", 3)
    return str(tmp_path / "gta")


@pytest.mark.parametrize("name", FAKES)
def test_every_layout_is_a_source_and_a_target(name: str, tmp_path: Path) -> None:
    FAKES[name](tmp_path, 2)
    known = LAYOUTS[name]
    split = "Rio/Test" if name == "nthu" else "train"
    labelled = "val" if name == "dark_zurich" else split
    config = DataConfig(str(tmp_path), str(tmp_path), name, name, source_split=labelled, target_split=split)
    source, target = open_source(config), open_target(config)
    assert source.space is known.space
    assert not hasattr(target, "label")
    assert target.image(0).shape == (3, 64, 96)
    test = open_test(config, source.space)
    assert (test is not None) is (known.test_split is not None)
    if test is not None:
        assert test.label(0).shape == (64, 96)
        assert test.space is known.space


def test_labels_of_a_target_layout_are_not_needed(cityscapes: str, gta5: str) -> None:
    config = DataConfig(gta5, cityscapes, "gta5", "cityscapes")
    shutil.rmtree(Path(cityscapes) / "gtFine")
    assert len(open_target(config).names) == 4
    assert open_test(config, CITYSCAPES) is None
    with pytest.raises(DataError, match="has no label"):
        open_test(replace(config, test_split="val"), CITYSCAPES)
    with pytest.raises(DataError, match="has no label"):
        open_oracle(config, CITYSCAPES)


def test_what_is_adapted_to_is_not_scored_unless_said(cityscapes: str, gta5: str, domains: tuple[Path, Path]) -> None:
    config = DataConfig(gta5, cityscapes, "gta5", "cityscapes", target_split="val")
    with pytest.raises(DataError, match=r"test_split is 'val', and so is target_split.*--data\.transductive True"):
        open_test(config, CITYSCAPES)
    with pytest.raises(DataError, match=r"'VAL' and target_split 'val' share 4 images, such as .*frankfurt"):
        open_test(replace(config, test_split="VAL"), CITYSCAPES)
    config = replace(config, transductive=True)
    test = open_test(config, CITYSCAPES)
    assert test is not None
    assert test.names == open_target(config).names == open_oracle(config, CITYSCAPES).names
    for data in (
        DataConfig(str(domains[0]), str(domains[1]), target_split="test"),
        replace(STREET, target_split="test"),
    ):
        with pytest.raises(DataError, match="so is target_split"):
            open_test(data, open_source(data).space)
        same = replace(data, transductive=True)
        test = open_test(same, open_source(same).space)
        assert test is not None
        assert test.names == open_target(same).names


def test_a_part_of_what_is_adapted_to_is_not_scored_either(tmp_path: Path) -> None:
    make_acdc(tmp_path, 2)
    config = DataConfig(str(tmp_path), str(tmp_path), "acdc", "acdc", target_split="fog/train", test_split="train")
    with pytest.raises(DataError, match="'train' and target_split 'fog/train' share 2 images"):
        open_test(config, CITYSCAPES)
    night = open_test(replace(config, test_split="night/train"), CITYSCAPES)
    assert night is not None and len(night.names) == 2


@pytest.mark.parametrize("where", ["nthu", "folder", "minicity"])
def test_folds_of_any_data_set(where: str, domains: tuple[Path, Path], tmp_path: Path) -> None:
    if where == "nthu":
        make_nthu(tmp_path, 5)
        config = DataConfig(
            str(tmp_path), str(tmp_path), "nthu", "nthu", source_split="Rio/Test", target_split="Rome/Test"
        )
    elif where == "folder":
        config = DataConfig(str(domains[0]), str(domains[1]))
    else:
        config = replace(STREET, minicity=replace(STREET.minicity, train=5))
    space, every = open_source(config).space, open_target(config).names
    prints = set()
    for fold in range(2):
        cut = replace(config, folds=2, fold=fold)
        target, test = open_target(cut), open_test(cut, space)
        assert test is not None
        assert test.names == every[fold::2]
        assert set(target.names) | set(test.names) == set(every) and not set(target.names) & set(test.names)
        assert target.names == open_oracle(cut, space).names
        assert not hasattr(target, "label")
        whole = open_oracle(config, space)
        assert test.label(1).equal(whole.label(every.index(test.names[1])))
        assert target.image(0).equal(whole.image(every.index(target.names[0])))
        prints.add((target.fingerprint(), test.fingerprint()))
        assert target.fingerprint() != test.fingerprint()
    assert len({target for target, _ in prints} | {open_target(config).fingerprint()}) == 3
    assert len({test for _, test in prints}) == 2
    with pytest.raises(DataError, match="holds 5 images for folds = 6"):
        open_target(replace(config, folds=6))


def test_a_subset_of_classes_for_source_and_target(tmp_path: Path, cityscapes: str) -> None:
    make_synthia(tmp_path / "syn", 3)
    whole = DataConfig(str(tmp_path / "syn"), cityscapes, "synthia", "cityscapes")
    config = replace(whole, classes="synthia13")
    expected, table = subset_space(CITYSCAPES, "synthia13")
    source = open_source(config)
    assert source.space == expected
    assert len(source.space) == 13
    test, full = open_test(config, source.space), open_test(whole, CITYSCAPES)
    assert test is not None and full is not None
    assert test.space == expected
    label = test.label(0)
    assert label.numpy().tolist() == table[full.label(0).numpy()].tolist()
    assert set(label.unique().tolist()) <= {*range(13), IGNORE}
    assert open_oracle(config, source.space).space == expected
    with pytest.raises(ConfigError, match=r"'synthia12' are no subset of cityscapes; expected one of all, synthia16"):
        open_source(replace(config, classes="synthia12"))


def test_a_subset_of_a_folders_own_classes(domains: tuple[Path, Path], tmp_path: Path) -> None:
    day, dusk = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in domains)
    text = (day / "classes.yaml").read_text()
    (day / "classes.yaml").write_text(f"{text}subsets:\n  objects: [4, 3]\n")
    # The target names no classes: its ids are those of the source's files.
    (dusk / "classes.yaml").unlink()
    config = DataConfig(str(day), str(dusk), classes="objects")
    source, test = open_source(config), open_test(config, open_source(config).space)
    assert source.space.classes == ("ball", "block")
    assert test is not None
    before, after = Folder(dusk, "test", open_source(replace(config, classes=None)).space).label(0), test.label(0)
    assert (after == 0).equal(before == 4) and (after == 1).equal(before == 3)
    assert bool((after[(before < 3)] == IGNORE).all())


def test_classes_merged_for_scoring(tmp_path: Path, cityscapes: str) -> None:
    make_nthu(tmp_path / "n", 3)
    config = DataConfig(
        cityscapes, str(tmp_path / "n"), "cityscapes", "nthu", target_split="Rio/Train", test_split="Rome/Test",
        score_as="nthu13",
    )  # fmt: skip
    test = open_test(config, CITYSCAPES)
    assert isinstance(test, ScoredAs)
    assert (test.space, test.classes.space.name) == (CITYSCAPES, "nthu13")
    make_camvid(tmp_path / "v", 1)
    camvid = DataConfig(str(tmp_path / "v"), str(tmp_path / "v"), "camvid", "camvid", score_as="nthu13")
    with pytest.raises(ConfigError, match="tree, sign, pedestrian of camvid is none of them"):
        open_test(camvid, open_source(camvid).space)


def test_source_and_target_of_other_classes(tmp_path: Path, cityscapes: str) -> None:
    make_camvid(tmp_path, 1)
    config = DataConfig(cityscapes, str(tmp_path), "cityscapes", "camvid")
    with pytest.raises(
        DataError, match=r"target camvid:.*CamVid .* has 11 classes .*the source has 19 .*: gta5, synthia"
    ):
        open_test(config, CITYSCAPES)


def test_a_public_data_set_named_as_a_folder(cityscapes: str, gta5: str) -> None:
    for opened in (open_source, open_target):
        with pytest.raises(DataError, match=f"looks like Cityscapes: name it cityscapes:{cityscapes}"):
            opened(DataConfig(cityscapes, cityscapes))
    with pytest.raises(DataError, match="looks like Cityscapes"):
        open_for(CITYSCAPES, cityscapes, "val")
    with pytest.raises(DataError, match="The folder holds images/ itself: name no split"):
        open_source(DataConfig(gta5, gta5))


def test_data_for_a_trained_model(cityscapes: str, domains: tuple[Path, Path], tmp_path: Path) -> None:
    usual = open_for(CITYSCAPES, f"cityscapes:{cityscapes}", None)
    assert len(usual.names) == 4 and all("frankfurt" in name for name in usual.names)
    fewer = open_for(subset_space(CITYSCAPES, "synthia16")[0], f"cityscapes:{cityscapes}", "train", "nthu13")
    assert isinstance(fewer, ScoredAs)
    assert len(fewer.space) == 16 and int(fewer.label(0)[fewer.label(0) != IGNORE].max()) < 16
    with pytest.raises(DataError, match=r"has 19 classes \(cityscapes: .*the model has 2 \(ab: a, b, \.\.\.\)"):
        open_for(LabelSpace("ab", ("a", "b"), distinct_colors(2)), f"cityscapes:{cityscapes}", "val")
    with pytest.raises(DataError, match=r"the data has 5 classes .*the model has 19 \(cityscapes: road"):
        open_for(CITYSCAPES, str(domains[0]), "test")
    day = Path(shutil.copytree(domains[0], tmp_path / "day"))
    (day / "classes.yaml").write_text((day / "classes.yaml").read_text() + "subsets:\n  objects: [4, 3]\n")
    space = subset_space(Folder(day, "test").space, "objects")[0]
    labels = open_for(space, str(day), "test").label(0)
    assert set(labels.unique().tolist()) == {0, 1, IGNORE}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_layout": "gta"}, "source_layout = 'gta'; expected one of folder, shards, hf, gta5, synthia"),
        ({"target_layout": "kitti"}, "target_layout = 'kitti'; expected"),
        ({"score_as": "nthu"}, "score_as = 'nthu'; expected one of own, nthu13"),
        ({"folds": 1}, "folds = 1; expected at least 2"),
        ({"folds": -2}, "folds = -2; expected"),
        ({"folds": 10, "fold": 10}, "fold = 10, folds = 10; expected a fold of 0 to 9"),
        ({"folds": 10, "fold": -1}, "fold = -1, folds = 10"),
        ({"fold": 1}, "fold = 1, folds = 0; .*set folds too"),
        ({"folds": 2, "transductive": True}, "folds = 2 and transductive = True"),
        ({"folds": 2, "test_split": "val"}, "test_split = 'val' and folds = 2"),
        ({"transductive": True, "test_split": "val"}, r"'val' and transductive = True: .* target_split \(train\)"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**options)


def test_a_test_split_that_is_the_target_split_may_be_transductive() -> None:
    assert DataConfig(transductive=True, target_split="val", test_split="val").transductive
