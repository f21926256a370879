"""Arrays in a folder: what is read is what was written, or nothing, whatever happens to the files and their writers."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segshift.data import decoded, resizing
from segshift.data.decoded import Decoded, image_key, label_key, nbytes, resized_key, told
from segshift.errors import ConfigError

_FORK = multiprocessing.get_context("fork")
KEY = "ab" * 32
SHAPES = st.one_of(
    st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(st.just(3), st.integers(1, 40), st.integers(1, 40))
)


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def refuse(text: str) -> None:
    raise AssertionError(f"nothing was to be said, but: {text}")


@pytest.fixture
def store(tmp_path: Path) -> Decoded:
    return Decoded(tmp_path / "new" / "cache", refuse)


@given(shape=SHAPES, seed=st.integers(0, 9))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], seed: int) -> None:
    store, array = Decoded(tmp_path_factory.mktemp("cache"), refuse), pixels(*shape, seed=seed)
    assert store.read(KEY) is None
    assert store.shape(KEY) is None
    store.write(KEY, array)
    for found in (store.read(KEY), store.verified(KEY)):
        assert found is not None
        assert torch.equal(found, array)
    assert store.shape(KEY) == shape
    assert store.path(KEY).stat().st_size == nbytes(shape)
    assert np.array_equal(np.load(store.path(KEY), mmap_mode="r", allow_pickle=False), array.numpy())


def test_an_array_that_lies_otherwise_in_memory_is_written_in_order(store: Decoded) -> None:
    array = pixels(3, 8, 6).flip(2)[:, ::2].permute(0, 2, 1)
    store.write(KEY, array)
    found = store.read(KEY)
    assert found is not None
    assert torch.equal(found, array)
    assert found.is_contiguous()


def test_writing_into_what_was_read_changes_no_file(store: Decoded) -> None:
    array = pixels(3, 8, 6)
    store.write(KEY, array)
    first = store.read(KEY)
    assert first is not None
    first.zero_()
    again = store.verified(KEY)
    assert again is not None
    assert torch.equal(again, array)


def test_keys_tell_contents_apart() -> None:
    label = pixels(4, 6)
    keys = [
        image_key("0" * 64), image_key("1" * 64), label_key(label), label_key(label.view(6, 4)),
        label_key(label ^ 1), resized_key(KEY, (4, 6)), resized_key(KEY, (6, 4)),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert label_key(label.t().contiguous().t()) == label_key(label)


def test_what_decodes_and_resizes_is_in_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Pillow may round a JPEG otherwise, another processor a resized image."""
    before = image_key("0" * 64), resized_key(KEY, (4, 6))
    decoded._decoders.cache_clear()
    monkeypatch.setattr(decoded, "pillow", "99.0")
    monkeypatch.setattr(resizing, "_resizes_bytes", lambda: False)
    after = image_key("0" * 64), resized_key(KEY, (4, 6))
    decoded._decoders.cache_clear()
    assert all(a != b for a, b in zip(after, before))


# --- damage ----------------------------------------------------------------------------------------------------------


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _grown(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def _other_head(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"|u1", b"|i1"))


def _other_shape(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"(3, 8, 6)", b"(3, 6, 9)"))


def _zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [_cut, _cut_short, _empty, _grown, _other_head, _other_shape, _zeros, _folder])
def test_a_file_of_another_length_or_head_is_none(store: Decoded, damage: Callable[[Path], None]) -> None:
    store.write(KEY, pixels(3, 8, 6))
    damage(store.path(KEY))
    assert (store.read(KEY), store.verified(KEY), store.shape(KEY)) == (None, None, None)


