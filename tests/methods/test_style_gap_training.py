"""Phase 1 of category-adaptive adaptation in training: it closes the gap; precision, state, two processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.steps import (
    CLASSES,
    assert_two_processes_match_one,
    backward,
    batch,
    images,
    step,
    three_steps,
    weights,
)
from tests.methods.test_style_gap import CONFIGS, JUDGE, OPTIMIZER, PLAIN, STYLE_JUDGE, Stages, build, every
from torch import Tensor

from segshift import checkpoint
from segshift.methods.style_gap import StyleDiscriminatorConfig, StyleGap, StyleGapConfig
from segshift.parts.optimizers import Optimizer
from segshift.snapshot import Position, restore, snapshot
from segshift.types import Batch, Images

# --- what it is for --------------------------------------------------------------------------------------------------


def gap(method: StyleGap, given: Batch) -> float:
    """How far the domains' mean styles are apart, over how large they are; the sum over the two stages."""
    method.model.eval()
    found = 0.0
    with torch.no_grad():
        outputs = [method.model(domain.image) for domain in given]
        for source, target in zip(*(output.stages[:2] for output in outputs), strict=True):
            ours, theirs = source.mean((0, 2, 3)), target.mean((0, 2, 3))
            found += float((ours - theirs).norm() / (ours.norm() + theirs.norm()))
    return found


def tinted(seed: int) -> Batch:
    """The same scenes in both domains, labelled by their green; one is redder, the other bluer."""

    def domain(seed: int, channel: int) -> Images:
        plain = images(seed, 2)
        label = (CLASSES * plain.image[:, 1]).long()
        return plain._replace(image=plain.image + 0.5 * torch.eye(3)[channel].view(1, 3, 1, 1), label=label)

    return Batch(domain(seed, 0), domain(seed + 100, 2))


def trained_gap(config: StyleGapConfig) -> float:
    judge = StyleDiscriminatorConfig(width=16, optimizer=Optimizer("adam", 3e-3, weight_decay=0.0, power=0.0))
    method = build(replace(config, optimizer=replace(OPTIMIZER, lr=1e-2), style_discriminator=judge), 20)
    for t in range(20):
        step(method, tinted(t), t)
    return gap(method, tinted(1000))


def test_the_style_gap_closes() -> None:
    """Each kind of style term does what it is for: a third less gap than without it, as on other seeds."""
    without = trained_gap(replace(PLAIN, style="none"))
    closed: dict[str, StyleGapConfig] = {
        "adversarial": replace(PLAIN, style_weight=1.0),
        "gram": replace(PLAIN, style="gram", style_weight=100.0),
        "mean_std": replace(PLAIN, style="mean_std", style_weight=10.0),
        "mean_std, the target moved": replace(PLAIN, style="mean_std", style_weight=10.0, moved="target"),
    }
    found = {name: trained_gap(config) for name, config in closed.items()}
    assert all(value < 2 / 3 * without for value in found.values()), (without, found)


# --- precision, state, processes -------------------------------------------------------------------------------------


@every
def test_under_bfloat16(config: StyleGapConfig) -> None:
    exact = step(build(config), batch())
    method = build(config)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = list(method.step(batch(), 0))
    for expected, losses in zip(exact, rounded, strict=True):
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=3e-2, abs=1e-6)
        backward(losses)
    for player in method.players().values():
        assert all(w.grad.isfinite().all() for w in player.parameters() if w.grad is not None)


@pytest.mark.parametrize("name", ["adversarial", "gram", "multi-level"])
def test_an_interrupted_training_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    config = replace(CONFIGS[name], batch_norm="both")
    whole, again = build(config), config.build(Stages(), 10, 0)
    for t in range(4):
        if t == 2:
            checkpoint.save(tmp_path / "step.safetensors", snapshot(whole, Position(t=2), False))
        step(whole, batch(), t)
    restore(again, checkpoint.load(tmp_path / "step.safetensors"))
    for t in range(2, 4):
        step(again, batch(), t)
    ours, theirs = weights(again), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


SGD = Optimizer("sgd", lr=0.05, head_multiplier=1)
"""Adam would make steps of gradients that are nothing but rounding."""
PAIRS = {
    name: replace(
        CONFIGS[name],
        style_weight=0.1,
        multi_level=True,
        optimizer=SGD,
        discriminator=replace(JUDGE, optimizer=SGD),
        style_discriminator=replace(STYLE_JUDGE, optimizer=SGD),
    )
    for name in ("adversarial", "adversarial, the target moved", "mean & std", "gram")
}


def trained(rank: int | None) -> dict[str, dict[str, Tensor]]:
    return {name: three_steps(build(config), rank) for name, config in PAIRS.items()}


@pytest.mark.slow
def test_two_processes_against_one(tmp_path: Path) -> None:
    """Three images on two processes: unequal shares, and still one global mean."""
    assert_two_processes_match_one(trained, tmp_path)
