"""Odd values through everything that reads YAML or JSON: a value of the right kind, or an error of Segshift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.fakes.run_folder import STREET, make_run
from tests.fakes.tiny import tiny
from tests.faults.fuzzing import CHANGES, EDITS, VALUES, budget, changed, edited, only_own_errors

from segshift import recipe, taxonomy
from segshift.evaluate import Scores
from segshift.reporting.report import write_report
from segshift.run_folder import read_run
from segshift.taxonomy import LabelSpace

CLASSES = STREET.to_dict()
YAML = (
    yaml.safe_dump(CLASSES),
    "classes:\n  - &a {id: 0, name: road, color: [1, 2, 3]}\n  - {id: 1, name: sky, color: *a}\n# a comment\n",
    json.dumps(CLASSES),
)
TOKENS = (
    "&a ", "*a ", "!!int ", "!!python/object:os.system ", "<<: ", "? ", "- ", ": ", "[", "]", "{", "}", "|\n", ">\n",
    "'", '"', "\\u0000", "\t", "---\n", "...\n", "%YAML 1.2\n", "0x", "0b", "1e999", ".nan", "1:2:3", "2001-13-45",
    "null", "~", "=", "\ufeff", "\x85", "\ud7ff", "!!binary ", "!!timestamp ", "!!omap ", "!!set ",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("values")


def is_sound(found: tuple[LabelSpace, int]) -> None:
    """A label space that was read can be written and read again, and is the same."""
    space, ignore = found
    assert 0 <= ignore <= 255
    again, _ = taxonomy.from_dict(json.loads(json.dumps(space.to_dict())), "again/classes.yaml")
    assert again == space


@budget(30)
@given(st.sampled_from(YAML), st.lists(st.tuples(st.integers(0), st.sampled_from(TOKENS)), max_size=6))
def test_yaml_with_odd_tokens(folder: Path, text: str, tokens: list[tuple[int, str]]) -> None:
    for place, token in tokens:
        at = place % (len(text) + 1)
        text = text[:at] + token + text[at:]
    path = folder / "tokens.yaml"
    path.write_text(text, encoding="utf-8")
    with only_own_errors("values: classes.yaml"):
        is_sound(taxonomy.read_classes(path))


@budget(30)
@given(st.sampled_from(YAML), CHANGES)
def test_yaml_damaged(folder: Path, text: str, changes: list[tuple[str, int, int]]) -> None:
    path = folder / "damaged.yaml"
    path.write_bytes(changed(text.encode(), changes))
    with only_own_errors("values: classes.yaml"):
        is_sound(taxonomy.read_classes(path))


@budget(30)
@given(EDITS)
def test_classes_of_any_values(edits: list[Any]) -> None:
    with only_own_errors("values: taxonomy.from_dict"):
        is_sound(taxonomy.from_dict(edited(CLASSES, edits), "some/classes.yaml"))


@budget(30)
@given(VALUES)
def test_classes_of_anything(value: Any) -> None:
    with only_own_errors("values: taxonomy.from_dict"):
        is_sound(taxonomy.from_dict(value, "some/classes.yaml"))


RECIPES = [recipe.to_dict(tiny(row, Path("day"), Path("dusk"))) for row in ("cbst", "iast", "cpsl", "source-only")]


@budget(30)
@given(st.sampled_from(RECIPES), EDITS)
def test_recipes(content: dict[str, Any], edits: list[Any]) -> None:
    with only_own_errors("values: recipe.from_dict"):
        found = recipe.from_dict(edited(content, edits), "some/run.json")
        assert recipe.from_dict(json.loads(json.dumps(recipe.to_dict(found))), "again/run.json") == found


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return make_run(folder / "run", panels=1)


@budget(30)
@given(EDITS)
def test_scores(run: Path, edits: list[Any]) -> None:
    content = edited(json.loads((run / "evaluation" / "final.json").read_text()), edits)
    assume(isinstance(content, dict))
    with only_own_errors("values: Scores.from_dict"):
        scores = Scores.from_dict(content, "some/final.json")
        assert Scores.from_dict(json.loads(json.dumps(scores.to_dict()))).miou.keys() == scores.miou.keys()


PARTS = ("run.json", "evaluation/final.json", "evaluation/warmup.json", "round-2/statistics.json", "log.jsonl")


@budget(30)
@given(data=st.data())
def test_runs(run: Path, data: st.DataObject) -> None:
    """One file of a run is damaged, as bytes or as a tree of values; what can still be read makes a report."""
    path = run / data.draw(st.sampled_from(PARTS))
    before = path.read_bytes()
    if path.suffix == ".json" and data.draw(st.booleans()):
        path.write_text(json.dumps(edited(json.loads(before), data.draw(EDITS))))
    else:
        path.write_bytes(changed(before, data.draw(CHANGES)))
    try:
        with only_own_errors("values: read_run"):
            read_run(run)
    finally:
        path.write_bytes(before)


@pytest.mark.slow
@budget(10)
@given(EDITS)
def test_reports(run: Path, folder: Path, edits: list[Any]) -> None:
    path = run / "run.json"
    before = path.read_bytes()
    path.write_text(json.dumps(edited(json.loads(before), edits)))
    try:
        with only_own_errors("values: write_report"):
            write_report([run], folder / "report.html")
    finally:
        path.write_bytes(before)
