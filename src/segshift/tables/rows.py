"""The words that papers declare the rows of their tables in: a recipe's row, and rows that change a recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from segshift.recipes import LABELS
from segshift.tables.declare import Row

if TYPE_CHECKING:
    from segshift.phase import Phase
    from segshift.recipe import Recipe

Change = Callable[["Recipe"], "Recipe"]
DEEPLAB = "deeplab-v2"
MIOU = ("mIoU", "all")
PROPORTION = ("Proportion", "proportion")
P_MIOU = ("P-mIoU", "miou")


def row(key: str, label: str = "", over: str = "") -> Row:
    """The row of a recipe: RECIPE@WARMUP puts it on another warm-up, `+mst` scores it on several scales."""
    name = key.removesuffix("+mst")
    recipe, _, warmup = name.partition("@")
    usual = LABELS[recipe] + (f" on {LABELS[warmup]}" if warmup else "") + ("+MST" if name != key else "")
    return Row(key, label or usual, recipe, DEEPLAB, warmup, multi_scale=name != key, over=over)


def changed(recipe: str, key: str, label: str, change: Change, over: str = "") -> Row:
    """A row that alters a recipe; the same key stands for the same change in every table, so that they share runs."""
    return Row(key, label, recipe, DEEPLAB, change=change, over=over)


def own(*rows: Row) -> tuple[Row, ...]:
    """Rows of a table of ours, which has no network of its own."""
    return tuple(replace(found, network="") for found in rows)


def adapted(edit: Callable[[Phase], Phase]) -> Change:
    """Another adaptation phase, the warm-ups as they are."""

    def change(recipe: Recipe) -> Recipe:
        assert recipe.adaptation is not None, f"{recipe.name} has no adaptation to change"
        return replace(recipe, adaptation=edit(recipe.adaptation))

    return change


def method(**options: Any) -> Change:
    """The adaptation's method with these options."""

    def edit(phase: Phase) -> Phase:
        config: Any = phase.method
        return replace(phase, method=replace(config, **options))

    return adapted(edit)
