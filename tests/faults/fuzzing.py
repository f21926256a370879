"""What all fuzzing here shares: how a file or a tree of values is changed, how often, and how long one may take.

`make test` draws a fixed few hundred; a campaign draws new ones, as many times more as SEGSHIFT_FUZZ says:

    SEGSHIFT_FUZZ=100 python -m pytest -p no:xdist --hypothesis-profile=explore tests/faults/test_fuzz*.py
"""

from __future__ import annotations

import copy
import os
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tests.faults.bad_inputs import within

from segshift.errors import SegshiftError

COUNTS: Counter[str] = Counter()
"""Executions by what was fuzzed; printed at the end."""
SECONDS = 10.0
"""What one execution may take, on a machine that is busy besides."""


def budget(fast: int) -> Callable[[Any], Any]:
    """Settings of a fuzz test: `fast` examples, times SEGSHIFT_FUZZ."""
    examples = fast * int(os.environ.get("SEGSHIFT_FUZZ", "1"))
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(max_examples=examples, deadline=None, suppress_health_check=slow)


@contextmanager
def only_own_errors(what: str) -> Generator[None]:
    """Counts an execution; lets errors of Segshift pass and nothing else; TimeoutError where it takes too long."""
    COUNTS[what] += 1
    with warnings.catch_warnings(), within(SECONDS):
        # As a user's run has it: a warning is no crash.
        warnings.simplefilter("ignore")
        try:
            yield
        except SegshiftError as error:
            assert str(error).strip()


# --- bytes -------------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0), st.integers(0, 255)),
        st.tuples(st.just("flip"), st.integers(0), st.integers(0, 7)),
        st.tuples(st.just("big"), st.integers(0), st.sampled_from(NUMBERS)),
        st.tuples(st.just("little"), st.integers(0), st.sampled_from(NUMBERS)),
        st.tuples(st.just("insert"), st.integers(0), st.integers(1, 64)),
        st.tuples(st.just("delete"), st.integers(0), st.integers(1, 64)),
        st.tuples(st.just("repeat"), st.integers(0), st.integers(1, 64)),
        st.tuples(st.just("cut"), st.integers(0), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)
"""(what, where, how): places wrap around, so that they fit a file of any length."""


def changed(content: bytes, changes: list[tuple[str, int, int]], first: int | None = None) -> bytes:
    """The content after the changes; with `first`, all of them within so many bytes of its start, where headers are."""
    data = bytearray(content)
    for what, place, how in changes:
        at = place % max(min(len(data), first or len(data)), 1)
        if what == "cut":
            del data[at:]
        elif what == "delete":
            del data[at : at + how]
        elif what == "insert":
            data[at:at] = bytes(how)
        elif what == "repeat":
            data[at:at] = data[at : at + how]
        elif at < len(data):
            number = {"big": struct.pack(">I", how), "little": struct.pack("<I", how)}.get(what)
            byte = how if what == "set" else data[at] ^ (1 << how % 8)
            data[at : at + 4 if number else at + 1] = number or bytes([byte])
    return bytes(data)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks' checksums are right again, so that what was changed is looked at."""
    out, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if at + 12 + length > len(content):
            break
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + content[at:])


# --- trees of values ---------------------------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((-1, 255, 256, 2**31, 2**63, 10**30, 10**400)),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(("", "\0", "\x1b[31m", "\ud800", "nan", "/etc/passwd", "../..", "x" * 300)),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
"""Any JSON value, those that JSON writes and Python alone reads included."""
EDITS = st.lists(st.tuples(st.lists(st.integers(0), max_size=8), st.sampled_from(("put", "drop", "add")), VALUES))
"""(where, what, the value): at each step down, one of the children that there are."""


def edited(tree: Any, edits: Sequence[tuple[list[int], str, Any]]) -> Any:
    """A copy of a tree of dicts and lists after the edits."""
    root = [copy.deepcopy(tree)]
    for path, what, value in edits:
        holder: Any = root
        key: Any = 0
        for step in path:
            inner = holder[key]
            keys = (
                list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
            )
            if not keys:
                break
            holder, key = inner, keys[step % len(keys)]
        if what == "drop" and holder is not root:
            del holder[key]
        elif what == "add" and isinstance(holder, dict):
            holder[str(value)[:8]] = value
        elif what == "add" and holder is not root:
            holder.append(value)
        else:
            holder[key] = value
    return root[0]
