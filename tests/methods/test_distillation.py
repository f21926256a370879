"""Distillation: hard labels and the divergence by hand, what a step minimises, what a round begins with."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.fakes.steps import (
    CLASSES,
    SIZE,
    assert_two_processes_match_one,
    backward,
    images,
    step,
    three_steps,
    weights,
)
from torch import Tensor
from torch.nn import functional as F

from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import ConfigError
from segshift.methods.distillation import Distillation, DistillationConfig, distillation_loss, hard_labels
from segshift.models.small import SmallNet
from segshift.parts.augment import ColourAugmentation
from segshift.parts.optimizers import Optimizer
from segshift.types import IGNORE, Batch, Features, Geometry, Prediction

OPTIMIZER = Optimizer("sgd", lr=0.1, head_multiplier=1.0, weight_decay=0.0)


def config(**options: Any) -> DistillationConfig:
    return DistillationConfig(optimizer=OPTIMIZER, **options)


def method(**options: Any) -> Distillation:
    torch.manual_seed(3)
    return config(**options).build(SmallNet(width=4, dilations=(1,)).build(CLASSES), 10, 0)


def probabilities(seed: int, *shape: int, sharpness: float = 3.0) -> Tensor:
    return (sharpness * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(1)


def taught(sharpness: float = 6.0) -> Batch:
    """Random images; the target's have a teacher, and padding in their last columns."""
    target = images(2)
    soft = probabilities(5, 3, CLASSES, SIZE, SIZE, sharpness=sharpness)
    soft[..., -4:] = 0
    return Batch(images(1), target._replace(soft=soft))


# --- hard labels -----------------------------------------------------------------------------------------------------


def test_hard_labels_by_hand() -> None:
    prob = torch.tensor([[0.96, 0.03, 0.01], [0.95, 0.04, 0.01], [0.02, 0.01, 0.97], [0.4, 0.35, 0.25], [0, 0, 0]])
    labels = hard_labels(prob.T[None, :, :, None], 0.95)
    assert labels[0, :, 0].tolist() == [0, IGNORE, 2, IGNORE, IGNORE]  # "above": .95 itself is not
    assert hard_labels(prob.T[None, :, :, None], 0.0)[0, :, 0].tolist() == [0, 0, 2, 0, IGNORE]


@settings(max_examples=30)
@given(arrays("float32", (1, 3, 4, 5), elements=st.floats(-9, 9, width=32)), st.floats(0, 0.99), st.floats(0, 0.99))
def test_more_confidence_is_asked_fewer_labels_are_left(scores: Any, first: float, second: float) -> None:
    prob = torch.from_numpy(scores).softmax(1)
    low, high = sorted((first, second))
    few, many = hard_labels(prob, high), hard_labels(prob, low)
    assert torch.equal(few[few != IGNORE], many[few != IGNORE])
    assert torch.equal(many[many != IGNORE], prob.argmax(1)[many != IGNORE])
    assert bool((prob.max(1).values[few != IGNORE] > high).all())


# --- the divergence --------------------------------------------------------------------------------------------------


def test_the_divergence_by_hand() -> None:
    logits = torch.tensor([0.0, 0.0, math.log(2.0)]).view(1, 3, 1, 1)  # 1/4, 1/4, 1/2
    teacher = torch.tensor([0.5, 0.0, 0.5]).view(1, 3, 1, 1)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.5)
    found = distillation_loss(logits, teacher, torch.ones(1, 1, 1, dtype=torch.bool))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_divergence_is_torchs_with_a_log_softmax() -> None:
    """The released code gives the same function a softmax: other numbers, below 0, and a gradient that hardly moves."""
    logits = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher, valid = probabilities(1, 2, 4, 6, 6), torch.ones(2, 6, 6, dtype=torch.bool)
    ours = distillation_loss(logits, teacher, valid)
    right = F.kl_div(logits.log_softmax(1), teacher, reduction="none").sum(1).mean()
    wrong = F.kl_div(logits.softmax(1), teacher, reduction="none").sum(1).mean()
    torch.testing.assert_close(ours, right)
    assert wrong < 0 < ours
    (gradient,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - teacher) / valid.sum(), rtol=1e-4, atol=1e-7)
    (theirs,) = torch.autograd.grad(wrong, logits)
    assert theirs.norm() < gradient.norm() / 2


