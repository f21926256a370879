"""The quality of pseudo-labels is counted, against truth that only this diagnosis sees."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.layouts import make_cityscapes
from torch import Tensor

from segshift import recipe as recipe_file
from segshift.data.data_config import DataConfig, MiniCityOptions
from segshift.data.dataset import OracleTarget
from segshift.data.open_data import declared_space, open_oracle, open_target
from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import DataError, RunError
from segshift.label_quality import Quality, measure, measure_round, measure_run, withheld
from segshift.recipes import find
from segshift.taxonomy import CITYSCAPES, IGNORE, LabelSpace, distinct_colors

ABC = LabelSpace("abc", ("a", "b", "c"), distinct_colors(3))
X = IGNORE


class Truth:
    """Labelled images, of which only the labels are ever asked for."""

    def __init__(self, *labels: list[list[int]]) -> None:
        self.names, self.space = tuple(f"{i}" for i in range(len(labels))), ABC
        self._labels = labels

    def image(self, index: int) -> Tensor:
        raise AssertionError("the diagnosis looked at an image")

    def label(self, index: int) -> Tensor:
        return torch.tensor(self._labels[index], dtype=torch.uint8)

    def fingerprint(self) -> str:
        return ""


def stored(folder: Path, labels: list[list[list[int]]], predicted: list[list[list[int]]] | None = None) -> PseudoLabels:
    store = PseudoLabels(folder / "round-2", 3)
    for i, label in enumerate(labels):
        what = None if predicted is None else torch.tensor(predicted[i])
        store.write(f"{i}", torch.tensor(label), what)
    store.finish({})
    return store


def test_figures_by_hand(tmp_path: Path) -> None:
    truth = Truth([[0, 0, 0, 1]], [[1, 1, X, X]])
    store = stored(tmp_path, [[[0, 0, 1, X]], [[1, X, 0, X]]], [[[0, 0, 1, 1]], [[1, 1, 0, 0]]])
    quality = measure(store, OracleTarget(truth), ABC)
    assert (quality.round, quality.images) == (2, 2)
    # Of six pixels with known truth, four have a label, three of them the right one.
    assert (quality.proportion, quality.accuracy) == (4 / 6, 3 / 4)
    assert quality.iou.tolist()[:2] == [2 / 3, 1 / 2] and math.isnan(quality.iou[2])
    assert quality.miou == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert quality.precision.tolist()[:2] == [1, 1 / 2]
    assert quality.recall.tolist()[:2] == [2 / 3, 1 / 3]
    assert quality.share.tolist() == [1 / 2, 1 / 2, 0]
    # Of all pixels, those of unknown truth included: 3 of 4 predicted as a are labels, 2 of 4 as b.
    assert quality.kept.tolist()[:2] == [3 / 4, 2 / 4] and math.isnan(quality.kept[2])
    rare = quality.rarer_half
    assert rare.classes == ("a",)  # of equals, the first
    assert (rare.share_of_truth, rare.share_of_labels, rare.precision, rare.recall) == (1 / 2, 1 / 2, 1, 2 / 3)


def test_a_class_that_is_only_in_the_labels_counts_and_one_that_is_nowhere_labelled_does_not(tmp_path: Path) -> None:
    truth = Truth([[0, 0, 0, 2]])
    quality = measure(stored(tmp_path, [[[0, 0, 1, X]]]), OracleTarget(truth), ABC)
    assert quality.iou.tolist()[:2] == [2 / 3, 0] and math.isnan(quality.iou[2])
    assert quality.miou == pytest.approx(1 / 3)
    assert quality.recall[2] == 0
    assert all(math.isnan(v) for v in quality.kept)  # what was predicted is not known


def test_nothing_labelled_and_nothing_known(tmp_path: Path) -> None:
    quality = measure(stored(tmp_path, [[[X, X]]]), OracleTarget(Truth([[0, 1]])), ABC)
    assert quality.proportion == 0
    assert all(math.isnan(v) for v in (quality.accuracy, quality.miou, quality.rarer_half.share_of_labels))
    assert quality.rarer_half.recall == 0
    unknown = Quality(1, ABC, 1, torch.zeros(4, 4, dtype=torch.int64))
    assert math.isnan(unknown.proportion) and unknown.rarer_half.classes == ()
    assert unknown.to_dict()["miou"] is None
    assert json.loads(json.dumps(unknown.to_dict(), allow_nan=False))["rarer_half"]["precision"] is None


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_figures_are_those_of_the_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, label = (np.where(rng.random((2, 40)) < share, rng.integers(0, 3, (2, 40)), X) for share in (0.9, 0.5))
    pairs = np.where(truth == X, 3, truth) * 4 + np.where(label == X, 3, label)
    counts = torch.from_numpy(np.bincount(pairs.ravel(), minlength=16)).view(4, 4)
    quality = Quality(1, ABC, 2, counts)
    known = truth != X
    both = known & (label != X)
    assert quality.proportion == pytest.approx(both.sum() / known.sum())
    assert quality.accuracy == pytest.approx((truth == label)[both].mean())
    for c in range(3):
        hit = (both & (truth == c) & (label == c)).sum()
        union = (both & ((truth == c) | (label == c))).sum()
        assert quality.iou[c] == pytest.approx(hit / union if union else math.nan, nan_ok=True)
        assert quality.recall[c] == pytest.approx(hit / (truth == c).sum())
    assert quality.share.sum() == pytest.approx(1)
    assert 0 <= quality.miou <= quality.iou.nan_to_num().max()
    again = Quality.from_dict(json.loads(json.dumps(quality.to_dict())))
    assert again.confusion.equal(counts) and again.to_dict() == quality.to_dict()


def test_truth_is_brought_to_the_size_of_the_labels(tmp_path: Path) -> None:
    truth = Truth([[0, 0, 1, 1], [0, 0, 1, 1]])
    quality = measure(stored(tmp_path, [[[0, 1]]]), OracleTarget(truth), ABC)
    assert (quality.proportion, quality.accuracy) == (1, 1)


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    truth = OracleTarget(Truth([[0, 1]]))
    with pytest.raises(RunError, match="round 1 was not finished"):
        measure(PseudoLabels(tmp_path / "round-1", 3), truth, ABC)
    store = stored(tmp_path, [[[0, 1]]])
    store.path("0").unlink()
    with pytest.raises(RunError, match="pseudo-label of image '0'"):
        measure(store, truth, ABC)
    with pytest.raises(DataError, match=r"labels-1\.json: cannot be read .*measure the pseudo-labels again"):
        Quality.from_dict({"space": ABC.to_dict()}, "labels-1.json")
    with pytest.raises(DataError, match=r"pixel counts of shape \(3, 3\) for 3 classes of abc; expected \(4, 4\)"):
        Quality(1, ABC, 1, torch.zeros(3, 3, dtype=torch.int64))


def space_of(config: DataConfig) -> LabelSpace:
    space = declared_space(config)
    assert space is not None
    return space


def make_run(folder: Path, config: DataConfig, space: LabelSpace, wrong: int = 0) -> Path:
    """A run of two rounds whose pseudo-labels are the truth, but for `wrong` rows of each image in round 2."""
    oracle = open_oracle(config, space)
    for n in (1, 2):
        store = PseudoLabels(folder / f"round-{n}", len(space))
        for i, name in enumerate(oracle.names):
            label = oracle.label(i)
            if n == 2:
                label[:wrong] = (label[:wrong] + 1) % len(space)
            store.write(name, label.long(), label.long())
        store.finish({})
    recipe = replace(find("own/cbst"), data=config)
    info = {"label": "CBST", "space": space.to_dict(), "recipe": recipe_file.to_dict(recipe)}
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def test_every_round_of_a_run(tmp_path: Path) -> None:
    config = DataConfig(minicity=MiniCityOptions(train=3, test=2, size=(32, 64)))
    run = make_run(tmp_path / "run", config, CITYSCAPES, wrong=8)
    (run / "round-3" / "pseudo-labels").mkdir(parents=True)  # cut short
    found = measure_run(run)
    assert list(found) == [1, 2]
    assert (found[1].proportion, found[1].accuracy, found[1].miou) == (1, 1, 1)
    assert found[2].accuracy == 0.75  # of MiniCity every pixel is known
    assert bool((found[1].kept[found[1].recall.isnan().logical_not()] == 1).all())
    written = json.loads((run / "evaluation" / "labels-2.json").read_text())
    assert "oracle" in written["what"] and written["accuracy"] == 0.75
    assert Quality.from_dict(written).confusion.equal(found[2].confusion)


@pytest.mark.parametrize("options", [{"folds": 2, "fold": 1}, {"source": None}, {"labelled_share": 0.4}])
def test_a_run_of_any_protocol(options: dict, domains: tuple[Path, Path], tmp_path: Path) -> None:
    config = replace(DataConfig(str(domains[0]), str(domains[1])), **options)
    found = measure_run(make_run(tmp_path / "run", config, space_of(config)))
    assert [quality.accuracy for quality in found.values()] == [1, 1]
    assert found[1].images == len(open_target(config).names)


def test_a_target_that_has_moved_or_has_no_labels(domains: tuple[Path, Path], tmp_path: Path) -> None:
    dusk = Path(shutil.copytree(domains[1], tmp_path / "dusk"))
    config = DataConfig(str(domains[0]), str(dusk))
    run = make_run(tmp_path / "run", config, space_of(config))
    moved = shutil.move(dusk, tmp_path / "moved")
    assert measure_run(run, str(moved))[2].accuracy == 1
    shutil.rmtree(Path(moved) / "train" / "labels")
    shutil.rmtree(run / "evaluation")
    assert measure_run(run, str(moved)) == {}
    assert not (run / "evaluation").exists()


def test_labels_of_a_few_images_are_no_measure(domains: tuple[Path, Path], tmp_path: Path) -> None:
    dusk = Path(shutil.copytree(domains[1], tmp_path / "dusk"))
    config = DataConfig(str(domains[0]), str(dusk))
    (dusk / "train" / "labels" / "dusk_001.png").unlink()
    with pytest.raises(DataError, match="the label of image dusk_001 is missing"):
        withheld(config, space_of(config))


def test_whether_a_public_data_set_has_labels(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, 2)
    config = DataConfig(None, str(tmp_path), target_layout="cityscapes", target_split="TRAIN")
    target = withheld(config, CITYSCAPES)
    assert target is not None and target.names == open_target(config).names
    assert withheld(replace(config, target_split="test"), CITYSCAPES) is None
    shutil.rmtree(tmp_path / "gtFine" / "train")
    assert withheld(config, CITYSCAPES) is None


def test_a_round_on_its_own(tmp_path: Path) -> None:
    stored(tmp_path, [[[0, 1, X]]])
    quality = measure_round(tmp_path, 2, OracleTarget(Truth([[0, 0, 1]])), ABC)
    assert json.loads((tmp_path / "evaluation" / "labels-2.json").read_text()) == quality.to_dict()
