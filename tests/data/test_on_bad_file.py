"""`on_bad_file = skip`: a run goes without files that cannot be used, as if they were not there, and names them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.fakes.layouts import make_camvid, make_cityscapes, make_gta5
from tests.fakes.tiny import tiny

from segshift.data.data_config import DataConfig
from segshift.data.dataset import image_paths
from segshift.data.protocols import ScoredAs
from segshift.errors import DataError
from segshift.recipe import Recipe
from segshift.run_data import Data, open_all
from segshift.taxonomy import unnamed

Spoil = Callable[[Path, Path], None]  # damages an image, or its label


def cut(image: Path, _: Path) -> None:
    image.write_bytes(image.read_bytes()[:-200])


def empty(image: Path, _: Path) -> None:
    image.write_bytes(b"")


def dangling(image: Path, _: Path) -> None:
    image.unlink()
    image.symlink_to(image.parent / "nowhere.png")


def twin(image: Path, _: Path) -> None:
    shutil.copy(image, image.with_suffix(".webp"))


def bad_label(_: Path, label: Path) -> None:
    label.write_bytes(label.read_bytes()[:-20])


def no_label(_: Path, label: Path) -> None:
    label.unlink()


def other_size(_: Path, label: Path) -> None:
    Image.new("L", (5, 7)).save(label)


def foreign_id(_: Path, label: Path) -> None:
    with Image.open(label) as image:
        ids = np.array(image)
    ids[0, 0] = 250
    Image.fromarray(ids).save(label)


def colours(_: Path, label: Path) -> None:
    Image.new("RGB", (64, 64)).save(label)


OF_IMAGES: dict[str, Spoil] = {"cut": cut, "empty": empty, "dangling": dangling, "twin": twin}
OF_LABELS: dict[str, Spoil] = {
    "bad_label": bad_label, "no_label": no_label, "other_size": other_size, "foreign_id": foreign_id,
    "colours": colours,
}  # fmt: skip


@pytest.fixture
def pair(domains: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Domains of one's own, five images a split."""
    return Path(shutil.copytree(domains[0], tmp_path / "day")), Path(shutil.copytree(domains[1], tmp_path / "dusk"))


def files(root: Path, split: str, number: int) -> tuple[Path, Path]:
    """An image of a domain, and its label."""
    name = f"{root.name}_{number:03d}"
    return root / split / "images" / f"{name}.jpg", root / split / "labels" / f"{name}.png"


def recipe_on(pair: tuple[Path, Path], row: str = "cbst", **data: Any) -> Recipe:
    recipe = tiny(row, *pair)
    return replace(recipe, data=replace(recipe.data, **({"on_bad_file": "skip"} | data)))


def opened(pair: tuple[Path, Path], row: str = "cbst", **data: Any) -> Data:
    return open_all(recipe_on(pair, row, **data))


def names(data: Data) -> dict[str, list[str]]:
    found = {"source": data.domains.source, "target": data.domains.target, "test": data.test}
    return {role: list(dataset.names) for role, dataset in found.items() if dataset is not None}


def read_all(data: Data) -> None:
    for dataset in filter(None, (data.domains.source, data.domains.target, data.test)):
        for i in range(len(dataset.names)):
            dataset.image(i)


def delete(image: Path, label: Path) -> None:
    for path in (image, image.with_suffix(".webp"), label):
        path.unlink(missing_ok=True)


def slowly(role: str, *faults: str) -> list[Any]:
    return [pytest.param(role, fault, marks=pytest.mark.slow) for fault in faults]


