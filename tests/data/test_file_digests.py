"""Sums that tell whether files are those that were written, and which one is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.data.file_digests import FileDigests, names_below, require_written
from segshift.errors import RunError

FILES = st.dictionaries(st.text(min_size=1, max_size=5), st.binary(max_size=5), max_size=6)


def of(files: dict[str, bytes]) -> FileDigests:
    found = FileDigests()
    for name, content in files.items():
        found = found.with_file(name, content)
    return found


@settings(max_examples=60)
@given(files=FILES, data=st.data())
def test_neither_order_nor_processes_change_them(files: dict[str, bytes], data: st.DataObject) -> None:
    names = data.draw(st.permutations(list(files)))
    first = data.draw(st.integers(0, len(names)))
    shares = [of({name: files[name] for name in part}) for part in (names[:first], names[first:], [])]
    merged = torch.stack([torch.tensor(share.to_int64()) for share in shares]).sum(0)
    assert merged.dtype == torch.int64
    whole = of(files)
    assert FileDigests.from_int64(merged.tolist()) == whole
    assert FileDigests.from_json(whole.to_json()) == whole


@settings(max_examples=60)
@given(files=FILES.filter(bool), data=st.data())
def test_one_changed_file_is_found_by_its_name(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    content = data.draw(st.binary(max_size=6).filter(lambda content: content != files[name]))
    assert of(files).changed_into(of(files | {name: content}), files) == name


def test_what_is_not_one_changed_file_has_no_name() -> None:
    files = {"a": b"1", "b": b"2", "c": b"3"}
    whole = of(files)
    assert whole.changed_into(of({"a": b"2", "b": b"1", "c": b"3"}), files) is None
    assert whole.changed_into(of({"a": b"1", "b": b"2"}), files) is None
    assert whole.changed_into(of({"a": b"1", "b": b"2", "d": b"3"}), files) is None
    # Content and name do not run into each other.
    assert of({"ab": b"c"}) != of({"a": b"bc"})


def test_names_and_contents_of_any_bytes_have_a_digest() -> None:
    assert of({"\udcff": b"\0"}) != of({"\udcfe": b"\0"})
    assert set(of({"a": b""}).to_json()["digest"]) <= set("0123456789abcdef")


def test_names_below_are_those_of_the_images(tmp_path: Path) -> None:
    for name in ("a.png", "town/b.png", "town/b.png.png", "notes.txt", "town/.c.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert names_below(tmp_path, ".png") == ["a", "town/b", "town/b.png"]
    assert names_below(tmp_path / "missing", ".png") == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(RunError, match=r"a\.png: cannot be read \(Is a directory\)\. The cure"):
        require_written(tmp_path, FileDigests(), {"a": tmp_path / "a.png"}, str, "The cure")
