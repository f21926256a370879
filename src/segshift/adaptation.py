"""`segshift.adapt`: the command line's main job as one call of Python."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segshift import recipe as recipe_file
from segshift.commands.asked import recipe_of_words
from segshift.errors import ConfigError, RunError
from segshift.evaluate import Scores
from segshift.models.network import load_model
from segshift.models.segmenter import Segmenter
from segshift.own_model import Given, around, body_of, named, start_from
from segshift.recipe import Recipe
from segshift.run_folder import read_info, read_run
from segshift.runs import resume


@dataclass(frozen=True)
class Adapted:
    """What `adapt` returns."""

    folder: Path
    """The run: report.html, log.jsonl, model/ and all else."""
    network: Segmenter
    """The adapted network: images in [0, 1] to `types.Output`, normalisation inside."""
    model: nn.Module
    """The adapted model as it was brought: a copy of the module given, with new weights. `state_dict()`, and
    `save_pretrained()` where it has that, are its own."""
    scores: Scores | None
    """On the target's labelled test images; None where there are none."""
    before: Scores | None
    """Of the model before it was adapted, on the same images."""


def adapt(
    model: nn.Module | str,
    *,
    target: str | Path,
    source: str | Path | None = None,
    method: str = "cbst",
    out: str | Path | None = None,
    trained: bool | None = None,
    options: str | Sequence[str] = (),
    **described: Any,
) -> Adapted:
    """Adapt a model to unlabelled target images.

    - `model`: a module from normalised images (b, 3, h, w) to class scores (b, k, h', w'), a tensor or an entry "out"
      or "logits"; or what `--model` takes, such as "hf:nvidia/segformer-b0-finetuned-cityscapes-1024-1024".
    - `source`, `target`: folders, or LAYOUT:FOLDER. Without a source, `method` must be one that needs none: iast,
      adabn.
    - `method`: a row of `segshift recipes` (of the group `own`), or GROUP/ROW.
    - `out`: the run's folder (default runs/own/METHOD). Where it holds this very run, that goes on; a finished one is
      read.
    - `trained`: whether the model segments the classes already (a module: yes); else it is trained on the source first.
    - `options`: words of the command line, such as "--adaptation.steps 100 --data.short-side 512".
    - `described`: fields of `models.wrapped.OwnModule` for a module: mean, std, stages, encoder.

    The model that is given stays as it is. Raises ConfigError, DataError, RunError or TrainingError, as
    `segshift.errors` has them: they name what was found, what was expected, and the cure.
    """
    if isinstance(model, str) and described:
        raise ConfigError(
            f"{', '.join(described)}: describes a module at hand, and model = {model!r} is a name; expected options of "
            "its network, such as options='--network.mean 0 0 0'"
        )
    given = named(model, trained) if isinstance(model, str) else around(model, trained is not False, **described)
    recipe = _recipe(given, source, target, method, options)
    folder = Path(out) if out is not None else Path("runs") / recipe.name
    module = getattr(recipe.network, "module", None)
    if (folder / "run.json").exists():
        _require_same(folder, recipe)
        resume(folder, module=module)
    else:
        start_from(given, recipe, folder)
    network = load_model(folder, module=module).network
    run = read_run(folder)
    return Adapted(folder, network, body_of(network), run.final, run.warmup)


def _recipe(
    given: Given, source: str | Path | None, target: str | Path, method: str, options: str | Sequence[str]
) -> Recipe:
    name = method if "/" in method else f"own/{method}"
    if source is None and name == "own/iast":
        name = "own/iast-source-free"
    words = ["--target", str(target), *(shlex.split(options) if isinstance(options, str) else options)]
    words += ["--source", str(source)] if source is not None else ["--data.source", "None"]
    if source is None and name.endswith("-source-free"):
        words = words[:-2]
    try:
        return recipe_of_words(name, words, given).recipe
    except SystemExit as stop:  # what the parser has to say stands on the terminal
        raise ConfigError(f"options = {options!r}: cannot be read; expected words of `segshift adapt {name}`") from stop


def _require_same(folder: Path, recipe: Recipe) -> None:
    """RunError where a folder holds a run of other options than those asked for: it would go on by its own."""
    info = read_info(folder)
    then = info["recipe"]
    now = json.loads(json.dumps(recipe_file.to_dict(recipe.on(info["data"]["target"]["images"]))))
    for content in (then, now):
        for key in ("adabn_before", "adabn_after"):  # left out for a model without BatchNorm
            (content.get("adaptation") or {}).pop(key, None)
    for name in ("data", "settings", "adaptation", "network"):
        if then.get(name) != now.get(name):
            raise RunError(
                f"{folder}: holds a run with other options ({name}); expected the same call as began it. Choose "
                "another out, or delete the folder"
            )
