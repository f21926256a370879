"""Shards in the roles of a run: source, target, oracle, test set, and what scores a trained model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.shards import image, make_shards, write_shard

from segshift.data.data_config import DataConfig
from segshift.data.dataset import LabelledDataset, OracleTarget, Unlabelled
from segshift.data.folder import Folder
from segshift.data.of_model import for_model
from segshift.data.open_data import declared_space, open_for, open_oracle, open_source, open_target, open_test
from segshift.data.shards import ShardImages, have_labels
from segshift.errors import ConfigError, DataError
from segshift.label_quality import withheld


@pytest.fixture(scope="module")
def sharded(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("shards")
    return make_shards(domains[0], root / "day"), make_shards(domains[1], root / "dusk")


@pytest.fixture(scope="module")
def config(sharded: tuple[Path, Path]) -> DataConfig:
    return DataConfig(str(sharded[0]), str(sharded[1]), source_layout="shards", target_layout="shards")


def test_the_roles_of_a_run(config: DataConfig, domains: tuple[Path, Path]) -> None:
    source, target = open_source(config), open_target(config)
    test, oracle = open_test(config, source.space), open_oracle(config, source.space)
    assert isinstance(source, LabelledDataset)
    assert isinstance(oracle, OracleTarget)
    assert test is not None
    assert len(source.names) == len(target.names) == len(test.names) == 5
    declared = declared_space(config)
    assert declared is not None
    assert declared.classes == source.space.classes
    assert torch.equal(test.label(3), Folder(domains[1], "test").label(3))
    with pytest.raises(DataError, match="test_split is 'train', and so is target_split"):
        open_test(replace(config, test_split="train"), source.space)
    folds = replace(config, folds=2)
    rest, held = open_target(folds), open_test(folds, source.space)
    assert held is not None
    assert sorted([*rest.names, *held.names]) == list(target.names)


def test_an_unlabelled_target_cannot_reach_labels(config: DataConfig) -> None:
    target = open_target(config)
    assert isinstance(target, Unlabelled)
    assert not isinstance(target, LabelledDataset)
    assert not hasattr(target, "label")
    inside = target.image.__self__  # type: ignore[attr-defined]
    assert isinstance(inside, ShardImages)
    assert not hasattr(inside, "label")
    assert not any(index.has_labels for index in inside.table.indices)
    assert not any("seg.png" in part or "day" in part for part in map(str, target.image_paths or ()))


def test_withheld_labels_are_found(config: DataConfig, tmp_path: Path) -> None:
    space = open_source(config).space
    truth = withheld(config, space)
    assert truth is not None
    assert list(truth.names) == list(open_target(config).names)
    write_shard(tmp_path / "a.tar", {"a.png": image(0)})
    assert withheld(replace(config, target=str(tmp_path)), space) is None


def test_a_pattern_over_splits_scores_the_usual_one(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    for split in ("train", "val"):
        for shard in (sharded[1] / ("test" if split == "val" else split)).glob("*.tar"):
            shutil.copy(shard, tmp_path / f"{split}-{shard.name}")
    shutil.copy(sharded[1] / "classes.yaml", tmp_path)
    text = f"{tmp_path}/{{split}}-*.tar"
    config = DataConfig(text, text, source_layout="shards", target_layout="shards")
    test = open_test(config, open_source(config).space)
    assert test is not None
    assert {name.partition("-")[0] for name in test.names} == {"val"}
    assert {name.partition("-")[0] for name in open_target(config).names} == {"train"}
    # Without labels, nothing is scored.
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    write_shard(tmp_path / "test-0.tar", {"a.png": image(0)})
    assert not have_labels(text, "test")
    test = open_test(config, open_source(config).space)
    assert test is not None
    assert {name.partition("-")[0] for name in test.names} == {"val"}
    overlapping = replace(config, target=f"{tmp_path}/*{{split}}*.tar", test_split="va")
    assert open_test(overlapping, open_source(config).space) is not None
    with pytest.raises(DataError, match="test_split 'val-' and target_split 'va' share 3 shards, such as"):
        open_test(replace(overlapping, target_split="va", test_split="val-"), open_source(config).space)


def test_scoring_a_trained_model(config: DataConfig, sharded: tuple[Path, Path]) -> None:
    space = open_source(config).space
    scored = open_for(space, f"shards:{sharded[1]}", "test")
    assert len(scored.names) == 5
    other = replace(space, classes=("other", *space.classes[1:]))
    with pytest.raises(DataError, match="has 5 classes"):
        for_model(other, "x", "shards", str(sharded[1]), "test")


def test_shards_cannot_be_translated(config: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or lie in shards, so no file is a translation"):
        open_source(replace(config, translated=str(tmp_path)))


def test_a_folder_of_shards_named_as_a_folder(sharded: tuple[Path, Path]) -> None:
    plain = DataConfig(str(sharded[0]), str(sharded[1]))
    for opened in (open_source, open_target):
        with pytest.raises(DataError, match=r"but tar files; .* If these are shards, name them shards:"):
            opened(plain)
