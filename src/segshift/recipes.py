"""Named experiments as Python values; torch is loaded only where one is made.

A recipe states its command, what it costs and the table it belongs to; the command line only overrides it.
`recipe_names.py` has the names, `recipe_bases.py` the network, data and warm-up of each group, `recipe_rows.py` what
each row does after it.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from segshift.errors import ConfigError
from segshift.recipe_names import GROUPS, LABELS, ROWS, WARMUPS, entries, rows_of

if TYPE_CHECKING:
    from segshift.recipe import Recipe

__all__ = ["GROUPS", "LABELS", "ROWS", "WARMUPS", "Variant", "entries", "find", "rows_of"]

Variant = Literal["paper", "released"]


def find(name: str, variant: Variant = "paper", warmup: str | None = None) -> Recipe:
    """The recipe of a name; `variant="released"` puts the release's details in where they change results.

    `warmup`: the second warm-up that is put under it, one of WARMUPS; None: the recipe's own.
    ConfigError suggests the nearest name where there is none.
    """
    names = [entry.name for entry in entries()]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"there is no recipe {name!r}.{hint} `segshift recipes` lists them")
    if variant not in ("paper", "released"):
        raise ConfigError(f"variant = {variant!r}; expected paper or released")
    from segshift import recipe_bases, recipe_rows

    group, row = name.split("/")
    as_published = recipe_bases.follows_paper(group)
    recipe = recipe_rows.row(recipe_bases.base(group, name), row, LABELS[row], as_published)
    if warmup is not None:
        recipe = recipe_rows.on_warmup(recipe, warmup, as_published)
    return recipe_rows.released(recipe, as_published) if variant == "released" else recipe
