"""The same recipe, seed and machine: the same bytes of all in a run's folder but times and the words it ran by."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny import tiny, weights
from tests.faults.comparing import assert_same_files, contents

from segshift.recipes import ROWS
from segshift.runs import start

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 900
METHODS = [row for row in ROWS if row not in ("adabn", "iast-source-free", "iast-semi")]
"""Every method; the rows left out are one of them on other data, or no training."""


def again(row: str, domains: tuple[Path, Path], warmup: Path, folder: Path, **settings: Any) -> Path:
    """A row once more, in a folder of its name."""
    return start(tiny(row, *domains, **settings), folder / row, None if row == "source-only" else warmup)


def trained(run: Path) -> dict[str, Any]:
    """What a run computed: weights, labels, statistics, soft labels, losses, scores."""
    kept = ("model/", "round-", "evaluation/", "distillation/", "log.jsonl", "results.json", "spatial-prior")
    found = {name: content for name, content in contents(run).items() if name.startswith(kept)}
    assert {"model/model.safetensors", "evaluation/final.json", "log.jsonl", "results.json"} <= found.keys()
    return found


def test_a_run_made_twice(
    domains: tuple[Path, Path], source_only: Path, row: Callable[[str], Path], tmp_path: Path
) -> None:
    """In one process, after other runs: none leaves anything behind that the next would meet."""
    assert_same_files(again("cbst", domains, source_only, tmp_path), row("cbst"))


def test_another_seed_is_another_run(domains: tuple[Path, Path], source_only: Path, tmp_path: Path) -> None:
    other = again("source-only", domains, source_only, tmp_path, seed=1)
    assert weights(other) != weights(source_only)


@pytest.mark.slow
def test_every_method_in_a_process_of_its_own(
    domains: tuple[Path, Path], source_only: Path, row: Callable[[str], Path], tmp_path: Path
) -> None:
    """Strings that hash otherwise, another folder to stand in, another time zone and language."""
    elsewhere, runs = tmp_path / "elsewhere", tmp_path / "runs"
    elsewhere.mkdir()
    subprocess.run(
        [sys.executable, "-m", "tests.fakes.again", *map(str, (*domains, source_only, runs)), *METHODS],
        cwd=elsewhere,
        env=os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo", "LC_ALL": "C"},
        timeout=SECONDS,
        check=True,
    )
    for name in METHODS:
        assert trained(runs / name) == trained(row(name)), name


@pytest.mark.parametrize(
    "name",
    [
        "cbst",
        *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "cbst"),
    ],
)
def test_loader_processes_change_nothing(
    domains: tuple[Path, Path], source_only: Path, row: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    run = again(name, domains, source_only, tmp_path, workers=2)
    assert trained(run) == trained(row(name))


@pytest.mark.slow
def test_checkpoints_change_nothing(
    domains: tuple[Path, Path], source_only: Path, row: Callable[[str], Path], tmp_path: Path
) -> None:
    """Written as often as time allows, which no two machines agree on."""
    run = again("cbst", domains, source_only, tmp_path, checkpoint_steps=None, checkpoint_share=0.02)
    assert trained(run) == trained(row("cbst"))
