"""The module that a function of the user's own file returns: `FILE.py:FUNCTION`."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path
from typing import Any

from torch import nn

from segshift.errors import ConfigError

WAYS = "hf:FOLDER or hf:NAME, smp:ARCHITECTURE/ENCODER, timm:BACKBONE, or FILE.py:FUNCTION"
"""To name a model."""


def module_of(spec: str) -> nn.Module:
    """What the function of FILE.py:FUNCTION returns. Only what the user names on the command line is ever run."""
    name, _, function = spec.rpartition(":")
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"model = {path}:{function}: {path} is no Python file; expected {WAYS}")
    make = runpy.run_path(str(path)).get(function)
    if not callable(make) or _needs_arguments(make):
        raise ConfigError(
            f"model = {path}:{function}: expected a function without arguments in {path} that returns the module, with "
            "its weights in it"
        )
    module = make()
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model = {path}:{function}: returned a {type(module).__name__}; expected a torch.nn.Module from images to "
            "class scores"
        )
    return module


def _needs_arguments(function: Any) -> bool:
    needed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return any(p.kind in needed and p.default is inspect.Parameter.empty for p in parameters)
