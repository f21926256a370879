"""A trained model that a run starts from: what is asked of it before it is used, and which recipe fits it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segshift.errors import ConfigError, RunError
from segshift.models.network import describe_model, without_weights
from segshift.recipe import Recipe
from segshift.recipe_names import WARMUPS
from segshift.taxonomy import LabelSpace

GIVEN = "given model"


def space_of(warmup: Path | None) -> LabelSpace | None:
    """The classes of a model that knows them: a run, or a `model/` folder. A file of weights does not."""
    return describe_model(warmup).space if warmup is not None and warmup.is_dir() else None


def fitted(recipe: Recipe, warmup: Path) -> Recipe:
    """The recipe over a given model: with that model's network and working size, where its folder says them.

    Nothing comes between the model and the adaptation. ConfigError where the path is not there.
    """
    if not warmup.exists():
        raise ConfigError(
            f"warmup = {warmup}: there is no such file or folder; expected a run, the model folder of one, a file of "
            f"weights, or one of {', '.join(WARMUPS)}"
        )
    recipe = replace(recipe, alignment=None, alignment_label="")
    if not warmup.is_dir():
        return replace(recipe, network=without_weights(recipe.network))
    model = describe_model(warmup)
    return replace(recipe, network=model.network, data=replace(recipe.data, short_side=model.short_side))


def labels_of(warmup: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """What the report calls the given model, and what that came from. `record`: of the data, as in `run.json`."""
    info = _run_info(warmup)
    if info is None:
        return {"warmup_label": GIVEN}
    if scores_before(warmup, record) is None:
        return {"warmup_label": info["label"]}
    return {"warmup_label": info["warmup_label"], "alignment_label": info["label"]}


def scores_before(warmup: Path, record: Mapping[str, Any]) -> bytes | None:
    """The scores that the given run itself started from, where they are over the same test images."""
    info, path = _run_info(warmup), warmup / "evaluation" / "warmup.json"
    same = info is not None and "test" in record and info["data"].get("test") == record["test"]
    return path.read_bytes() if same and path.is_file() else None


def _run_info(warmup: Path) -> dict[str, Any] | None:
    """`run.json` of a run; None for anything else."""
    path = warmup / "run.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); expected the folder of a run") from error
