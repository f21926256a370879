"""Checkpoints come back bit by bit, any damage is found, and a failed write leaves the old file."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segshift import checkpoint
from segshift.checkpoint import atomic_write, latest, load, prune, save, step_file
from segshift.errors import ConfigError, RunError

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool)


def identical(a: Any, b: Any) -> bool:
    """Same types, same bits, same order of keys."""
    if isinstance(a, Tensor):
        same_form = isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return same_form and bits(a) == bits(b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return a == b


def bits(tensor: Tensor) -> list[int]:
    return tensor.detach().contiguous().flatten().view(torch.uint8).tolist()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensor = (torch.randn(shape, generator=generator) * 100).to(draw(st.sampled_from(DTYPES)))
    return tensor.transpose(0, -1) if draw(st.booleans()) and tensor.dim() else tensor


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | tensors()
STATES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(-9, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=STATES)
def test_any_state_comes_back_bit_by_bit(tmp_path: Path, state: object) -> None:
    save(tmp_path / "a.safetensors", state)
    assert identical(load(tmp_path / "a.safetensors"), state)


def test_an_optimizer_goes_on_exactly_where_it_stopped(tmp_path: Path) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 3, 4, 4)).square().sum().backward()
        optimizer.step()

    step()
    save(tmp_path / "a.safetensors", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    step()
    expected = model.weight.detach().clone()
    state = load(tmp_path / "a.safetensors")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    step()
    assert bits(model.weight) == bits(expected)
    assert state["model"]["weight"].is_contiguous(memory_format=torch.channels_last)


def test_shared_and_overlapping_tensors(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = {
        "base": base,
        "again": base.detach(),
        "part": base[2:5],
        "grid": base.view(3, 4),
        "turned": base.view(3, 4).t(),
    }
    save(tmp_path / "a.safetensors", state)
    loaded = load(tmp_path / "a.safetensors")
    assert identical(loaded, state)
    assert loaded["base"] is loaded["again"]
    loaded["base"].zero_()
    assert loaded["part"].tolist() == [2.0, 3.0, 4.0]


def test_save_changes_nothing_and_is_deterministic(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    state = {"w": weight, "view": weight[0], "list": [1, (2.0, math.inf)]}
    for name in ("a", "b"):
        save(tmp_path / name, state)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert state["w"] is weight
    assert weight.requires_grad
    assert not load(tmp_path / "a")["w"].requires_grad


@pytest.mark.parametrize("bad", [{1.5: 0}, {True: 0}, [object()], {"a": {"b": {1, 2}}}, [b"bytes"]])
def test_what_cannot_be_saved_is_named(tmp_path: Path, bad: object) -> None:
    with pytest.raises(TypeError, match="state"):
        save(tmp_path / "a", bad)
    assert list(tmp_path.iterdir()) == []


STATE = {"step": 7, "rate": 0.1, "weights": torch.arange(6.0), "é": [None, True, (torch.tensor(3), "x")]}


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, STATE)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"a\.safetensors"):
            load(path)


def test_every_truncation_and_every_addition_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(path, STATE)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(RunError, match="resume"):
            load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(RunError, match="damaged"):
        load(path)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        load(tmp_path / "missing.safetensors")
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    for content in (b"", b"hello", len(header).to_bytes(8, "little") + header, b"\x02" + bytes(7) + b"[]"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(RunError, match="other: is no checkpoint"):
            load(tmp_path / "other")


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"one", b"two"):
        atomic_write(path, content)
        assert path.read_bytes() == content
    assert names(path.parent) == ["a.bin"]


@pytest.mark.parametrize(("code", "cure"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "another folder")])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, cure: str
) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(checkpoint.os, "fsync", refuse)
    with pytest.raises(RunError, match=rf"a\.bin: .*{cure}"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_path_through_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="is a file: choose another folder"):
        atomic_write(tmp_path / "file" / "a.bin", b"x")


def test_latest_falls_back_to_the_last_good_one(tmp_path: Path) -> None:
    assert latest(tmp_path) == (None, "")
    for step in (9, 10, 1_000_000):
        save(step_file(tmp_path, step), {"step": step})
    (tmp_path / "step-notes.txt").write_text("no checkpoint")
    assert latest(tmp_path) == (tmp_path / "step-1000000.safetensors", "")
    newest = tmp_path / "step-1000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    path, warning = latest(tmp_path)
    assert path == tmp_path / "step-000010.safetensors"
    assert "step-1000000.safetensors" in warning
    assert latest(tmp_path / "missing") == (None, "")


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 30, 4):
        save(step_file(tmp_path, step), {})
    (tmp_path / ".0123.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("kept")
    prune(tmp_path, keep=2)
    assert names(tmp_path) == ["notes.txt", "step-000004.safetensors", "step-000030.safetensors"]
    with pytest.raises(ConfigError, match="keep"):
        prune(tmp_path, keep=0)
