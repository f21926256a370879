"""Disks that are full or read-only: an error that names the file and the cure, and afterwards the same run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.folder import make_folder_pair
from tests.faults import small_disk
from tests.faults.aims import Aim, Hit, die, kind_of
from tests.faults.comparing import assert_same_files
from tests.faults.killing import Reference, left_alone
from tests.faults.runs import Job, make
from tests.faults.small_disk import OnDisk

pytestmark = pytest.mark.slow

ROOM = 4096
"""KiB that no tiny run needs."""


class Runs(NamedTuple):
    """A run that was left alone, by its row and how many checkpoints it keeps; where others may have a disk."""

    alone: Callable[[str, int], Reference]
    disk: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("disks")
    disk = folder / "disk"
    probe = make(partial(small_disk.mount, disk, ROOM), disk / "probe")
    if probe.status != 0:
        pytest.skip(f"no disk of a test's own: {probe.said.splitlines()[-1]}")
    domains = make_folder_pair(folder / "domains", images=3)
    found: dict[tuple[str, int], Reference] = {}

    def alone(row: str, keep: int) -> Reference:
        if (row, keep) not in found:
            found[row, keep] = left_alone(Job(row, *domains, folder / f"keeps-{keep}" / row, {"keep": keep}))
        return found[row, keep]

    return Runs(alone, disk)


def errors_of(reference: Reference, made: OnDisk, aim: Aim | None = None, hit: Hit = die) -> list[str]:
    """Make a run on a disk, compare it with the one that was left alone, and give the errors on its way."""
    ended = make(made, made.job.folder, aim, hit)
    assert ended.status == 0, ended.said
    assert_same_files(made.out, reference.job.folder)
    return json.loads(made.out.with_suffix(".json").read_text())


def place_of(error: str, run: Path) -> str | None:
    """What kind of file an error begins with."""
    file = Path(error.split(":", 1)[0])
    return "scan" if file.is_relative_to(run / "scan") else kind_of(file, run)


FULL = {
    Aim("step, before the gradient", 1): "log",
    Aim("AdaBN, at an image", 1): "checkpoint",
    Aim("step, before the gradient", 2): "checkpoint",
    Aim("scan, at an image", 1): "scan",
    Aim("scan, at an image", 3): "scan",
    Aim("pseudo-label, just there", 1): "prediction",
    Aim("prediction, just there", 1): "pseudo-label",
    Aim("prediction, just there", 3): "statistics",
    Aim("statistics, just there", 2): "checkpoint",
    Aim("scoring, at an image", 3): "scores",
    Aim("scores, just there", 1): "panel",
    Aim("weights, just there"): "model.json",
    Aim("model.json, just there"): "checkpoint",
    Aim("report, just there"): "results",
}
"""Where the disk is filled up to the last page -> what the error names: the next file."""


@pytest.mark.parametrize(("aim", "named"), FULL.items())
def test_a_disk_that_is_full(runs: Runs, aim: Aim, named: str, tmp_path: Path) -> None:
    """Runs that delete no checkpoint, so that the space they leave is known."""
    reference, run = runs.alone("cbst", 100), runs.disk / "cbst"
    made = OnDisk(reference.job.at(run), ROOM, tmp_path / "cbst", cure=small_disk.free)
    (error,) = errors_of(reference, made, aim, partial(small_disk.fill, runs.disk))
    assert place_of(error, run) == named, error
    assert "No space left on device" in error
    assert "free some space, then resume the run" in error


def test_a_disk_that_is_full_before_there_is_a_run(runs: Runs, tmp_path: Path) -> None:
    reference, run = runs.alone("source-only", 1), runs.disk / "source-only"
    made = OnDisk(reference.job.at(run), ROOM, tmp_path / "source-only", small_disk.fill, small_disk.free)
    (error,) = errors_of(reference, made)
    assert error.startswith(f"{run / 'run.json'}: cannot be written (No space left on device); the disk is full")


@pytest.mark.parametrize("row", ["cbst-sp", "iast", "cpsl-distill"])
def test_a_disk_that_is_always_a_little_too_small(runs: Runs, row: str, tmp_path: Path) -> None:
    """It fills up wherever that is, and each time it grows by three pages, until the run is through."""
    reference, run = runs.alone(row, 1), runs.disk / row
    errors = errors_of(reference, OnDisk(reference.job.at(run), 48, tmp_path / row))
    assert len(errors) > 15
    assert all("No space left on device" in error and "free some space" in error for error in errors)


LOCKED = {
    Aim("AdaBN, at an image", 1): "checkpoint",
    Aim("step, before the gradient", 3): "log",
    Aim("scan, at an image", 1): "scan",
    Aim("prediction, just there", 1): "pseudo-label",
    Aim("scores, just there", 1): "panel",
    Aim("report, just there"): "results",
}
"""Where the disk becomes read-only, as one with errors does -> what the error names."""


@pytest.mark.parametrize(("aim", "named"), LOCKED.items())
def test_a_disk_that_becomes_read_only(runs: Runs, aim: Aim, named: str, tmp_path: Path) -> None:
    reference, run = runs.alone("cbst", 100), runs.disk / "cbst"
    made = OnDisk(reference.job.at(run), ROOM, tmp_path / "cbst", cure=small_disk.unlock)
    (error,) = errors_of(reference, made, aim, partial(small_disk.lock, runs.disk))
    assert place_of(error, run) == named, error
    assert "Read-only file system" in error
    assert "choose another folder" in error


def test_a_folder_that_is_read_only(runs: Runs, tmp_path: Path) -> None:
    reference, run = runs.alone("source-only", 1), runs.disk / "source-only"
    made = OnDisk(reference.job.at(run), ROOM, tmp_path / "source-only", small_disk.lock, small_disk.unlock)
    (error,) = errors_of(reference, made)
    assert error.startswith(f"{run}: cannot be written (Read-only file system); the file system is read-only: choose")