# --- every fault, in every set ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "fault"),
    [
        *(("source", fault) for fault in OF_IMAGES | OF_LABELS),
        *(("target", fault) for fault in ("twin", "no_label")),
        *(("test", fault) for fault in ("cut", "foreign_id")),
        ("oracle", "bad_label"),
        *slowly("target", "cut", "empty", "dangling", "colours"),
        *slowly("test", "twin", "empty", "dangling", "bad_label", "no_label", "other_size", "colours"),
        *slowly("oracle", *OF_IMAGES, "no_label", "other_size", "foreign_id", "colours"),
    ],
)
def test_a_run_goes_without_what_cannot_be_used(pair: tuple[Path, Path], role: str, fault: str) -> None:
    """What is left is, to the hash, the data without the bad image; the policy stop names it instead."""
    place = files(pair[0] if role == "source" else pair[1], "test" if role == "test" else "train", 3)
    row, key = ("oracle", "target") if role == "oracle" else ("cbst", role)
    (OF_IMAGES | OF_LABELS)[fault](*place)
    bad = role != "target" or fault in OF_IMAGES  # a target's labels are not looked at
    if bad:
        with pytest.raises(DataError, match=place[0].stem):
            opened(pair, row, on_bad_file="stop")
    found = opened(pair, row)
    read_all(found)
    assert list(found.left_out) == ([key] if bad else [])
    if bad:
        (why,) = found.left_out[key]
        assert place[0].stem in why
        assert str(place[0].parent) in why or str(place[1]) in why
        delete(*place)
    expected = opened(pair, row, on_bad_file="stop")
    assert names(found) == names(expected)
    assert found.record == expected.record
    assert expected.left_out == {}


def test_several_faults_are_all_named_and_said(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    cut(*files(pair[0], "train", 0))
    no_label(*files(pair[0], "train", 4))
    foreign_id(*files(pair[1], "test", 1))
    data = opened(pair)
    assert {role: len(texts) for role, texts in data.left_out.items()} == {"source": 2, "test": 1}
    assert [name[-3:] for name in names(data)["source"]] == ["001", "002", "003"]
    said = capsys.readouterr().out
    assert "source: left out 2 image(s) that cannot be used (on_bad_file = skip; run.json lists all):" in said
    assert "holds ids [250]; expected 0 to 4" in said
    assert any("2 of the source, 1 of the test" in sentence for sentence in data.protocol)
    again = opened(pair)
    assert (again.left_out, again.record) == (data.left_out, data.record)


def test_nothing_left_is_an_error(pair: tuple[Path, Path]) -> None:
    for number in range(5):
        cut(*files(pair[1], "train", number))
    with pytest.raises(DataError, match=r"all 5 images cannot be used and are left out .* none remains; .*/dusk_000"):
        opened(pair)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda day, _: (day / "classes.yaml").write_text("classes: 5"), "classes.yaml"),
        (lambda _, dusk: (dusk / "classes.yaml").write_text("classes: [{id: 0, name: a}]"), "classes.yaml"),
        (lambda day, _: shutil.rmtree(day / "train" / "labels"), "labels: is missing"),
        (lambda _, dusk: shutil.rmtree(dusk / "train"), "has no split 'train'"),
    ],
)
def test_what_is_no_fault_of_a_file_stops_all_the_same(
    pair: tuple[Path, Path], spoil: Callable[[Path, Path], Any], message: str
) -> None:
    spoil(*pair)
    with pytest.raises(DataError, match=message):
        opened(pair)


def test_the_limit_of_pixels_is_a_run_s(pair: tuple[Path, Path]) -> None:
    Image.new("RGB", (100, 64)).save(files(pair[0], "train", 2)[0])
    Image.new("L", (100, 64)).save(files(pair[0], "train", 2)[1])
    with pytest.raises(DataError, match=r"64x100 .* --max-pixels 6400"):
        opened(pair, on_bad_file="stop", max_pixels=64 * 64)
    assert len(opened(pair, max_pixels=64 * 64).left_out["source"]) == 1
    assert opened(pair, on_bad_file="stop", max_pixels=6400).left_out == {}


# --- label spaces without names -----------------------------------------------------------------------------------


def test_classes_are_those_of_the_labels_that_are_used(pair: tuple[Path, Path]) -> None:
    for root in pair:
        (root / "classes.yaml").unlink()
    bad_label(*files(pair[0], "train", 0))
    foreign_id(*files(pair[0], "train", 1))
    other_size(*files(pair[0], "train", 1))
    Image.new("L", (5, 7), 200).save(files(pair[0], "train", 1)[1])
    data = opened(pair)
    assert data.domains.space == unnamed(5)
    assert len(data.left_out["source"]) == 2
    delete(*files(pair[0], "train", 0))
    delete(*files(pair[0], "train", 1))
    assert data.record == opened(pair, on_bad_file="stop").record


# --- protocols ----------------------------------------------------------------------------------------------------


