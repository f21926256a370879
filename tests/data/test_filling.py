"""The folder of decoded images of a run: filled by its check, never stale, and of no influence on what is drawn."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes.folder import make_folder_pair
from tests.fakes.layouts import make_cityscapes
from tests.fakes.tiny import tiny

from segshift.data import decoded, files
from segshift.data.cache import Kept, KeptImages
from segshift.data.data_config import DataConfig, MiniCityOptions
from segshift.data.dataset import OracleTarget, Unlabelled
from segshift.data.resizing import resize_image, resize_label
from segshift.data.transforms import View
from segshift.errors import ConfigError, DataError
from segshift.recipe import Recipe
from segshift.run_data import Data, open_all

SIDE = 48


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_folder_pair(tmp_path, images=3)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Files decoded, by the name of their folder: images, labels."""
    found: Counter[str] = Counter()
    decode = files._decode

    def counted(path: Path, *more: Any) -> Any:
        found[path.parent.name] += 1
        return decode(path, *more)

    monkeypatch.setattr(files, "_decode", counted)
    return found


def recipe_on(pair: tuple[Path, Path], cache: Path | None, row: str = "cbst", **data: Any) -> Recipe:
    recipe = tiny(row, *pair, cache=None if cache is None else str(cache))
    return replace(recipe, data=replace(recipe.data, **data))


def at_working_size(recipe: Recipe) -> Recipe:
    """Its phases with views that cut every image from its working size."""
    view = View((32, 32))
    named = {name: replace(phase, source_view=view, target_view=view) for name, phase in recipe.phases()}
    return replace(recipe, **named)


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npy"))


def same(found: Any, expected: Any) -> None:
    assert list(found.names) == list(expected.names)
    for i in range(len(expected.names)):
        assert torch.equal(found.image(i), expected.image(i))
        assert hasattr(found, "label") == hasattr(expected, "label")
        if hasattr(expected, "label"):
            assert torch.equal(found.label(i), expected.label(i))


def same_data(found: Data, expected: Data) -> None:
    """Images, labels, and all that is said of them."""
    same(found.domains.source, expected.domains.source)
    same(found.domains.target, expected.domains.target)
    same(found.test, expected.test)
    assert found[3:] == expected[3:]


