"""Reading checkpoints: each kind of file and wrapping, and each way in which a file can be wrong."""

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from segshift.errors import ConfigError
from segshift.models.importer import Imported, check, load, map_caffe_deeplab, read_checkpoint
from segshift.models.small import SmallNet

PLAIN = {"conv1.weight": torch.arange(6.0).view(1, 2, 3), "bn1.num_batches_tracked": torch.tensor(3)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        OrderedDict(PLAIN),
        {"state_dict": PLAIN, "epoch": 3, "arch": "resnet"},
        {"model": {"state_dict": PLAIN}, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}},
        {f"module.{name}": tensor for name, tensor in PLAIN.items()},
        {f"module.model.{name}": tensor for name, tensor in PLAIN.items()},
        {"state_dict": {f"Scale.{name}": tensor for name, tensor in PLAIN.items()}},
        {"n_averaged": 7, **{f"module.{name}": tensor for name, tensor in PLAIN.items()}},
        {name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in PLAIN.items()},
    ],
)
def test_wrappings_are_taken_off(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert same(read_checkpoint(tmp_path / "w.pth"), PLAIN)


def test_nested_parts_become_dotted_names(tmp_path: Path) -> None:
    torch.save({"state_dict": {"body": PLAIN, "cls": {"weight": torch.ones(1)}}}, tmp_path / "w.pth.tar")
    assert list(read_checkpoint(tmp_path / "w.pth.tar")) == [
        "body.conv1.weight",
        "body.bn1.num_batches_tracked",
        "cls.weight",
    ]


def test_a_layer_is_no_wrapper(tmp_path: Path) -> None:
    layer = {"features.0.weight": torch.ones(1), "features.0.bias": torch.ones(1)}
    torch.save(layer, tmp_path / "w.pth")
    assert list(read_checkpoint(tmp_path / "w.pth")) == list(layer)


@pytest.mark.parametrize("legacy", [False, True])
def test_safetensors_and_both_kinds_of_torch_files(tmp_path: Path, legacy: bool) -> None:
    save_file(PLAIN, tmp_path / "w.safetensors")
    assert same(read_checkpoint(tmp_path / "w.safetensors"), PLAIN)
    torch.save(PLAIN, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    assert same(read_checkpoint(str(tmp_path / "w.pt")), PLAIN)


def test_a_torch_file_of_any_name_is_read(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "weights")
    assert same(read_checkpoint(tmp_path / "weights"), PLAIN)


class Evil:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Evil, "ran", True)


def test_no_code_is_unpickled(tmp_path: Path) -> None:
    torch.save({"state_dict": PLAIN, "best": Evil()}, tmp_path / "w.pth")
    with pytest.raises(
        ConfigError, match=r"w\.pth holds more than tensors: \S*setattr would have.*state_dict\(\) alone"
    ):
        read_checkpoint(tmp_path / "w.pth")
    assert not Evil.ran


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("w.pth", lambda path: torch.save(PLAIN, path) or cut(path), r"w\.pth cannot be read as a PyTorch.*whole"),
        ("w.pth", lambda path: path.write_bytes(b""), r"w\.pth cannot be read as a PyTorch"),
        ("w.pth", lambda path: path.write_text("no such page"), r"w\.pth cannot be read as a PyTorch"),
        ("w.safetensors", lambda path: save_file(PLAIN, path) or cut(path), r"w\.safetensors cannot be read as safe"),
        ("w.dat", lambda path: path.write_text("no such page"), r"w\.dat cannot be read as safetensors.*named \.pth"),
        ("w.params", lambda path: path.write_bytes(mxnet_file(PLAIN)[:-40]), r"w\.params cannot be read as an MXNet"),
        ("w.pth", lambda path: torch.save({"epoch": 3}, path), r"w\.pth holds no tensors"),
        ("w.pth", lambda path: torch.save([torch.ones(1)], path), r"w\.pth holds no tensors"),
        ("w.pth", lambda path: path.mkdir(), r"w\.pth', which is no file"),
    ],
)
def test_wrong_files_are_errors(tmp_path: Path, name: str, make: Any, message: str) -> None:
    make(tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        read_checkpoint(tmp_path / name)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


# --- MXNet -----------------------------------------------------------------------------------------------------

KINDS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def mxnet_file(tensors: dict[str, Tensor], version: int = 2) -> bytes:
    """The format as MXNet's ndarray.cc documents it: version 0 of 2016, 1 with 64-bit shapes, 2 with storage types."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(tensors))]
    for tensor in tensors.values():
        array: np.ndarray = tensor.numpy()
        if version == 2:
            parts.append(struct.pack("<Ii", 0xF993FAC9, 0))
        elif version == 1:
            parts.append(struct.pack("<I", 0xF993FAC8))
        parts.append(struct.pack(f"<I{array.ndim}{'q' if version else 'I'}", array.ndim, *array.shape))
        parts.append(struct.pack("<iii", 1, 0, KINDS[array.dtype.name]) + array.tobytes())
    parts.append(struct.pack("<Q", len(tensors)))
    for name in tensors:
        parts.append(struct.pack("<Q", len(name)) + name.encode())
    return b"".join(parts)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_mxnet_files_are_read(tmp_path: Path, version: int) -> None:
    tensors = {
        "arg:conv1a_weight": torch.randn(4, 3, 3, 3),
        "aux:bn7_moving_var": torch.rand(5).half(),
        "arg:count": torch.arange(3, dtype=torch.int64),
    }
    (tmp_path / "w.params").write_bytes(mxnet_file(tensors, version))
    assert same(read_checkpoint(tmp_path / "w.params"), tensors)


def test_sparse_mxnet_arrays_are_refused(tmp_path: Path) -> None:
    content = mxnet_file({"a": torch.ones(2)})
    at = 24 + 4
    (tmp_path / "w.params").write_bytes(content[:at] + struct.pack("<i", 1) + content[at + 4 :])
    with pytest.raises(ConfigError, match="sparse"):
        read_checkpoint(tmp_path / "w.params")


# --- loading ---------------------------------------------------------------------------------------------------


def test_half_precision_is_loaded_as_single_and_the_count_of_batches_may_be_missing() -> None:
    origin, network = SmallNet(width=4).build(3), SmallNet(width=4).build(3)
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in origin.state_dict().items()
        if name.startswith("encoder.") and not name.endswith("num_batches_tracked")
    }
    load(network, Imported(tensors), "w.pth")
    loaded = network.state_dict()
    assert all(loaded[name].dtype == torch.float32 for name in tensors)
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in tensors.items())


def test_long_lists_of_names_are_cut() -> None:
    wanted = {f"layer{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(ConfigError, match="missing: layer0, layer1, layer2, layer3 and 5 more"):
        check(wanted, {}, "w.pth", "Net")


def test_names_of_no_resnet_are_not_mapped() -> None:
    assert map_caffe_deeplab({"stem.weight": torch.ones(1)}, 4, False) is None