def test_a_bad_image_moves_no_other_into_another_fold(pair: tuple[Path, Path]) -> None:
    whole = {fold: names(opened(pair, folds=2, fold=fold)) for fold in (0, 1)}
    dangling(*files(pair[1], "train", 0))  # of fold 0
    no_label(*files(pair[1], "train", 1))  # of fold 1
    twin(*files(pair[1], "train", 2))  # of fold 0
    for fold, before in whole.items():
        data = opened(pair, folds=2, fold=fold)
        after = names(data)
        gone = {"dusk_000", "dusk_002"}
        assert after["target"] == [name for name in before["target"] if name not in gone]
        assert after["test"] == [name for name in before["test"] if name not in gone | {"dusk_001"}]
        assert not set(after["target"]) & set(after["test"])
        left = {role: len(texts) for role, texts in data.left_out.items()}
        # An unlabelled image is adapted to all the same.
        assert left == ({"test": 2} if fold == 0 else {"target": 2, "test": 1})


def test_a_fold_of_which_nothing_remains(pair: tuple[Path, Path]) -> None:
    cut(*files(pair[1], "train", 4))
    with pytest.raises(DataError, match="a part of it: all 1 images cannot be used"):
        opened(pair, folds=5, fold=4)


def test_semi_supervised(pair: tuple[Path, Path]) -> None:
    semi = {"labelled_share": 0.4, "target": str(pair[0])}
    before = names(opened(pair, **semi))
    labelled, rest = (int(before[role][0][-3:]) for role in ("source", "target"))
    bad_label(*files(pair[0], "train", labelled))
    dangling(*files(pair[0], "train", rest))
    data = opened(pair, **semi)
    assert names(data) == {**before, "source": before["source"][1:], "target": before["target"][1:]}
    assert {role: len(texts) for role, texts in data.left_out.items()} == {"source": 1, "target": 1}


def test_transductive(pair: tuple[Path, Path]) -> None:
    no_label(*files(pair[1], "train", 2))
    empty(*files(pair[1], "train", 4))
    data = opened(pair, transductive=True)
    assert [name[-3:] for name in names(data)["target"]] == ["000", "001", "002", "003"]
    assert [name[-3:] for name in names(data)["test"]] == ["000", "001", "003"]
    assert any("3 of these images" in sentence for sentence in data.protocol)


def test_fewer_classes(pair: tuple[Path, Path]) -> None:
    text = "subsets: {natural: [0, 1, 2]}\n" + (pair[0] / "classes.yaml").read_text()
    (pair[0] / "classes.yaml").write_text(text)
    foreign_id(*files(pair[0], "train", 0))
    no_label(*files(pair[1], "test", 0))
    data = opened(pair, classes="natural")
    assert {role: len(texts) for role, texts in data.left_out.items()} == {"source": 1, "test": 1}
    assert len(data.domains.space) == 3


def test_translated_images(pair: tuple[Path, Path], tmp_path: Path) -> None:
    into = tmp_path / "translated"
    shutil.copytree(pair[0] / "train" / "images", into)
    (into / "day_000.jpg").unlink()
    cut(into / "day_001.jpg", into)
    shutil.copy(into / "day_002.jpg", into / "day_002.jpeg")
    bad_label(*files(pair[0], "train", 3))
    with pytest.raises(DataError, match="day_00"):
        opened(pair, translated=str(into), on_bad_file="stop")
    data = opened(pair, translated=str(into))
    assert names(data)["source"] == ["day_004"]
    source = data.domains.labelled()
    assert source.label(0).shape == (64, 64)
    assert image_paths(source) == (into / "day_004.jpg",)
    for name, why in zip(("day_000", "day_001", "day_002", "day_003"), data.left_out["source"], strict=True):
        assert name in why
    # A folder that fits nothing is another one, not a folder of bad files.
    with pytest.raises(DataError, match="5 of 5 source images have no translated one"):
        opened(pair, translated=str(pair[1] / "train"))


