"""What image files hold: digests that follow the bytes, duplicates, leaks, and no way from a target to its labels."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.fakes.folder import make_folder_pair
from tests.fakes.layouts import make_gta5

from segshift.data import contents
from segshift.data.cache import Cached, CachedImages, Memory
from segshift.data.contents import alike, content_of, digest_of, digests, duplicates, leaks
from segshift.data.dataset import ImageDataset, OracleTarget, Unlabelled, label_paths
from segshift.data.folder import Folder, ImageFiles, ImageFolder
from segshift.data.layout import LayoutLabelled
from segshift.data.layouts import LAYOUTS
from segshift.data.minicity import MiniCity
from segshift.data.protocols import Renumbered, ScoredAs, SomeImages, SomeLabelled
from segshift.data.translated import Translated
from segshift.errors import DataError
from segshift.taxonomy import CITYSCAPES, MERGES, subset_space


@pytest.fixture
def day(tmp_path: Path) -> Path:
    return make_folder_pair(tmp_path, images=3, size=16)[0]


def files(folder: Path, *contents: bytes) -> ImageFiles:
    """A data set of files that hold these bytes: no images, for nothing here decodes them."""
    folder.mkdir(exist_ok=True)
    paths = {f"{i}": folder / f"{i}.png" for i in range(len(contents))}
    for path, content in zip(paths.values(), contents):
        path.write_bytes(content)
    return ImageFiles(paths)


def test_digests_are_those_of_the_bytes(day: Path) -> None:
    train = Folder(day, "train")
    expected = {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in zip(train.names, train.image_paths)}
    assert digests(train) == expected
    assert list(digests(train) or ()) == list(train.names)


def test_every_wrapper_knows_the_files_of_its_own_images(day: Path, tmp_path: Path) -> None:
    train = Folder(day, "train")
    all_of_it, last = digests(train), digests(ImageFiles({train.names[2]: train.image_paths[2]}))
    wrapped: list[ImageDataset] = [
        ImageFolder(day, "train"), Unlabelled(train), OracleTarget(train), Cached(train, Memory()),
        CachedImages(train, Memory()), Unlabelled(CachedImages(Unlabelled(train), Memory())),
        OracleTarget(Cached(OracleTarget(train), Memory())),
        Renumbered(train, train.space, np.arange(256, dtype=np.uint8)),
    ]  # fmt: skip
    assert [digests(dataset) for dataset in wrapped] == [all_of_it] * len(wrapped)
    parts: list[ImageDataset] = [SomeImages(train, [2]), SomeLabelled(train, [2]), Unlabelled(SomeImages(train, [2]))]
    assert [digests(dataset) for dataset in parts] == [last] * len(parts)
    make_gta5(tmp_path / "gta5", 3)
    source = LayoutLabelled(LAYOUTS["gta5"], tmp_path / "gta5")
    scored = ScoredAs(source, MERGES["nthu13"])
    assert digests(scored) == digests(source)
    assert content_of(scored) == content_of(source)
    shutil.copytree(day / "train" / "images", tmp_path / "translated")
    translated = Translated(train, tmp_path / "translated")
    assert digests(translated) == all_of_it
    assert label_paths(translated) == train.label_paths


def test_a_target_shows_no_label_file(day: Path) -> None:
    train = Folder(day, "train")
    for dataset in (Unlabelled(train), CachedImages(train, Memory()), SomeImages(train, [0, 1]), Unlabelled(train)):
        assert label_paths(dataset) is None
        before = content_of(dataset)
        train.label_paths[0].write_bytes(train.label_paths[0].read_bytes() + b"\0")
        assert content_of(dataset) == before
    assert label_paths(OracleTarget(train)) == train.label_paths


def test_drawn_on_demand_has_no_files(day: Path) -> None:
    city = MiniCity("source", "train", 2, (32, 64))
    assert digests(city) is None
    assert digests(Unlabelled(SomeImages(city, [1]))) is None
    assert content_of(city) == city.fingerprint()
    assert leaks(city, Folder(day, "test")) == leaks(Folder(day, "test"), city) == []
    fewer = Renumbered(city, *subset_space(CITYSCAPES, "synthia13"))
    assert label_paths(Cached(fewer, Memory())) is None


def test_content_changes_where_the_fingerprint_is_blind(day: Path) -> None:
    train = Folder(day, "train")
    content, fingerprint = content_of(train), train.fingerprint()
    assert content_of(Folder(day, "train")) == content
    assert len(content) == 16
    seen = {content}
    for path in (train.image_paths[1], train.label_paths[2]):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        seen.add(content_of(train))
    assert train.fingerprint() == fingerprint
    assert len(seen) == 3
    renamed = {f"{name}-b": path for name, path in zip(train.names, train.image_paths)}
    assert content_of(ImageFiles(renamed)) != content_of(ImageFolder(day, "train"))


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = hashlib.file_digest

    def counted(opened: Any, name: str) -> Any:
        read.append(Path(opened.name).name)
        return whole(opened, name)

    monkeypatch.setattr(contents.hashlib, "file_digest", counted)
    first, second = files(tmp_path / "a", b"one", b"two"), files(tmp_path / "b", b"one", b"longer")
    assert leaks(first, second) == [("0", "0")]
    # Sizes say that "longer" is none of the first set's.
    assert sorted(read) == ["0.png", "0.png", "1.png"]
    assert [digests(first), content_of(first)] == [digests(first), content_of(first)]
    assert len(read) == 3
    first.image_paths[0].write_bytes(b"own")
    assert leaks(first, second) == []
    assert len(read) == 4


@given(st.lists(st.binary(max_size=2), max_size=12))
def test_duplicates_are_the_classes_of_equal_contents(found: list[bytes]) -> None:
    named = {str(i): content.hex() for i, content in enumerate(found)}
    groups = duplicates(named)
    grouped = [name for group in groups for name in group]
    assert len(grouped) == len(set(grouped))
    for group in groups:
        assert len(group) > 1
        assert list(group) == [name for name in named if named[name] == named[group[0]]]
    alone = named.keys() - grouped
    assert len({named[name] for name in alone} | {named[group[0]] for group in groups}) == len(set(found))
    assert len({named[name] for name in alone}) == len(alone)


@given(st.lists(st.binary(max_size=1), max_size=5), st.lists(st.binary(max_size=1), max_size=5))
def test_leaks_are_the_training_images_that_are_tested(
    tmp_path_factory: pytest.TempPathFactory, training: list[bytes], test: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("leaks")
    found = leaks(files(folder / "training", *training), files(folder / "test", *test))
    assert found == [(str(i), str(test.index(content))) for i, content in enumerate(training) if content in test]


def test_alike_groups_files_in_their_order(tmp_path: Path) -> None:
    paths = files(tmp_path / "x", b"aa", b"bb", b"aa", b"ccc", b"", b"", b"bb", b"bb").image_paths
    gone = tmp_path / "gone.png"
    assert alike([*paths, *paths, gone]) == [(paths[0], paths[2]), (paths[1], paths[6], paths[7])]
    link = tmp_path / "link.png"
    link.symlink_to(paths[3])
    assert alike([link, paths[3]]) == [(link, paths[3])]


def test_same_pixels_in_other_bytes_are_not_found(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    for level in (0, 9):
        picture.save(tmp_path / f"{level}.png", compress_level=level)
    assert alike(sorted(tmp_path.iterdir())) == []


def test_files_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = files(tmp_path / "a", b"one", b"two")
    dataset.image_paths[1].unlink()
    for look in (digests, content_of, lambda d: leaks(d, d)):
        with pytest.raises(DataError, match=r"1.png: cannot be read \(No such file or directory\)"):
            look(dataset)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="is no regular file"):
        digest_of(tmp_path / "pipe.png")

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    dataset.image_paths[0].touch()
    with pytest.raises(DataError, match=r"0.png: cannot be read \(Permission denied\)"):
        digests(dataset)
    assert alike([dataset.image_paths[0]] * 2) == []
