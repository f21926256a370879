"""Recipes: each goes through JSON unchanged, and what cannot be read is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from segshift import recipes
from segshift.errors import ConfigError
from segshift.methods.cbst import CBSTConfig
from segshift.models.deeplab import DeepLabV2
from segshift.recipe import METHODS, Recipe, from_dict, to_dict

NAMES = [entry.name for entry in recipes.entries()]


def through_json(recipe: Recipe) -> Any:
    return json.loads(json.dumps(to_dict(recipe)))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_comes_back(name: str) -> None:
    recipe = recipes.find(name)
    again = from_dict(through_json(recipe), "run.json")
    assert again == recipe
    assert again.name == name
    assert hash(again) == hash(recipe)
    assert recipe.label == recipes.LABELS[name.split("/")[1]]


def test_the_table_is_complete() -> None:
    missing = {f"{group}/adabn" for group in recipes.GROUPS if group.endswith("-fcn8s")}  # a network without BatchNorm
    assert len(NAMES) == len(set(NAMES))
    assert set(NAMES) == {f"{group}/{row}" for group in recipes.GROUPS for row in recipes.ROWS} - missing
    assert recipes.ROWS.keys() == recipes.LABELS.keys()
    used = {type(phase.method) for name in NAMES for _, phase in recipes.find(name).phases()}
    assert used == set(METHODS)


@pytest.mark.parametrize("group", recipes.GROUPS)
def test_the_rows_of_a_table_share_their_warmup(group: str) -> None:
    """What a difference between two rows is owed to: not to data, network, warm-up or scoring."""
    rows = [recipes.find(name) for name in NAMES if name.startswith(f"{group}/")]
    for row in rows:
        assert (row.network, row.data, row.warmup, row.test, row.settings) == (
            rows[0].network, rows[0].data, rows[0].warmup, rows[0].test, rows[0].settings
        )  # fmt: skip
    trained = [row.adaptation for row in rows if row.adaptation is not None and row.adaptation.rounds > 0]
    assert len({(phase.length, phase.target_epochs, phase.batch) for phase in trained}) == 1
    assert [row.label for row in rows if any(phase.method.needs_oracle for _, phase in row.phases())] == ["oracle"]


def test_options_other_than_the_defaults_come_back() -> None:
    recipe = recipes.find("own/cbst")
    assert recipe.adaptation is not None
    method = replace(recipe.adaptation.method, augment=None, stride=4, selection="global")
    recipe = replace(
        recipe,
        network=DeepLabV2("resnet50", output_stride=16),
        adaptation=replace(recipe.adaptation, method=method, clip=1.5, adabn_after="source"),
        settings=replace(recipe.settings, seed=9, precision="bf16-mixed", checkpoint_steps=7),
    )
    again = from_dict(through_json(recipe), "run.json")
    assert again == recipe
    assert isinstance(again.network, DeepLabV2)
    assert again.adaptation is not None
    assert isinstance(again.adaptation.method, CBSTConfig)


def changed(path: str, value: Any) -> Any:
    content = through_json(recipes.find("minicity/cbst"))
    *parents, last = path.split(".")
    node = content
    for name in parents:
        node = node[name]
    node[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("colour", 1, "colour"),
        ("warmup.epochs", 3, "epochs"),
        ("adaptation.method.kind", "Magic", "method kind is 'Magic'; expected one of SourceOnlyConfig, CBSTConfig"),
        ("adaptation.method.magic", 1, "magic"),
        ("network.kind", "Transformer", "Transformer"),
        ("warmup.steps", "many", "steps"),
        ("warmup.steps", 0, "steps = 0"),
        ("settings.precision", "16-mixed", "precision"),
        ("adaptation.method.portion", 2.0, "portion"),
    ],
)
def test_what_cannot_be_read_is_named(path: str, value: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=found) as error:
        from_dict(changed(path, value), "some/run.json")
    assert "some/run.json" in str(error.value)


@pytest.mark.parametrize("content", [None, [], "recipe", {}])
def test_something_else_is_an_error(content: Any) -> None:
    with pytest.raises(ConfigError, match=r"some/run\.json: the recipe cannot be read"):
        from_dict(content, "some/run.json")


@pytest.mark.parametrize(("name", "near"), [("minicity/cbts", "minicity/cbst"), ("nuclei/oracel", "nuclei/oracle")])
def test_an_unknown_recipe_is_an_error_with_a_suggestion(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no recipe '{name}'. Did you mean .*{near}"):
        recipes.find(name)
