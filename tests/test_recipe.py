"""Recipes: each goes through JSON unchanged, and what cannot be read is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from segshift import recipes
from segshift.errors import ConfigError
from segshift.methods.cbst import CBSTConfig
from segshift.methods.iast import IASTConfig
from segshift.models.deeplab import DeepLabV2
from segshift.recipe import METHODS, Recipe, from_dict, to_dict
from segshift.recipe_rows import retained, unretained
from segshift.restart import check_restarts

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
    assert len(NAMES) == len(set(NAMES))
    assert set(NAMES) == {f"{group}/{row}" for group in recipes.GROUPS for row in recipes.rows_of(group)}
    assert {row for group in recipes.GROUPS for row in recipes.rows_of(group)} == set(recipes.ROWS)
    assert recipes.ROWS.keys() == recipes.LABELS.keys()
    used = {type(phase.method) for name in NAMES for _, phase in recipes.find(name).phases()}
    assert used == set(METHODS)


@pytest.mark.parametrize("group", recipes.GROUPS)
def test_the_rows_of_a_table_share_their_warmup(group: str) -> None:
    """What a difference between two rows is owed to: not to data, network, warm-up or scoring."""
    rows = [recipes.find(name) for name in NAMES if name.startswith(f"{group}/")]
    for row in rows:
        # The one thing about the data that a row may be about: no source, or a share of it labelled.
        data = replace(row.data, source=rows[0].data.source, labelled_share=rows[0].data.labelled_share)
        assert (row.network, data, row.warmup, row.test, row.settings) == (
            rows[0].network, rows[0].data, rows[0].warmup, rows[0].test, rows[0].settings
        )  # fmt: skip
    # A student that starts anew is trained longer than a network that goes on.
    later = [found for row in rows for found in row.phases() if found[0] not in ("warmup", "distillation")]
    trained = [phase for _, phase in later if phase.rounds > 0]
    if not group.endswith("-deeplab-v2"):  # each as its own paper prints it
        assert (
            len({(phase.length, phase.target_epochs and phase.target_epochs * phase.rounds) for phase in trained}) == 1
        )
        assert len({phase.batch for phase in trained}) == 1
    oracles = [row.label for row in rows if any(phase.method.needs_oracle for _, phase in row.phases())]
    assert oracles == (["oracle"] if "oracle" in recipes.rows_of(group) else [])


@pytest.mark.parametrize("warmup", recipes.WARMUPS)
def test_a_method_decorates_any_warmup(warmup: str) -> None:
    """`--warmup NAME`: the same self-training over the phase that the row of that name trains."""
    recipe, alone = recipes.find("own/iast", warmup=warmup), recipes.find(f"own/{warmup}")
    assert recipe.adaptation == recipes.find("own/iast").adaptation
    assert recipe.alignment == alone.adaptation
    assert recipe.alignment_label == ("" if warmup == "source-only" else alone.label)
    assert from_dict(through_json(recipe), "run.json") == recipe
    assert recipes.find("own/cbst", warmup=warmup).alignment == alone.adaptation


@pytest.mark.parametrize("warmup", recipes.WARMUPS)
def test_the_losses_of_any_warmup_can_be_kept(warmup: str) -> None:
    recipe = retained(recipes.find("own/iast", warmup=warmup))
    phase = recipe.adaptation
    assert phase is not None
    assert isinstance(phase.method, IASTConfig)
    assert type(phase.method.retain) is type((recipe.alignment or recipe.warmup).method)
    assert phase.method.domains == ("source", "target")
    assert from_dict(through_json(recipe), "run.json") == recipe


def test_what_cannot_be_decorated_is_an_error() -> None:
    with pytest.raises(ConfigError, match="warmup = 'magic'; expected one of source-only, adaptsegnet"):
        recipes.find("own/iast", warmup="magic")
    with pytest.raises(ConfigError, match="own/source-only is a warm-up itself"):
        recipes.find("own/source-only", warmup="advent")
    with pytest.raises(ConfigError, match="own/iast-source-free has no source to train it on; expected a model"):
        recipes.find("own/iast-source-free", warmup="advent")
    with pytest.raises(ConfigError, match="own/cbst has no self-training that could keep"):
        retained(recipes.find("own/cbst"))
    with pytest.raises(ConfigError, match="own/iast-source-free has no source, which those losses are over"):
        retained(recipes.find("own/iast-source-free"))


@pytest.mark.parametrize("group", ["minicity", "gta5-cityscapes-deeplab-v2", "synthia-cityscapes-deeplab-v2"])
def test_the_warmup_of_iast_is_the_row_of_that_name(group: str) -> None:
    """On every pair, so that tables share its run."""
    assert recipes.find(f"{group}/iast").alignment == recipes.find(f"{group}/adaptsegnet-ls").adaptation


@pytest.mark.parametrize("group", ["minicity", "camvid-dusk", "gta5-cityscapes-deeplab-v2"])
def test_a_student_is_taught_by_the_row_without_it(group: str) -> None:
    alone, distilled = recipes.find(f"{group}/cpsl"), recipes.find(f"{group}/cpsl-distill")
    assert replace(distilled, distillation=None, adaptation_label="", label=alone.label, name=alone.name) == alone
    assert distilled.adaptation_label == alone.label == "CPSL"
    assert distilled.last == ("distillation", distilled.distillation)
    assert alone.last == ("adaptation", alone.adaptation)
    phase = distilled.distillation
    assert phase is not None
    assert (phase.rounds, phase.fresh_optimizer, phase.adabn_before) == (2, True, "none")
    assert alone.alignment == recipes.find(f"{group}/adaptsegnet").adaptation


def test_students_start_from_what_there_is() -> None:
    """Random where the network has no weights, pretrained photographs' networks; a paper's pair asks for a file."""
    found = {}
    for group in ("minicity", "camvid-dusk", "own", "gta5-cityscapes-deeplab-v2"):
        phase = recipes.find(f"{group}/cpsl-distill").distillation
        assert phase is not None
        found[group] = phase.restart
    assert found["minicity"] == "random"
    assert found["camvid-dusk"] == found["own"] == "pretrained"
    recipe = recipes.find("gta5-cityscapes-deeplab-v2/cpsl-distill")
    with pytest.raises(ConfigError, match=r"distillation\.restart = .*: is no file.*--distillation\.restart FILE"):
        check_restarts(recipe, 19)


def test_losses_are_dropped_again() -> None:
    kept = recipes.find("own/iast-semi")
    assert kept.adaptation is not None and isinstance(kept.adaptation.method, IASTConfig)
    assert kept.adaptation.method.retain is not None
    alone = unretained(kept).adaptation
    assert alone is not None and alone.method.domains == ("target",)
    with pytest.raises(ConfigError, match="own/cbst has no self-training that could keep"):
        unretained(recipes.find("own/cbst"))


def test_two_levels_need_two_classifiers() -> None:
    recipe = recipes.find("gta5-cityscapes-deeplab-v2/adaptsegnet")
    phase = recipe.adaptation
    assert phase is not None
    phase = replace(phase, method=replace(phase.method, multi_level=True))  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"adaptation\.method\.multi_level = True: DeepLabV2 has no auxiliary"):
        replace(recipe, adaptation=phase)
    assert replace(recipe, network=replace(recipe.network, auxiliary=True), adaptation=phase)  # type: ignore[call-arg]


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
        (
            "adaptation.method.kind",
            "Magic",
            "method kind is 'Magic'; expected one of SourceOnlyConfig, AdaptSegNetConfig",
        ),
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
