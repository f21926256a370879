"""How a network is executed: its memory format and its compiler. What it computes, and its weights' names, stay."""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import torch
from torch import nn

from segshift.errors import ConfigError
from segshift.models.segmenter import Segmenter
from segshift.models.small import SAFE_WIDTH


def prepared(network: nn.Module, channels_last: bool, compiled: bool) -> nn.Module:
    """The network itself, made ready in place; to be called before it is wrapped for several processes.

    `channels_last`: weights of 2-d convolutions lie channels last, and features follow them, whatever the format of the
    images. Networks with narrow convolutions stay as they are on a CPU, where that format is not safe for them.
    `compiled`: torch.compile for what segmentation networks do in training steps; other players are a few layers, not
    worth its time. Each size and each setting of BatchNorm is compiled for itself, at its first forward: code for sizes
    in general would depend on which came first, and a resumed run would be another one. So predictions, whose sizes are
    many, are not compiled. Raises ConfigError where there is no compiler for it.
    """
    if channels_last and not _narrow_on_cpu(network):
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if compiled and isinstance(network, Segmenter):
        _require_compiler()
        torch.compiler.reset()  # what earlier phases and runs have compiled counts against a limit
        network.compiled = torch.compile(type(network).encode_decode, dynamic=False)
    return network


def _narrow_on_cpu(network: nn.Module) -> bool:
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and max(layer.kernel_size) > 1]
    narrow = any(layer.out_channels < SAFE_WIDTH for layer in convolutions)
    return narrow and next(network.parameters()).device.type == "cpu"


def _require_compiler() -> None:
    """ConfigError where torch.compile could not build what it writes: it would fail at the first step, with a page."""
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    if not any(name and shutil.which(name) for name in names):
        raise ConfigError(
            "compile = True: there is no C++ compiler on the PATH (looked for $CXX, g++, clang++, c++, cl), which "
            "torch.compile builds its kernels with; expected one, or compile = False"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise ConfigError(
            f"compile = True: {header} is not there, which torch.compile builds its kernels with; expected Python's "
            "development files, or compile = False"
        )
