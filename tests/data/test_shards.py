"""Shards as a data set: what the folder they were made from would be, and what is refused."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.shards import (
    CLASSES,
    image,
    label,
    make_shards,
    pack,
    png,
    samples_of,
    unpack,
    write_entries,
    write_shard,
)

from segshift.data.contents import content_of, digests, leaks, spread
from segshift.data.data_config import DataConfig
from segshift.data.dataset import Unlabelled, left_out
from segshift.data.doctor import check, validate
from segshift.data.folder import Folder, ImageFolder
from segshift.data.intake import FileRules
from segshift.data.opening import Opening
from segshift.data.shards import Images, Names, ShardImages, ShardLabelled
from segshift.errors import ConfigError, DataError

SKIP = FileRules(on_bad_file="skip")


def opening(config: DataConfig) -> Opening:
    def track(items: Iterator[int], _: int) -> Iterator[int]:
        return items

    return Opening(config, False, lambda _: track)


@pytest.fixture(scope="module")
def sharded(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("shards")
    return make_shards(domains[0], root / "day"), make_shards(domains[1], root / "dusk")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two shards of two labelled images."""
    for shard in range(2):
        members = {f"k{i}.{end}": make(10 * shard + i) for i in range(2) for end, make in ENDINGS.items()}
        write_shard(tmp_path / f"s{shard}.tar", members)
    (tmp_path / "classes.yaml").write_text(CLASSES, encoding="utf-8")
    return tmp_path


ENDINGS: dict[str, Any] = {"png": image, "seg.png": label}


