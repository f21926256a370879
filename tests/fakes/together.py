"""Runs of two processes that a test starts, and what they are compared by."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segshift import recipe as recipe_file
from segshift.recipe import Recipe
from segshift.run_log import RunLog

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 480
"""A group that hangs is ended after so long."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def finished(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all; what they printed. One that fails or hangs ends the others."""
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


def train_together(
    recipes: Mapping[str, Recipe],
    folder: Path,
    model: Path,
    whole: Sequence[str] = (),
    again: Mapping[str, tuple[str, str | None]] | None = None,
    target: Path | None = None,
) -> None:
    """Train recipes on two processes, each in `folder`/NAME, from `model` but for those of `whole`.

    `again`: name -> (name of a run, strategy or None), to be resumed from its second checkpoint. `target`: images that
    the processes measure thresholds of.
    """
    job = {
        "model": str(model),
        "target": str(target),
        "measure": target is not None,
        "whole": list(whole),
        "recipes": {name: recipe_file.to_dict(recipe) for name, recipe in recipes.items()},
        "again": dict(again or {}),
    }
    (folder / "job.json").write_text(json.dumps(job))
    port = str(free_port())
    command = [sys.executable, "-m", "tests.fakes.process"]
    started = [
        subprocess.Popen(
            [*command, str(rank), "2", port, str(folder / "job.json")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    finished(started)


def sharded(recipe: Recipe) -> Recipe:
    """The same, with each process holding a part of the network."""
    return replace(recipe, settings=replace(recipe.settings, strategy="fsdp"))


def assert_alike(run: Path, other: Path, losses: float = 2e-5, weights: float = 1e-4) -> None:
    """The same steps, losses and final weights, but for rounding."""
    logs = [RunLog(folder / "log.jsonl").read() for folder in (run, other)]
    assert logs[0]
    for ours, theirs in zip(*logs, strict=True):
        assert (ours["phase"], ours["step"]) == (theirs["phase"], theirs["step"])
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=losses)
    found, expected = (load_file(folder / "model" / "model.safetensors") for folder in (run, other))
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], rtol=weights, atol=weights, msg=lambda m, k=key: f"{k}: {m}")


def shapes(state: Any) -> Any:
    """A nested state with the type and shape of each tensor in its place, and nothing else of its content."""
    if isinstance(state, Mapping):
        return {key: shapes(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [shapes(value) for value in state]
    return (state.dtype, tuple(state.shape)) if isinstance(state, torch.Tensor) else type(state).__name__
