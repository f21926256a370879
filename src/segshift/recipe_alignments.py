"""The second warm-ups, which align source and target before self-training: AdaptSegNet, AdvEnt, MinEnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.advent import AdvEntConfig, MinEntConfig
from segshift.parts.adversarial import AdversarialConfig, DiscriminatorConfig
from segshift.phase import Phase
from segshift.types import MethodConfig

ALIGNMENTS: dict[str, Callable[..., MethodConfig]] = {
    "adaptsegnet": AdaptSegNetConfig,
    # Eq. 2 of IAST; λ_adv is not printed there: its release's, for GTA5.
    "adaptsegnet-ls": lambda **options: AdaptSegNetConfig(loss="least_squares", weight=0.05, **options),
    "advent": AdvEntConfig,
    "minent": MinEntConfig,
}
"""Row -> its method's config, from an optimiser."""


WIDTH = 16
"""Of the discriminator beside small networks: the published one, of 64, costs five times as much as they do."""


def alignment(warmup: Phase, name: str, as_published: bool) -> Phase:
    """Training on both domains after the source-only warm-up, on its views and batches.

    As published it is as long as the warm-up. Else as long as the rounds of self-training together, with their cares:
    a fifth of the learning rate, BatchNorm statistics from the target before and after, and none of a batch's own.
    """
    method: Any = warmup.method
    phase = replace(warmup, method=ALIGNMENTS[name](optimizer=method.optimizer))
    if as_published:
        return phase
    aligned = ALIGNMENTS[name](optimizer=replace(method.optimizer, lr=method.optimizer.lr / 5))
    if isinstance(aligned, AdversarialConfig):
        aligned = replace(aligned, discriminator=DiscriminatorConfig(width=WIDTH))
    return replace(
        phase,
        method=aligned,
        steps=3 * max(1, warmup.length // 8),
        adabn_before="target",
        adabn_after="target",
    )
