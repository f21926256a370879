"""Checkpoints come back bit by bit, any damage is found, and the newest good one is used."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.damage import HITS, damaged
from torch import Tensor, nn

from segshift.checkpoint import Latest, latest, load, prune, save, step_file
from segshift.errors import ConfigError, RunError
from segshift.sealed import seal_tensors

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


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=STATES, hits=HITS)
def test_no_damage_reads_as_another_state(tmp_path: Path, state: object, hits: list[tuple[int, int]]) -> None:
    path = tmp_path / "a.safetensors"
    save(path, state)
    for content in damaged(path.read_bytes(), hits):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"a\.safetensors"):
            load(path)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(["t0", "t1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["tensor", "dict", "tuple", "float", "layout"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(structure=JSON.map(json.dumps) | st.text(max_size=5))
def test_a_whole_file_of_another_make_is_refused(tmp_path: Path, structure: str) -> None:
    """As of a later version, or of someone who sealed it with care: a state of known parts, or RunError."""
    (tmp_path / "a").write_bytes(seal_tensors({"t0": torch.zeros(2), "t1": torch.zeros(1, 1, 1, 1)}, structure))
    try:
        state = load(tmp_path / "a")
    except RunError as error:
        assert "expected a checkpoint of this version" in str(error)
    else:
        save(tmp_path / "b", state)


@pytest.mark.parametrize(
    "structure",
    ['{"tensor":"t9"}', '{"tensor":"t0","layout":"channels_last"}', '{"float":"x"}', '{"set":[1]}', "[" * 100_000, "x"],
)
def test_a_structure_of_another_version_is_refused(tmp_path: Path, structure: str) -> None:
    (tmp_path / "a").write_bytes(seal_tensors({"t0": torch.zeros(2)}, structure))
    with pytest.raises(RunError, match="a: is whole, and holds no state that this version of segshift knows"):
        load(tmp_path / "a")


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        load(tmp_path / "missing.safetensors")
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    for content in (b"", b"hello", len(header).to_bytes(8, "little") + header, b"\x02" + bytes(7) + b"[]"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(RunError, match="other: is no checkpoint"):
            load(tmp_path / "other")


def test_latest_falls_back_to_the_last_good_one(tmp_path: Path) -> None:
    assert latest(tmp_path) == Latest(None, None, "")
    for step in (9, 10, 1_000_000):
        save(step_file(tmp_path, step), {"step": step})
    (tmp_path / "step-notes.txt").write_text("no checkpoint")
    assert latest(tmp_path) == (tmp_path / "step-1000000.safetensors", {"step": 1_000_000}, "")
    newest = tmp_path / "step-1000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    path, state, warning = latest(tmp_path)
    assert (path, state) == (tmp_path / "step-000010.safetensors", {"step": 10})
    assert warning.startswith(f"{newest}: is no checkpoint, or a damaged one")
    assert latest(tmp_path / "missing") == Latest()


def test_latest_takes_what_is_accepted_and_says_what_was_not(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(step_file(tmp_path, step), {"step": step})

    def accept(state: Any) -> None:
        if state["step"] > 1:
            raise RunError(f"step {state['step']} has lost its labels")

    path, state, warning = latest(tmp_path, accept)
    assert (path, state) == (step_file(tmp_path, 1), {"step": 1})
    assert warning.splitlines() == [
        f"{step_file(tmp_path, 3)}: step 3 has lost its labels",
        f"{step_file(tmp_path, 2)}: step 2 has lost its labels",
    ]
    step_file(tmp_path, 1).unlink()
    path, state, warning = latest(tmp_path, accept)
    assert (path, state) == (None, None)
    assert "step 2" in warning


def test_latest_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        save(step_file(tmp_path, step), {"step": step})
    step_file(tmp_path, 3).write_bytes(b"")
    read: list[str] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        read.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    latest(tmp_path, lambda _: None)
    assert read == ["step-000003.safetensors", "step-000002.safetensors"]


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 1_000_000, 999_999):
        save(step_file(tmp_path, step), {})
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("kept")
    prune(tmp_path, keep=2)
    assert names(tmp_path) == ["notes.txt", "step-1000000.safetensors", "step-999999.safetensors"]
    with pytest.raises(ConfigError, match="keep"):
        prune(tmp_path, keep=0)


def test_prune_drops_what_a_resumed_run_has_passed_over(tmp_path: Path) -> None:
    """A damaged checkpoint of a later step must not push out the good ones."""
    for step in (1, 2, 3, 9):
        save(step_file(tmp_path, step), {})
    step_file(tmp_path, 9).write_bytes(b"")
    prune(tmp_path, keep=2, newest=3)
    assert names(tmp_path) == ["step-000002.safetensors", "step-000003.safetensors"]


def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path) -> None:
    step_file(tmp_path, 1).mkdir()
    save(step_file(tmp_path, 2), {})
    with pytest.raises(RunError, match=r"step-000001\.safetensors: cannot be removed"):
        prune(tmp_path, keep=1)
    assert latest(tmp_path).path == step_file(tmp_path, 2)
