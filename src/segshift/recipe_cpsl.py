"""CPSL and its distillation, over a warm-up: as printed, with our cares, and as the released code has it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from segshift.data.transforms import View
from segshift.methods.cpsl import CPSLConfig
from segshift.methods.distillation import DistillationConfig
from segshift.models.small import SmallNet
from segshift.parts.augment import ColourAugmentation
from segshift.phase import Phase
from segshift.recipe import Recipe
from segshift.recipe_names import LABELS
from segshift.recipe_phases import ROUNDS, optimizer_of, slower, trained, with_care
from segshift.scan import Views

STEPS = 90_000
"""Of the training, and of each round of distillation: the released code's, as the paper prints none."""
VIEW = View(crop=(512, 896))
"""§4.1: "randomly cropped to 896x512", here of the images at their own size, which it does not say."""
BATCH = 4
MOMENTUM = 0.99
"""Of the momentum networks where the training has 120 to 150 steps: at the published .999 they would end where they
began, six sevenths of the warm-up."""
DISTILLATION_ROUNDS = 2
"""§4.2: "two more knowledge distillation rounds"."""
SELF_SUPERVISED = "self-supervised weights"
"""No file: a run asks for one by name (`restart`)."""


def cpsl(base: Recipe, as_published: bool) -> Recipe:
    """The warm-up of `base`, then CPSL. Its rounds are points of report: nothing begins anew at them."""
    if as_published:
        phase = Phase(
            CPSLConfig(), rounds=ROUNDS, steps=STEPS // ROUNDS, batch=BATCH, source_view=VIEW, target_view=VIEW
        )
    else:
        optimizer = slower(base.warmup)
        # The head learns five times as fast as the network, as printed.
        head = replace(optimizer, lr=5 * optimizer.lr)
        method = CPSLConfig(momentum=MOMENTUM, optimizer=optimizer, head_optimizer=head)
        phase = with_care(base.warmup, method)
    return replace(base, adaptation=phase)


def distilled(recipe: Recipe, as_published: bool) -> Recipe:
    """Two rounds of distillation after the adaptation of `recipe`, which is called what its own row is called.

    A student that starts anew has to learn what the warm-up taught: each round is as long as the warm-up, at its
    learning rate and with its optimiser. It starts at random where there are no weights of its network, and from
    the warm-up's own where there are: neither is self-supervised. As published it wants a file (`--student`).
    """
    warmup = recipe.warmup
    anew: dict[str, Any] = {"fresh_optimizer": True, "restart": SELF_SUPERVISED}
    if as_published:
        method = DistillationConfig(augment=ColourAugmentation())
        phase = Phase(method, steps=STEPS, batch=BATCH, source_view=VIEW, target_view=VIEW)
    else:
        method = DistillationConfig(augment=ColourAugmentation(), optimizer=optimizer_of(warmup))
        anew["restart"] = "random" if isinstance(recipe.network, SmallNet) else "pretrained"
        phase = replace(trained(warmup, method, as_published=False), steps=warmup.length, adabn_after="target")
    phase = replace(phase, rounds=DISTILLATION_ROUNDS, scan=Views(flip=True), **anew)
    return replace(recipe, distillation=phase, adaptation_label=LABELS["cpsl"])


def released_cpsl(phase: Phase, method: CPSLConfig) -> Phase:
    """What of the released code changes results (docs/methods/cpsl.md lists it)."""
    return replace(
        phase,
        method=replace(
            method,
            sampling="random",
            samples=256,
            distribution_momentum=1.0,
            consistency="prototype_kl",
            target_loss="symmetric",
            head="cosine",
        ),
    )
