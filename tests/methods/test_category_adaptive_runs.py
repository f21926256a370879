"""Whole runs of category-adaptive adaptation on tiny images: resumed from each checkpoint, logged as asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny import ROUNDS, STEPS, assert_resumes_everywhere, rounds, tiny, watched, weights

from segshift.recipe_rows import unretained
from segshift.run_log import RunLog
from segshift.runs import start

BRIDGING = {
    "source", "generator", "style", "discriminator source", "discriminator target", "style discriminator source",
    "style discriminator target",
}  # fmt: skip


def with_method(domains: tuple[Path, Path], **options: Any) -> Any:
    """Self-training whose threshold a network of three steps passes for about half of the pixels."""
    recipe = tiny("category-adaptive", *domains)
    phase: Any = recipe.adaptation
    return replace(recipe, adaptation=replace(phase, method=replace(phase.method, **({"delta": 0.0} | options))))


@pytest.fixture(scope="module")
def runs(domains: tuple[Path, Path], source_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("category-adaptive")
    yield watched(with_method(domains), folder / "run", source_only)
    shutil.rmtree(folder)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_resume_from_every_checkpoint(runs: Any, tmp_path: Path, every: int) -> None:
    """Networks, four discriminators with a decaying rate, thresholds."""
    assert_resumes_everywhere(runs, tmp_path, every)


def test_a_whole_run(runs: Any) -> None:
    entries = [entry for entry in RunLog(runs.folder / "log.jsonl").read() if entry["phase"] == "adaptation"]
    assert len(entries) == ROUNDS * STEPS
    assert all(set(entry["losses"]) == {"target"} | BRIDGING for entry in entries)
    # A new optimiser, and so the first rate, in each round.
    assert entries[0]["lr"] == entries[STEPS]["lr"] > entries[1]["lr"]
    statistics = [json.loads((runs.folder / f"round-{n}" / "statistics.json").read_text()) for n in (1, 2)]
    assert statistics[0]["thresholds"] != statistics[1]["thresholds"]
    assert all(0 < entry["coverage"] < 1 and entry["images"] == 5 for entry in statistics)


def test_a_chain_of_runs_is_the_whole_recipe(domains: tuple[Path, Path], source_only: Path, tmp_path: Path) -> None:
    """Phase 1 as a run of its own, and self-training on it: to the bit what the whole recipe gives."""
    whole = start(with_method(domains), tmp_path / "whole")
    first = start(tiny("style-gap", *domains), tmp_path / "first", source_only)
    second = start(with_method(domains), tmp_path / "second", first)
    assert weights(second) == weights(whole)
    assert rounds(second) == rounds(whole)


@pytest.mark.slow
def test_every_option_gives_other_labels_or_another_model(
    domains: tuple[Path, Path], source_only: Path, tmp_path: Path
) -> None:
    options: dict[str, dict[str, Any]] = {
        "as it is": {}, "mean": {"weighting": "mean"}, "image": {"scope": "image"}, "bdl": {"selector": "bdl"},
        "constant": {"selector": "constant", "constant": 0.3}, "normalised": {"entropy": "normalised", "delta": 0.05},
    }  # fmt: skip
    labels = {}
    for name, chosen in options.items():
        recipe = unretained(with_method(domains, **chosen))
        files = rounds(start(recipe, tmp_path / name, source_only))
        labels[name] = tuple(content for file, content in sorted(files.items()) if file.startswith("round-1/p"))
    assert len(set(labels.values())) == len(options)
    labelled = start(unretained(with_method(domains, normalisation="labelled")), tmp_path / "labelled", source_only)
    plain = tmp_path / "as it is"
    first = [{f: c for f, c in rounds(run).items() if f.startswith("round-1")} for run in (labelled, plain)]
    assert first[0] == first[1]
    assert weights(labelled) != weights(plain)
