"""A run.json that was changed by hand, cut short or made up: `resume` says which field, and touches nothing."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny import tiny
from tests.faults.bad_inputs import assert_refused, run

from segshift.recipe import to_dict

CHANGED = ". The file was changed, or is from another version: start the run again"
METHOD = "warmup.method.optimizer"


def put(path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    """Set one field of the recipe; the path has dots."""

    def change(recipe: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            recipe = recipe[name]
        recipe[last] = value

    return change


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ROWS: tuple[tuple[str, Callable[[dict[str, Any]], object], str], ...] = (
    ("an unknown field", put("speed", 11), "extra fields found (speed) @ $"),
    ("an unknown field of a phase", put("warmup.speed", 11), "extra fields found (speed) @ $.warmup"),
    ("no network", lambda recipe: recipe.pop("network"), "required field missing @ $.network"),
    ("no steps at all", lambda recipe: recipe.clear(), "required field missing @ $.name; required field missing"),
    ("a network that is text", put("network", "SmallNet"), "expected SmallNet or DeepLabV3Plus or … @ $.network"),
    ("a network to import", put("network.kind", "os.system"), "network kind is 'os.system'; expected one of SmallNet"),
    ("a method to import", put("warmup.method.kind", "os.system"), "method kind is 'os.system'; expected one of Sou"),
    ("a kind that is a list", put("warmup.method.kind", [1]), "invalid value for type, expected MethodConfig @"),
    ("no method", put("warmup.method", None), "invalid value for type, expected MethodConfig @ $.warmup.method"),
    ("text for a number", put("warmup.rounds", "many"), "'many'; expected a whole number @ $.warmup.rounds"),
    ("digits for a number", put("warmup.rounds", "3"), "'3'; expected a whole number @ $.warmup.rounds"),
    ("a fraction of a round", put("warmup.rounds", 1.5), "1.5; expected a whole number @ $.warmup.rounds"),
    ("true for a number", put("warmup.rounds", True), "True; expected a whole number @ $.warmup.rounds"),
    ("null for a number", put("warmup.rounds", None), "None; expected a whole number @ $.warmup.rounds"),
    ("a list for a number", put("warmup.rounds", [1]), "[1]; expected a whole number @ $.warmup.rounds"),
    ("an object for a number", put("warmup.steps", {"a": 1}), "{'a': 1}; expected a whole number @ $.warmup.steps"),
    ("a negative number", put("warmup.rounds", -1), "rounds = -1, steps = "),
    ("no images a batch", put("warmup.batch", 0), "rounds = 1, steps = 3, batch = 0"),
    ("10^400 steps", put("warmup.steps", 10**400), "1000000000…; expected a whole number of at most 92233720368547758"),
    ("NaN", put(f"{METHOD}.lr", float("nan")), f"nan; expected a finite number @ $.{METHOD}.lr"),
    ("infinity", put(f"{METHOD}.lr", float("inf")), f"inf; expected a finite number @ $.{METHOD}.lr"),
    ("infinite rounds", put("warmup.rounds", float("inf")), "inf; expected a whole number @ $.warmup.rounds"),
    ("a negative rate", put(f"{METHOD}.lr", -1.0), "lr = -1.0; expected a positive number"),
    ("no for false", put("warmup.source_view.flip", "no"), "'no'; expected true or false @ $.warmup.source_view.flip"),
    ("1 for true", put("warmup.source_view.flip", 1), "1; expected true or false @ $.warmup.source_view.flip"),
    ("a scale that is text", put("warmup.source_view.scale", "ab"), "'a'; expected a finite number @"),
    ("three scales", put("warmup.source_view.scale", [1, 2, 3]), "invalid value (Too many values in [1, 2, 3] to"),
    ("half a crop", put("warmup.source_view.crop", [5]), "invalid value (Not enough values in [5] to"),
    ("a negative crop", put("warmup.source_view.crop", [-1, 5]), "crop = (-1, 5); expected height and width"),
    ("no scales to test at", put("test.scales", []), "scales = (); expected numbers above 0 and at most 8"),
    ("a precision that is none", put("settings.precision", "16"), "expected one of 32-true, bf16-mixed @"),
    ("a seed that is text", put("settings.seed", "0"), "'0'; expected a whole number @ $.settings.seed"),
    ("a seed of 2^80", put("settings.seed", 2**80), "1208925819614629174706176; expected a whole number of at most"),
    ("a name that is null", put("name", None), "None; expected text @ $.name"),
    ("a name that is a list", put("label", ["CBST"]), "['CBST']; expected text @ $.label"),
    ("data that is text", put("data", "day"), "expected an object with named fields @ $.data"),
    ("a working size of 0", put("data.short_side", 0), "short_side = 0; expected at least 16 pixels"),
    ("lists, 900 deep", put("warmup.rounds", nested(900)), "[[[[...]]]]; expected a whole number @ $.warmup."),
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(pair: Path) -> dict[str, Any]:
    return to_dict(tiny("cbst", pair / "day", pair / "dusk"))


@pytest.mark.parametrize(("change", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(
    change: Callable[[dict[str, Any]], object], expected: str, recipe: dict[str, Any], source_only: Path, tmp_path: Path
) -> None:
    info = json.loads((source_only / "run.json").read_text())
    info["recipe"] = copy.deepcopy(recipe)
    change(info["recipe"])
    file = tmp_path / "run.json"
    file.write_text(json.dumps(info))
    before = file.read_bytes()
    said = run("resume", tmp_path)
    assert_refused(said, f"{file}: the recipe cannot be read (…{expected}")
    assert CHANGED in said.text
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert file.read_bytes() == before


FILES = (
    ("no bytes", ""),
    ("a word", "hello"),
    ("cut short", '{"label": "CBST", "space": {"classes": [{"id"'),
    ("a list", "[1, 2]"),
    ("null", "null"),
    ("lists, 100000 deep", "[" * 100_000),
    ("a number of 5000 digits", "1" * 5000),
    ("an object of nothing", "{}"),
    ("text for the classes", '{"label": "CBST", "space": "five", "recipe": {}}'),
)


@pytest.mark.parametrize("command", ["resume", "report"])
@pytest.mark.parametrize("content", [row[1] for row in FILES], ids=[row[0] for row in FILES])
def test_no_run_json(command: str, content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    assert_refused(run(command, tmp_path), f"{tmp_path / 'run.json'}: …")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_the_fields_as_they_were_are_read(recipe: dict[str, Any], source_only: Path, tmp_path: Path) -> None:
    """So that none of the rows above is refused for another reason than its own."""
    info = json.loads((source_only / "run.json").read_text()) | {"recipe": recipe}
    shutil.copytree(source_only, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    said = run("report", tmp_path / "run", "--out", tmp_path / "r.html")
    assert said.code == 0, said.text
