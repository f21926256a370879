"""Whichever process of a machine fails: one message, an exit status, and nobody left behind, in bounded time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.fakes.processes import is_alive

from segshift.children import Fate, with_advice

ROOT = Path(__file__).resolve().parents[1]
KILLED = "process 1 of this run (they count from 0) was killed by SIGKILL, often by the system when memory is short"
SEE = "see what it wrote above"
BOUND = 30.0
"""Seconds after which a process left alone would still be there; the package needs a few."""


def household(folder: Path, *what: str) -> tuple[int, str]:
    """Exit status of the first process, and what all of them wrote once the last one has ended."""
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "tests.fakes.household", *what, str(folder)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=2 * BOUND,
        check=False,
    )
    # The pipe of the error output was open for as long as any process was: here, all have let go of it.
    assert time.monotonic() - started < BOUND
    for pid in map(int, (folder / "children").read_text().split()):
        while is_alive(pid):
            assert time.monotonic() - started < BOUND
            time.sleep(0.02)
    return process.returncode, process.stderr


@pytest.mark.parametrize(
    ("children", "message"),
    [
        (("is-killed", "loses-another"), KILLED),
        (("loses-another", "says"), "process 2 of this run (they count from 0) has ended: photo-2.png: cannot be read"),
        (("loses-another", "fails"), "process 2 of this run (they count from 0) ended with exit status 3; " + SEE),
        (("says", "sleeps"), "process 1 of this run (they count from 0) has ended: photo-1.png: cannot be read"),
    ],
)
def test_the_first_process_tells_what_became_of_the_others(
    tmp_path: Path, children: tuple[str, ...], message: str
) -> None:
    """The one that failed first, not those that have only lost it; said once."""
    assert household(tmp_path, "asks", *children) == (1, f"error: {message}\n")


@pytest.mark.parametrize("children", [("ends", "ends"), ("stops", "stops"), ("loses-another", "loses-another")])
def test_a_child_that_is_well_or_silent_says_nothing(tmp_path: Path, children: tuple[str, ...]) -> None:
    status, said = household(tmp_path, "ends", *children)
    assert (status, said) == (0, "")


def test_a_first_process_that_hangs_is_ended_with_the_message(tmp_path: Path) -> None:
    """As in a collective that no exception reaches."""
    (tmp_path / "run.json").write_text("{}")
    status, said = household(tmp_path, "sleeps", "is-killed", "sleeps")
    assert status == 1
    assert said == f"error: {KILLED}. The last checkpoint is intact; go on with: segshift resume {tmp_path}\n"


def test_children_end_with_a_first_process_that_is_killed(tmp_path: Path) -> None:
    status, said = household(tmp_path, "is-killed", "sleeps", "loses-another")
    assert status == -signal.SIGKILL
    assert said == "error: the first process of this run was ended from outside, and with it the run\n"


def test_children_end_with_a_first_process_that_forgets_them(tmp_path: Path) -> None:
    assert household(tmp_path, "ends", "sleeps", "sleeps") == (0, "")


def test_children_that_stop_leave_the_first_process_in_peace(tmp_path: Path) -> None:
    """It saves for all of them, for as long as it takes."""
    assert household(tmp_path, "saves", "stops", "ends") == (0, "saved\n")


def test_a_fault_in_the_program_shows_where_it_is(tmp_path: Path) -> None:
    status, said = household(tmp_path, "asks", "is-wrong", "loses-another")
    assert status == 1
    assert "ZeroDivisionError: a fault in the program" in said
    assert said.count("error: process") == 1 and "ended with exit status 1; see what it wrote above" in said


def test_advice_is_given_where_there_is_a_run(tmp_path: Path) -> None:
    assert with_advice("it failed.", None) == with_advice("it failed.", tmp_path) == "it failed."
    (tmp_path / "run.json").write_text("{}")
    expected = f"it failed. The last checkpoint is intact; go on with: segshift resume {tmp_path}"
    assert with_advice("it failed.", tmp_path) == expected


def test_a_signal_has_its_name() -> None:
    assert str(Fate(2, -signal.SIGTERM, "")).endswith("was killed by SIGTERM")
