"""JSON values into dataclasses: each exactly of the type that its field says, and what is wrong in words.

cattrs alone takes "no" for True, 1.5 for 1 and None for "None": a file changed by hand would run as something else.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, get_origin

import cattrs
from cattrs.v import format_exception

from segshift.errors import ConfigError, SegshiftError
from segshift.taxonomy import shown

_LARGEST = 2**63 - 1
_LONGEST = 600
"""Characters of an error's reasons."""
_EXPECTED = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def take_exactly(converter: cattrs.Converter) -> None:
    """Let a converter take true and false, whole numbers, finite numbers and texts for nothing else."""
    for kind in _EXPECTED:
        converter.register_structure_hook(kind, _plain)


def _plain(value: Any, kind: type) -> Any:
    """The value, where it is of this kind; a whole number serves as a float. ConfigError else."""
    if kind is float and type(value) is int and abs(value) <= _LARGEST:
        return float(value)
    large = type(value) is int and abs(value) > _LARGEST
    if type(value) is not kind or large or (type(value) is float and not math.isfinite(value)):
        limit = f" of at most {_LARGEST}" if large else ""
        raise ConfigError(f"{shown(value)}; expected {_EXPECTED[kind]}{limit}")
    return value


def reasons(error: Exception) -> str:
    """What a converter stumbled over, field by field: `1.5; expected a whole number @ $.warmup.rounds`."""
    if isinstance(error, cattrs.BaseValidationError):
        return f"{'; '.join(cattrs.transform_error(error, format_exception=_worded)):.{_LONGEST}}"
    return f"{error!s:.{_LONGEST}}"


def _worded(error: BaseException, kind: Any) -> str:
    """One reason; `kind` is the type of the field, where that is known."""
    if isinstance(error, (SegshiftError, AttributeError)):
        return str(error) if isinstance(error, SegshiftError) else "expected an object with named fields"
    if get_origin(kind) is Literal:
        return f"expected one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(error, ValueError) and kind is None:
        return f"invalid value ({error})"
    if get_args(kind) and isinstance(error, (TypeError, ValueError)):
        parts = ("list",) if get_origin(kind) is tuple else (getattr(part, "__name__", "") for part in get_args(kind))
        return f"expected {' or '.join(parts)}"
    return format_exception(error, kind)