def same(shards: ShardLabelled, folder: Folder) -> None:
    assert list(shards.names) == list(folder.names)
    for i in range(len(folder.names)):
        assert torch.equal(shards.image(i), folder.image(i))
        assert torch.equal(shards.label(i), folder.label(i))
    assert shards.space.classes == folder.space.classes
    assert content_of(shards) == content_of(folder)
    assert digests(shards) == digests(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(
    keys=st.lists(
        st.text("ab-0_/é", min_size=1, max_size=6).map(lambda k: f"k{k}".rstrip("/")), unique=True, min_size=1
    ),
    sizes=st.lists(st.integers(1, 4), max_size=5),
    stem=st.sampled_from(["part", "a-b", "9"]),
)
def test_any_sharding_is_the_folder_it_was_made_from(
    keys: list[str], sizes: list[int], stem: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("any")
    keys = sorted({os.path.normpath(key) for key in keys})
    # One that is a folder of another cannot lie beside it.
    samples = {key: {"png": image(i), "seg.png": label(i)} for i, key in enumerate(keys)}
    (root / "in").mkdir()
    (root / "in" / "classes.yaml").write_text(CLASSES, encoding="utf-8")
    pack(root / "in" / "train", samples, sizes, stem)
    same(ShardLabelled(root / "in", "train"), Folder(unpack(root / "in", root / "out"), "train"))


def test_of_a_domain(domains: tuple[Path, Path], sharded: tuple[Path, Path], tmp_path: Path) -> None:
    for split in ("train", "test"):
        shards = ShardLabelled(sharded[0], split)
        same(shards, Folder(unpack(sharded[0], tmp_path / split), split))
        assert [name.rpartition("/")[2] for name in shards.names] == list(Folder(domains[0], split).names)
    assert list(ShardImages(sharded[0], "train").names)[:3] == [
        "part-000000/day_000",
        "part-000000/day_001",
        "part-000001/day_002",
    ]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
def test_what_the_tar_command_makes_of_folders(domains: tuple[Path, Path], tmp_path: Path) -> None:
    tar = ["tar", "--sort=name", "-cf"]
    folder = domains[0] / "train"
    subprocess.run([*tar, str(tmp_path / "a.tar"), "-C", str(folder), "."], check=True)
    subprocess.run([*tar, str(tmp_path / "b.tar"), "-C", str(domains[0]), "train/images", "train/labels"], check=True)
    shutil.copy(domains[0] / "classes.yaml", tmp_path)
    shards, reference = ShardLabelled(tmp_path), Folder(domains[0], "train")
    names = list(reference.names)
    assert list(shards.names) == [f"a/{name}" for name in names] + [f"b/train/{name}" for name in names]
    for i in range(2 * len(names)):
        assert torch.equal(shards.image(i), reference.image(i % len(names)))
        assert torch.equal(shards.label(i), reference.label(i % len(names)))


def test_a_source_without_classes_is_refused(small: Path) -> None:
    (small / "classes.yaml").unlink()
    with pytest.raises(DataError, match=r"there is no classes.yaml beside the shards; expected one"):
        ShardLabelled(small)
    (small / "classes.yaml").write_text(CLASSES.replace("thing", "cell"), encoding="utf-8")
    space = ShardLabelled(small).space
    (small / "classes.yaml").unlink()
    assert ShardLabelled(small, space=space).space is space
    (small / "classes.yaml").write_text(CLASSES, encoding="utf-8")
    with pytest.raises(DataError, match="id 1 is 'thing', in the source it is 'cell'"):
        ShardLabelled(small, space=space)


def bad_image(entries: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    link = tarfile.TarInfo("bad.png")
    link.type, link.linkname = tarfile.SYMTYPE, "k0.png"
    return [(link, b"")] if entries == "link" else []


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"bad.png": image(1)[:-30], "bad.seg.png": label(1)}, "s9.tar:bad.png: cannot be read as an image"),
        ({"bad.png": b"", "bad.seg.png": label(1)}, "s9.tar:bad.png: the file is empty"),
        ({"bad.png": b"GIF89a", "bad.seg.png": label(1)}, "s9.tar:bad.png: is a GIF"),
        ({"bad.png": image(1), "bad.seg.png": label(1)[:-20]}, "s9.tar:bad.seg.png: cannot be read as a label"),
        ({"bad.png": image(1), "bad.seg.png": image(1)}, "s9.tar:bad.seg.png: pixels are RGB colours"),
        (
            {"bad.png": image(1), "bad.seg.png": label(1, ids=9)},
            r"s9.tar:bad.seg.png: holds ids \[.*\]; expected 0 to 1",
        ),
        ({"bad.png": image(1), "bad.seg.png": label(1, (8, 8))}, "bad.seg.png: is 8x8 pixels .*s9.tar:bad.png is 4x6"),
    ],
)
def test_a_member_that_cannot_be_used(members: dict[str, bytes], message: str, small: Path) -> None:
    write_shard(small / "s9.tar", members | {"good.png": image(2), "good.seg.png": label(2)})
    with pytest.raises(DataError, match=message):
        validate(ShardLabelled(small))
    config = DataConfig(None, str(small), target_layout="shards", on_bad_file="skip", transductive=True)
    found = opening(config).open(None, lambda: ShardLabelled(small).space)
    assert found.test is not None
    assert list(found.test.names) == ["s0/k0", "s0/k1", "s1/k0", "s1/k1", "s9/good"]
    assert list(left_out(found.test)) == ["s9/bad"]
    # The target's labels are not looked at.
    assert len(found.target.names) == (5 if message.startswith("s9.tar:bad.png") else 6)


def test_too_many_pixels_are_refused_before_the_member_is_read(small: Path) -> None:
    write_shard(small / "s9.tar", {"bad.png": png(np.zeros((50, 50), np.uint8)) + b" " * 2**20})
    with pytest.raises(DataError, match=r"s9.tar:bad.png: too large, 50x50"):
        ShardImages(small / "s9.tar", rules=FileRules(max_pixels=100)).image(0)


def test_a_sample_without_a_label(small: Path) -> None:
    write_shard(small / "s9.tar", {"a.png": image(1), "b.png": image(2), "c.seg.png": label(3)})
    with pytest.raises(
        DataError, match=r"s9.tar:a.png: has no label .2 of 6 images have none.; expected a member KEY.seg"
    ):
        ShardLabelled(small)
    found = ShardLabelled(small, rules=SKIP)
    assert list(found.names) == ["s0/k0", "s0/k1", "s1/k0", "s1/k1"]
    assert list(found.left_out) == ["s9/a", "s9/b"]
    assert list(found.listed) == [*found.names, "s9/a", "s9/b"]
    assert [str(path)[-10:] for path in found.label_paths[2:]] == ["k0.seg.png", "k1.seg.png"]
    assert found.notes == [f"{small}/s9.tar:c.seg.png: is a label without an image, left aside; 1 such file(s) in all"]
    assert ShardImages(small).left_out == {}
    assert ShardImages(small).notes == []


