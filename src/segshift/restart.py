"""Weights that a network starts anew from at the start of a round: what `phase.Phase.restart` names.

They are a function of the recipe, the seed and the round, so a run that is resumed starts from the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.models.network import Network, drawn_anew
from segshift.recipe import Recipe

RANDOM, PRETRAINED, TIMM = "random", "pretrained", "timm:"


def restart_weights(network: Network, num_classes: int, restart: str, seed: int, n: int) -> dict[str, Tensor]:
    """The state that a network begins round n = 1, 2, ... with.

    `restart`: "random"; "pretrained", the weights that the network's backbone first started from (a file, or timm's);
    "timm:NAME", those of one of timm's tags, such as timm:convnext_tiny.dinov3_lvd1689m; else a checkpoint, as for
    `--weights`. Whatever they do not hold (the head) is random: other numbers in each round, and other ones than the
    warm-up's. The global generator is left as it was. Raises ConfigError where the weights cannot be had or are of
    another network.
    """
    config = _student(network, restart)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(seed, Stream.ENGINE, 4, n).integers(2**63)))
        return config.build(num_classes).state_dict()


def _student(network: Network, restart: str) -> Network:
    """The network's config with the weights that are named."""
    if restart == RANDOM:
        return drawn_anew(network)
    if not hasattr(network, "weights"):
        raise ConfigError(
            f"restart = {restart}: {type(network).__name__} has no backbone to load weights into; expected {RANDOM}"
        )
    if restart.startswith(TIMM):
        return _tagged(network, restart.removeprefix(TIMM))
    if restart == PRETRAINED:
        return network if _file_of(network) else replace(network, weights=PRETRAINED)  # pyright: ignore[reportCallIssue]
    if not Path(restart).is_file():
        raise ConfigError(
            f"restart = {restart}: is no file; expected a checkpoint of the backbone (the CPSL paper starts students "
            f"from self-supervised ones: --distillation.restart FILE), {TIMM}NAME, or {PRETRAINED} or {RANDOM} to "
            "stand in for it"
        )
    return replace(network, weights=restart)  # pyright: ignore[reportCallIssue]


def _file_of(network: Network) -> str:
    """The file of weights that a network starts from; empty where it starts from timm's, or from none."""
    weights = getattr(network, "weights", "none")
    return "" if weights in ("none", PRETRAINED) else Path(weights).name


def _tagged(network: Network, tag: str) -> Network:
    import timm

    backbone = getattr(network, "backbone", "")
    if not backbone or tag.partition(".")[0] != backbone.partition(".")[0] or not timm.is_model_pretrained(tag):
        known = ", ".join(timm.list_pretrained(f"{backbone.partition('.')[0]}.*")) if backbone else "none"
        raise ConfigError(
            f"restart = {TIMM}{tag}: expected weights that timm has for the backbone of this "
            f"{type(network).__name__}{f', {backbone}' if backbone else ''}: {known or 'none'}"
        )
    return replace(network, backbone=tag, weights=PRETRAINED)  # pyright: ignore[reportCallIssue]


def check_restarts(recipe: Recipe, num_classes: int) -> None:
    """Raise ConfigError, before the first step, where weights that a later phase starts from cannot be had."""
    for name, phase in recipe.phases():
        if phase.restart is not None and phase.rounds:
            try:
                restart_weights(recipe.network, num_classes, phase.restart, recipe.settings.seed, 1)
            except ConfigError as error:
                raise ConfigError(f"{name}.{error}") from error


def student_note(recipe: Recipe) -> str | None:
    """A sentence on where a distilled student starts, for reports and under tables; None for a recipe without one.

    Weights that are not self-supervised, as those of the CPSL paper are, are called a stand-in.
    """
    phase = recipe.distillation
    if phase is None or phase.restart is None:
        return None
    if phase.restart == RANDOM:
        start = "random weights, a stand-in for the self-supervised ones of the paper"
    elif phase.restart == PRETRAINED:
        file = _file_of(recipe.network)
        weights = f"weights of the warm-up ({file})" if file else "usual pretrained weights (labels of ImageNet)"
        start = f"its backbone's {weights}, a stand-in for the self-supervised ones of the paper"
    else:
        tagged = phase.restart.startswith(TIMM)
        start = f"the weights {phase.restart.removeprefix(TIMM) if tagged else Path(phase.restart).name}"
    return f"The student of the distillation starts from {start}."
