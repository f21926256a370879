"""The category-adaptive paper's tables as declared: what each row changes, which share runs, what was printed."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.rows import (
    adaptation_of,
    assert_every_row_gives_a_recipe,
    assert_keys_name_recipes,
    planned,
    recipe_of,
)

from segshift import recipes, tables
from segshift.errors import ConfigError
from segshift.methods.category_adaptive import CategoryAdaptiveConfig
from segshift.methods.style_gap import StyleGapConfig
from segshift.phase import Phase
from segshift.tables import category_adaptive
from segshift.tables.declare import Table
from segshift.tables.published import of_table, read

PAPER = Path(__file__).resolve().parents[3] / "shared" / "papers" / "category_adaptive.txt"
GROUP = "gta5-cityscapes-deeplab-v2"


def adaptation(table: str, key: str, group: str = "minicity") -> Phase:
    return adaptation_of(f"category-adaptive/{table}", key, group)


def options_of(table: str, key: str, group: str = "minicity") -> dict[str, Any]:
    return vars(adaptation(table, key, group).method)


@pytest.mark.parametrize("table", category_adaptive.TABLES, ids=lambda table: table.name)
def test_every_row_gives_a_recipe(table: Table) -> None:
    assert_every_row_gives_a_recipe(table)


def test_the_same_key_is_the_same_recipe_in_every_table_and_another_key_another() -> None:
    assert_keys_name_recipes(category_adaptive.TABLES)


def test_self_training_starts_from_the_run_of_the_row_adv(tmp_path: Path) -> None:
    jobs = planned("category-adaptive/table2", tmp_path)
    once, twice, adv = (jobs[key].training for key in ("ssl-once", "category-adaptive", "style-gap"))
    assert once.warmup == twice.warmup == adv
    assert {jobs[key].training.warmup for key in ("original", "style-gap", "adabn")} == {jobs["source-only"].training}
    shared = planned("category-adaptive/rows", tmp_path)
    for key in ("original", "style-gap", "category-adaptive"):
        assert shared[key].training == jobs[key].training


def test_table_2_adds_one_part_to_another() -> None:
    original, adv = options_of("table2", "original"), options_of("table2", "style-gap")
    assert {name for name in adv if adv[name] != original[name]} == {"style"}
    once, twice = adaptation("table2", "ssl-once"), adaptation("table2", "category-adaptive")
    assert (once.rounds, twice.rounds) == (1, 2)
    assert (once.method, once.steps, once.fresh_optimizer) == (twice.method, twice.steps, True)
    # The losses of phase 1 go on in self-training.
    assert once.method.domains == ("source", "target")
    assert options_of("table2", "ssl-once")["retain"] == adaptation("table2", "style-gap").method


def test_table_3_differs_in_the_model_of_style_alone() -> None:
    found = {key: options_of("table3", key) for key in ("original", "gram", "mean-std", "style-gap")}
    assert [options["style"] for options in found.values()] == ["none", "gram", "mean_std", "adversarial"]
    assert len({str({**options, "style": ""}) for options in found.values()}) == 1


def test_the_paper_s_own_settings() -> None:
    """§3.2, on its own pair."""
    adv, ssl = adaptation("table2", "style-gap", GROUP), adaptation("table2", "category-adaptive", GROUP)
    bridging: Any = adv.method
    assert isinstance(bridging, StyleGapConfig)
    assert (bridging.weight, bridging.style_weight, bridging.loss) == (1e-3, 1e-3, "vanilla")
    network = bridging.optimizer
    assert (network.kind, network.lr, network.lr * network.head_multiplier) == ("sgd", 2.5e-4, 2.5e-3)
    assert (network.momentum, network.power, network.decay) == (0.9, 0.9, None)
    for judge in (bridging.discriminator.optimizer, bridging.style_discriminator.optimizer):
        assert (judge.kind, judge.lr, judge.momentum, judge.beta2) == ("adam", 1e-4, 0.9, 0.99)
        assert judge.decay == (0.1, 50_000)
    assert (adv.steps, ssl.rounds, ssl.steps) == (250_000, 2, 250_000)
    assert isinstance(ssl.method, CategoryAdaptiveConfig)
    assert (ssl.method.weighting, ssl.method.normalisation, ssl.method.augment) == ("confidence", "image", None)


def test_style_discriminators_learn_faster_where_steps_are_few() -> None:
    """The one published setting that the recipes for small images change, beside the width of D_c."""
    short, whole = (adaptation("table2", "style-gap", group).method for group in ("minicity", GROUP))
    ours, theirs = (vars(vars(method)["style_discriminator"].optimizer) for method in (short, whole))
    assert {name for name in ours if ours[name] != theirs[name]} == {"lr"}
    left = {"style_discriminator", "discriminator", "optimizer"}
    assert {name for name in vars(short) if vars(short)[name] != vars(whole)[name]} == left


def test_bdl_has_its_own_thresholds_and_no_style_loss() -> None:
    row = next(row for row in tables.find("category-adaptive/table1").rows if row.key == "bdl")
    recipe = recipe_of(row)
    assert recipe.alignment == recipes.find("minicity/adaptsegnet").adaptation
    assert recipe.adaptation is not None
    method = recipe.adaptation.method
    assert isinstance(method, CategoryAdaptiveConfig)
    assert (method.selector, type(method.retain).__name__) == ("bdl", "AdaptSegNetConfig")


def test_no_code_was_released() -> None:
    for row in ("style-gap", "category-adaptive"):
        with pytest.raises(ConfigError, match=r"no code of the category-adaptive paper was released.*leave the option"):
            recipes.find(f"minicity/{row}", "released")
    # Over that warm-up, IAST's own release says what IAST does.
    assert recipes.find("minicity/iast", "released", "style-gap").alignment is not None


# --- published figures ---------------------------------------------------------------------------------------------


def test_every_published_line_belongs_to_a_row() -> None:
    theirs = [table for table in category_adaptive.TABLES if table.published]
    assert sum(len(of_table(table.published)) for table in theirs) == len(read(category_adaptive.PUBLISHED)) == 11
    ours = {}
    for table in theirs:
        lines = {line.row for line in of_table(table.published)}
        ours[table.name.rpartition("/")[2]] = {row.key for row in table.rows} - lines
        assert lines <= {row.key for row in table.rows}
    assert ours == {"table1": set(), "table2": {"source-only", "adabn"}, "table3": {"original"}}


def test_published_means_are_those_of_the_published_rows() -> None:
    for line in of_table((category_adaptive.PUBLISHED, "table1")):
        assert len(line.iou) == 19
        mean = statistics.mean(map(float, line.iou.values()))
        assert mean == pytest.approx(float(line.means["mIoU"]), abs=0.1 + 1e-9), line.row


@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the repository")
def test_published_figures_stand_in_the_paper() -> None:
    text = PAPER.read_text(encoding="utf-8")
    names = {"cbst": "CBST[4]", "advent": "ADVENT [6]", "bdl": "BDL [5]", "category-adaptive": "Ours"}
    for line in of_table((category_adaptive.PUBLISHED, "table1")):
        assert "\t".join([names[line.row], *line.iou.values(), line.means["mIoU"]]) in text, line.row
    labels = {row.key: row.label for row in tables.find("category-adaptive/table2").rows}
    for line in of_table((category_adaptive.PUBLISHED, "table2")):
        assert f"{labels[line.row]}\t{line.means['mIoU']}" in text
    names = {"gram": "Gram matrix", "mean-std": "mean & std", "style-gap": "mean (Ours)"}
    for line in of_table((category_adaptive.PUBLISHED, "table3")):
        assert f"{names[line.row]}\t{line.means['mIoU']}" in text
