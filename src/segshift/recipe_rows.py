"""What each row of a table does after the warm-up that all rows share, and how the released code would do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from segshift.data.mining import Mining
from segshift.errors import ConfigError
from segshift.methods.category_adaptive import CategoryAdaptiveConfig
from segshift.methods.cbst import CBSTConfig, SpatialPrior
from segshift.methods.cpsl import CPSLConfig
from segshift.methods.iast import IASTConfig
from segshift.methods.oracle import OracleConfig
from segshift.methods.style_gap import StyleGapConfig
from segshift.parts.augment import ColourAugmentation
from segshift.parts.optimizers import Optimizer
from segshift.parts.self_training import SelfTrainingConfig
from segshift.phase import Phase, Share
from segshift.recipe import Recipe
from segshift.recipe_alignments import ALIGNMENTS, STYLE_GAP_STEPS, alignment
from segshift.recipe_cpsl import cpsl, distilled, released_cpsl
from segshift.recipe_names import LABELS, WARMUPS
from segshift.recipe_phases import ROUNDS, optimizer_of, slower, steps_a_round, trained, with_care
from segshift.scan import Views

PAPER_SCALES = Views(scales=(0.5, 0.75, 1.0))
"""Multi-scale testing as the CBST paper prints it (§5.2)."""
RELEASED_SCALES = Views(flip=True, scales=(0.9, 1.0, 1.2), average="logits")
"""Multi-scale testing as in its release."""
SSL_ROUNDS = 2
"""Of the category-adaptive paper: "two rounds of SSL" (§3.2)."""
LABELLED_SHARE = 1 / 8
"""Of the semi-supervised row: the smallest of IAST's Table 8."""


def row(base: Recipe, name: str, label: str, as_published: bool) -> Recipe:
    """A row of the table: the base's warm-up, then what the row is about."""
    base = replace(base, label=label)
    if name.startswith("iast"):
        return _iast(base, name, as_published)
    if name == "category-adaptive":
        return _category_adaptive(base, as_published)
    if name.startswith("cpsl"):
        recipe = aligned(cpsl(base, as_published), "adaptsegnet", as_published)
        return recipe if name == "cpsl" else distilled(recipe, as_published)
    return replace(base, adaptation=_adaptation(base, name, as_published))


def _adaptation(base: Recipe, name: str, as_published: bool) -> Phase | None:
    """What follows the warm-up in a row without a second one."""
    warmup = base.warmup
    if name in ALIGNMENTS:
        return alignment(base, name, as_published)
    match name:
        case "source-only":
            return None
        case "adabn":
            return Phase(warmup.method, rounds=0, adabn_after="target")
        case "oracle":
            return trained(warmup, OracleConfig(optimizer=optimizer_of(warmup)), as_published)
        case _:
            return _cbst(warmup, name, as_published)


def _cbst(warmup: Phase, name: str, as_published: bool) -> Phase:
    """ST and CBST, with spatial priors or without, as printed or with our cares."""
    if name == "cbst-naive":
        method = CBSTConfig(batch_norm="both", augment=None, optimizer=optimizer_of(warmup))
        return trained(warmup, method, as_published, mining=Mining())
    selection: Literal["class_balanced", "global"] = "class_balanced" if name.startswith("cbst") else "global"
    prior = SpatialPrior() if name.endswith("-sp") else None
    if as_published:
        method = CBSTConfig(selection, prior=prior, augment=None, optimizer=optimizer_of(warmup))
        return trained(warmup, method, as_published, mining=Mining())
    return with_care(warmup, CBSTConfig(selection, prior=prior, optimizer=slower(warmup)), mining=Mining())


# --- IAST --------------------------------------------------------------------------------------------------------


def _iast(base: Recipe, name: str, as_published: bool) -> Recipe:
    """IAST over its own warm-up (Eq. 2); over a given model without a source; or on a labelled share of one set."""
    if as_published:
        # §5.1: Adam, four passes over the target a round; windows of Cityscapes as in the release.
        target = replace(base.warmup.target_view, window=(341, 1000))
        phase = Phase(IASTConfig(), rounds=ROUNDS, target_epochs=4.0, batch=6, target_view=target)
    else:
        method = IASTConfig(augment=ColourAugmentation(), optimizer=slower(base.warmup))
        phase = with_care(base.warmup, method)
    recipe = replace(base, adaptation=phase)
    if name == "iast":
        return aligned(recipe, "adaptsegnet-ls", as_published)
    if name == "iast-source-free":
        return replace(recipe, data=replace(recipe.data, source=None))
    # Labels of the same kind of image are at hand: their loss is kept.
    return replace(retained(recipe), data=replace(recipe.data, labelled_share=LABELLED_SHARE))


# --- category-adaptive -----------------------------------------------------------------------------------------------


