"""The type checker of the tests: beartype on shape annotations, and on nothing else.

All other words (a path, a number, a list) are pyright's; a test must be able to pass a wrong one and read the error.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import UnionType
from typing import Any, Union, get_args, get_origin

from beartype import beartype
from jaxtyping import AbstractArray


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the result of a function that are annotated with a shape."""
    hints = {name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)}
    function.__annotations__ = hints
    return beartype(function) if hints else function


def _has_shape(hint: Any) -> bool:
    """A tensor, a tuple of some, or one that may be None. The tensors of a list may differ in shape."""
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    if get_origin(hint) not in (tuple, Union, UnionType):
        return False
    return any(_has_shape(argument) for argument in get_args(hint))
