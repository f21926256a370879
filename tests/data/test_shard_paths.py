"""Which shards a text names: folders, splits, patterns, lists, several disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.shards import CLASSES, write_shard

from segshift.data.shard_paths import classes_beside, expanded, find_shards, holds_shards, splits_in
from segshift.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        write_shard(root / name, {})
    return root


def found(text: object, split: str | None = None) -> list[str]:
    return [shard.name for shard in find_shards(str(text), split)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("a-{8..10}.tar", ["a-8.tar", "a-9.tar", "a-10.tar"]),
        ("/d{0,1}/{x,y}.tar", ["/d0/x.tar", "/d0/y.tar", "/d1/x.tar", "/d1/y.tar"]),
        ("{split}-{0..1}.tar", ["{split}-0.tar", "{split}-1.tar"]),
        ("{a}.tar", ["{a}.tar"]),
        ("{3..1}.tar", []),
    ],
)
def test_braces(text: str, expected: list[str]) -> None:
    assert list(expanded(text)) == expected


def test_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.tar", "a.tar", ".hidden.tar", "sub/c.tar")
    (tmp_path / "a.tar.index").touch()
    assert found(tmp_path) == found(tmp_path, "train") == ["a.tar", "b.tar"]
    assert found(tmp_path, "sub") == ["c.tar"]
    assert splits_in(str(tmp_path)) == ("sub",)
    assert holds_shards(tmp_path)
    assert holds_shards(tmp_path.parent / tmp_path.name / "sub")
    with pytest.raises(DataError, match=r"has no split 'val', it holds shards itself. Splits found: sub"):
        found(tmp_path, "val")


def test_a_folder_of_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.tar", "val/b.tar")
    assert (found(tmp_path, "train"), found(tmp_path, "val")) == (["a.tar"], ["b.tar"])
    with pytest.raises(DataError, match=r"holds no shard; expected files named .tar. Splits found: train, val"):
        found(tmp_path)
    with pytest.raises(DataError, match=r"has no split 'test', and holds no shard itself; .*Splits found: train, val"):
        found(tmp_path, "test")


def test_splits_in_the_names(tmp_path: Path) -> None:
    touch(tmp_path, "city-train-000.tar", "city-train-001.tar", "city-val-000.tar")
    with pytest.raises(DataError, match=r"holds shards of several splits, by their names .train, val.*\{split\}-\*"):
        found(tmp_path, "train")
    text = f"{tmp_path}/city-{{split}}-*.tar"
    assert found(text, "train") == ["city-train-000.tar", "city-train-001.tar"]
    assert found(text, "val") == ["city-val-000.tar"]
    assert splits_in(text) == ("train", "val")
    with pytest.raises(DataError, match=r"no split is named; .* Splits found: train, val"):
        found(text)
    with pytest.raises(DataError, match=r"city-test-\*.tar: does not exist"):
        found(text, "test")


def test_several_disks(tmp_path: Path) -> None:
    touch(tmp_path, "disk0/x-000.tar", "disk1/x-001.tar", "disk0/x-002.tar")
    expected = ["x-000.tar", "x-001.tar", "x-002.tar"]
    assert found(tmp_path / "disk{0,1}" / "x-*.tar") == expected
    listed = tmp_path / "all.txt"
    listed.write_text("# two disks\ndisk0/*.tar\n\n  disk1/x-001.tar  \n", encoding="utf-8")
    assert found(listed) == expected
    listed.write_text(f"disk0\n{tmp_path}/disk1\n", encoding="utf-8")
    assert found(listed) == expected
    listed.rename(tmp_path / "train.txt")
    assert found(tmp_path / "{split}.txt", "train") == expected


def test_order_is_that_of_the_images_names(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar", "a-b.tar", "a0.tar")
    assert found(tmp_path) == sorted(["a.tar", "a-b.tar", "a0.tar"], key=lambda name: f"{name[:-4]}/key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://host/x.tar", "is an address; expected shards in a file system"),
        ("pipe:cat x.tar", "is an address"),
        ("x-{000..002}.tar", "x-001.tar: does not exist; expected a shard"),
        ("none", "none: does not exist"),
        ("y*.tar", r"y\*.tar: does not exist"),
        ("x.tar.gz", "x.tar.gz: is compressed, .*gunzip"),
        ("zipped", "x.tgz: is compressed"),
        ("x.zip", "x.zip: expected a shard, a file named .tar"),
        ("x-{000..000},x-000.tar", "does not exist"),
        ("{x,x}-000.tar", "x-000.tar: is named twice"),
        ("{.,other}/x-000.tar", "x-000.tar: has the name of .*; expected shards of different names"),
        ("empty.txt", "empty.txt: names no shard"),
        ("nested.txt", "nested.txt: lists other.txt, another list"),
        ("binary.txt", "binary.txt: is no text"),
        ("none.txt", "none.txt: does not exist; expected a file that lists shards"),
        ("nothing", "nothing: holds no shard; expected files named .tar. Splits found: none"),
    ],
)
def test_what_names_no_shards(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "x-000.tar", "x-002.tar", "other/x-000.tar", "x.tar.gz", "zipped/x.tgz", "x.zip")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "empty.txt").write_text("# none\n", encoding="utf-8")
    (tmp_path / "nested.txt").write_text("other.txt\n", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=message):
        found(text)


def test_a_pattern_has_no_splits(tmp_path: Path) -> None:
    touch(tmp_path, "x.tar")
    assert found(tmp_path / "*.tar", "train") == ["x.tar"]
    with pytest.raises(DataError, match=r"has no split 'test', for all its shards are training images; .*\{split\}"):
        found(tmp_path / "*.tar", "test")


def test_classes_beside(tmp_path: Path) -> None:
    touch(tmp_path, "disk0/train/a.tar", "disk1/b.tar")
    shards = find_shards(f"{tmp_path}/disk{{0/train,1}}/*.tar", None)
    assert classes_beside(shards, "any") is None
    above = tmp_path / "disk0" / "classes.yaml"
    above.write_text(CLASSES, encoding="utf-8")
    assert classes_beside(shards, "any") == above
    own = tmp_path / "list" / "classes.yaml"
    own.parent.mkdir()
    own.write_text(CLASSES, encoding="utf-8")
    assert classes_beside(shards, f"{own.parent}/all.txt") == own
    (tmp_path / "disk1" / "classes.yaml").write_text(CLASSES.replace("thing", "cell"), encoding="utf-8")
    with pytest.raises(DataError, match=r"disk1/classes.yaml: names other classes than .*disk0/classes.yaml"):
        classes_beside(shards, "any")
