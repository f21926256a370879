"""Rows of tables as declared, and what holds for those of every paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segshift import recipes, tables
from segshift.options import TableOptions
from segshift.phase import Phase
from segshift.recipe import Recipe
from segshift.recipe_identity import identity
from segshift.tables.declare import Row, Table
from segshift.tables.plan import Job, plan


def recipe_of(row: Row, group: str = "minicity") -> Recipe:
    """The recipe that a row runs."""
    recipe = recipes.find(f"{group}/{row.recipe}", warmup=row.warmup or None)
    return row.change(recipe) if row.change else recipe


def adaptation_of(table: str, key: str, group: str = "minicity") -> Phase:
    """The adaptation of a row, by its table and key."""
    row = next(row for row in tables.find(table).rows if row.key == key)
    found = recipe_of(row, group).adaptation
    assert found is not None
    return found


def planned(name: str, out: Path) -> dict[str, Job]:
    """Key -> job of a table on MiniCity, one seed."""
    jobs = plan(tables.find(name), TableOptions(name, data="minicity", seeds=(0,), out=out))
    return {job.row.key: job for job in jobs}


def assert_every_row_gives_a_recipe(table: Table) -> None:
    """On the paper's own pair, and on one where it stands in; a row of a change differs from what it changes."""
    for row in table.rows:
        for group in {"minicity", *table.groups.values()}:
            recipe = recipe_of(row, group)
            assert recipe.adaptation is not None or row.key == "source-only"
            if row.change is not None:
                assert recipe != recipes.find(f"{group}/{row.recipe}", warmup=row.warmup or None)
        assert not row.over or row.over in {other.key for other in table.rows}


def assert_keys_name_recipes(found_in: Sequence[Table]) -> None:
    """The same key is the same recipe in every table, and another key another."""
    found: dict[str, set[str]] = {}
    for table in found_in:
        for row in table.on("minicity"):
            found.setdefault(row.key, set()).add(identity(recipe_of(row)))
    assert {key for key, ids in found.items() if len(ids) > 1} == set()
    assert len({next(iter(ids)) for ids in found.values()}) == len(found)
