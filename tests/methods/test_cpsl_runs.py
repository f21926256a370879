"""Whole runs of CPSL on tiny images: resumed from each checkpoint, with bank, momentum networks and δ_pseudo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.tiny import ROUNDS, STEPS, assert_resumes_everywhere, rounds, tiny, watched

from segshift import checkpoint
from segshift.errors import RunError
from segshift.recipe import Recipe
from segshift.run_log import RunLog
from segshift.runs import resume


def clustering(domains: tuple[Path, Path]) -> Recipe:
    """A bank that is full after two steps of two images, and momentum networks that move."""
    recipe = tiny("cpsl", *domains)
    phase: Any = recipe.adaptation
    method = replace(phase.method, bank=24, samples=8, momentum=0.7, distribution_momentum=0.8)
    return replace(recipe, adaptation=replace(phase, method=method))


@pytest.fixture(scope="module")
def runs(domains: tuple[Path, Path], source_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("cpsl")
    yield watched(clustering(domains), folder / "run", source_only)
    shutil.rmtree(folder)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_resume_from_every_checkpoint(runs: Any, tmp_path: Path, every: int) -> None:
    assert_resumes_everywhere(runs, tmp_path, every)


def test_a_whole_run(runs: Any) -> None:
    entries = [entry for entry in RunLog(runs.folder / "log.jsonl").read() if entry["phase"] == "adaptation"]
    assert len(entries) == ROUNDS * STEPS
    assert all(set(entry["losses"]) == {"source", "target", "consistency", "self-labelling"} for entry in entries)
    assert all(0 < entry["measured"]["transport error"] < 2 for entry in entries)
    statistics = [json.loads((runs.folder / f"round-{n}" / "statistics.json").read_text()) for n in (1, 2)]
    assert all(sum(entry["thresholds"]["delta_pseudo"]) == pytest.approx(1, abs=1e-5) for entry in statistics)
    assert statistics[0]["thresholds"] != statistics[1]["thresholds"]
    assert all(entry["coverage"] == 1 and entry["images"] == 5 for entry in statistics)
    kinds = ("self-training", "self-labelling", "rectified")
    for n in (1, 2):
        assert all(len(list((runs.folder / f"round-{n}" / kind).glob("*.png"))) == 5 for kind in kinds)
    files = rounds(runs.folder)
    assert not any("round-2/soft-labels" in name for name in files), "soft labels are those of the warm-up throughout"


def test_what_a_checkpoint_holds(runs: Any) -> None:
    path = checkpoint.latest(runs.copies[-2] / "checkpoints").path
    assert path is not None
    method = checkpoint.load(path)["method"]
    assert method["clusters"]["bank"]["features"].shape[0] == 24
    assert method["teachers"].keys() == {"model", "head"}
    assert not torch.equal(method["clusters"]["delta"], method["delta_0"])


def test_a_run_does_not_go_on_without_its_soft_labels(runs: Any, tmp_path: Path) -> None:
    middle = next(copy for copy in runs.copies if (copy / "round-2").is_dir())
    again = Path(shutil.copytree(middle, tmp_path / "again"))
    shutil.rmtree(again / "round-1" / "soft-labels")
    with pytest.raises(RunError, match=r"(?s)round-1/soft-labels.*Put back what is damaged or gone"):
        resume(again)