@given(at=st.integers(0, nbytes((3, 4, 5)) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    store, array = Decoded(tmp_path_factory.mktemp("cache"), refuse), pixels(3, 4, 5)
    store.write(KEY, array)
    content = bytearray(store.path(KEY).read_bytes())
    content[at] ^= 1 << bit
    store.path(KEY).write_bytes(content)
    assert store.verified(KEY) is None
    store.write(KEY, array)
    again = store.verified(KEY)
    assert again is not None
    assert torch.equal(again, array)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_disk_that_refuses_is_told_of_once(tmp_path: Path) -> None:
    """A real refusal in the middle of a write, by the system itself; what was whole stays so."""
    said: list[str] = []
    store, other = Decoded(tmp_path, said.append), "cd" * 32
    store.write(KEY, pixels(3, 8, 6))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        for key in (other, KEY, other):
            store.write(key, pixels(3, 40, 40))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    store.write(other, pixels(3, 8, 6))
    assert len(said) == 1
    assert said[0].startswith(f"warning: settings.cache = {tmp_path}: cannot be written any more (File too large)")
    assert store.read(other) is None
    found = store.verified(KEY)
    assert found is not None
    assert torch.equal(found, pixels(3, 8, 6))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [store.path(KEY)]


@pytest.mark.parametrize("below", ["file", "file/cache"])
def test_a_file_where_the_folder_is_to_be(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"settings\.cache: .*file.*is a file: choose another folder, or leave"):
        Decoded(tmp_path / below, refuse)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_may_not_be_written_to(store: Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", forbid)
    with pytest.raises(ConfigError, match=r"cache: cannot be written \(Permission denied\).*another folder"):
        store.prepare(1)


def test_a_disk_without_the_room(store: Decoded, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(5_000_000))
    store.prepare(5_000_000)
    with pytest.raises(ConfigError, match=r"cache: decoded .* take 2\.1 GB more, and 5\.0 MB are free .* larger disk"):
        store.prepare(2_100_000_000)


def test_only_what_killed_writers_left_is_swept_away(store: Decoded) -> None:
    store.write(KEY, pixels(4, 4))
    place = store.path(KEY).parent
    old, young, other = (place / name for name in (".0123456789abcdef.tmp", ".fedcba9876543210.tmp", "notes.tmp"))
    for file in (old, young, other):
        file.write_bytes(b"half")
    long_ago = time.time() - 7200
    for file in (old, other, store.path(KEY)):
        os.utime(file, (long_ago, long_ago))
    store.prepare(1)
    assert {file.name for file in place.iterdir()} == {young.name, other.name, store.path(KEY).name}


# --- several processes -----------------------------------------------------------------------------------------------


def _write_often(folder: Path, arrays: list[Tensor]) -> None:
    store = Decoded(folder, refuse)
    for _ in range(20):
        for i, array in enumerate(arrays):
            store.write(f"{i:02d}{KEY}", array)


def test_whoever_reads_while_two_write_finds_a_whole_entry_or_none(tmp_path: Path) -> None:
    arrays = [pixels(3, 200, 100, seed=i) for i in range(3)]
    writers = [_FORK.Process(target=_write_often, args=(tmp_path, arrays)) for _ in range(2)]
    for writer in writers:
        writer.start()
    store, seen = Decoded(tmp_path, refuse), 0
    while any(writer.is_alive() for writer in writers) or not seen:
        for i, array in enumerate(arrays):
            # Not by `verified`, which would call a torn one none: what has the right length is whole.
            found = store.read(f"{i:02d}{KEY}")
            seen += found is not None
            assert found is None or torch.equal(found, array)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(list(tmp_path.rglob("*"))) == 2 * len(arrays)  # each in a folder of its own, and nothing else


def _die_half_way(folder: Path) -> None:
    def write_and_die(file: io.RawIOBase, content: memoryview) -> None:
        os.write(file.fileno(), content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    decoded._write_all = write_and_die
    Decoded(folder, refuse).write(KEY, pixels(3, 8, 6))


def test_what_a_killed_writer_leaves_is_never_read(tmp_path: Path) -> None:
    writer = _FORK.Process(target=_die_half_way, args=(tmp_path,))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
    store = Decoded(tmp_path, refuse)
    assert store.read(KEY) is None
    store.write(KEY, pixels(3, 8, 6))
    found = store.verified(KEY)
    assert found is not None
    assert torch.equal(found, pixels(3, 8, 6))


def test_bytes_for_people() -> None:
    assert [told(n) for n in (0, 123_456_789, 1_000_000_000)] == ["0.0 MB", "123.5 MB", "1.0 GB"]
