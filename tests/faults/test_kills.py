"""Runs killed with SIGKILL, at chosen places and at random moments, end as if nothing had happened: to the bit."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.folder import make_folder_pair
from tests.faults.aims import Aim
from tests.faults.killing import METHODS, MOMENT, Kill, Reference, killed_and_resumed, left_alone
from tests.faults.runs import Command, Job, make

PLACES = (
    "run.json, half written",
    "step, before the weights move",
    "pseudo-label, half written",
    "checkpoint, half written",
    "report, half written",
)
MORE_PLACES = (
    "AdaBN, at an image",
    "log, half a line",
    "scan, its cache half written",
    "statistics, before it gets its name",
    "checkpoint, before it is deleted",
    "weights, just there",
)
"""With PLACES, one of each kind."""

CHAIN = (
    Aim("run.json, just there"),
    Aim("log, half a line"),
    Aim("checkpoint, half written"),
    Aim("temporary file, before it is deleted"),
    Aim("step, before the gradient"),
    Aim("checkpoint, just there", 2),
    Aim("scoring, at an image", 2),
    Aim("panel, half written"),
    Aim("weights, before it gets its name"),
    Aim("report, half written"),
)
"""Each is passed by every method on the way from the one before."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """Runs that were left alone, by the name of their row."""
    folder = tmp_path_factory.mktemp("alone")
    domains = make_folder_pair(folder / "domains", images=3)
    found: dict[str, Reference] = {}

    def reference(row: str) -> Reference:
        if row not in found:
            found[row] = left_alone(Job(row, *domains, folder / row))
        return found[row]

    return reference


@pytest.mark.parametrize("place", [*PLACES, *(pytest.param(place, marks=pytest.mark.slow) for place in MORE_PLACES)])
def test_killed_at_a_place(alone: Callable[[str], Reference], place: str, tmp_path: Path) -> None:
    reference = alone("cbst")
    halfway = Aim(place, (reference.passed[place] + 1) // 2)
    assert killed_and_resumed(reference, tmp_path / "cbst", [halfway]) == [halfway]


def test_a_kill_before_there_is_a_run(alone: Callable[[str], Reference], tmp_path: Path) -> None:
    """It cannot be resumed, and says so; starting it again works."""
    reference, run = alone("source-only"), tmp_path / "source-only"
    assert make(reference.job.at(run), run, Aim("run.json, half written")).killed
    ended = make(Command(run), run)
    assert ended.status == 1
    assert f"{run} is not a run folder: {run / 'run.json'} is missing, so no run was begun there" in ended.said
    assert killed_and_resumed(reference, run, []) == []


@pytest.mark.slow
@pytest.mark.parametrize("row", METHODS)
def test_killed_again_and_again(alone: Callable[[str], Reference], row: str, tmp_path: Path) -> None:
    assert killed_and_resumed(alone(row), tmp_path / row, CHAIN) == list(CHAIN)


@pytest.mark.slow
@pytest.mark.parametrize("row", METHODS)
def test_killed_at_random(alone: Callable[[str], Reference], row: str, tmp_path: Path) -> None:
    """At four random places, then at random moments until three were early enough."""
    reference, rng = alone(row), random.Random(METHODS.index(row))
    for number, place in enumerate(rng.sample(sorted(reference.passed), 4)):
        aim = reference.draw(place, rng)
        assert killed_and_resumed(reference, tmp_path / str(number) / row, [aim]) == [aim]
    happened: list[Kill] = []
    for number in itertools.count():
        moments = [reference.draw(MOMENT, rng) for _ in range(3 - len(happened))]
        happened += killed_and_resumed(reference, tmp_path / f"moments-{number}" / row, moments)
        if len(happened) == 3:
            break
    assert len(happened) == 3
