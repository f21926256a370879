"""Damaged checkpoints and files of weights: what was saved, or an error; never a call, never a wait."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from tests.faults.fuzzing import CHANGES, VALUES, budget, changed, only_own_errors

from segshift import checkpoint
from segshift.models.importer import read_checkpoint
from segshift.models.mxnet_file import is_mxnet
from segshift.sealed import seal_tensors

TENSORS = {"module.a.weight": torch.arange(6.0).reshape(2, 3), "module.a.count": torch.tensor(3), "b": torch.ones(2)}
STATE = {"position": {"t": 3}, "players": {"model": TENSORS}, "list": [1, (2.5, None)], "rng": torch.zeros(4).byte()}
# One array called "a": shape (2), float32.
MXNET = bytes.fromhex(
    "1201000000000000 0000000000000000 0100000000000000 c9fa93f9 00000000 01000000 0200000000000000 01000000 00000000"
    "00000000 0000803f 00000040 0100000000000000 0100000000000000 61"
)


def of_torch(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


class Call:
    """Unpickled, it would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("MARK",)


FILES = {
    "safetensors": [to_safetensors(TENSORS), to_safetensors({"a": torch.zeros(0)}, {"format": "pt"})],
    "pth": [
        of_torch({"state_dict": TENSORS, "epoch": 3}),
        of_torch(TENSORS, _use_new_zipfile_serialization=False),
        of_torch({"call": Call(), **TENSORS}),
        of_torch({"call": Call()}, _use_new_zipfile_serialization=False),
    ],
    "params": [MXNET],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def look(path: Path) -> None:
    with only_own_errors(f"weights: read_checkpoint, {path.suffix or 'no suffix'}"):
        for name, tensor in read_checkpoint(path).items():
            assert isinstance(name, str)
            assert tensor.device.type == "cpu"
            assert bool(tensor.double().isfinite().all())
    assert not Path("MARK").exists()
    assert not (path.parent / "MARK").exists()


@pytest.mark.parametrize("kind", FILES)
@budget(40)
@given(data=st.data())
def test_damaged_weights(kind: str, folder: Path, data: st.DataObject) -> None:
    content = changed(
        data.draw(st.sampled_from(FILES[kind])), data.draw(CHANGES), data.draw(st.sampled_from((None, 120)))
    )
    suffix = data.draw(st.sampled_from((f".{kind}", "")))
    path = folder / f"a{suffix}"
    path.write_bytes(content)
    look(path)


@budget(40)
@given(data=st.data())
def test_damaged_pickles(folder: Path, data: st.DataObject) -> None:
    """The pickle in a file of torch.save is changed and packed again, so that torch's checks of the archive pass."""
    whole, packed = io.BytesIO(data.draw(st.sampled_from(FILES["pth"][::2]))), io.BytesIO()
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, changed(content, data.draw(CHANGES)) if name.endswith(".pkl") else content)
    path = folder / "repacked.pth"
    path.write_bytes(packed.getvalue())
    look(path)


@budget(40)
@given(header=st.dictionaries(st.text(max_size=4), VALUES, max_size=3), body=st.binary(max_size=32))
def test_safetensors_of_any_header(folder: Path, header: Any, body: bytes) -> None:
    text = json.dumps(header).encode()
    path = folder / "any.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    look(path)


@pytest.fixture(scope="module")
def saved(folder: Path) -> bytes:
    checkpoint.save(folder / "state.safetensors", STATE)
    return (folder / "state.safetensors").read_bytes()


@budget(60)
@given(data=st.data())
def test_damaged_checkpoints(folder: Path, saved: bytes, data: st.DataObject) -> None:
    """Whatever happens to a checkpoint, it is read as it was written, or not at all."""
    content = changed(saved, data.draw(CHANGES), data.draw(st.sampled_from((None, 120))))
    path = folder / "damaged.safetensors"
    path.write_bytes(content)
    with only_own_errors("weights: checkpoint.load"):
        checkpoint.load(path)
        assert content == saved


@budget(60)
@given(VALUES)
def test_sealed_checkpoints_of_any_values(folder: Path, value: Any) -> None:
    """The seal is right, as who makes a file can seal it: what is in it is no state all the same."""
    path = folder / "sealed.safetensors"
    path.write_bytes(seal_tensors({"t0": torch.zeros(2)}, json.dumps(value)))
    with only_own_errors("weights: checkpoint.load, sealed"):
        checkpoint.load(path)


@budget(20)
@given(st.binary(max_size=200))
def test_any_bytes(folder: Path, content: bytes) -> None:
    path = folder / "bytes"
    path.write_bytes(content)
    look(path)
    with only_own_errors("weights: checkpoint.load"):
        checkpoint.load(path)


def test_the_files_that_are_damaged_are_whole_at_first(folder: Path, saved: bytes) -> None:
    """Else the tests above would look at errors alone."""
    for kind, name in (("safetensors", "a.weight"), ("pth", "a.weight"), ("params", "a")):
        path = folder / f"whole.{kind}"
        path.write_bytes(FILES[kind][0])
        assert name in read_checkpoint(path)
    assert is_mxnet(MXNET[:8])
    (folder / "whole.safetensors").write_bytes(saved)
    assert checkpoint.load(folder / "whole.safetensors")["list"] == [1, (2.5, None)]
