"""The index of a shard: the same table made or read, kept where it can be, never trusted beyond its shard."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.shards import image, label, write_entries, write_shard

from segshift.data import shard_index
from segshift.data.shard_index import SUFFIX, Index, index_of
from segshift.errors import DataError

KEYS = st.text(st.sampled_from("ab/_0é"), min_size=1, max_size=9).map(lambda key: f"k{key.strip('/')}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    members = {f"s{i:02d}.{ending}": image(i) if ending == "png" else label(i) for i in range(5) for ending in ENDINGS}
    return write_shard(tmp_path / "x.tar", members)


ENDINGS = ("png", "seg.png")


def rows(index: Index) -> list[object]:
    return [(index.key(i), index.image(i), index.label(i)) for i in range(len(index))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(keys=st.lists(KEYS, unique=True, max_size=12), labelled=st.booleans(), data=st.data())
def test_any_shard_is_read_back(keys: list[str], labelled: bool, data: st.DataObject, tmp_path: Path) -> None:
    keys = list({os.path.normpath(key): None for key in keys})
    members = {f"{key}.png": data.draw(st.binary(max_size=700)) for key in keys}
    labels = {f"{key}.seg.png": data.draw(st.binary(max_size=700)) for key in keys if labelled}
    order = data.draw(st.permutations([*members.items(), *labels.items()]))
    path = write_shard(tmp_path / "x.tar", order)
    made, read = index_of(path), index_of(path)
    assert rows(made) == rows(read) if labelled and keys else len(made) == len(read)
    assert [read.key(i) for i in range(len(read))] == sorted(keys)
    assert made.digest() == read.digest()
    for i, key in enumerate(sorted(keys)):
        assert read.find(key) == i
        assert read.image(i).read() == members[f"{key}.png"]
        if labelled:
            found = read.label(i)
            assert found is not None
            assert found.read() == labels[f"{key}.seg.png"]
    assert read.find("k0" * 9) is None
    assert read.has_labels == bool(labels)
    assert read.sizes.tolist() == [len(members[f"{key}.png"]) for key in sorted(keys)]


def test_it_is_kept_and_not_made_again(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = rows(index_of(shard))
    kept = shard.with_name("x.tar.index").read_bytes()
    monkeypatch.setattr(shard_index, "read_samples", None)
    assert rows(index_of(shard)) == made
    assert shard.with_name("x.tar.index").read_bytes() == kept


def test_a_changed_shard_has_another_index(shard: Path) -> None:
    before = index_of(shard)
    write_shard(shard, {"new.png": image(1)})
    after = index_of(shard)
    assert [after.key(i) for i in range(len(after))] == ["new"]
    assert after.digest() != before.digest()
    with pytest.raises(DataError, match=r"x.tar: was changed after its index was read, so s00.png may lie elsewhere"):
        before.image(0).read()


def test_another_shard_of_the_same_size_and_date_is_told_by_its_start(shard: Path) -> None:
    before = index_of(shard)
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    content = shard.read_bytes()
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    write_shard(shard, {name.replace("s0", "t0"): image(0) for name in names})
    shard.write_bytes(shard.read_bytes().ljust(len(content), b"\0")[: len(content)])
    os.utime(shard, ns=times)
    assert index_of(shard).state == before.state
    assert index_of(shard).key(0) == "t00"


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty", "folder", "pipe", "sealed lies", "sealed header"])
def test_a_bad_index_is_made_again(spoil: str, shard: Path) -> None:
    expected = rows(index_of(shard))
    place = shard.with_name(shard.name + SUFFIX)
    content = place.read_bytes()
    place.unlink()
    if spoil == "folder":
        place.mkdir()
    elif spoil == "pipe":
        os.mkfifo(place)
    else:
        place.write_bytes(spoiled(content, spoil))
    assert rows(index_of(shard)) == expected


def spoiled(content: bytes, how: str) -> bytes:
    body = content[:-32]
    if how == "sealed lies":
        # Places far beyond the shard: whoever writes a file can seal it.
        end = 12 + int.from_bytes(body[8:12], "little")
        body = body[:end] + b"\xfe\xff\xff\x00" + body[end + 4 :]
    elif how == "sealed header":
        end = 12 + int.from_bytes(body[8:12], "little")
        header = json.dumps(json.loads(body[12:end]) | {"samples": 10**9}).encode()
        body = body[:8] + len(header).to_bytes(4, "little") + header + body[end:]
    else:
        middle = len(content) // 2
        return {"cut": content[:-5], "flip": content[:middle] + b"!" + content[middle + 1 :], "empty": b""}[how]
    return body + hashlib.sha256(body).digest()


def test_where_nothing_can_be_written_it_is_kept_in_the_cache(
    shard: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.with_name(shard.name + SUFFIX).mkdir()  # so that no file can take its place
    made = rows(index_of(shard))
    (kept,) = own_cache.rglob("*.index")
    monkeypatch.setattr(shard_index, "read_samples", None)
    assert rows(index_of(shard)) == made
    assert kept.parent == own_cache / "segshift" / "shards"


def test_where_nothing_can_be_kept_it_is_made_each_time(shard: Path, own_cache: Path) -> None:
    shard.with_name(shard.name + SUFFIX).mkdir()
    own_cache.write_bytes(b"")
    assert rows(index_of(shard)) == rows(index_of(shard))
    assert len(index_of(shard)) == 5


def test_a_shard_that_is_being_written_is_refused(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = shard_index.read_samples

    def growing(path: Path):
        with path.open("ab") as file:
            file.write(b"\0" * 512)
        return read(path)

    monkeypatch.setattr(shard_index, "read_samples", growing)
    with pytest.raises(DataError, match=r"x.tar: was changed while it was read; expected a finished shard"):
        index_of(shard)


def test_faults_are_kept_by_the_path_the_shard_has_now(tmp_path: Path) -> None:
    link = tarfile.TarInfo("a.png")
    link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
    bad = write_entries(tmp_path / "first" / "y.tar", [(link, b"")])
    assert index_of(bad).faults("image")[0].startswith(f"{bad}:a.png: is a link")
    (tmp_path / "first").rename(tmp_path / "second")
    moved = tmp_path / "second" / "y.tar"
    assert index_of(moved).faults("image")[0].startswith(f"{moved}:a.png: is a link")


def test_without_labels_nothing_of_them_is_held(shard: Path) -> None:
    index = index_of(shard).without_labels()
    assert not index.has_labels
    assert index.unlabelled() == list(range(5))
    with pytest.raises(KeyError):
        index.label(0)
    assert index.nbytes == sum(len(key) for key in "01234") + 13 * 5
    assert rows(index_of(shard)) != []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(at=st.integers(0, 10**6), byte=st.integers(1, 255), count=st.integers(1, 64))
def test_no_damage_ends_in_anything_but_a_word(at: int, byte: int, count: int, tmp_path: Path) -> None:
    path = write_shard(tmp_path / "y.tar", {f"a{i}.png": b"x" * 100 * i for i in range(4)} | {"ä" * 90 + ".png": b""})
    content = bytearray(path.read_bytes())
    at %= len(content)
    content[at : at + count] = bytes(b ^ byte for b in content[at : at + count])
    path.write_bytes(content)
    found = attempted(path)
    if isinstance(found, str):
        assert found.startswith(f"{path}: ")
        return
    faults = found.faults("image")
    for i in range(len(found)):
        assert i in faults or len(found.image(i).read()) == int(found.sizes[i])


def attempted(path: Path) -> Index | str:
    try:
        return index_of(path)
    except DataError as error:
        return str(error)


@pytest.mark.slow
def test_processes_that_make_it_together(shard: Path) -> None:
    command = "import sys, pathlib; from segshift.data.shard_index import index_of; print(len(index_of(pathlib.Path(*"
    words = [sys.executable, "-c", f"{command}sys.argv[1:]))))", str(shard)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["5"] * 3
    assert sorted(file.name for file in shard.parent.iterdir() if "tar" in file.name) == ["x.tar", "x.tar.index"]
    assert np.array_equal(index_of(shard).sizes, [len(image(i)) for i in range(5)])
