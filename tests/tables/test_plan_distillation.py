"""A row with a student in a table: it starts from the run of its teacher, and the table says what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segshift import recipes
from segshift.errors import ConfigError
from segshift.options import TableOptions
from segshift.recipe import Recipe
from segshift.recipe_identity import identity
from segshift.tables.caption import caption
from segshift.tables.declare import Row, Table
from segshift.tables.plan import Training, plan
from segshift.tables.run import command

ROWS = tuple(Row(name, recipes.LABELS[name], name) for name in ("source-only", "adaptsegnet", "cpsl", "cpsl-distill"))
TABLE = Table("cpsl/rows", "for tests", ROWS, data="minicity")


def options(tmp_path: Path, **changed: Any) -> TableOptions:
    return TableOptions(TABLE.name, seeds=(0,), out=tmp_path, **changed)


def trainings(tmp_path: Path, table: Table = TABLE, **changed: Any) -> dict[str, Training]:
    return {job.row.key: job.training for job in plan(table, options(tmp_path, **changed))}


def test_a_student_starts_from_the_run_of_the_row_without_it(tmp_path: Path) -> None:
    found = trainings(tmp_path)
    assert found["cpsl-distill"].warmup == found["cpsl"]
    assert found["cpsl"].warmup == found["adaptsegnet"]
    assert found["adaptsegnet"].warmup == found["source-only"]
    assert len({training.folder for training in found.values()}) == 4
    assert found["cpsl-distill"].recipe.distillation is not None
    assert [name for name, _ in found["cpsl"].recipe.phases()] == ["warmup", "alignment", "adaptation"]


def test_rows_without_a_student_are_planned_as_before(tmp_path: Path) -> None:
    """And a student of one alone: its teacher is planned though no row is about it."""
    alone = replace(TABLE, rows=ROWS[-1:])
    assert trainings(tmp_path, alone)["cpsl-distill"].warmup == trainings(tmp_path)["cpsl"]
    for key in ("source-only", "adaptsegnet"):
        assert trainings(tmp_path)[key].recipe.distillation is None


def test_the_teacher_of_another_seed_or_student_is_told_apart(tmp_path: Path) -> None:
    first = trainings(tmp_path)["cpsl-distill"]
    other = trainings(tmp_path, student="timm:resnet10t.c3_in1k")["cpsl-distill"]
    assert first.folder != other.folder
    assert first.warmup == other.warmup  # the teacher knows nothing of its student
    assert other.recipe.distillation is not None
    assert other.recipe.distillation.restart == "timm:resnet10t.c3_in1k"


def test_a_student_for_a_table_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="student = random: no row of this table distils a student"):
        plan(replace(TABLE, rows=ROWS[:3]), options(tmp_path, student="random"))


def test_the_command_names_the_student_where_it_matters(tmp_path: Path) -> None:
    asked = options(tmp_path, student="/far/away/weights/moco.pth")
    said = {job.row.key: command(asked, job) for job in plan(TABLE, asked)}
    assert "--student …/weights/moco.pth" in said["cpsl-distill"]
    assert not any("--student" in words for key, words in said.items() if key != "cpsl-distill")


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (None, "random weights, a stand-in for the self-supervised ones of the paper"),
        ("/a/moco.pth", "starts from the weights moco.pth."),
    ],
)
def test_the_caption_says_where_the_student_starts(tmp_path: Path, student: str | None, said: str) -> None:
    asked = options(tmp_path, student=student)
    jobs = plan(TABLE, asked)
    notes = [note for note in caption(TABLE, asked, jobs, ROWS, ()) if "student" in note]
    assert len(notes) == 1
    assert said in notes[0]
    before = plan(replace(TABLE, rows=ROWS[:3]), options(tmp_path))
    assert not any("student" in note for note in caption(TABLE, options(tmp_path), before, ROWS[:3], ()))


# --- identity --------------------------------------------------------------------------------------------------------


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    assert recipe.distillation is not None
    return replace(recipe, distillation=replace(recipe.distillation, **fields))


def test_a_student_has_an_identity_of_its_own() -> None:
    recipe = recipes.find("own/cpsl-distill")
    others = [
        recipe,
        recipes.find("own/cpsl"),
        changed(recipe, restart="random"),
        changed(recipe, restart="/a/moco.pth"),
        changed(recipe, rounds=1),
        changed(recipe, restart=None),
    ]
    assert len({identity(other) for other in others}) == len(others)
    assert identity(changed(recipe, restart="/b/moco.pth")) == identity(changed(recipe, restart="/a/moco.pth"))
    assert identity(replace(recipe, adaptation_label="x")) == identity(recipe)


# --- from end to end -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_table_with_a_student_runs(table: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, said, err = table("cpsl/table1 --data own --seeds 0 --rows cpsl cpsl-distill")
    assert (code, err) == (0, "")
    assert "CPSL+distill" in said
    assert "a stand-in for the self-supervised ones" in " ".join(said.split())
    runs = [folder.name.rpartition("-")[0] for folder in (tmp_path / "out" / "runs").glob("*/seed-*/*")]
    assert sorted(runs) == ["SmallNet", "adaptsegnet", "cpsl", "cpsl-distill"]
