"""Recipes that any number of processes takes the same steps in, but for rounding: one for each method and its variants.

What no number of processes may change is left: BatchNorm keeps the statistics its weights came with (a process that
trains them sees its own images alone), AdaBN is tested apart, CutMix (which pastes within a process) is off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tests.fakes.tiny import tiny

from segshift.models.deeplab import DeepLabV2
from segshift.recipe import Recipe
from segshift.recipe_rows import retained

Domains = tuple[Path, Path]


class Parity(NamedTuple):
    """A recipe for a number of processes, and what is expected of one process against two."""

    recipe: Callable[[Domains, int], Recipe]
    above_zero: tuple[str, ...]
    """Losses that are there, at each step."""
    losses: float = 2e-5
    """How far a loss may lie from that of one process."""
    weights: float = 1e-4
    """Likewise for weights, relative and absolute."""
    whole: bool = False
    """Trained from its first weights on, without the shared warm-up."""


def steady(row: str, domains: Domains, devices: int, settings: dict[str, Any] | None = None, **method: Any) -> Recipe:
    """A row whose adaptation takes more images than one a process, without AdaBN; `method`: options changed in it."""
    recipe = tiny(row, *domains, devices=devices, **(settings or {}))
    phase: Any = recipe.adaptation
    phase = replace(phase, method=replace(phase.method, **method))
    return replace(recipe, adaptation=replace(phase, adabn_before="none", adabn_after="none", batch=4))


def of(row: str, **method: Any) -> Callable[[Domains, int], Recipe]:
    return lambda domains, devices: steady(row, domains, devices, **method)


def cbst(domains: Domains, devices: int) -> Recipe:
    """All checkpoints kept: it is resumed from the middle."""
    return steady("cbst", domains, devices, {"keep": 50})


def source_only(domains: Domains, devices: int) -> Recipe:
    recipe = tiny("source-only", *domains, devices=devices)
    method: Any = recipe.warmup.method
    return replace(recipe, warmup=replace(recipe.warmup, method=replace(method, batch_norm="frozen"), batch=4))


def iast(domains: Domains, devices: int) -> Recipe:
    """With its warm-up kept; thresholds that start where the confidences of a network of three steps lie."""
    recipe = retained(tiny("iast", *domains, devices=devices))
    phase: Any = recipe.adaptation
    method = replace(phase.method, initial=0.3, beta=0.5, batch_norm="frozen")
    return replace(recipe, adaptation=replace(phase, method=method, adabn_before="none", adabn_after="none", batch=4))


def cpsl(domains: Domains, devices: int) -> Recipe:
    """A bank that is full after the first step."""
    recipe = steady("cpsl", domains, devices, bank=24, samples=8, momentum=0.7)
    phase: Any = recipe.adaptation
    augment = replace(phase.method.augment, cutmix_probability=0.0)
    return replace(recipe, adaptation=replace(phase, method=replace(phase.method, augment=augment)))


def distilled(domains: Domains, devices: int) -> Recipe:
    """A student that starts at random in each round, on all processes alike."""
    recipe = tiny("cpsl-distill", *domains, devices=devices)
    phase: Any = recipe.distillation
    method = replace(phase.method, confidence=0.25, batch_norm="frozen")
    return replace(recipe, distillation=replace(phase, method=method, adabn_after="none", batch=4))


PARITY = {
    "cbst": Parity(cbst, ("source", "target")),
    "source-only": Parity(source_only, ("source",), whole=True),
    "st": Parity(of("st"), ("source", "target")),
    "cbst-sp": Parity(of("cbst-sp"), ("source", "target")),
    "adaptsegnet": Parity(of("adaptsegnet"), ("source", "discriminator target")),
    "advent": Parity(of("advent"), ("source", "discriminator target")),
    "minent": Parity(of("minent"), ("source", "entropy")),
    "style-gap": Parity(of("style-gap"), ("source", "style", "style discriminator source")),
    # Thresholds that keep about half of the pixels; the style gap's four players beside them.
    "category-adaptive": Parity(of("category-adaptive", delta=0.0), ("style", "style discriminator source")),
    "iast": Parity(iast, ("ignored", "discriminator target")),
    "cpsl": Parity(cpsl, ("self-labelling",), losses=2e-4, weights=1e-3),
    "cpsl-distill": Parity(distilled, ("distillation", "target"), losses=2e-4, weights=1e-3),
    "oracle": Parity(of("oracle", batch_norm="frozen"), ("source", "target (oracle)")),
}
"""By the name of a method's row."""


def released(domains: Domains, devices: int) -> Recipe:
    """One round of IAST as released: thresholds that move by pairs of images, in a drawn order."""
    recipe = tiny("iast-source-free", *domains, devices=devices)
    phase: Any = recipe.adaptation
    method = replace(phase.method, variant="released", unit=2, order="random", initial=0.3)
    return replace(recipe, adaptation=replace(phase, method=method, adabn_before="none", rounds=1, steps=1))


def auxiliary(domains: Domains) -> Recipe:
    """A network with a classifier that no loss looks at, in the warm-up and in the phase after it."""
    recipe = tiny("adaptsegnet", *domains, devices=2)
    return replace(recipe, network=DeepLabV2("mobilenetv2_035", auxiliary=True))