@settings(max_examples=30)
@given(
    arrays("float32", (2, 3, 4, 4), elements=st.floats(-50, 50, width=32)),
    arrays("float32", (2, 3, 4, 4), elements=st.floats(-50, 50, width=32)),
    arrays("bool", (2, 4, 4)),
)
def test_the_divergence_is_never_negative_and_looks_at_valid_pixels_alone(
    scores: Any, theirs: Any, region: Any
) -> None:
    logits, teacher = torch.from_numpy(scores).requires_grad_(), torch.from_numpy(theirs).softmax(1)
    valid = torch.from_numpy(region)
    loss = distillation_loss(logits, teacher, valid)
    assert math.isfinite(loss.item()) and loss.item() > -1e-5
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(gradient.isfinite().all())
    assert not bool(gradient[(~valid)[:, None].expand_as(gradient)].any())
    if not region.any():
        assert loss.item() == 0
    torch.testing.assert_close(distillation_loss(logits.log_softmax(1), teacher, valid), loss)
    same = distillation_loss(teacher.clamp_min(1e-30).log(), teacher, valid)
    assert abs(same.item()) < 1e-5


# --- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_minimises_the_three_terms() -> None:
    trained, batch = method(), taught()
    reference = method()
    source, target = trained.step(batch, 0)
    assert set(source) == {"source"} and set(target) == {"target", "distillation"}
    soft = batch.target.soft
    assert soft is not None
    for layer in reference.model.modules():
        layer.train()
    reference.model(batch.source.image)
    logits = F.interpolate(reference.model(batch.target.image).logits, (SIZE, SIZE), mode="bilinear")
    inside = soft.sum(1) > 0
    hard = torch.where(soft.max(1).values > 0.95, soft.argmax(1), IGNORE)
    assert 0 < (hard != IGNORE).sum() < inside.sum()
    torch.testing.assert_close(target["target"], F.cross_entropy(logits, hard, ignore_index=IGNORE))
    divergence = F.kl_div(logits.log_softmax(1), soft, reduction="none").sum(1)
    torch.testing.assert_close(target["distillation"], divergence[inside].mean())


def test_the_weight_scales_the_divergence_and_zero_leaves_it_out() -> None:
    _, one = method().step(taught(), 0)
    _, half = method(kl_weight=0.5).step(taught(), 0)
    _, none = method(kl_weight=0.0).step(taught(), 0)
    torch.testing.assert_close(half["distillation"], one["distillation"] / 2)
    assert set(none) == {"target"}


def test_the_label_of_the_target_is_not_looked_at() -> None:
    """It is the hard label at the nearest pixel of the store: the one distilled is cut out of the teacher's own."""
    batch = taught()
    target = batch.target
    other = batch._replace(target=target._replace(label=torch.full_like(target.label, 1)))
    found = []
    for given_batch in (batch, other):
        trained = method()
        step(trained, given_batch)
        found.append(weights(trained))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_teacher_that_is_never_sure_still_teaches() -> None:
    batch = taught(sharpness=0.01)
    seen = step(method(), batch)
    assert seen[1]["target"] == 0
    assert seen[1]["distillation"] > 0


def test_without_a_teacher_anywhere_the_source_alone_is_learned() -> None:
    """All padding: the number of yields stays, the losses are 0 and give no gradient."""
    batch = taught()
    assert batch.target.soft is not None
    batch = batch._replace(target=batch.target._replace(soft=torch.zeros_like(batch.target.soft)))
    trained = method()
    _, target = trained.step(batch, 0)
    assert {name: loss.item() for name, loss in target.items()} == {"target": 0, "distillation": 0}
    backward(target)
    assert not any(p.grad is not None and bool(p.grad.any()) for p in trained.model.parameters())


