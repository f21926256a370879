"""The second warm-ups, which align source and target before self-training: AdaptSegNet, AdvEnt, MinEnt, style gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.advent import AdvEntConfig, MinEntConfig
from segshift.methods.style_gap import StyleGapConfig
from segshift.parts.adversarial import AdversarialConfig
from segshift.phase import Phase
from segshift.recipe import Recipe
from segshift.recipe_phases import ROUNDS, optimizer_of, slower, steps_a_round
from segshift.types import MethodConfig

ALIGNMENTS: dict[str, Callable[..., MethodConfig]] = {
    "adaptsegnet": AdaptSegNetConfig,
    # Eq. 2 of IAST; λ_adv is not printed there: its release's, for GTA5.
    "adaptsegnet-ls": lambda **options: AdaptSegNetConfig(loss="least_squares", weight=0.05, **options),
    "advent": AdvEntConfig,
    "minent": MinEntConfig,
    "style-gap": StyleGapConfig,
}
"""Row -> its method's config, from an optimiser."""

WIDTH = 16
"""Of the discriminator beside small networks: the published one, of 64, costs five times as much as they do."""
STYLE_RATE = 1e-3
"""Learning rate of the style discriminators where phase 1 has hundreds of steps: at the published 1e-4 they cannot tell
the domains apart when it ends (their loss is still that of a guess), at this rate they can after fifty."""
STYLE_GAP_STEPS = 250_000
"""Of the category-adaptive paper (§3.2: maxstep); its batches are not printed: one image, as in BDL, its base."""
SYNTHIA_WEIGHT = 0.001
"""λ_adv of IAST's release from SYNTHIA, with the least-squares loss."""


def alignment(base: Recipe, name: str, as_published: bool) -> Phase:
    """Training on both domains after the source-only warm-up of `base`, on its views and batches.

    As published it is as long as the warm-up, or as its paper prints. Else as long as the rounds of self-training
    together, with their cares: a fifth of the learning rate, BatchNorm statistics from the target before and after, and
    none of a batch's own.
    """
    warmup = base.warmup
    method: Any = ALIGNMENTS[name](optimizer=optimizer_of(warmup) if as_published else slower(warmup))
    if name == "adaptsegnet-ls" and base.data.source_layout == "synthia":
        method = replace(method, weight=SYNTHIA_WEIGHT)
    if as_published and name == "style-gap":
        return replace(warmup, method=method, steps=STYLE_GAP_STEPS, batch=1)
    if as_published:
        return replace(warmup, method=method)
    if isinstance(method, AdversarialConfig):
        method = replace(method, discriminator=replace(method.discriminator, width=WIDTH))
    if isinstance(method, StyleGapConfig):
        judge = method.style_discriminator
        faster = replace(judge.optimizer, lr=STYLE_RATE)
        method = replace(method, style_discriminator=replace(judge, optimizer=faster))
    steps = ROUNDS * steps_a_round(warmup)
    return replace(warmup, method=method, steps=steps, adabn_before="target", adabn_after="target")
