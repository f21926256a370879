"""Checkpoints that prove themselves before they are used.

A checkpoint is one safetensors file: tensors under generated names, and in its metadata the nesting they came
from as JSON and a SHA-256 over the whole file. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from torch import Tensor

from segshift.errors import ConfigError, RunError
from segshift.sealed import BrokenSealError, NotSealedError, seal_tensors, text_of
from segshift.whole_files import atomic_write, discard, sweep

_STEP = re.compile(r"step-(\d+)\.safetensors")


def save(path: Path | str, state: Any) -> None:
    """Write a nested state atomically as one safetensors file; `load` gives it back bit by bit.

    `state` is made of dicts (keys str or int), lists, tuples, tensors, numbers, strings, booleans and None, and is
    not changed. Tensors come back without gradient, on the CPU, in the memory format they had; one that stands in
    two places is stored once and comes back as one. Raises TypeError, naming the place, for anything else.
    """
    packer = _Packer()
    structure = json.dumps(packer.pack(state, "state"), separators=(",", ":"), allow_nan=False)
    atomic_write(path, seal_tensors(packer.tensors, structure))


def load(path: Path | str) -> Any:
    """The state that `save` wrote. Raises RunError where the file is missing, cut short, altered or something else."""
    path = Path(path)
    cure = "A resumed run passes it over, and goes on from the checkpoint before it"
    try:
        content = path.read_bytes()
        return _unpack(json.loads(text_of(content)), tensors_from_bytes(content))
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error}); expected a checkpoint") from error
    except BrokenSealError as error:
        raise RunError(f"{path}: is damaged, {error}. {cure}") from error
    except NotSealedError as error:
        raise RunError(
            f"{path}: is no checkpoint, or a damaged one ({error}); expected a file written by segshift. {cure}"
        ) from error
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise RunError(
            f"{path}: is whole, and holds no state that this version of segshift knows ({error!r:.80}); expected a "
            f"checkpoint of this version. {cure}"
        ) from error


def step_file(folder: Path | str, step: int) -> Path:
    """Where the checkpoint of a step belongs: `folder`/step-000123.safetensors."""
    return Path(folder) / f"step-{step:06d}.safetensors"


class Latest(NamedTuple):
    """The checkpoint to go on from."""

    path: Path | None = None
    """None: there is none."""
    state: Any = None
    """Its content."""
    warning: str = ""
    """Why newer ones were passed over, a line each; empty where none was."""


def latest(folder: Path | str, accept: Callable[[Any], None] | None = None) -> Latest:
    """The newest checkpoint that verifies, and whose state `accept` raises no RunError for. Each is read once."""
    passed_over: list[str] = []
    for _, path in reversed(_checkpoints(Path(folder))):
        try:
            return Latest(path, _accepted(path, accept), "\n".join(passed_over))
        except RunError as error:
            passed_over.append(str(error))
    return Latest(warning="\n".join(passed_over))


def _accepted(path: Path, accept: Callable[[Any], None] | None) -> Any:
    state = load(path)
    try:
        if accept is not None:
            accept(state)
    except RunError as error:
        raise RunError(f"{path}: {error}") from error
    return state


def prune(folder: Path | str, keep: int = 2, newest: int | None = None) -> None:
    """Delete all checkpoints but the `keep` newest, and what a killed write left half-done.

    `newest` is the step that has just been written: checkpoints of later steps are those that were passed over when
    the run was resumed, and go as well. Only the process that writes in `folder` may call this.
    """
    if keep < 1:
        raise ConfigError(f"keep is {keep}; expected at least 1 checkpoint")
    found = _checkpoints(Path(folder))
    kept = [path for step, path in found if newest is None or step <= newest][-keep:]
    for _, path in found:
        if path not in kept:
            discard(path)
    sweep(Path(folder))


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of each checkpoint, oldest first."""
    files = folder.glob("step-*")
    return sorted((int(match[1]), path) for path in files if (match := _STEP.fullmatch(path.name)))


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