# --- public data sets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "twin", "no_label", "foreign_id"])
def test_public_data_sets(fault: str, tmp_path: Path) -> None:
    make_gta5(tmp_path / "gta5", 3)
    make_cityscapes(tmp_path / "cityscapes", 3)
    where = DataConfig(
        str(tmp_path / "gta5"), str(tmp_path / "cityscapes"), "gta5", "cityscapes", on_bad_file="skip",
        score_as="nthu13",
    )  # fmt: skip
    recipe = replace(tiny("cbst", tmp_path, tmp_path), data=where)
    image = sorted((tmp_path / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))[1]
    label = next((tmp_path / "cityscapes" / "gtFine" / "val").rglob(f"{image.stem[:-12]}*labelIds.png"))
    (OF_IMAGES | OF_LABELS)[fault](image, label)
    with pytest.raises(DataError, match=image.stem[:-12]):
        open_all(replace(recipe, data=replace(where, on_bad_file="stop")))
    found = open_all(recipe)
    read_all(found)
    assert len(found.left_out.pop("test")) == 1
    assert found.left_out == {}
    assert isinstance(found.test, ScoredAs)
    delete(image, label)
    expected = open_all(replace(recipe, data=replace(where, on_bad_file="stop")))
    assert found.record == expected.record


def test_a_public_target_is_a_fold_of_itself(tmp_path: Path) -> None:
    make_camvid(tmp_path / "camvid", 3)
    make_camvid(tmp_path / "other", 5)
    where = DataConfig(
        str(tmp_path / "camvid"), str(tmp_path / "other"), "camvid", "camvid", on_bad_file="skip", folds=2
    )
    images = sorted((tmp_path / "other" / "train").glob("*.png"))
    dangling(images[0], images[0])
    data = open_all(replace(tiny("cbst", tmp_path, tmp_path), data=where))
    assert names(data)["target"] == [path.stem for path in images[1::2]]
    assert names(data)["test"] == [path.stem for path in images[2::2]]


# --- images that are scored and trained on --------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["source", "target"])
def test_training_goes_without_test_images(pair: tuple[Path, Path], role: str) -> None:
    day, dusk = pair
    root = day if role == "source" else dusk
    scored, truth = files(dusk, "test", 4)
    for number in (1, 2):
        to = files(root, "train", number)
        shutil.copy(scored, to[0])
        shutil.copy(truth, to[1])
    with pytest.raises(DataError, match=rf"{role}: 2 of its images are test images too, .*{root.name}_001 = dusk_004"):
        opened(pair, on_bad_file="stop")
    data = opened(pair)
    assert [name[-3:] for name in names(data)[role]] == ["000", "003", "004"]
    assert len(names(data)["test"]) == 5
    assert data.left_out == {role: [f"{name}: its file has the content of dusk_004 of the test set, which a model is "
                                    "scored on" for name in (f"{root.name}_001", f"{root.name}_002")]}  # fmt: skip


def test_transductive_scores_what_it_adapts_to(pair: tuple[Path, Path]) -> None:
    data = opened(pair, transductive=True, on_bad_file="stop")
    assert names(data)["target"] == names(data)["test"]


def test_twins_of_two_folds_are_a_leak(pair: tuple[Path, Path]) -> None:
    for first, second in zip(files(pair[1], "train", 0), files(pair[1], "train", 1)):
        shutil.copy(first, second)
    with pytest.raises(DataError, match=r"dusk_001 = dusk_000"):
        opened(pair, folds=2, on_bad_file="stop")
    assert names(opened(pair, folds=2))["target"] == ["dusk_003"]
    notes = opened(pair, on_bad_file="stop").notes["target"]
    assert notes == ["dusk_000 = dusk_001: the same file content, so the image counts 2 times"]


# --- under way ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_file_that_goes_bad_under_way_stops_the_run(pair: tuple[Path, Path], policy: str) -> None:
    data = opened(pair, on_bad_file=policy)
    image, _ = files(pair[1], "train", 2)
    image.unlink()
    with pytest.raises(DataError, match=rf"{image}: does not exist.*put the file back as it was.*segshift resume"):
        data.domains.target.image(2)
    cut(*files(pair[0], "train", 0))
    with pytest.raises(DataError, match="may not change under way"):
        data.domains.labelled().image(0)


def test_a_source_is_taken_over_where_nothing_is_left_out(pair: tuple[Path, Path]) -> None:
    first = opened(pair)
    recipe = recipe_on(pair)
    again = open_all(recipe, first)
    assert again.domains.source is not first.domains.source
    stopping = recipe_on(pair, on_bad_file="stop")
    second = open_all(stopping, first)
    assert second.domains.source is not first.domains.source
    assert open_all(stopping, second).domains.source is second.domains.source
    assert second.record == first.record
