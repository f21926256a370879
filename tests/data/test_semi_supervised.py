"""Semi-supervised: a share of one data set is labelled, the rest is the target. Source-free: there is no source."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.layouts import make_camvid, make_cityscapes, make_gta5, make_nthu

from segshift.data.data_config import DataConfig, MiniCityOptions
from segshift.data.dataset import LabelledDataset, Unlabelled
from segshift.data.describe import protocol
from segshift.data.folder import Folder
from segshift.data.open_data import (
    declared_space,
    open_oracle,
    open_source,
    open_target,
    open_test,
    place_of,
)
from segshift.data.protocols import ScoredAs
from segshift.errors import ConfigError, DataError
from segshift.taxonomy import CAMVID, CITYSCAPES, IGNORE, LabelSpace, distinct_colors, subset_space

STREET = MiniCityOptions(train=16, test=2, size=(32, 64), seed=4)
SEMI = DataConfig(target="no such folder", labelled_share=1 / 8, minicity=STREET)
FREE = DataConfig(source=None, minicity=STREET)


# Semi-supervised


@pytest.mark.parametrize("where", ["minicity", "folder", "gta5"])
def test_a_share_is_the_source_and_the_rest_the_target(where: str, domains: tuple[Path, Path], tmp_path: Path) -> None:
    if where == "gta5":
        make_gta5(tmp_path, 5)
        config = replace(SEMI, source=str(tmp_path), source_layout="gta5", labelled_share=0.4)
    else:
        config = SEMI if where == "minicity" else replace(SEMI, source=str(domains[0]), labelled_share=0.4)
    whole = open_source(replace(config, labelled_share=None))
    source, target, oracle = open_source(config), open_target(config), open_oracle(config, whole.space)
    assert isinstance(source, LabelledDataset)
    assert len(source.names) == 2
    assert isinstance(target, Unlabelled) and not hasattr(target, "label")
    assert sorted((*source.names, *target.names)) == list(whole.names)
    assert list(source.names) == sorted(source.names) and list(target.names) == sorted(target.names)
    assert oracle.names == target.names
    for part in (source, oracle):
        for i in (0, 1):
            at = whole.names.index(part.names[i])
            assert part.image(i).equal(whole.image(at)) and part.label(i).equal(whole.label(at))
    assert target.image(1).equal(whole.image(whole.names.index(target.names[1])))
    test = open_test(config, whole.space)
    if where == "gta5":
        assert test is None
    else:
        assert test is not None
        if where == "folder":
            assert isinstance(test, Folder) and test.folder == domains[0] / "test"
        else:
            assert test.names == ("source_test_00000", "source_test_00001")


def test_which_images_are_labelled_is_drawn_from_the_seed_alone() -> None:
    def names(share: float, seed: int) -> set[str]:
        return set(open_source(replace(SEMI, labelled_share=share, labelled_seed=seed)).names)

    assert names(1 / 8, 1) < names(1 / 4, 1) < names(1 / 2, 1)
    assert [len(names(share, 0)) for share in (1 / 8, 1 / 4, 1 / 2)] == [2, 4, 8]
    assert names(1 / 4, 0) == names(1 / 4, 0) != names(1 / 4, 1)
    whole = replace(SEMI, target="minicity", labelled_share=None)
    configs = [SEMI, replace(SEMI, labelled_seed=1), replace(SEMI, labelled_share=1 / 4), whole]
    for part in (open_source, open_target):
        assert len({part(config).fingerprint() for config in configs}) == 4
    assert open_source(SEMI).fingerprint() == open_source(SEMI).fingerprint() != open_target(SEMI).fingerprint()


def test_only_the_source_is_looked_at(domains: tuple[Path, Path], tmp_path: Path) -> None:
    day = Path(shutil.copytree(domains[0], tmp_path / "day"))
    config = DataConfig(str(day), "nowhere", target_split="none", labelled_share=0.4)
    space = open_source(config).space
    assert place_of(config, "target") == place_of(config, "source")
    shutil.copytree(day / "test", day / "val")
    for split in (None, "val"):
        test = open_test(replace(config, test_split=split), space)
        assert isinstance(test, Folder) and test.folder == day / (split or "test")
    with pytest.raises(DataError, match=r"test_split is 'train', and so is source_split: .*Name another split$"):
        open_test(replace(config, test_split="train"), space)
    # The unlabelled images' labels are not read.
    unlabelled = open_target(config).names
    for name in unlabelled:
        (day / "train" / "labels" / f"{name}.png").write_bytes(b"damaged")
    source = open_source(config)
    assert [source.label(i).shape for i in range(2)] == [(64, 64)] * 2
    assert open_target(config).names == unlabelled
    for name in (*unlabelled, *source.names[1:]):
        (day / "train" / "images" / f"{name}.jpg").unlink()
        (day / "train" / "labels" / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"holds 1 images for labelled_share = 0\.4; expected at least 2"):
        open_source(config)


def test_fewer_and_merged_classes_of_a_share(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 4)
    config = DataConfig(
        str(tmp_path), "", "cityscapes", "gta5", labelled_share=0.5, classes="synthia13", score_as="nthu13"
    )
    expected = subset_space(CITYSCAPES, "synthia13")[0]
    source = open_source(config)
    test, oracle = open_test(config, source.space), open_oracle(config, source.space)
    assert source.space == oracle.space == expected
    assert isinstance(test, ScoredAs) and test.space == expected
    for dataset in (source, oracle, test):
        assert set(dataset.label(0).unique().tolist()) <= {*range(13), IGNORE}
    assert declared_space(config) == expected


def test_the_protocol_of_a_share(domains: tuple[Path, Path]) -> None:
    config = replace(SEMI, labelled_seed=3)
    source, target, test = open_source(config), open_target(config), open_test(config, CITYSCAPES)
    assert protocol(config, source, target, test) == [
        "Source: 2 labelled images, drawn with seed 3 from the 16 of MiniCity's source town, split train "
        "(semi-supervised, labelled_share 0.125).",
        "Target: the other 14 images, trained on without their labels.",
        "Scored: 2 images of MiniCity's source town, split test.",
    ]
    oracle = protocol(config, source, open_oracle(config, CITYSCAPES), test)
    assert oracle[1] == "Target: the other 14 images, trained on with their labels (oracle)."
    config = DataConfig(str(domains[0]), "nowhere", "folder", "bdd", labelled_share=0.4)
    source = open_source(config)
    said = protocol(config, source, open_target(config), open_test(config, source.space))
    assert "from the 5 of the folder day, split train (semi-supervised, labelled_share 0.4)." in said[0]
    assert said[2:] == ["Scored: 5 images of the folder day, split test."]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"labelled_share": 0.0}, r"labelled_share = 0\.0, labelled_seed = 0; expected a share above 0 and below 1"),
        ({"labelled_share": 1.0}, r"labelled_share = 1\.0"),
        ({"labelled_share": 0.5, "labelled_seed": -1}, "labelled_seed = -1; expected"),
        ({"labelled_seed": 2}, "labelled_seed = 2, labelled_share = None: .*set labelled_share too"),
        ({"labelled_share": 0.5, "folds": 2}, "excludes folds = 2: set folds to 0"),
        ({"labelled_share": 0.5, "transductive": True}, "excludes transductive = True: set it to False"),
        ({"labelled_share": 0.5, "source": None}, "excludes source = None: name the data set"),
    ],
)
def test_wrong_shares_are_errors(options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        DataConfig(**options)


# Source-free


def test_without_a_source(domains: tuple[Path, Path]) -> None:
    for config in (FREE, DataConfig(None, str(domains[1]))):
        with pytest.raises(ConfigError, match=r"source = None: there is no source to look at .*Name it"):
            open_source(config)
        with pytest.raises(ConfigError, match="source = None"):
            place_of(config, "source")
        whole = replace(config, source="minicity" if config is FREE else str(domains[0]))
        space = declared_space(config)
        assert space is not None and space.classes == open_source(whole).space.classes
        for part in ("target", "test", "oracle"):
            free, usual = (_opened(part, c, space) for c in (config, whole))
            assert (free.names, free.fingerprint()) == (usual.names, usual.fingerprint())
        assert _opened("oracle", config, space).label(1).equal(_opened("oracle", whole, space).label(1))


def _opened(part: str, config: DataConfig, space: LabelSpace) -> Any:
    if part == "target":
        return open_target(config)
    opened = open_test(config, space) if part == "test" else open_oracle(config, space)
    assert opened is not None
    return opened


def test_which_classes_a_target_names_by_itself(domains: tuple[Path, Path], tmp_path: Path) -> None:
    def declared(layout: str, folder: Path, **options: Any) -> LabelSpace | None:
        return declared_space(DataConfig(None, str(folder), target_layout=layout, **options))

    make_camvid(tmp_path / "camvid", 1)
    make_nthu(tmp_path / "nthu", 1)
    assert declared("camvid", tmp_path / "camvid") == CAMVID
    # A split without public labels has classes all the same.
    assert declared("nthu", tmp_path / "nthu", target_split="Rio/Train") == CITYSCAPES
    assert declared("nthu", tmp_path / "nthu", classes="synthia16") == subset_space(CITYSCAPES, "synthia16")[0]
    with pytest.raises(ConfigError, match="'synthia16' are no subset of camvid"):
        declared("camvid", tmp_path / "camvid", classes="synthia16")
    dusk = Path(shutil.copytree(domains[1], tmp_path / "dusk"))
    shutil.rmtree(dusk / "train" / "labels")
    space = declared("folder", dusk)
    assert space is not None and space.classes == ("sky", "hill", "ground", "block", "ball")
    (dusk / "classes.yaml").unlink()
    assert declared("folder", dusk) is None
    with pytest.raises(DataError, match="It looks like CamVid"):
        declared("folder", tmp_path / "camvid")


def test_a_target_without_classes_takes_the_models(domains: tuple[Path, Path], tmp_path: Path) -> None:
    dusk = Path(shutil.copytree(domains[1], tmp_path / "dusk"))
    (dusk / "classes.yaml").unlink()
    config = DataConfig(None, str(dusk))
    model = LabelSpace("model", ("a", "b", "c", "d", "e", "f"), distinct_colors(6))
    test = open_test(config, model)
    assert test is not None and test.space == model
    assert test.label(0).equal(open_oracle(replace(config, target_split="test"), model).label(0))


def test_a_model_of_some_of_the_targets_classes(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 3)
    space, table = subset_space(CITYSCAPES, "synthia16")
    config = DataConfig(None, str(tmp_path), target_layout="cityscapes")
    test, whole = open_test(config, space), open_test(config, CITYSCAPES)
    assert test is not None and whole is not None
    assert test.space == space
    assert test.label(0).numpy().tolist() == table[whole.label(0).numpy()].tolist()
    named = replace(config, classes="synthia16")
    assert open_oracle(named, space).label(1).equal(open_oracle(config, space).label(1))
    with pytest.raises(ConfigError, match=r"classes = 'synthia16' \(of 16 classes\), but the model .* has 19 classes"):
        open_test(named, CITYSCAPES)
    with pytest.raises(DataError, match=r"target cityscapes:.*: the data has 19 classes .*the model has 11"):
        open_test(config, CAMVID)


def test_classes_that_nothing_names_are_refused(domains: tuple[Path, Path], tmp_path: Path) -> None:
    images = shutil.copytree(domains[1] / "train" / "images", tmp_path / "images")
    assert images.is_dir()
    config = DataConfig(None, str(tmp_path), target_split=None)
    assert open_test(config, CITYSCAPES) is None
    with pytest.raises(ConfigError, match=r"classes = 'synthia16' \(the target names no classes\)"):
        open_test(replace(config, classes="synthia16"), CITYSCAPES)


def test_folds_and_transductive_without_a_source() -> None:
    every = open_target(FREE).names
    folded = replace(FREE, folds=4, fold=1)
    test = open_test(folded, CITYSCAPES)
    assert test is not None and test.names == every[1::4]
    same = open_test(replace(FREE, transductive=True), CITYSCAPES)
    assert same is not None and same.names == every


def test_the_protocol_without_a_source(tmp_path: Path) -> None:
    test = open_test(FREE, CITYSCAPES)
    assert protocol(FREE, None, open_target(FREE), test) == [
        "Source: none, source-free adaptation of a model that was trained before.",
        "Target: 16 images of MiniCity's target town, split train, trained on without their labels.",
        "Scored: 2 images of MiniCity's target town, split test.",
    ]
    make_cityscapes(tmp_path, 2)
    config = DataConfig(None, str(tmp_path), "synthia", "cityscapes", classes="synthia16")
    space = subset_space(CITYSCAPES, "synthia16")[0]
    said = protocol(config, None, open_target(config), open_test(config, space))
    assert said[3:] == [
        "Classes: the 16 of the subset synthia16; pixels of all other classes are ignored, in training and in scoring."
    ]