def _category_adaptive(base: Recipe, as_published: bool) -> Recipe:
    """Two rounds of self-training over style-gap bridging, whose losses go on beside Eq. 6 (§3.2).

    The paper does not say how long a round is, nor what its optimiser does between them: as BDL, its base, each is a
    training like the one before, begun anew. Else both rounds together are as long as the three of other methods.
    """
    warmup = base.warmup
    if as_published:
        method = CategoryAdaptiveConfig(optimizer=optimizer_of(warmup))
        phase = replace(trained(warmup, method, as_published), target_epochs=None, steps=STYLE_GAP_STEPS, batch=1)
    else:
        method = CategoryAdaptiveConfig(augment=ColourAugmentation(), optimizer=slower(warmup))
        phase = replace(with_care(warmup, method), steps=ROUNDS * steps_a_round(warmup) // SSL_ROUNDS)
    phase = replace(phase, rounds=SSL_ROUNDS, fresh_optimizer=True)
    return retained(aligned(replace(base, adaptation=phase), "style-gap", as_published))


def on_warmup(recipe: Recipe, name: str, as_published: bool = False) -> Recipe:
    """The recipe over another warm-up, one of WARMUPS: what "decorating" a method by IAST is (§4, Table 9).

    Raises ConfigError for an unknown name, and for a recipe that a second warm-up makes no sense under.
    """
    if name not in WARMUPS:
        raise ConfigError(f"warmup = {name!r}; expected one of {', '.join(WARMUPS)}, or a run, or a file of weights")
    if recipe.adaptation is None:
        raise ConfigError(f"warmup = {name}: recipe {recipe.name} is a warm-up itself; leave the option out")
    if recipe.data.source is None:
        raise ConfigError(
            f"warmup = {name}: recipe {recipe.name} has no source to train it on; expected a model: a run of Segshift, "
            "or a file of weights"
        )
    kept = getattr(recipe.adaptation.method, "retain", None) is not None
    recipe = aligned(recipe, name, as_published)
    return retained(recipe) if kept else recipe


def aligned(recipe: Recipe, name: str, as_published: bool) -> Recipe:
    phase = None if name == "source-only" else alignment(recipe, name, as_published)
    return replace(recipe, alignment=phase, alignment_label="" if phase is None else LABELS[name])


def retained(recipe: Recipe) -> Recipe:
    """Self-training with the losses of its warm-up kept (IAST, §4). ConfigError where the recipe cannot do that."""
    phase, method = _self_training(recipe, "retain = True")
    if recipe.data.source is None:
        raise ConfigError(f"retain = True: recipe {recipe.name} has no source, which those losses are over")
    kept: Any = (recipe.alignment or recipe.warmup).method
    if recipe.alignment is None:
        # No statistics of the source's images alone: self-training keeps BatchNorm as it is.
        kept = replace(kept, batch_norm="frozen")
    return replace(
        recipe,
        adaptation=replace(phase, method=replace(method, retain=kept), source_view=recipe.warmup.source_view),
    )


def unretained(recipe: Recipe) -> Recipe:
    """Self-training on the target alone, as in IAST's tables. ConfigError where the recipe has none that could be."""
    phase, method = _self_training(recipe, "retain = False")
    return replace(recipe, adaptation=replace(phase, method=replace(method, retain=None)))


def _self_training(recipe: Recipe, asked: str) -> tuple[Phase, Any]:
    """The adaptation, where a warm-up's losses can be kept in it or left out. ConfigError where they cannot."""
    phase = recipe.adaptation
    if phase is None or not isinstance(phase.method, SelfTrainingConfig):
        raise ConfigError(
            f"{asked}: recipe {recipe.name} has no self-training that could keep a warm-up's losses; expected a recipe "
            "of IAST or category-adaptive, or leave the option out"
        )
    return phase, phase.method


# --- the released variant ----------------------------------------------------------------------------------------


def released(recipe: Recipe, as_published: bool) -> Recipe:
    """The recipe with the release's details where they change results (docs/methods.md lists them).

    An optimiser of the release is put into the paper's own recipes alone: its learning rate belongs to their
    networks. The others take its schedule.
    """
    recipe = replace(recipe, test=RELEASED_SCALES if len(recipe.test.scales) > 1 else recipe.test)
    phase = recipe.adaptation
    if phase is None:
        return recipe
    if isinstance(phase.method, (StyleGapConfig, CategoryAdaptiveConfig)):
        raise ConfigError(
            f"variant = released: no code of the category-adaptive paper was released, which recipe {recipe.name} is "
            "of; leave the option out"
        )
    if isinstance(phase.method, CBSTConfig):
        phase = _released_cbst(phase, phase.method, as_published)
    elif isinstance(phase.method, IASTConfig):
        phase = _released_iast(phase, phase.method, as_published)
    elif isinstance(phase.method, CPSLConfig):
        phase = released_cpsl(phase, phase.method)
    return replace(recipe, adaptation=phase)


def _released_cbst(phase: Phase, method: CBSTConfig, as_published: bool) -> Phase:
    if as_published:
        optimizer = Optimizer("sgd", lr=5e-5, head_multiplier=10.0, momentum=0.9, weight_decay=5e-4, power=0.0)
    else:
        optimizer = replace(method.optimizer, power=0.0)
    first = {"portion": 0.15} if method.prior is not None and method.selection == "class_balanced" else {}
    return replace(
        phase,
        method=replace(method, stride=4, optimizer=optimizer, **first),
        mining=Mining(fallback=3, where="pseudo_labels"),
        source_share=Share(0.03, 0.0025, 0.06),
        fresh_optimizer=True,
        scan=replace(phase.scan, flip=True),
    )


def _released_iast(phase: Phase, method: IASTConfig, as_published: bool) -> Phase:
    """Batches of 2 in shuffled order share a threshold; alpha and the rate of each round; batches of 8.

    Its BatchNorm freezes scale and shift alone, so statistics follow the target's batches.
    """
    method = replace(
        method,
        variant="released",
        unit=2,
        order="random",
        alpha=(0.2, 0.25, 0.3),
        lr_factors=(1.2, 1.0, 0.8),
        batch_norm="target",
        optimizer=replace(method.optimizer, power=0.0),
    )
    batch = 8 if as_published else phase.batch
    return replace(phase, method=method, fresh_optimizer=True, batch=batch)
