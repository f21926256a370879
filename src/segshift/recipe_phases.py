"""The phase that follows a warm-up: how long, on which views, with which cares. What the rows of a table share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from segshift.parts.optimizers import Optimizer
from segshift.phase import Phase
from segshift.scan import Views

ROUNDS = 3
"""Of self-training, in every recipe."""


def steps_a_round(warmup: Phase) -> int:
    """Steps of a round of self-training where no paper says it: an eighth of the warm-up's."""
    return max(1, warmup.length // 8)


def optimizer_of(warmup: Phase) -> Optimizer:
    """The optimiser of a phase's method."""
    method: Any = warmup.method
    return method.optimizer


def slower(warmup: Phase) -> Optimizer:
    """Fine-tuning on labels that are partly wrong, or none: a fifth of the warm-up's learning rate."""
    optimizer = optimizer_of(warmup)
    return replace(optimizer, lr=optimizer.lr / 5)


def trained(warmup: Phase, method: Any, as_published: bool, **options: Any) -> Phase:
    """Three rounds: of two target epochs as printed (CBST, appendix A), else of an eighth of the warm-up's steps."""
    length = {"target_epochs": 2.0} if as_published else {"steps": steps_a_round(warmup)}
    views = {"source_view": warmup.source_view, "target_view": warmup.target_view}
    return Phase(method, rounds=ROUNDS, clip=warmup.clip, batch=warmup.batch, **length, **views, **options)


def with_care(warmup: Phase, method: Any, **options: Any) -> Phase:
    """Self-training with every care that needs no target label (docs/methods/cbst.md says what each is worth)."""
    phase = trained(warmup, method, as_published=False, **options)
    return replace(phase, scan=Views(flip=True), adabn_before="target", adabn_after="target")
