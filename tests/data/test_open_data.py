"""From a recipe's words to data sets: the embedded street, folders, which split is scored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from segshift.data.dataset import LabelledDataset, OracleTarget, Unlabelled
from segshift.data.folder import Folder
from segshift.data.open_data import (
    DataConfig,
    MiniCityOptions,
    open_oracle,
    open_source,
    open_target,
    open_test,
)
from segshift.errors import ConfigError, DataError
from segshift.taxonomy import CITYSCAPES

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
    config = DataConfig(*map(str, domains))
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