@pytest.mark.parametrize(("row", "size"), [("cbst", "0.1 MB"), ("oracle", "0.2 MB")])
def test_a_second_run_decodes_no_image(
    pair: tuple[Path, Path],
    cache: Path,
    reads: Counter[str],
    row: str,
    size: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = recipe_on(pair, cache, row)
    plain = open_all(recipe_on(pair, None, row))
    for missing, decoded_images in ((size, 9), ("0.0 MB", 0)):
        reads.clear()
        capsys.readouterr()
        data = open_all(recipe)
        assert reads["images"] == decoded_images
        said = capsys.readouterr().out
        assert f"cache {cache}: source, target, test: {size} decoded, {missing} of it yet to be written" in said
        reads.clear()
        for dataset in (data.domains.source, data.domains.target, data.test):
            same(dataset, dataset)
        assert not reads  # all of it is mapped
        same_data(data, plain)


def test_no_label_can_be_reached_from_a_target(pair: tuple[Path, Path], cache: Path) -> None:
    data = open_all(at_working_size(recipe_on(pair, cache)))
    assert data.domains.worked is not None
    for domains in (data.domains, data.domains.worked):
        assert isinstance(domains.target, Unlabelled)
        assert not hasattr(domains.target, "label")
        assert isinstance(domains.target.image, MethodType)
        assert type(domains.target.image.__self__) is KeptImages
    # Two of three sets have labels; each image and each label lies there in two sizes, those of the test set in one.
    assert len(entries(cache)) == 3 * (4 + 2 + 2)


def test_at_the_working_size_lies_what_resizing_gives(pair: tuple[Path, Path], cache: Path) -> None:
    data = open_all(at_working_size(recipe_on(pair, cache, "oracle")))
    own, ready = data.domains, data.domains.worked
    assert ready is not None
    assert isinstance(own.target, OracleTarget)
    assert isinstance(ready.target, OracleTarget)
    for given, resized in ((own.source, ready.source), (own.target, ready.target)):
        assert isinstance(given, (Kept, OracleTarget))
        assert isinstance(resized, (Kept, OracleTarget))
        for i in range(3):
            assert resized.image(i).shape == (3, SIDE, SIDE)
            assert torch.equal(resized.image(i), resize_image(given.image(i), (SIDE, SIDE)))
            assert torch.equal(resized.label(i), resize_label(given.label(i), (SIDE, SIDE)))


def test_sets_share_what_is_the_same(pair: tuple[Path, Path], cache: Path, tmp_path: Path) -> None:
    """A copy elsewhere, under other names, and half of the images alone: nothing is written twice."""
    open_all(recipe_on(pair, cache))
    before = entries(cache)
    copied = tmp_path / "copy" / pair[0].name, tmp_path / "copy" / pair[1].name
    for folder, copy in zip(pair, copied):
        shutil.copytree(folder, copy)
    for number, image in enumerate(sorted((copied[0] / "train" / "images").iterdir())):
        image.rename(image.with_name(f"other{number}.jpg"))
        label = copied[0] / "train" / "labels" / f"{image.stem}.png"
        label.rename(label.with_name(f"other{number}.png"))
    same_data(open_all(recipe_on(copied, cache)), open_all(recipe_on(copied, None)))
    assert entries(cache) == before


def test_other_classes_have_other_labels(pair: tuple[Path, Path], cache: Path) -> None:
    """The same label file means other ids when the classes are declared otherwise: no file of an image has changed."""
    open_all(recipe_on(pair, cache))
    for folder in pair:
        classes = folder / "classes.yaml"
        classes.write_text(classes.read_text().replace("ignore: 255", "ignore: 4").replace("  - {id: 4", "  # {id: 4"))
    found, plain = (open_all(recipe_on(pair, place)) for place in (cache, None))
    assert int(plain.domains.labelled().label(0).max()) == 255
    same_data(found, plain)


def test_a_changed_file_is_never_served_as_it_was(pair: tuple[Path, Path], cache: Path) -> None:
    first = open_all(recipe_on(pair, cache))
    before = first.domains.target.image(1).clone()
    file = sorted((pair[1] / "train" / "images").iterdir())[1]
    state = file.stat()
    Image.fromarray(np.full((64, 64, 3), 77, np.uint8)).save(file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    again = open_all(recipe_on(pair, cache))
    assert int(again.domains.target.image(1).max()) <= 80
    # The run that began before goes on with what it began with.
    assert torch.equal(first.domains.target.image(1), before)


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(
    pair: tuple[Path, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its new pixels would lie under the key of the old bytes, for another run that has those."""
    file, decode = sorted((pair[0] / "train" / "images").iterdir())[0], files._decode
    original = file.read_bytes()

    def changed_before(path: Path, *more: Any) -> Any:
        if path == file:
            Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save(file)
        return decode(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_decode", changed_before)
        open_all(recipe_on(pair, cache))
    file.write_bytes(original)
    same_data(open_all(recipe_on(pair, cache)), open_all(recipe_on(pair, None)))


@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_entry_is_made_anew(pair: tuple[Path, Path], cache: Path, damage: str) -> None:
    recipe, plain = at_working_size(recipe_on(pair, cache)), open_all(recipe_on(pair, None))
    open_all(recipe)
    whole = {file: file.read_bytes() for file in entries(cache)}
    for file, content in whole.items():
        if damage == "delete":
            file.unlink()
        else:
            file.write_bytes(content[:-1] if damage == "cut" else content[:300] + b"\xff\x00\xff" + content[303:])
    same_data(open_all(recipe), plain)
    assert {file: file.read_bytes() for file in entries(cache)} == whole


def test_a_folder_deleted_under_way_costs_time_alone(pair: tuple[Path, Path], cache: Path) -> None:
    plain, data = open_all(recipe_on(pair, None)), open_all(at_working_size(recipe_on(pair, cache)))
    shutil.rmtree(cache)
    same(data.domains.source, plain.domains.source)
    same(data.domains.target, plain.domains.target)
    assert data.domains.worked is not None
    assert data.domains.worked.labelled().label(0).shape == (SIDE, SIDE)
    assert data.domains.worked.target.image(0).shape == (3, SIDE, SIDE)


def test_a_disk_that_fills_up_stops_nothing(
    pair: tuple[Path, Path], cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = decoded._write_all, 0

    def fills_up(file: io.RawIOBase, content: memoryview) -> None:
        nonlocal written
        written += len(content)
        if written > 40_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, content)

    monkeypatch.setattr(decoded, "_write_all", fills_up)
    data = open_all(recipe_on(pair, cache))
    said = capsys.readouterr().out
    assert said.count("cannot be written any more (No space left on device). The run goes on") == 1
    assert 0 < len(entries(cache)) < 15
    same_data(data, open_all(recipe_on(pair, None)))
    assert not list(cache.rglob("*.tmp"))


def test_a_disk_without_the_room_is_an_error_before_anything_is_decoded(
    pair: tuple[Path, Path], cache: Path, monkeypatch: pytest.MonkeyPatch, reads: Counter[str]
) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(50_000))
    with pytest.raises(ConfigError, match=r"cache: decoded images and labels would take 0\.1 MB more"):
        open_all(recipe_on(pair, cache))
    assert not reads
    # What lies there already needs no room.
    monkeypatch.undo()
    open_all(recipe_on(pair, cache))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: pytest.fail("nothing is to be written"))
    open_all(recipe_on(pair, cache))


def test_bad_files_are_found_and_left_out_as_without(pair: tuple[Path, Path], cache: Path) -> None:
    open_all(recipe_on(pair, cache))
    image, label = (sorted((pair[0] / "train" / kind).iterdir()) for kind in ("images", "labels"))
    image[0].write_bytes(image[0].read_bytes()[:100])
    label[1].write_bytes(b"")
    texts = set()
    for place in (cache, None):
        with pytest.raises(DataError, match="2 of the data set's files cannot be used") as caught:
            open_all(recipe_on(pair, place))
        texts.add(str(caught.value))
    assert len(texts) == 1
    same_data(*(open_all(recipe_on(pair, place, on_bad_file="skip")) for place in (cache, None)))


def test_a_limit_of_pixels_holds_for_what_lies_there_too(pair: tuple[Path, Path], cache: Path) -> None:
    open_all(recipe_on(pair, cache))
    with pytest.raises(DataError, match="too large, 64x64"):
        open_all(recipe_on(pair, cache, max_pixels=4095, short_side=None))


def test_public_data_sets_and_drawn_ones(tmp_path: Path, cache: Path) -> None:
    """Labels are of the data set's ids, not of its files'; a set that is drawn on demand has no files to keep."""
    make_cityscapes(tmp_path / "city")
    options = MiniCityOptions(train=2, test=1)
    data = DataConfig("minicity", str(tmp_path / "city"), target_layout="cityscapes", minicity=options)
    recipe = replace(tiny("cbst", tmp_path, tmp_path, cache=str(cache)), data=data)
    found = open_all(recipe)
    same_data(found, open_all(replace(recipe, settings=replace(recipe.settings, cache=None))))
    assert len(entries(cache)) == len(found.domains.target.names) + 2 * len(found.test.names if found.test else ())
