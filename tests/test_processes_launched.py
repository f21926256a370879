"""Processes that torchrun or SLURM's srun have started (srun: as its variables say): the same run, heard once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.processes import children_of, is_alive
from tests.fakes.tiny import rounds, weights
from tests.fakes.together import ROOT, free_port

from segshift.checkpoint import latest

SECONDS = 300
"""No run here takes so long, on a machine that is busy with other tests; a process that hangs does."""
WARMUP, ROUNDS, STEPS = 150, 2, 2
WORDS = (
    "adapt minicity/cbst --settings.accelerator cpu --threads 1 --network.width 4 --data.short-side 32 "
    f"--warmup.steps {WARMUP} --warmup.batch 2 --warmup.source-view.crop 32 32 --settings.checkpoint-steps 10 "
    f"--adaptation.steps {STEPS} --adaptation.rounds {ROUNDS} --adaptation.batch 2 --adaptation.adabn-before none "
    "--adaptation.source-view.crop 32 32 --adaptation.target-view.crop 32 32"
)
MODULE = [sys.executable, "-m", "segshift"]
pytestmark = pytest.mark.slow


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options]


def two_here() -> list[str]:
    return torchrun("--nproc-per-node", "2", "--master-port", str(free_port()))


def srun_says(rank: int, port: int) -> dict[str, str]:
    """The variables of one of two tasks on this machine."""
    return {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "adapt", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1",
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "MASTER_PORT": str(port),
    }  # fmt: skip


def started(command: list[str], variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    )


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each, once all have gone."""
    try:
        said = [process.communicate(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            for pid in (process.pid, *children_of(process.pid)):
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
    return [(process.returncode, *found) for process, found in zip(processes, said)]


def errors(text: str) -> list[str]:
    """Ours, without what launchers add."""
    return [line for line in text.splitlines() if line.startswith("error: ")]


def words(domains: tuple[Path, Path], run: Path, settings: str) -> list[str]:
    source, target = map(str, domains)
    return [*WORDS.split(), *settings.split(), "--source", source, "--target", target, "--out", str(run)]


@pytest.fixture(scope="module")
def own(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run whose first process starts the other itself."""
    run = tmp_path_factory.mktemp("own") / "run"
    ((status, *_),) = ended(started([*MODULE, *words(domains, run, "--settings.devices 2")]))
    assert status == 0
    return run


def assert_heard_once(out: str) -> None:
    assert out.count("pixel accuracy") == 2  # one table: pixel accuracy, mean pixel accuracy
    assert out.count("of the target's pixels labelled") == ROUNDS


def assert_same(run: Path, reference: Path) -> None:
    assert weights(run) == weights(reference)
    assert rounds(run) == rounds(reference)


def test_torchrun_on_one_node(domains: tuple[Path, Path], own: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*two_here(), "-m", "segshift", *words(domains, run, "--settings.devices 2")]
    ((status, out, _),) = ended(started(command))
    assert status == 0
    assert_heard_once(out)
    assert_same(run, own)


def test_torchrun_on_two_nodes(domains: tuple[Path, Path], own: Path, tmp_path: Path) -> None:
    """Two agents, each with a node's one process."""
    run, port = tmp_path / "run", str(free_port())
    given = [*words(domains, run, "--settings.nodes 2 --settings.devices 1")]
    where = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    agents = [started([*torchrun(*where, "--node-rank", str(rank)), "-m", "segshift", *given]) for rank in range(2)]
    found = ended(*agents)
    assert [status for status, *_ in found] == [0, 0]
    assert_heard_once(found[0][1])
    assert found[1][1] == ""
    assert_same(run, own)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_tasks_of_srun(domains: tuple[Path, Path], own: Path, tmp_path: Path, strategy: str) -> None:
    run, port = tmp_path / "run", free_port()
    given = words(domains, run, f"--settings.devices 2 --settings.strategy {strategy}")
    found = ended(*(started([*MODULE, *given], srun_says(rank, port)) for rank in range(2)))
    assert [status for status, *_ in found] == [0, 0]
    assert_heard_once(found[0][1])
    assert found[1][1] == ""
    if strategy == "ddp":
        assert_same(run, own)


def test_one_task_of_srun_starts_the_others_itself(domains: tuple[Path, Path], own: Path, tmp_path: Path) -> None:
    run, task = tmp_path / "run", srun_says(0, free_port()) | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
    ((status, out, _),) = ended(started([*MODULE, *words(domains, run, "--settings.devices 2")], task))
    assert status == 0
    assert_heard_once(out)
    assert_same(run, own)


def test_torchrun_and_the_settings_disagree(domains: tuple[Path, Path], tmp_path: Path) -> None:
    command = [*two_here(), "-m", "segshift", *words(domains, tmp_path / "run", "--settings.devices 1")]
    ((status, _, said),) = ended(started(command))
    assert status == 1
    (message,) = errors(said)
    assert "torchrun has started 2 processes, 2 of them on this node; nodes = 1, devices = 1 ask for 1" in message
    assert not (tmp_path / "run").exists()


FAILURES = {
    "1-is-killed": "error: another process of this run has ended, or did not answer in time (",
    "0-is-killed": "error: another process of this run has ended, or did not answer in time (",
    "1-fails": "error: photo-1.png: cannot be read",
    "both-fail": "error: photo-",
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_group_that_torchrun_has_started_ends_with_one_message(tmp_path: Path, what: str) -> None:
    ((status, _, said),) = ended(started([*two_here(), "-m", "tests.fakes.group", what, str(tmp_path)]))
    assert status == 1
    (message,) = errors(said)
    assert message.startswith(FAILURES[what])


def tasks(words: list[str]) -> list[Any]:
    port = free_port()
    return [started(words, srun_says(rank, port)) for rank in range(2)]


@pytest.mark.parametrize("what", ["0-is-killed", "both-fail"])
def test_a_group_that_srun_has_started_ends_with_one_message(tmp_path: Path, what: str) -> None:
    """Without srun's --kill-on-bad-exit, even."""
    found = ended(*tasks([sys.executable, "-m", "tests.fakes.group", what, str(tmp_path)]))
    (message,) = [line for _, _, said in found for line in errors(said)]
    assert message.startswith(FAILURES[what])
    assert all(status for status, *_ in found)


def reach(run: Path, steps: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + SECONDS
    log = run / "log.jsonl"
    while not (log.exists() and log.read_bytes().count(b"\n") >= steps):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_that_is_preempted_is_saved(domains: tuple[Path, Path], own: Path, tmp_path: Path, strategy: str) -> None:
    """SIGTERM reaches torchrun alone, which passes it on: all stop after the same step, and the run goes on later."""
    run = tmp_path / "run"
    given = words(domains, run, f"--settings.devices 2 --settings.strategy {strategy}")
    agent = started([*two_here(), "-m", "segshift", *given])
    reach(run, 15, agent)
    agent.terminate()
    ((_, _, said),) = ended(agent)
    (message,) = errors(said)
    told = re.fullmatch(rf"error: stopped by .*after step (\d+); go on with: segshift resume {run}", message)
    assert told is not None
    assert latest(run / "checkpoints").state["position"]["t"] == int(told[1]) + 1
    ((status, *_),) = ended(started([*two_here(), "-m", "segshift", "resume", str(run)]))
    assert status == 0
    if strategy == "ddp":
        assert_same(run, own)


def test_every_task_of_srun_is_asked_to_stop(domains: tuple[Path, Path], own: Path, tmp_path: Path) -> None:
    """As `--signal=TERM@120` does."""
    run = tmp_path / "run"
    running = tasks([*MODULE, *words(domains, run, "--settings.devices 2")])
    reach(run, 15, running[0])
    for task in running:
        task.terminate()
    found = ended(*running)
    assert [status for status, *_ in found] == [130, 130]
    assert len([line for _, _, said in found for line in errors(said)]) == 1
    assert [status for status, *_ in ended(*tasks([*MODULE, "resume", str(run)]))] == [0, 0]
    assert_same(run, own)
