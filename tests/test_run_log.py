"""The step log: whole lines alone are read, and a resumed run goes on exactly where its checkpoint is."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segshift import run_log
from segshift.errors import RunError
from segshift.run_log import RunLog


def filled(path: Path, *steps: int) -> RunLog:
    log = RunLog(path)
    for step in steps:
        log.append({"phase": "warmup", "step": step, "losses": {"source": 0.5 + step, "größe": 1.0}})
    return log


def steps(log: RunLog) -> list[int]:
    return [entry["step"] for entry in log.read()]


def test_lines_come_back_and_are_cut(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.jsonl", 0, 1, 2, 3)
    assert log.read()[1] == {"phase": "warmup", "step": 1, "losses": {"source": 1.5, "größe": 1.0}}
    log.cut(2)
    assert steps(log) == [0, 1]
    filled(log.path, 2)
    assert steps(log) == [0, 1, 2]
    assert len(log.path.read_text().splitlines()) == 3
    log.cut(0)
    assert log.read() == []


def test_a_log_that_has_nothing_to_cut_is_not_touched(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.jsonl", 0, 1)
    before = log.path.stat()
    log.cut(2)
    assert log.path.stat() == before
    RunLog(tmp_path / "none.jsonl").cut(0)
    RunLog(tmp_path / "none.jsonl").sync()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_process_that_does_not_write_leaves_the_log_alone(tmp_path: Path) -> None:
    filled(tmp_path / "log.jsonl", 0, 1)
    other = RunLog(tmp_path / "log.jsonl", writes=False)
    other.append({"step": 2})
    other.cut(0)
    other.sync()
    assert steps(other) == [0, 1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.integers(1, 400), t=st.integers(0, 6))
def test_any_cut_off_end_is_dropped_and_gone_on_from(tmp_path: Path, lost: int, t: int) -> None:
    """As a kill leaves it: the lines before are read, and a resumed run's lines follow them whole."""
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    log = filled(path, *range(5))
    path.write_bytes(path.read_bytes()[: -min(lost, path.stat().st_size)])
    found = steps(log)
    assert found == list(range(len(found)))
    log.cut(t)
    filled(path, t)
    assert steps(log) == [*found[:t], t]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    "line",
    [b'{"phase": "warmup", "st', b"\0" * 40, b"\xff\xfe", b"7", b"[1]", b'{"step": "3"}', b"{}", b"[" * 100_000, b""],
)
def test_a_damaged_line_takes_no_other_with_it(tmp_path: Path, line: bytes) -> None:
    log = filled(tmp_path / "log.jsonl", 0)
    with log.path.open("ab") as file:
        file.write(line + b"\n")
    filled(log.path, 1, 2)
    assert steps(log) == [0, 1, 2]
    log.cut(2)
    assert steps(log) == [0, 1]
    assert len(log.path.read_bytes().splitlines()) == 2


def test_a_line_is_there_when_the_next_step_begins(tmp_path: Path) -> None:
    """No buffer of this process holds it: another one reads it at once."""
    log = filled(tmp_path / "log.jsonl", 0)
    assert steps(RunLog(log.path, writes=False)) == [0]


@pytest.mark.parametrize(("code", "cure"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "another folder")])
def test_a_disk_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, cure: str) -> None:
    log = filled(tmp_path / "log.jsonl", 0)

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(run_log.os, "fsync", refuse)
    for act in (log.sync, lambda: log.cut(0)):
        with pytest.raises(RunError, match=rf"log\.jsonl: cannot be written .*{cure}"):
            act()
    assert steps(log) == [0]
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError, match=rf"log\.jsonl: cannot be written .*{cure}"):
        log.append({"step": 1})


def test_a_line_that_the_disk_takes_half_of_is_dropped_later(tmp_path: Path) -> None:
    log = filled(tmp_path / "log.jsonl", 0, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(RunError, match=r"log\.jsonl: cannot be written .*ulimit -f"):
            log.append({"step": 2, "losses": {"source": 0.5}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not log.path.read_bytes().endswith(b"\n")
    assert steps(log) == [0, 1]
    log.cut(2)
    filled(log.path, 2)
    assert steps(log) == [0, 1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_ends_with_the_cure(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.path.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be written .*free some space, then resume the run"):
        log.append({"step": 0})


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    assert log.read() == []
    log.path.mkdir()
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be read .*expected the step log of a run"):
        log.read()
    with pytest.raises(RunError, match=r"log\.jsonl: cannot be written .*a folder has this name"):
        log.append({"step": 0})
