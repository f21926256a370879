"""The options of `segshift adapt`: where the data is, and any field of the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from segshift.errors import ConfigError
from segshift.recipe import Recipe


@dataclass(frozen=True)
class AdaptOptions:
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    source: str | None = None
    """Labelled source: a folder, or minicity."""
    target: str | None = None
    """Unlabelled target: a folder, or minicity."""
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
    weights: str | None = None
    """Weights of the backbone: a safetensors file, pretrained (downloaded by timm), or none."""


def apply(options: AdaptOptions) -> Recipe:
    """The recipe with the short options put in. ConfigError where one does not fit."""
    recipe = options.recipe
    data, settings, network = recipe.data, recipe.settings, recipe.network
    if options.source is not None:
        data = replace(data, source=options.source)
    if options.target is not None:
        data = replace(data, target=options.target)
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
