"""Files that are whole or absent: atomic writes, and checkpoints that prove themselves before they are used.

A checkpoint is one safetensors file: tensors under generated names, and in its metadata the nesting they came
from as JSON and a SHA-256 over the whole file. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from segshift.errors import ConfigError, RunError

_CURES = {
    errno.ENOSPC: "the disk is full: free some space, then resume the run",
    errno.EDQUOT: "the disk quota is used up: free some space, then resume the run",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write there: choose another folder, or change its permissions",
    errno.EPERM: "no permission to write there: choose another folder, or change its permissions",
    errno.ENOTDIR: "a part of this path is a file: choose another folder",
    errno.EEXIST: "a part of this path is a file: choose another folder",
    errno.EISDIR: "a folder has this name: move it away, or choose another folder",
    errno.ENAMETOOLONG: "the file system takes no name as long as this: choose a shorter one",
}


def atomic_write(path: Path | str, content: bytes) -> None:
    """Write a file that is there with all of `content`, or is as it was before, even when the power fails.

    Folders on the way are made. Raises RunError, naming the path and the cure, where the disk refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "check that the disk is there and healthy")
        raise RunError(f"{path}: cannot be written ({error.strerror or error}); {cure}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename last: it is the folder's content that changed. Windows cannot open a folder, and need not."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- checkpoints -----------------------------------------------------------------------------------------------

_ENTRY = "segshift"
"""The one metadata entry: 64 hexadecimal digits of SHA-256, then the structure. (Two entries would be written in an
order that changes from run to run.)"""
_UNSIGNED = "0" * 64
_STEP = re.compile(r"step-(\d+)\.safetensors")


def save(path: Path | str, state: Any) -> None:
    """Write a nested state atomically as one safetensors file; `load` gives it back bit by bit.

    `state` is made of dicts (keys str or int), lists, tuples, tensors, numbers, strings, booleans and None, and is
    not changed. Tensors come back without gradient, on the CPU, in the memory format they had; one that stands in
    two places is stored once and comes back as one. Raises TypeError, naming the place, for anything else.
    """
    packer = _Packer()
    structure = json.dumps(packer.pack(state, "state"), separators=(",", ":"), allow_nan=False)
    content = tensors_to_bytes(packer.tensors, {_ENTRY: _UNSIGNED + structure})
    header, body = _split(content)
    digest = _digest(header, body)
    atomic_write(path, b"".join((header.replace(_UNSIGNED.encode(), digest.encode(), 1), body)))


def load(path: Path | str) -> Any:
    """The state that `save` wrote. Raises RunError where the file is missing, cut short, altered or something else."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error}); expected a checkpoint") from error
    try:
        header, body = _split(content)
        entry = json.loads(header[8:])["__metadata__"][_ENTRY]
        digest, structure = entry[:64], entry[64:]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path}: is no checkpoint, or a damaged one ({error!r:.80}); expected a file written by segshift. "
            "Delete it and resume: the checkpoint before it is used"
        ) from error
    if _digest(header.replace(digest.encode(), _UNSIGNED.encode(), 1), body) != digest:
        raise RunError(
            f"{path}: is damaged, its SHA-256 is not the one written in it. "
            "Delete it and resume: the checkpoint before it is used"
        )
    return _unpack(json.loads(structure), tensors_from_bytes(content))


def step_file(folder: Path | str, step: int) -> Path:
    """Where the checkpoint of a step belongs: `folder`/step-000123.safetensors."""
    return Path(folder) / f"step-{step:06d}.safetensors"


def latest(folder: Path | str) -> tuple[Path | None, str]:
    """(newest checkpoint that verifies, warning): None where there is none, "" where nothing had to be passed over."""
    damaged = []
    for path in reversed(_checkpoints(Path(folder))):
        try:
            load(path)
        except RunError as error:
            damaged.append(str(error))
        else:
            return path, "\n".join(damaged)
    return None, "\n".join(damaged)


def prune(folder: Path | str, keep: int = 2) -> None:
    """Delete all checkpoints but the `keep` newest, and what a killed write left half-done.

    Only the process that writes in `folder` may call this.
    """
    if keep < 1:
        raise ConfigError(f"keep is {keep}; expected at least 1 checkpoint")
    folder = Path(folder)
    for path in [*_checkpoints(folder)[:-keep], *folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest step first."""
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _STEP.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _split(content: bytes) -> tuple[bytes, memoryview]:
    """(length and header, tensor bytes) of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or end > len(content):
        raise ValueError(f"the file ends after {len(content)} bytes")
    return content[:end], memoryview(content)[end:]


def _digest(header: bytes, body: memoryview) -> str:
    """SHA-256 of the whole file, with zeros where the digest itself will stand."""
    digest = hashlib.sha256(header)
    digest.update(body)
    return digest.hexdigest()


class _Packer:
    """Turns a nested state into JSON; its tensors are set aside under t0, t1, ... in the order they are met."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._key_of: dict[tuple[Any, ...], str] = {}
        self._storages: set[int] = set()

    def pack(self, value: Any, where: str) -> Any:
        if value is None or isinstance(value, (bool, str)) or type(value) is int:
            return value
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, Mapping):
            return {"dict": [[self._name(k, where), self.pack(v, f"{where}[{k!r}]")] for k, v in value.items()]}
        if isinstance(value, list) or type(value) is tuple:
            items = [self.pack(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        raise TypeError(
            f"{where} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, None, "
            "and lists, tuples and dicts of them"
        )

    def _name(self, key: Any, where: str) -> str | int:
        if isinstance(key, str) or type(key) is int:
            return key
        raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}; expected str or int")

    def _tensor(self, tensor: Tensor) -> dict[str, str]:
        tensor = tensor.detach()
        storage = tensor.untyped_storage().data_ptr()
        same = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        # An empty tensor has no address of its own, so it cannot be told from another empty one.
        key = self._key_of.get(same) if tensor.numel() else None
        if key is None:
            key = self._key_of[same] = f"t{len(self.tensors)}"
            copy = tensor.cpu().contiguous()
            # safetensors takes no two tensors that overlap in memory: views of one storage are copied apart.
            self.tensors[key] = copy.clone() if copy.untyped_storage().data_ptr() in self._storages else copy
            self._storages.add(copy.untyped_storage().data_ptr())
        if not tensor.is_contiguous() and tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            return {"tensor": key, "layout": "channels_last"}
        return {"tensor": key}


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_Packer.pack` packed."""
    if isinstance(node, list):
        return [_unpack(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        if node.get("layout") == "channels_last":
            key = node["tensor"]
            tensors[key] = tensors[key].contiguous(memory_format=torch.channels_last)
        return tensors[node["tensor"]]
    if "tuple" in node:
        return tuple(_unpack(item, tensors) for item in node["tuple"])
    if "dict" in node:
        return {key: _unpack(item, tensors) for key, item in node["dict"]}
    return float(node["float"])
