"""What each row of a table does after the warm-up that all rows share, and how the released code would do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from segshift.data.mining import Mining
from segshift.methods.cbst import CBSTConfig, SpatialPrior
from segshift.methods.oracle import OracleConfig
from segshift.parts.optimizers import Optimizer
from segshift.phase import Phase, Share
from segshift.recipe import Recipe
from segshift.scan import Views

PAPER_SCALES = Views(scales=(0.5, 0.75, 1.0))
"""Multi-scale testing as the CBST paper prints it (§5.2)."""
RELEASED_SCALES = Views(flip=True, scales=(0.9, 1.0, 1.2), average="logits")
"""Multi-scale testing as in its release."""


def row(base: Recipe, name: str, label: str, as_published: bool) -> Recipe:
    """A row of the table: the base's warm-up, then what the row is about."""
    warmup = base.warmup
    selection: Literal["class_balanced", "global"] = "class_balanced" if name.startswith("cbst") else "global"
    prior = SpatialPrior() if name.endswith("-sp") else None
    if name == "source-only":
        adaptation = None
    elif name == "adabn":
        adaptation = Phase(warmup.method, rounds=0, adabn_after="target")
    elif name == "oracle":
        adaptation = _trained(warmup, OracleConfig(optimizer=_optimizer(warmup)), as_published)
    elif name == "cbst-naive":
        method = CBSTConfig(batch_norm="both", augment=None, optimizer=_optimizer(warmup))
        adaptation = _trained(warmup, method, as_published, mining=Mining())
    elif as_published:
        method = CBSTConfig(selection, prior=prior, augment=None, optimizer=_optimizer(warmup))
        adaptation = _trained(warmup, method, as_published, mining=Mining())
    else:
        adaptation = _with_care(warmup, CBSTConfig(selection, prior=prior, optimizer=_slower(warmup)))
    return replace(base, label=label, adaptation=adaptation)


def released(recipe: Recipe, as_published: bool) -> Recipe:
    """The recipe with the release's details where they change results (docs/methods.md lists them).

    The optimiser of its later version is put into the paper's own recipes alone: its learning rate belongs to their
    networks. The others take its constant rate.
    """
    recipe = replace(recipe, test=RELEASED_SCALES if len(recipe.test.scales) > 1 else recipe.test)
    phase = recipe.adaptation
    if phase is None or not isinstance(phase.method, CBSTConfig):
        return recipe
    method = phase.method
    if as_published:
        optimizer = Optimizer("sgd", lr=5e-5, head_multiplier=10.0, momentum=0.9, weight_decay=5e-4, power=0.0)
    else:
        optimizer = replace(method.optimizer, power=0.0)
    first = {"portion": 0.15} if method.prior is not None and method.selection == "class_balanced" else {}
    phase = replace(
        phase,
        method=replace(method, stride=4, optimizer=optimizer, **first),
        mining=Mining(fallback=3, where="pseudo_labels"),
        source_share=Share(0.03, 0.0025, 0.06),
        fresh_optimizer=True,
        scan=replace(phase.scan, flip=True),
    )
    return replace(recipe, adaptation=phase)


def _with_care(warmup: Phase, method: CBSTConfig) -> Phase:
    """Self-training with every care that needs no target label (docs/methods.md says what each is worth)."""
    phase = _trained(warmup, method, as_published=False, mining=Mining())
    return replace(phase, scan=Views(flip=True), adabn_before="target", adabn_after="target")


def _trained(warmup: Phase, method: Any, as_published: bool, **options: Any) -> Phase:
    """Three rounds: of two target epochs as printed (appendix A), else of an eighth of the warm-up's steps each."""
    length = {"target_epochs": 2.0} if as_published else {"steps": max(1, warmup.length // 8)}
    views = {"source_view": warmup.source_view, "target_view": warmup.target_view}
    return Phase(method, rounds=3, clip=warmup.clip, batch=warmup.batch, **length, **views, **options)


def _optimizer(warmup: Phase) -> Optimizer:
    return warmup.method.optimizer  # pyright: ignore[reportAttributeAccessIssue]


def _slower(warmup: Phase) -> Optimizer:
    """Fine-tuning on labels that are partly wrong: a fifth of the warm-up's learning rate."""
    optimizer = _optimizer(warmup)
    return replace(optimizer, lr=optimizer.lr / 5)
