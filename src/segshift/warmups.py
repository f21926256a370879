"""A trained model that a run starts from: what is asked of it before it is used, and which recipe fits it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from segshift.data.records import changed_roles
from segshift.errors import ConfigError, RunError
from segshift.models.network import describe_model, model_folder, without_weights
from segshift.recipe import Recipe
from segshift.recipe_names import WARMUPS
from segshift.run_folder import read_info
from segshift.taxonomy import LabelSpace

GIVEN = "given model"


def space_of(warmup: Path | None) -> LabelSpace | None:
    """The classes of a model that knows them: a run, or a `model/` folder. A file of weights does not."""
    return describe_model(warmup).space if warmup is not None and warmup.is_dir() else None


def fitted(recipe: Recipe, warmup: Path) -> Recipe:
    """The recipe over a given model: with that model's network and working size, where its folder says them.

    The model stands for all that comes before the recipe's last phase: nothing but that is left after the warm-up.
    ConfigError where the path is not there.
    """
    if not warmup.exists():
        raise ConfigError(
            f"warmup = {warmup}: there is no such file or folder; expected a run, the model folder of one, a file of "
            f"weights, or one of {', '.join(WARMUPS)}"
        )
    recipe = last_alone(recipe)
    if not warmup.is_dir():
        return replace(recipe, network=without_weights(recipe.network))
    model = describe_model(warmup)
    return replace(recipe, network=model.network, data=replace(recipe.data, short_side=model.short_side))


def last_alone(recipe: Recipe) -> Recipe:
    """The recipe with nothing between its warm-up, which a given model stands for, and its last phase."""
    recipe = replace(recipe, alignment=None, alignment_label="")
    return recipe if recipe.distillation is None else replace(recipe, adaptation=None, adaptation_label="")


def weights_digest(warmup: Path) -> str:
    """SHA-256 of the weights of a given model. RunError where they cannot be read."""
    path = model_folder(warmup) / "model.safetensors" if warmup.is_dir() else warmup
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}); expected the weights that the run starts from. Put them back"
        ) from error


def require_same_weights(warmup: Path, digest: str | None) -> None:
    """RunError where a given model is not the one a run was begun from; `digest` None: the run did not say."""
    if digest is not None and weights_digest(warmup) != digest:
        raise RunError(
            f"{warmup}: holds other weights than when the run was begun from it, and no checkpoint holds those. Put "
            "them back, or start a new run"
        )


class Before(NamedTuple):
    """What came before a run that starts from a given model: what its report shows above its own scores."""

    stage: str
    """What the given model is to this run, and is scored as: warmup, alignment or adaptation."""
    labels: dict[str, str]
    """Names of the models, as `run.json` has them (warmup_label, ...)."""
    scores: dict[str, bytes]
    """Stage -> scores of the models that the given one came from, where they are over the same test images."""


def before(warmup: Path, record: Mapping[str, Any], last: str) -> Before:
    """What a given model was, and what it came from. `record`: of the data, as in `run.json`; `last`: the phase that
    is trained from it."""
    info = _run_info(warmup)
    scores = {} if info is None else _scores_before(warmup, info, record)
    label = GIVEN if info is None else info["label"]
    if info is None or "warmup" not in scores:
        return Before("warmup", {"warmup_label": label}, {})
    stage = "adaptation" if last == "distillation" else "alignment"
    # A second warm-up has no place above a model that is shown as one.
    kept = {name: content for name, content in scores.items() if name != stage}
    labels = {f"{name}_label": str(info.get(f"{name}_label", "")) for name in kept}
    return Before(stage, labels | {f"{stage}_label": label}, kept)


def _scores_before(warmup: Path, info: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, bytes]:
    """The scores of the warm-ups that the given run itself started from, where they are over the same test images."""
    if "test" not in record or "test" in changed_roles(info["data"], record):
        return {}
    files = {name: warmup / "evaluation" / f"{name}.json" for name in ("warmup", "alignment")}
    return {name: path.read_bytes() for name, path in files.items() if path.is_file()}


def _run_info(warmup: Path) -> dict[str, Any] | None:
    """`run.json` of a run; None for anything else."""
    path = warmup / "run.json"
    if not path.is_file():
        return None
    return read_info(warmup)
