"""The options of `segshift adapt`: where the data is, and any field of the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segshift.data.layouts import FOLDER, parse
from segshift.data.open_data import MINICITY
from segshift.errors import ConfigError
from segshift.recipe import Recipe


@dataclass(frozen=True)
class AdaptOptions:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    source: str | None = None
    """Labelled source: LAYOUT:DIR for a public data set (such as gta5:DIR), a folder, or minicity."""
    target: str | None = None
    """Unlabelled target, likewise (such as cityscapes:DIR)."""
    out: Path | None = None
    """Folder of the run; default: runs/RECIPE."""
    warmup_from: Path | None = None
    """A finished run of the same warm-up (such as GROUP/source-only) to start from, instead of training it again."""
    oracle: Path | None = None
    """A finished oracle run, shown beside this one in the report."""
    seed: int | None = None
    """Decides all that is random."""
    threads: int | None = None
    """CPU threads to compute with."""
    variant: Literal["paper", "released"] = "paper"
    """released: the details of the authors' code where they change results (docs/methods.md lists them)."""
    weights: str | None = None
    """Weights of the backbone: a safetensors file, pretrained (downloaded by timm), or none."""


def apply(options: AdaptOptions, named: Recipe | None = None) -> Recipe:
    """The recipe with the short options put in; `named` is it as it was before any option. ConfigError where one
    does not fit, or would not be looked at.
    """
    recipe = options.recipe
    _refuse_unread_steps(recipe, named or recipe)
    data, settings, network = recipe.data, recipe.settings, recipe.network
    source, source_layout = place(options.source or data.source, data.source_layout)
    target, target_layout = place(options.target or data.target, data.target_layout)
    data = replace(data, source=source, source_layout=source_layout, target=target, target_layout=target_layout)
    if not (data.source and data.target):
        raise ConfigError(
            f"recipe {recipe.name} needs --source {_words(source_layout)} and --target {_words(target_layout)}"
        )
    if (data.source == "minicity") != (data.target == "minicity"):
        raise ConfigError(f"source is {data.source}, target is {data.target}; expected two folders, or minicity twice")
    if data.source == "minicity" and not recipe.name.startswith("minicity/"):
        raise ConfigError(f"recipe {recipe.name} needs --source DIR and --target DIR")
    if options.seed is not None:
        settings = replace(settings, seed=options.seed)
    if options.threads is not None:
        settings = replace(settings, threads=options.threads)
    if options.weights is not None:
        if not hasattr(network, "weights"):
            raise ConfigError(
                f"weights = {options.weights}: {type(network).__name__} has no backbone to load them into"
            )
        network = replace(network, weights=options.weights)  # pyright: ignore[reportCallIssue]
    return replace(recipe, data=data, settings=settings, network=network)


def _refuse_unread_steps(recipe: Recipe, named: Recipe) -> None:
    """Steps are worked out from the epochs where these are given: an option for both would be passed over."""
    before = dict(named.phases())
    for name, phase in recipe.phases():
        if phase.target_epochs is not None and name in before and phase.steps != before[name].steps:
            raise ConfigError(
                f"{name}.steps = {phase.steps}: this recipe counts its rounds in passes over the target "
                f"({name}.target_epochs = {phase.target_epochs:g}); set --{name}.target-epochs None too, or that alone"
            )


def place(text: str, layout: str) -> tuple[str, str]:
    """(path, layout) of LAYOUT:PATH; `layout`, that of the recipe, where the text names none."""
    named, path = parse(text)
    if path == MINICITY:
        return path, FOLDER
    return path, layout if path == text else named


def _words(layout: str) -> str:
    return "DIR" if layout == FOLDER else f"{layout}:DIR"