def test_a_link_is_refused_or_left_out(small: Path) -> None:
    good = tarfile.TarInfo("good.png")
    good.size = len(image(1))
    write_entries(small / "s9.tar", [*bad_image("link"), (good, image(1))])
    with pytest.raises(DataError, match=r"s9.tar:bad.png: is a link to 'k0.png'"):
        ShardImages(small)
    found = ShardImages(small, rules=SKIP)
    assert list(found.names)[-1] == "s9/good"
    assert torch.equal(found.image(4), ShardImages(small / "s9.tar", rules=SKIP).image(0))
    with pytest.raises(DataError, match="all 6 images cannot be used"):
        ShardImages(small, rules=replace(SKIP, without=dict.fromkeys(found.names, "gone")))


def test_a_damaged_shard_stops_whatever_the_policy(small: Path) -> None:
    (small / "s1.tar").write_bytes((small / "s1.tar").read_bytes()[:1000])
    for rules in (None, SKIP):
        with pytest.raises(DataError, match=r"s1.tar: cannot be read as a tar file up to its end"):
            ShardImages(small, rules=rules)


def test_a_shard_that_changes_under_way(small: Path) -> None:
    dataset = ShardLabelled(small)
    dataset.image(0)
    os.utime(small / "s0.tar")
    with pytest.raises(DataError, match=r"s0.tar: was changed after its index was read"):
        dataset.image(0)
    with pytest.raises(DataError, match=r"s0.tar: was changed after its index was read"):
        dataset.label(1)
    (small / "s1.tar").unlink()
    with pytest.raises(DataError, match=r"s1.tar: does not exist; expected an image"):
        dataset.image(2)


