"""The results file: what a run is known by, what survives a kill, what is said of a damaged line."""

from __future__ import annotations

import json
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift import recipe_identity, recipes
from segshift.errors import RunError
from segshift.evaluate import Scores
from segshift.models.deeplab import DeepLabV3Plus
from segshift.recipe import Recipe
from segshift.recipe_identity import identity
from segshift.scan import Views
from segshift.tables.results import Key, Results, views_text
from segshift.taxonomy import CAMVID

KEY = Key("own", "cbst", 0, "2-abc", None, None, "1")
DATA = {"test": {"images": 3, "fingerprint": "a"}}


def content(**more: Any) -> dict[str, Any]:
    matrix = torch.eye(len(CAMVID), dtype=torch.int64) * 7
    return {"data": DATA, "scores": Scores(CAMVID, matrix, 3).to_dict(), **more}


def recipe() -> Recipe:
    return recipes.find("camvid-dusk/cbst")


def test_identity_is_blind_to_paths_names_and_execution() -> None:
    first = recipe()
    network = first.network
    assert isinstance(network, DeepLabV3Plus)
    same = replace(
        first,
        name="x",
        label="y",
        network=replace(network, weights="/here/w.safetensors"),
        data=replace(first.data, source="/a", target="/b"),
        settings=replace(first.settings, seed=7, threads=1, workers=3),
        test=Views(flip=True),
    )
    moved = replace(same, network=replace(network, weights="/there/w.safetensors"), data=first.data)
    assert identity(same) == identity(moved)
    assert identity(same) != identity(first)  # other weights
    assert identity(first).startswith(f"{recipe_identity.VERSION}-")


def test_identity_sees_what_decides_a_result() -> None:
    first = recipe()
    assert first.adaptation is not None
    others = [
        first,
        recipes.find("camvid-dusk/cbst-sp"),
        recipes.find("camvid-dusk/st"),
        recipes.find("nuclei/cbst"),
        replace(first, adaptation=replace(first.adaptation, rounds=4)),
        replace(first, adaptation=replace(first.adaptation, scan=Views(scales=(0.5, 1.0)))),
        replace(first, data=replace(first.data, short_side=200)),
        replace(first, settings=replace(first.settings, precision="bf16-mixed")),
        replace(first, warmup=replace(first.warmup, clip=1.0)),
        replace(first, adaptation=None),
        replace(first, alignment=first.adaptation),
        replace(first, alignment=first.warmup),
    ]
    assert len({identity(other) for other in others}) == len(others)


def test_recipes_without_a_second_warmup_keep_their_identity() -> None:
    """Lines of `benchmarks/results/accuracy.jsonl` from before there was such a phase are still found."""
    known = {
        "minicity/source-only": "2-91b4dfedb7e0",
        "minicity/cbst": "2-d2bf7dcd3916",
        "minicity/adabn": "2-a28a2730c7a0",
    }
    assert {name: identity(recipes.find(name)) for name in known} == known


def test_a_new_field_with_an_inert_default_changes_no_identity() -> None:
    known: list[Any] = [("a", float, 1.0), ("b", tuple, (1, 2))]
    before = make_dataclass("Inner", known, frozen=True)
    after = make_dataclass("Inner", [*known, ("new", list, field(default_factory=list))], frozen=True)
    outer = make_dataclass("Outer", ["inner"], frozen=True)
    first = recipe_identity._plain(outer(before(b=(3,))))
    assert recipe_identity._plain(outer(after(b=(3,)))) == first
    assert recipe_identity._plain(outer(after(a=1, b=(3,)))) == first
    assert recipe_identity._plain(outer(after(b=(3,), new=[0]))) != first
    assert recipe_identity._plain(outer(make_dataclass("Other", known)(b=(3,)))) != first


@settings(max_examples=30)
@given(st.lists(st.floats(0.25, 2), min_size=1, max_size=3, unique=True), st.booleans())
def test_views_are_told_apart(scales: list[float], flip: bool) -> None:
    views = Views(flip=flip, scales=tuple(scales))
    assert views_text(views) != views_text(replace(views, flip=not flip))
    assert views_text(views) != views_text(replace(views, scales=(*scales, 3.0)))


def test_views_in_words() -> None:
    assert views_text(Views()) == "1"
    assert views_text(Views(scales=(0.5, 0.75, 1.0))) == "0.5 0.75 1"
    assert views_text(Views(flip=True, scales=(0.9, 1.0), average="logits")) == "0.9 1 flip logits"


def test_a_line_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    first = Results(path)
    assert first.find(KEY, DATA) is None
    first.append(KEY, content(label="one"))
    first.append(KEY._replace(seed=1), content(label="other seed"))
    first.append(KEY, content(label="newer", rounds={"0": {"all": 0.25}, "10": {"all": 0.5}}))
    for read in (first, Results(path)):
        found = read.find(KEY, DATA)
        assert found is not None
        assert (found.content["label"], found.rounds) == ("newer", {0: {"all": 0.25}, 10: {"all": 0.5}})
        assert found.scores.mean_iou() == 1.0
        assert read.find(KEY._replace(views="0.5 1"), DATA) is None
        assert read.find(KEY, {"test": {"images": 3, "fingerprint": "b"}}) is None


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_line_that_a_kill_cut_short_is_replaced(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).append(KEY, content(label="whole"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: keep if keep > 0 else len(whole) - 2])
    again = Results(path)
    assert [entry.content["label"] for entry in again.entries] == ["whole"]
    again.append(KEY, content(label="after"))
    assert path.read_bytes().startswith(whole)
    assert [entry.content["label"] for entry in Results(path).entries] == ["whole", "after"]


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).append(KEY, content(label="edited"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    Results(path).append(KEY, content(label="after"))
    assert [entry.content["label"] for entry in Results(path).entries] == ["edited", "after"]


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).append(KEY, content())
    for damage, words in (("{oops\n", "is no JSON"), ('{"group": "own"}\n', "row, seed, recipe, scores missing")):
        path.write_text(path.read_text() + damage)
        with pytest.raises(RunError, match=rf"results\.jsonl, line 2: {words}") as error:
            Results(path)
        assert "mend or remove that line" in str(error.value)
        path.write_text(path.read_text().removesuffix(damage))


def test_lines_of_the_first_version_are_read_and_stand_for_no_new_run() -> None:
    old = Results(Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "accuracy.jsonl")
    entry = next(e for e in old.entries if "format" not in e.content)
    assert 0 < entry.scores.mean_iou() < 1
    assert entry.key.recipe == entry.content["recipe"]
    assert old.find(entry.key._replace(views="1"), DATA) is None
    assert json.loads(json.dumps(entry.content)) == entry.content
