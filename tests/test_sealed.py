"""What was sealed is told from what was not, and from what has changed since."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from tests.fakes.damage import HITS, damaged

from segshift.sealed import BrokenSealError, NotSealedError, open_json, seal_json, seal_tensors, text_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=6).filter(lambda key: key != "sha256"), VALUES, max_size=4)


@settings(max_examples=50)
@given(content=OBJECTS, indent=st.integers(0, 3))
def test_json_comes_back_in_its_order(content: dict[str, Any], indent: int) -> None:
    found = open_json(seal_json(content, indent).decode(), "mark")
    assert (found, list(found)) == (content, list(content))
    # How it is laid out says nothing.
    assert open_json(json.dumps(json.loads(seal_json(content)), separators=(",", ":")), "mark") == content


@settings(max_examples=50)
@given(content=OBJECTS, hits=HITS)
def test_damaged_json_is_refused_or_says_the_same(content: dict[str, Any], hits: list[tuple[int, int]]) -> None:
    content["mark"] = 1
    for other in damaged(seal_json(content), hits):
        try:
            found = open_json(other.decode(), "mark")
        except ValueError:
            continue
        # A hit on one of the two keys that say that there is a seal leaves all else as it was.
        assert {key: found.get(key) for key in content} == content


def test_json_without_a_seal_passes_where_it_has_no_mark() -> None:
    assert open_json('{"a": 1}', "mark") == {"a": 1}
    for text in ('{"a": 1, "mark": 2}', '{"a": 1, "sha256": "0"}', '{"a": 1, "sha256": null, "mark": 0}'):
        with pytest.raises(BrokenSealError, match="its SHA-256 is not the one written in it"):
            open_json(text, "mark")
    for text in ("3", "[]", '"mark"', "null"):
        with pytest.raises(ValueError, match="expected a JSON object"):
            open_json(text, "mark")


@settings(max_examples=50)
@given(text=st.text(max_size=20) | st.just("0" * 70), hits=HITS)
def test_tensors_are_whole_or_refused(text: str, hits: list[tuple[int, int]]) -> None:
    content = seal_tensors({"t": torch.arange(3)}, text)
    assert text_of(content) == text
    assert load(content)["t"].tolist() == [0, 1, 2]
    for other in damaged(content, hits):
        with pytest.raises((NotSealedError, BrokenSealError)):
            text_of(other)


def test_other_files_have_no_seal() -> None:
    plain = {"t": torch.zeros(1)}
    others = [b"", b"\xff" * 20, save(plain), save(plain, {"segshift": "short"}), save(plain, {"other": "0" * 64})]
    listed = json.dumps({"__metadata__": {"segshift": ["0" * 64] * 70}}).encode()
    for content in (*others, len(listed).to_bytes(8, "little") + listed):
        with pytest.raises(NotSealedError):
            text_of(content)