def test_no_image_at_all(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", {"a.json": b"{}"})
    with pytest.raises(DataError, match=r"x.tar: holds no image; expected members named KEY.jpg"):
        ShardImages(tmp_path)


def test_members_of_other_kinds_are_a_note(small: Path) -> None:
    write_shard(small / "s9.tar", {"a.png": image(1), "a.json": b"{}", "a.depth.png": image(1), "LICENSE": b"free"})
    (note,) = ShardImages(small).notes
    text = "3 member(s) in all are neither image nor label, and left aside"
    assert note == f"{small}/s9.tar: {text} (hidden or without an ending, .depth.png, .json)"


def test_fingerprint(small: Path) -> None:
    first = ShardLabelled(small)
    seen = {first.fingerprint(), ShardImages(small).fingerprint()}
    assert len(seen) == 2
    os.utime(small / "s0.tar")
    assert ShardLabelled(small).fingerprint() == first.fingerprint()
    seen.add(ShardLabelled(small, rules=replace(SKIP, without={"s0/k1": "x"})).fingerprint())
    (small / "s1.tar").rename(small / "t1.tar")
    seen.add(ShardLabelled(small).fingerprint())
    write_shard(small / "t1.tar", {"k0.png": image(3) + b"!", "k0.seg.png": label(3)})
    seen.add(ShardLabelled(small).fingerprint())
    with (small / "classes.yaml").open("a") as file:
        file.write("name: other\n")
    seen.add(ShardLabelled(small).fingerprint())
    assert len(seen) == 6


def test_leaks_between_shards_and_folders(sharded: tuple[Path, Path], domains: tuple[Path, Path], small: Path) -> None:
    train, test = ShardImages(sharded[1], "train"), Folder(domains[1], "train")
    names = [("/".join(name.split("/")[1:]), known) for name, known in leaks(train, test)]
    assert names == [(name, name) for name in test.names]
    assert leaks(ShardImages(small), test) == []
    write_shard(small / "s9.tar", {"copy.jpg": samples_of(domains[1], "train")["dusk_002"]["jpg"]})
    assert leaks(ShardImages(small), train) == [("s9/copy", "part-000001/dusk_002")]


def test_a_sample_of_the_images_is_checked(small: Path) -> None:
    for number in range(2, 10):
        write_shard(small / f"s{number}.tar", {"k.png": image(number), "k.seg.png": label(number)})
    write_shard(small / "s5.tar", {"k.png": b"broken", "k.seg.png": label(0)})
    config = DataConfig(None, str(small), target_layout="shards", transductive=True, check=3)
    some = opening(config)
    assert len(some.open(None, lambda: ShardLabelled(small).space).target.names) == 12
    (first, *_) = some.notes["target"]
    assert first.startswith(
        "3 of 12 images were read and checked, evenly spread (check = 3); the others are first read"
    )
    with pytest.raises(DataError, match=r"s5.tar:k.png: cannot be read as an image"):
        opening(replace(config, check=12)).open(None, lambda: ShardLabelled(small).space)
    with pytest.raises(ConfigError, match="check = 0; expected at least 1 image"):
        replace(config, check=0)


def test_the_content_of_a_sample(small: Path) -> None:
    dataset = ShardLabelled(small)
    every, two = content_of(dataset), content_of(dataset, 2)
    assert content_of(dataset, 4) == every != two
    assert content_of(Folder(unpack_flat(small), None), 2) != two
    times = (small / "s0.tar").stat()
    for sample, changes in ((1, False), (2, True)):
        member = dataset.image_paths[sample]
        content = bytearray(member.shard.read_bytes())
        content[member.at + 60] ^= 1
        member.shard.write_bytes(content)
        os.utime(member.shard, ns=(times.st_atime_ns, times.st_mtime_ns + sample))
        changed = ShardLabelled(small)
        assert changed.fingerprint() == dataset.fingerprint()
        assert (content_of(changed, 2) != two) == changes


def unpack_flat(small: Path) -> Path:
    root = small / "wrapped"
    (root / "train").mkdir(parents=True)
    for shard in small.glob("*.tar"):
        shutil.copy(shard, root / "train")
    shutil.copy(small / "classes.yaml", root)
    return unpack(root, small / "flat") / "train"


@pytest.mark.parametrize(("count", "most"), [(0, 3), (5, None), (5, 5), (5, 9), (100, 7), (10**8, 3)])
def test_spread(count: int, most: int | None) -> None:
    found = list(spread(count, most)) if count < 10**6 or most else []
    assert found == sorted(set(found))
    assert len(found) == min(count, count if most is None else most)
    assert not found or (found[0] == 0 and found[-1] < count)


def test_nothing_is_a_tuple_of_strings(small: Path) -> None:
    target = Unlabelled(ShardImages(small))
    assert isinstance(target.names, Names)
    assert isinstance(target.image_paths, Images)
    assert target.names[1:3] == ["s0/k1", "s1/k0"]
    assert target.names[-1] == "s1/k1"
    assert "s1/k0" in target.names
    assert "s1/k2" not in target.names
    assert "s2/k0" not in target.names
    assert 3 not in target.names
    assert [target.names.index(name) for name in target.names] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="'s1/k0' is no name of these images"):
        target.names.index("s1/k0", 3)
    some = ShardImages(small, rules=replace(SKIP, without={"s0/k1": "x", "none/k": "y"}))
    assert [some.names.index(name) for name in ("s0/k0", "s1/k0", "s1/k1")] == [0, 1, 2]
    assert "s0/k1" not in some.names
    assert list(some.left_out) == ["s0/k1"]
    with pytest.raises(IndexError, match="4; expected less than 4"):
        target.names[4]


def test_loader_processes_can_be_given_it(small: Path) -> None:
    dataset = ShardLabelled(small)
    again = copy.deepcopy(dataset)  # as it would be sent to them
    assert torch.equal(again.image(3), dataset.image(3))


def test_check_says_what_validate_stops_at(small: Path) -> None:
    findings = check(ShardLabelled(small))
    assert (findings.images, findings.labels, findings.problems) == (4, 4, [])
    assert [note for note in findings.notes if "smaller than 32" not in note] == []
    assert ImageFolder(unpack_flat(small)).names == tuple(ShardImages(small).names)
