"""Ctrl-C and SIGTERM during a run: the status, what is said, and that the step at hand is the most that is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.folder import make_folder_pair
from tests.faults.aims import Aim, Hit, interrupt, interrupt_twice, terminate
from tests.faults.comparing import assert_same_files
from tests.faults.killing import Reference, left_alone
from tests.faults.runs import Command, Ended, Job, make

from segshift import checkpoint

pytestmark = pytest.mark.slow


class Runs(NamedTuple):
    """A CBST run that was left alone, and the folder of one that has just begun."""

    reference: Reference
    begun: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """They save themselves at the start and end of rounds alone: what else is saved, the signal made them save."""
    folder = tmp_path_factory.mktemp("signals")
    domains = make_folder_pair(folder / "domains", images=3)
    job = Job("cbst", *domains, folder / "cbst", {"checkpoint_steps": 1000})
    begun = folder / "begun" / "cbst"
    assert make(job.at(begun), begun, Aim("run.json, just there")).killed
    return Runs(left_alone(job), begun)


def resumed(runs: Runs, run: Path, aim: Aim, hit: Hit) -> Ended:
    """`segshift resume` of a run that has just begun, with a signal on its way."""
    shutil.copytree(runs.begun, run)
    ended = make(Command(run), run, aim, hit)
    assert "Traceback" not in ended.said
    return ended


def assert_nothing_lost(run: Path) -> None:
    """The newest checkpoint is after the last step that was taken."""
    state = checkpoint.latest(run / "checkpoints").state
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert state["position"]["t"] == len(steps) == steps[-1] + 1


def assert_goes_on(runs: Runs, run: Path) -> None:
    ended = make(Command(run), run)
    assert ended.status == 0, ended.said
    assert_same_files(run, runs.reference.job.folder)


@pytest.mark.parametrize(
    ("hit", "name", "aim"),
    [
        (interrupt, "SIGINT", Aim("step, before the gradient", 2)),
        (terminate, "SIGTERM", Aim("step, before the weights move", 4)),
        (interrupt, "SIGINT", Aim("checkpoint, before it gets its name", 2)),
        (interrupt, "SIGINT", Aim("scan, at an image", 2)),
        (terminate, "SIGTERM", Aim("pseudo-label, before it gets its name", 4)),
        (terminate, "SIGTERM", Aim("scoring, at an image", 2)),
        (interrupt, "SIGINT", Aim("AdaBN, at an image", 4)),
    ],
)
def test_a_run_is_stopped_and_goes_on(runs: Runs, hit: Hit, name: str, aim: Aim, tmp_path: Path) -> None:
    run = tmp_path / "cbst"
    ended = resumed(runs, run, aim, hit)
    assert ended.status == 130, ended.said
    assert f"stopped by {name}" in ended.said
    assert f"go on with: segshift resume {run}" in ended.said
    assert_nothing_lost(run)
    assert_goes_on(runs, run)


@pytest.mark.parametrize(("hit", "place"), [(interrupt, "report, half written"), (terminate, "results, half written")])
def test_a_report_that_is_being_written_is_finished(runs: Runs, hit: Hit, place: str, tmp_path: Path) -> None:
    """It is the last thing that a run does: stopping would save nobody a second."""
    run = tmp_path / "cbst"
    ended = resumed(runs, run, Aim(place), hit)
    assert ended.status == 0, ended.said
    assert_same_files(run, runs.reference.job.folder)


@pytest.mark.parametrize(
    "aim",
    [
        Aim("step, before the gradient", 3),
        Aim("scan, at an image", 2),
        Aim("checkpoint, before it gets its name", 3),
        Aim("log, half a line", 4),
        Aim("report, before it gets its name"),
    ],
)
def test_a_second_signal_ends_it_at_once(runs: Runs, aim: Aim, tmp_path: Path) -> None:
    run = tmp_path / "cbst"
    ended = resumed(runs, run, aim, interrupt_twice)
    assert ended.status == 130, ended.said
    assert "stopped" in ended.said
    assert not list(run.rglob("*.tmp"))
    assert_goes_on(runs, run)


def test_stopped_again_and_again(runs: Runs, tmp_path: Path) -> None:
    """Each process takes one step at least, so any number of signals lets a run end."""
    run = tmp_path / "cbst"
    shutil.copytree(runs.begun, run)
    stops = 0
    while (ended := make(Command(run), run, Aim("step, before the gradient"), terminate)).status:
        assert ended.status == 130, ended.said
        assert_nothing_lost(run)
        stops += 1
    assert stops == runs.reference.passed["log, half a line"]
    assert_same_files(run, runs.reference.job.folder)


def test_a_signal_before_there_is_a_run(runs: Runs, tmp_path: Path) -> None:
    """While a run is being prepared, Ctrl-C ends it; nothing is left that would stand in the way of another start."""
    job = runs.reference.job.at(tmp_path / "cbst")
    ended = make(job, job.folder, Aim("run.json, half written"), interrupt)
    assert ended.status != 0
    assert not job.folder.exists()
    assert make(job, job.folder).status == 0
    assert_same_files(job.folder, runs.reference.job.folder)
