"""Whole runs of IAST on tiny images: resumed from each checkpoint, logged as they were asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny import ROUNDS, STEPS, assert_resumes_everywhere, rounds, tiny, watched

from segshift.recipe_rows import retained
from segshift.run_log import RunLog
from segshift.runs import start


def with_method(row: str, domains: tuple[Path, Path], **options: Any) -> Any:
    """A row whose thresholds lie where the confidences of a network of three steps do."""
    recipe = tiny(row, *domains)
    phase: Any = recipe.adaptation
    options = {"initial": 0.3, "constant": 0.3, "beta": 0.5} | options
    return replace(recipe, adaptation=replace(phase, method=replace(phase.method, **options)))


def everything(domains: tuple[Path, Path]) -> Any:
    """All that a checkpoint must hold: a discriminator, learning rates by round, thresholds in a drawn order."""
    recipe = with_method(
        "iast", domains, variant="released", unit=2, order="random", alpha=(0.2, 0.5), lr_factors=(1.2, 0.8)
    )
    return retained(recipe)


@pytest.fixture(scope="module")
def runs(domains: tuple[Path, Path], source_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("iast")
    yield watched(everything(domains), folder / "run", source_only)
    shutil.rmtree(folder)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_resume_from_every_checkpoint(runs: Any, tmp_path: Path, every: int) -> None:
    assert_resumes_everywhere(runs, tmp_path, every)


def test_a_whole_run(runs: Any) -> None:
    entries = [entry for entry in RunLog(runs.folder / "log.jsonl").read() if entry["phase"] == "adaptation"]
    assert len(entries) == ROUNDS * STEPS
    kept = {"source", "generator", "discriminator source", "discriminator target"}
    assert all(set(entry["losses"]) == {"target", "ignored", "confident"} | kept for entry in entries)
    rates = [entry["lr"] for entry in entries]
    # AdamW, poly of power .9 over both rounds.
    schedule = [(1 - t / (ROUNDS * STEPS)) ** 0.9 * (1.2 if t < STEPS else 0.8) for t in range(ROUNDS * STEPS)]
    assert rates == pytest.approx([1e-3 * factor for factor in schedule])
    statistics = [json.loads((runs.folder / f"round-{n}" / "statistics.json").read_text()) for n in (1, 2)]
    assert all(len(entry["thresholds"]["theta"]) == 5 for entry in statistics)
    assert statistics[0]["thresholds"] != statistics[1]["thresholds"]
    assert all(0 < entry["coverage"] < 1 for entry in statistics)
    assert all(entry["images"] == 5 for entry in statistics)


def test_rows_of_the_ladder_differ(domains: tuple[Path, Path], source_only: Path, tmp_path: Path) -> None:
    """Constant, class-balanced and instance-adaptive labels are three sets of labels."""
    found = {
        selector: rounds(
            start(with_method("iast-source-free", domains, selector=selector), tmp_path / selector, source_only)
        )
        for selector in ("constant", "class_balanced", "instance_adaptive")
    }
    first = [{name: content for name, content in files.items() if "round-1" in name} for files in found.values()]
    assert all(len(files) == 6 for files in first)
    assert first[0] != first[1] != first[2] != first[0]
