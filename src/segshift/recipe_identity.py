"""What a recipe trains, in a word: a hash that tells runs of different recipes apart, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from segshift.recipe import Recipe

VERSION = 2
"""Of `identity`. To be raised where the same recipe begins to give other figures, such as by another default."""
_PATHS = ("source", "target", "translated", "class_map")
_SETTINGS = ("precision", "evaluate_rounds", "select", "candidates_every", "candidates_images")
"""How a recipe is executed, where that decides which model it ends with, or what it is said of it."""


def identity(recipe: Recipe) -> str:
    """`2-` and 12 hexadecimal digits: a hash of all that decides what a recipe trains.

    Left out: paths, how it is scored, names, and how it is executed (but for `_SETTINGS`). Only
    fields that differ from their defaults enter, with the names of their classes: a new field with a default that
    changes nothing leaves all hashes as they are.
    """
    data = {key: value for key, value in _plain(recipe.data).items() if key not in _PATHS}
    network = _plain(recipe.network)
    if "weights" in network:
        network["weights"] = Path(network["weights"]).name
    settings = recipe.settings
    kept = {
        "network": network,
        "data": data,
        "warmup": _plain(recipe.warmup),
        "adaptation": _plain(recipe.adaptation),
        "settings": {n: v for n, v in _plain(settings).items() if n in _SETTINGS},
    }
    if recipe.alignment is not None:
        # Left out where there is none, so that recipes from before there was such a phase keep their hashes.
        kept["alignment"] = _plain(recipe.alignment)
    if recipe.distillation is not None:
        kept["distillation"] = _plain(recipe.distillation)
        if recipe.distillation.restart is not None:
            kept["distillation"]["restart"] = Path(recipe.distillation.restart).name
    return f"{VERSION}-{hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]}"


def _plain(value: Any) -> Any:
    """JSON values of a config: of a dataclass its name and the fields that are not at their defaults."""
    if is_dataclass(value) and not isinstance(value, type):
        compared = [f for f in fields(value) if f.compare]  # a module of the user's is none: its weights are data
        changed = {f.name: getattr(value, f.name) for f in compared if getattr(value, f.name) != _default(f)}
        return {"class": type(value).__name__} | {name: _plain(found) for name, found in changed.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    # 1 and 1.0 are equal as options and must be as text.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
