"""A run from shards is the run from the folder of the same images, to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.shards import make_shards, unpack
from tests.fakes.tiny import assert_same, tiny

from segshift.errors import DataError
from segshift.predict import evaluate_folder
from segshift.recipe import Recipe
from segshift.runs import start
from segshift.scan import Views


def sharded(recipe: Recipe, **data: Any) -> Recipe:
    return replace(recipe, data=replace(recipe.data, source_layout="shards", target_layout="shards", **data))


@pytest.fixture(scope="module")
def places(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    root = tmp_path_factory.mktemp("both")
    shards = make_shards(domains[0], root / "shards" / "day"), make_shards(domains[1], root / "shards" / "dusk")
    folders = unpack(shards[0], root / "folders" / "day"), unpack(shards[1], root / "folders" / "dusk")
    return {"shards": shards, "folders": folders}


@pytest.fixture(scope="module")
def run(places: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(sharded(tiny("cbst", *places["shards"])), tmp_path_factory.mktemp("shards") / "run")


@pytest.mark.slow
def test_it_is_the_run_from_a_folder(run: Path, places: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    assert_same(run, start(tiny("cbst", *places["folders"]), tmp_path / "run"))
    assert (run / "round-1" / "pseudo-labels" / "part-000000" / "dusk_001.png").is_file()
    data = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert "of the shards day, split train" in data["protocol"][0]


@pytest.mark.slow
def test_it_can_be_scored_on_shards_or_folders(run: Path, places: dict[str, tuple[Path, Path]]) -> None:
    shards = evaluate_folder(run, f"shards:{places['shards'][1]}", "test", Views())
    folder = evaluate_folder(run, places["folders"][1], "test", Views())
    assert shards.scores.to_dict() == folder.scores.to_dict()


def test_a_leak_through_shards_stops_it(places: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    day = places["shards"][0]
    with pytest.raises(DataError, match="source: 5 of its images are test images too"):
        start(sharded(tiny("source-only", day, day), source_split="test"), tmp_path / "run")
