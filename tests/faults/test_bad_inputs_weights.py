"""Files of weights that are damaged, hostile or of something else, through --warmup, --weights and predict."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save
from tests.faults.bad_files import HTML, LFS, cut
from tests.faults.bad_inputs import LIMIT, assert_refused, begins, fresh, run, within
from torch import Tensor

from segshift.errors import ConfigError, RunError
from segshift.models.importer import read_checkpoint
from segshift.models.network import load_weights
from segshift.models.small import SmallNet

Make = Callable[[dict[str, Tensor]], bytes]
"""From the weights of a whole model to a file that is no such thing."""


class Call:
    """What a hostile pickle does: unpickled, it would write a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("MARK",)


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def header(content: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of any header."""
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(kind: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}}


def with_nan(weights: dict[str, Tensor]) -> bytes:
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed["classifier.weight"][0] = torch.nan
    return save(changed)


def twice(weights: dict[str, Tensor]) -> bytes:
    return save(weights | {f"module.{name}": tensor.clone() for name, tensor in weights.items()})


def in_itself(weights: dict[str, Tensor]) -> bytes:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    return saved(content | dict.fromkeys(weights, 1.0))


def compressed() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**22))
    return file.getvalue()


def quantized() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return saved({"a": torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)})


def mxnet(shape: tuple[int, ...], kind: int = 0, values: bytes = b"", names: tuple[bytes, ...] = (b"a",)) -> bytes:
    lengths = b"".join(struct.pack("<q", side) for side in shape)
    array = struct.pack("<IiI", 0xF993FAC9, 0, len(shape)) + lengths + struct.pack("<iii", 1, 0, kind) + values
    named = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<Q", len(names)) + named


SAFE, TORCH, MXNET = (
    f"weights {{file}} cannot be read as {kind} (" for kind in ("safetensors", "a PyTorch checkpoint", "an MXNet file")
)
HEADER = f"{SAFE}Error while deserializing header: "
NONE = "weights {file} holds no tensors; expected a model's state_dict"
CALL = "weights {file} holds more than tensors: posix.mkdir would have to be unpickled, which could run any code"
ANOTHER = "{file}: holds another network than the recipe's"
CUT = f"{TORCH}it is none, or cut short); is it whole?"


class File(NamedTuple):
    """A file of weights, and what is said to it."""

    name: str
    content: bytes | Make
    said: str

    def write(self, folder: Path, weights: dict[str, Tensor], suffix: str) -> Path:
        path = folder / f"a{suffix}"
        path.write_bytes(self.content if isinstance(self.content, bytes) else self.content(weights))
        return path


def tensor(name: str, found: str) -> str:
    return f"weights {{file}}: tensor {name} is {found}; expected plain finite numbers"


SAFETENSORS = (
    File("no bytes", b"", f"{HEADER}header too small"),
    File("cut short", lambda w: save(w)[:-4], f"{HEADER}incomplete metadata, file not fully covered"),
    File("a header of 10^12 bytes", header({}, length=10**12), f"{HEADER}header too large"),
    File("a header that is no JSON", header({}).replace(b"{", b"["), f"{HEADER}invalid JSON in header"),
    File("a shape of -1", header(entry("F32", [-1], 4), bytes(4)), f"{HEADER}invalid JSON in header: … integer `-1`"),
    File("more than there is", header(entry("F32", [10**12], 4 * 10**12), bytes(4)), f"{HEADER}incomplete metadata"),
    File("no such type", header(entry("X1", [1], 4), bytes(4)), f"{HEADER}invalid JSON in header: unknown variant"),
    File("no tensors", header({}), NONE),
    File("8-bit floats", header(entry("F8_E4M3", [4], 4), bytes(4)), tensor("a", "float8_e4m3fn, strided, cpu")),
    File("complex numbers", header(entry("C64", [1], 8), bytes(8)), tensor("a", "complex64, strided, cpu")),
    File("NaN", with_nan, tensor("classifier.weight", "not finite in 8 of 40 places (NaN, infinity)")),
    File("two of one name", twice, "weights {file} holds two tensors of one name: … expected each once"),
    File("wrong shapes", lambda w: save({n: t.flatten()[:1].clone() for n, t in w.items()}), ANOTHER),
    File("fewer tensors", lambda w: save(dict(list(w.items())[3:])), ANOTHER),
    File("more tensors", lambda w: save(w | {"extra": torch.zeros(2)}), ANOTHER),
    File("a pickle under that name", pickle.dumps(Call()), f"{SAFE}Error"),
    File("a web page", HTML, f"{SAFE}Error"),
)
PICKLED = (
    File("a call", lambda w: saved(w | {"call": Call()}), CALL),
    File("a call, as of old", lambda w: saved(w | {"call": Call()}, _use_new_zipfile_serialization=False), CALL),
    File("a bare pickle", pickle.dumps(Call()), CUT),
    File("a module", saved(torch.nn.Linear(2, 2)), "weights {file} holds more than tensors: torch.nn.modules.linear"),
    File("no bytes", b"", CUT),
    File("half of it", lambda w: cut(saved(w), 0.5), CUT),
    File("all but its end", lambda w: saved(w)[:-30], CUT),
    File("text", b"hello world", CUT),
    File("a pointer of Git LFS", LFS, CUT),
    File("a compressed archive", compressed(), "weights {file} is a compressed archive; expected a file of torch.save"),
    File("a list", saved([1, 2]), NONE),
    File("numbers", saved({"a": 1}), NONE),
    File("a dict in itself", in_itself, NONE),
    File("sparse", saved({"a": torch.eye(3).to_sparse()}), tensor("a", "float32, sparse_coo, cpu")),
    File("quantized", quantized(), tensor("a", "qint8, strided, cpu")),
    File("without values", saved({"a": torch.zeros(3, device="meta")}), tensor("a", "float32, strided, meta")),
    File(
        "one number, 10^10 times",
        saved({"a": torch.zeros(1).expand(10**10)}),
        tensor("a", "of shape (10000000000,), which is more than the file holds"),
    ),
)
OF_MXNET = (
    File("cut short", mxnet((2,), 0, bytes(8))[:-3], MXNET),
    File("a negative length", mxnet((-7,)), f"{MXNET}it has an array of shape (-7,))"),
    File("no such type", mxnet((1,), -1, bytes(8)), f"{MXNET}it has an array of type -1)"),
    File("too large", mxnet((2**62, 2**62)), f"{MXNET}it ends after"),
    File("no names", mxnet((2,), 0, bytes(8), ()), MXNET),
)
KINDS = {".safetensors": SAFETENSORS, ".pth": PICKLED, ".params": OF_MXNET, ".tar": PICKLED[:1], "": PICKLED[:1]}
ROWS = [(suffix, file) for suffix, files in KINDS.items() for file in files]


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in SmallNet(width=4, dilations=(1,)).build(5).state_dict().items()}


@pytest.mark.parametrize(("suffix", "file"), ROWS, ids=[f"{file.name}{suffix}" for suffix, file in ROWS])
def test_refused(
    suffix: str, file: File, weights: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = file.write(tmp_path, weights, suffix)
    with within(LIMIT), pytest.raises(RunError) as caught:
        load_weights(SmallNet(width=4, dilations=(1,)).build(5), path)
    assert begins(str(caught.value), file.said.replace("{file}", str(path))), str(caught.value)
    assert not (tmp_path / "MARK").exists()
    # torch would have the user let the file run code.
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.usefixtures("tiny_recipes")
@pytest.mark.parametrize(
    ("suffix", "file"), [(".pth", PICKLED[0]), *((".safetensors", f) for f in SAFETENSORS[9:14:2])]
)
def test_the_command_says_the_same(
    suffix: str, file: File, weights: dict[str, Tensor], pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = fresh(pair, tmp_path)
    path = file.write(tmp_path, weights, suffix)
    words = ("--source", place.day, "--target", place.dusk, "--warmup", path, "--out", tmp_path / "run")
    assert_refused(run("adapt", "own/cbst", *words), file.said.replace("{file}", str(path)))
    assert not (tmp_path / "MARK").exists()


FILES = (
    ("not there", "none.pth", "there is no such file or folder; expected a run, the model folder of one"),
    ("a folder without a model", "day", "holds no model/model.json; expected a finished run, or the model folder"),
)


@pytest.mark.usefixtures("tiny_recipes")
@pytest.mark.parametrize(("name", "expected"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_what_is_no_file(name: str, expected: str, pair: Path, tmp_path: Path) -> None:
    place = fresh(pair, tmp_path)
    words = ("--source", place.day, "--target", place.dusk, "--warmup", tmp_path / name, "--out", tmp_path / "run")
    assert_refused(run("adapt", "own/cbst", *words), f"…{tmp_path / name}: {expected}")


def of_type(weights: dict[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    return {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


FINE: tuple[tuple[str, str, Make], ...] = (
    ("half precision", ".safetensors", lambda w: save(of_type(w, torch.float16))),
    ("double precision", ".pth", lambda w: saved(of_type(w, torch.float64))),
    ("wrapped twice", ".tar", lambda w: saved({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in w.items()}})),
    ("as of old", ".pth", lambda w: saved(w, _use_new_zipfile_serialization=False)),
    ("beside an optimiser", ".bin", lambda w: saved({"model": w, "optimizer": {"a": torch.zeros(1)}})),
)


@pytest.mark.parametrize(("suffix", "make"), [row[1:] for row in FINE], ids=[row[0] for row in FINE])
def test_odd_but_fine(suffix: str, make: Make, weights: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(make(weights))
    network = SmallNet(width=4, dilations=(1,)).build(5)
    load_weights(network, file)
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, weights[key], rtol=1e-3, atol=1e-3)


def test_a_backbone_is_not_read_from_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(ConfigError, match=r"which is no file; expected 'none', 'pretrained' or a checkpoint"):
            read_checkpoint(path)
    with pytest.raises(ConfigError, match=r"cannot be read \(File name too long\)"):
        read_checkpoint(tmp_path / ("x" * 300))


def test_a_saved_model_that_was_changed(source_only: Path, pair: Path, tmp_path: Path) -> None:
    """Through predict: the weights beside model.json are those it speaks of, or nothing is predicted."""
    model = Path(shutil.copytree(source_only / "model", tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    tensors["classifier.bias"] += 1
    (model / "model.safetensors").write_bytes(save(tensors))
    said = run("predict", model, pair / "day" / "test", "--out", tmp_path / "out")
    assert_refused(said, f"{model / 'model.safetensors'}: is damaged, or belongs to another model")
    assert not (tmp_path / "out").exists()
    (model / "model.json").unlink()
    network = SmallNet(width=4, dilations=(1,)).build(5)
    load_weights(network, model / "model.safetensors")  # a file alone is taken as it is
    assert torch.equal(network.state_dict()["classifier.bias"], tensors["classifier.bias"])
