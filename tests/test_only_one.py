"""Two commands in one run's folder: the second says so; a killed one holds nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from segshift.errors import RunError
from segshift.only_one import only_one


def test_the_second_is_refused_and_the_first_lets_go(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with only_one(run):
        with pytest.raises(RunError, match=r"run: another process is at work on this run; .*end it"):
            only_one(run, patience=0).__enter__()
        with only_one(tmp_path / "other", patience=0):  # another run is another matter
            (tmp_path / "other" / "run.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["other"]  # nothing came of the first
    with only_one(run, patience=0):
        assert run.is_dir()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with only_one(tmp_path):
            os.write(told, b"x")
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(RunError, match="another process"):
        only_one(tmp_path, patience=0).__enter__()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with only_one(tmp_path, patience=0):
        assert tmp_path.is_dir()
