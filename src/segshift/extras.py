"""Libraries that only some commands need: imported when they are used, and named with their extra where they lack."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from segshift.errors import ConfigError


def optional(module: str, extra: str, purpose: str) -> Any:
    """Import `module`. ConfigError where it is not installed: `purpose` says what needs it, `extra` brings it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs the library {module.partition('.')[0]}, which cannot be imported ({error}); install it: "
            f'pip install "segshift[{extra}]"'
        ) from error
