"""A process that dies ends the run: with one message, exit status 1, no traceback, nobody left behind, nothing lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.fakes.processes import children_of, is_alive
from tests.fakes.tiny import rounds, weights

from segshift.run_log import RunLog

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 240
"""No step here takes so long, on a machine that is busy with other tests; a process that hangs does."""
SEGSHIFT = str(Path(sys.executable).with_name("segshift"))
WARMUP, ROUNDS, STEPS = 150, 2, 3
WORDS = (
    "adapt minicity/cbst --settings.devices 2 --settings.accelerator cpu --threads 1 --network.width 4 "
    f"--warmup.steps {WARMUP} --warmup.batch 2 --warmup.source-view.crop 32 32 --data.short-side 32 "
    f"--adaptation.steps {STEPS} --adaptation.rounds {ROUNDS} --adaptation.batch 2 --adaptation.adabn-before none "
    "--adaptation.source-view.crop 32 32 --adaptation.target-view.crop 32 32 --settings.checkpoint-steps 10"
)
GOES_ON = "The last checkpoint is intact; go on with: segshift resume {run}"


def said(text: str) -> str:
    """What the processes wrote, without the lines in which they meet."""
    lines = [line for line in text.splitlines() if line.strip("-") and "distributed" not in line]
    return "\n".join(lines)


# --- the group alone -----------------------------------------------------------------------------------------------

FAILURES = {
    "1-is-killed": (1, "error: process 1 of this run (they count from 0) was killed by SIGKILL, often by the system"),
    "0-is-killed": (-9, "error: the first process of this run was ended from outside, and with it the run"),
    "1-fails": (1, "error: process 1 of this run (they count from 0) has ended: photo-1.png: cannot be read"),
    "0-fails": (1, "error: photo-0.png: cannot be read"),
    "both-fail": (1, "error: photo-0.png: cannot be read"),
    "both-stop": (130, "error: stopped by SIGTERM"),
    "both-are-interrupted": (130, "error: stopped"),
    "1-hangs": (1, "error: another process of this run has ended, or did not answer in time ("),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FAILURES)
def test_a_group_ends_with_one_message(tmp_path: Path, what: str) -> None:
    status, message = FAILURES[what]
    # The error output is open for as long as any process lives: `run` waits for all of them.
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fakes.group", what, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert said(ended.stderr).startswith(message)
    assert len(said(ended.stderr).splitlines()) == 1


# --- whole runs ----------------------------------------------------------------------------------------------------


class Running:
    """A run of two processes in the background."""

    def __init__(self, run: Path, words: list[str]) -> None:
        self.log = run / "log.jsonl"
        self.process = subprocess.Popen(
            [SEGSHIFT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run.parent
        )
        self.others: list[int] = []

    def reach(self, steps: int) -> None:
        """Wait until so many steps are taken."""
        until = time.monotonic() + SECONDS
        while not (self.log.exists() and self.log.read_bytes().count(b"\n") >= steps):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.01)
        self.others = children_of(self.process.pid)

    def end(self) -> tuple[int, str]:
        """Exit status and error output, once the last process has gone."""
        try:
            _, errors = self.process.communicate(timeout=SECONDS)
            until = time.monotonic() + SECONDS
            while any(map(is_alive, self.others)):
                assert time.monotonic() < until
                time.sleep(0.02)
        finally:
            for pid in (self.process.pid, *self.others):
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        return self.process.returncode, said(errors)


def adapt(domains: tuple[Path, Path], run: Path) -> Running:
    source, target = map(str, domains)
    return Running(run, [*WORDS.split(), "--source", source, "--target", target, "--out", str(run)])


def assert_resumed(run: Path, reference: Path) -> None:
    """Gone on with, a run is the one that was left alone."""
    assert Running(run, ["resume", str(run)]).end() == (0, "")
    assert weights(run) == weights(reference)
    assert rounds(run) == rounds(reference)
    steps = [entry["step"] for entry in RunLog(run / "log.jsonl").read()]
    assert steps == list(range(WARMUP + ROUNDS * STEPS))
    assert not list(run.rglob(".*.tmp"))


@pytest.fixture(scope="module")
def left_alone(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    assert adapt(domains, run).end() == (0, "")
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "number", "status", "message"),
    [
        (0, signal.SIGKILL, -9, "error: the first process of this run was ended from outside, and with it the run. "),
        (1, signal.SIGKILL, 1, f"{FAILURES['1-is-killed'][1]} when memory is short. "),
    ],
)
def test_a_process_killed_in_training(
    domains: tuple[Path, Path], left_alone: Path, tmp_path: Path, rank: int, number: int, status: int, message: str
) -> None:
    run = tmp_path / "run"
    running = adapt(domains, run)
    running.reach(15)
    (other,) = running.others
    os.kill(other if rank else running.process.pid, number)
    assert running.end() == (status, message + GOES_ON.format(run=run))
    assert_resumed(run, left_alone)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_both_stop_when_one_is_asked_to(
    domains: tuple[Path, Path], left_alone: Path, tmp_path: Path, rank: int
) -> None:
    run = tmp_path / "run"
    running = adapt(domains, run)
    running.reach(15)
    (other,) = running.others
    os.kill(other if rank else running.process.pid, signal.SIGTERM)
    status, message = running.end()
    assert status == 130
    step = int(re.fullmatch(rf"error: stopped by .*after step (\d+); go on with: segshift resume {run}", message)[1])
    assert (run / "checkpoints" / f"step-{step + 1:06d}.safetensors").is_file()
    assert_resumed(run, left_alone)


@pytest.mark.slow
def test_a_file_that_one_process_cannot_read(domains: tuple[Path, Path], left_alone: Path, tmp_path: Path) -> None:
    """Of the target, which the warm-up does not look at: the second image is the second process's in a scan."""
    run, target = tmp_path / "run", Path(shutil.copytree(domains[1], tmp_path / "dusk"))
    running = adapt((domains[0], target), run)
    running.reach(15)
    file = sorted((target / "train" / "images").iterdir())[1]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    status, message = running.end()
    assert status == 1
    assert message.startswith("error: process 1 of this run (they count from 0) has ended: ")
    assert str(file) in message and message.endswith(GOES_ON.format(run=run))
    assert len(message.splitlines()) == 1
    file.write_bytes(content)
    assert_resumed(run, left_alone)
