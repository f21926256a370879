"""Whether a value out of a JSON file has the shape that its reader counts on, told by a type hint."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from segshift.errors import RunError

_WORDS = {str: "a text", int: "a whole number", float: "a number", NoneType: "null", list: "a list", dict: "an object"}


def require(value: Any, hint: Any, where: str, cure: str) -> None:
    """Raise RunError, naming `where` and the part at fault, unless `value` fits `hint`; `cure` ends the sentence.

    `hint`: Any, str, int, float (a whole number fits), None, list[…], dict[str, …], unions of these, and TypedDicts:
    objects that have at least the required keys.
    """
    found = misfit(value, hint)
    if found:
        raise RunError(f"{where}: {found.strip()}; {cure}")


def misfit(value: Any, hint: Any, at: str = "") -> str:
    """What does not fit: `data.source.images is "x", expected a whole number`. Empty where all does."""
    kind, inner = get_origin(hint) or (NoneType if hint is None else hint), get_args(hint)
    if kind is Any:
        return ""
    if kind in (Union, UnionType):
        return _of_union(value, inner, at)
    if is_typeddict(kind):
        return _of_fields(value, kind, at)
    if not _is(value, kind):
        return f"{at} is {value!r:.80}, expected {_words(hint)}"
    parts: Iterable[tuple[str, Any]] = ()
    if kind is list:
        parts = ((f"{at}[{i}]", each) for i, each in enumerate(value))
    elif kind is dict:
        parts = ((_below(at, key), each) for key, each in value.items())
    return _first(misfit(each, inner[-1], there) for there, each in parts)


def _of_union(value: Any, hints: tuple[Any, ...], at: str) -> str:
    found = [misfit(value, hint, at) for hint in hints]
    if "" in found:
        return ""
    # A fault inside the value says more than that it is of none of the kinds.
    inside = [text for text in found if not text.startswith(f"{at} is ")]
    return inside[0] if inside else f"{at} is {value!r:.80}, expected {' or '.join(_words(hint) for hint in hints)}"


def _of_fields(value: Any, kind: Any, at: str) -> str:
    if not isinstance(value, dict):
        return f"{at} is {value!r:.80}, expected an object"
    missing = sorted(kind.__required_keys__ - value.keys())
    if missing:
        return f"{at} has no {', '.join(missing)}"
    hints = get_type_hints(kind)
    return _first(misfit(value[key], hint, _below(at, key)) for key, hint in hints.items() if key in value)


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):  # which Python counts among the whole numbers
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _below(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _first(found: Iterable[str]) -> str:
    return next((text for text in found if text), "")


def _words(hint: Any) -> str:
    return _WORDS.get(get_origin(hint) or hint, "an object")