def test_strong_colours_are_those_of_the_target_alone() -> None:
    geometry = tuple(Geometry((SIZE, SIZE), 0, 0, (SIZE, SIZE), False, slot) for slot in range(3))
    batch = taught()
    batch = Batch(batch.source._replace(geometry=geometry), batch.target._replace(geometry=geometry))
    plain, strong = step(method(), batch), step(method(augment=ColourAugmentation(jitter_probability=1.0)), batch)
    assert plain[0] == strong[0]
    assert plain[1]["distillation"] != strong[1]["distillation"]


@pytest.mark.parametrize(("policy", "follows"), [("both", True), ("target", True), ("source", True), ("frozen", False)])
def test_batch_norm_follows_its_policy(policy: Any, follows: bool) -> None:
    trained = method(batch_norm=policy)
    before = weights(trained)
    step(trained, taught())
    after = weights(trained)
    names = [name for name in after if "running" in name]
    assert names
    assert all(torch.equal(before[name], after[name]) is not follows for name in names)


# --- a round ---------------------------------------------------------------------------------------------------------


class Looked:
    """A feature scan of two images, by a teacher of known logits."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(4)
        self.found = [
            Features(name, [6 * torch.randn(CLASSES, 4, 6, generator=rng)], torch.zeros(2, 4, 6), (16, 24))
            for name in ("a", "b")
        ]

    def __iter__(self) -> Any:
        return (Prediction(found.name, self.probabilities(found, found.size)) for found in self.found)

    def merge(self, partial: Tensor) -> Tensor:
        return partial

    def features(self) -> Any:
        return iter(self.found)

    def probabilities(self, found: Features, size: tuple[int, int]) -> Tensor:
        return F.interpolate(found.maps[0][None], size, mode="bilinear").softmax(1)[0]

    def through(self, _: Any) -> Looked:
        return self


class Kept(PseudoLabels):
    """A store that remembers what soft labels it was given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, CLASSES)
        self.soft: list[Features] = []

    def write_soft(self, found: Features) -> None:
        self.soft.append(found)


def test_a_round_keeps_the_teachers_logits_and_counts_its_hard_labels(tmp_path: Path) -> None:
    scan, store = Looked(), Kept(tmp_path / "round-1")
    method(confidence=0.8).begin_round(1, scan, None, store)
    assert [found.name for found in store.soft] == ["a", "b"]
    kept = 0
    for found, prediction in zip(scan.found, scan, strict=True):
        assert store.soft[scan.found.index(found)].maps[0] is found.maps[0]
        label = store.read(found.name).long()
        assert torch.equal(label, hard_labels(prediction.prob[None], 0.8)[0])
        kept += int((label != IGNORE).sum())
    statistics = json.loads((tmp_path / "round-1" / "statistics.json").read_text())
    assert 0 < kept < 2 * 16 * 24
    assert (statistics["kept"], statistics["images"], sum(statistics["predicted"])) == (kept, 2, 2 * 16 * 24)
    assert statistics["thresholds"] == {"confidence": [0.8] * CLASSES}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"confidence": 1.0}, "confidence = 1.0; expected 0 <= confidence < 1"),
        ({"confidence": -0.1}, "confidence = -0.1"),
        ({"kl_weight": -1.0}, "kl_weight = -1.0; expected a number of at least 0"),
        ({"kl_weight": float("inf")}, "kl_weight = inf"),
        ({"batch_norm": "none"}, "batch_norm is 'none'; expected one of source, frozen, target, both"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**options)


def test_the_defaults_are_those_of_the_command_that_the_paper_follows() -> None:
    found = DistillationConfig()
    assert (found.confidence, found.kl_weight, found.optimizer.lr, found.optimizer.weight_decay) == (
        0.95,
        1,
        6e-4,
        2e-4,
    )
    assert found.domains == ("source", "target")
    assert replace(found, confidence=0.5) != found


# --- processes -------------------------------------------------------------------------------------------------------


def _trained(rank: int | None) -> dict[str, dict[str, Tensor]]:
    """Three steps; images have their teacher and are shared out as the engine does."""
    return {"distillation": three_steps(method(batch_norm="frozen"), rank, taught())}


@pytest.mark.slow
def test_two_processes_match_one(tmp_path: Path) -> None:
    """Three images on two: means are over the pixels of both."""
    assert_two_processes_match_one(_trained, tmp_path)
