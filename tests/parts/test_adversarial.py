"""The adversarial losses, and the alternating step: whose gradient goes where, several levels, two processes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.steps import CLASSES, SIZE, assert_two_processes_match_one, batch, images, step, three_steps
from torch import Tensor, nn
from torch.nn import functional

from segshift.errors import ConfigError
from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.advent import AdvEntConfig, MinEntConfig
from segshift.models.segmenter import Segmenter
from segshift.models.small import SmallNet
from segshift.parts.adversarial import (
    AdversarialConfig,
    DiscriminatorConfig,
    GANLoss,
    discriminator_loss,
    generator_loss,
)
from segshift.parts.optimizers import Optimizer
from segshift.types import IGNORE, Batch, MethodConfig, Output

OPTIMIZER = Optimizer("adamw", lr=1e-3, head_multiplier=1)
JUDGE = DiscriminatorConfig(width=4)
KINDS: tuple[GANLoss, ...] = ("vanilla", "least_squares")
both = pytest.mark.parametrize("kind", KINDS)
scores = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12).map(torch.tensor)


class TwoHeads(Segmenter):
    """A network of two layers with an auxiliary classifier on the first."""

    def __init__(self) -> None:
        super().__init__(CLASSES, 2, align_corners=True)
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU())
        self.classifier = nn.Conv2d(6, CLASSES, 1)
        self.auxiliary = nn.Conv2d(6, CLASSES, 1)

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Tensor) -> Output:
        first = self.encoder(image)
        return Output(self.classifier(self.second(first)), (first,), None, self.auxiliary(first))


def two_heads() -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads()


def small() -> Segmenter:
    torch.manual_seed(0)
    return SmallNet(width=4, dilations=(1,)).build(CLASSES)


# --- the losses --------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(scores, scores)
def test_the_losses_are_their_formulas(source: Tensor, target: Tensor) -> None:
    """-log of the probability given to the label; the squared distance from it."""
    s, t = source.double(), target.double()
    torch.testing.assert_close(generator_loss(t, "vanilla"), -torch.log((-t).sigmoid()).mean())
    expected = -(torch.log((-s).sigmoid()).mean() + torch.log(t.sigmoid()).mean()) / 2
    torch.testing.assert_close(discriminator_loss(s, t, "vanilla"), expected)
    torch.testing.assert_close(generator_loss(t, "least_squares"), t.square().mean())
    expected = (s.square().mean() + (t - 1).square().mean()) / 2
    torch.testing.assert_close(discriminator_loss(s, t, "least_squares"), expected)


@settings(max_examples=50)
@given(scores, scores)
def test_exchanging_the_domains_with_their_labels_changes_nothing(source: Tensor, target: Tensor) -> None:
    for kind in KINDS:
        shift = 0.0 if kind == "vanilla" else 1.0  # a score's mirror image: the other domain's probability or label
        exchanged = discriminator_loss(shift - target, shift - source, kind)
        torch.testing.assert_close(discriminator_loss(source, target, kind), exchanged, rtol=1e-5, atol=1e-5)


@settings(max_examples=50)
@given(scores)
def test_the_generator_wants_what_the_discriminator_does_not(target: Tensor) -> None:
    """The better the target passes for the source, the worse the discriminator; each is 0 at its own label only."""
    easier = target - 1 if target.min() > 1 else target.clamp_min(0) * 0.5
    for kind in KINDS:
        assert generator_loss(easier, kind) <= generator_loss(target.clamp_min(0), kind)
        assert generator_loss(target, kind) >= 0
    assert generator_loss(torch.full((3,), -200.0), "vanilla") == 0
    assert generator_loss(torch.zeros(3), "least_squares") == 0
    assert discriminator_loss(torch.full((3,), -200.0), torch.full((2,), 200.0), "vanilla") == 0
    assert discriminator_loss(torch.zeros(3), torch.ones(2), "least_squares") == 0


@both
def test_an_undecided_discriminator(kind: GANLoss) -> None:
    undecided, expected = (0.0, math.log(2)) if kind == "vanilla" else (0.5, 0.25)
    maps = torch.full((2, 1, 3, 4), undecided)
    assert generator_loss(maps, kind).item() == pytest.approx(expected)
    assert discriminator_loss(maps, maps, kind).item() == pytest.approx(expected)


@both
def test_hopeless_scores_have_a_finite_gradient(kind: GANLoss) -> None:
    target = torch.tensor([1e4, -1e4], requires_grad=True)
    generator_loss(target, kind).backward()
    assert target.grad is not None
    torch.testing.assert_close(target.grad, torch.tensor([0.5, 0.0] if kind == "vanilla" else [1e4, -1e4]))


@both
def test_half_precision_scores_make_float32_losses(kind: GANLoss) -> None:
    values = torch.linspace(-3, 3, 500)
    half = values.bfloat16()
    assert generator_loss(half, kind).dtype == torch.float32
    torch.testing.assert_close(
        discriminator_loss(half, half, kind), discriminator_loss(half.float(), half.float(), kind)
    )


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(ConfigError, match="loss = 'hinge'; expected vanilla or least_squares"):
        generator_loss(torch.zeros(1), "hinge")  # type: ignore[arg-type]


# --- the options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [AdaptSegNetConfig, AdvEntConfig])
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"loss": "hinge"}, "loss = 'hinge'; expected vanilla or least_squares"),
        ({"weight": -1.0}, "weight = -1.0; expected"),
        ({"weight": math.inf}, "weight = inf; expected"),
        ({"auxiliary_weight": math.nan}, "auxiliary_weight = nan; expected"),
        ({"auxiliary_segmentation": -0.1}, "auxiliary_segmentation = -0.1; expected"),
        ({"batch_norm": "none"}, "batch_norm is 'none'; expected one of"),
    ],
)
def test_wrong_options_are_errors(config: Any, options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        config(**options)
    with pytest.raises(ConfigError, match="discriminator: width = 0; expected at least 1"):
        DiscriminatorConfig(width=0)


@pytest.mark.parametrize("config", [AdaptSegNetConfig(), AdvEntConfig()])
def test_the_defaults_are_the_papers(config: AdversarialConfig) -> None:
    assert (config.weight, config.auxiliary_weight, config.auxiliary_segmentation) == (1e-3, 2e-4, 0.1)
    method: Any = config.build(small(), 20, 0)
    player, judge = (method.optimizers()[name].optimizer for name in ("model", "discriminator"))
    assert (type(player), type(judge)) == (torch.optim.SGD, torch.optim.Adam)
    found = [[group[key] for key in ("lr", "momentum", "weight_decay")] for group in player.param_groups]
    assert found == [[2.5e-4, 0.9, 5e-4], [pytest.approx(2.5e-3), 0.9, 5e-4]]
    (group,) = judge.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-4, (0.9, 0.99), 0)
    for _ in range(2):
        step(method, batch())
    rates = [entry.schedule.get_last_lr()[0] for entry in method.optimizers().values()]
    assert rates == pytest.approx([2.5e-4 * 0.9**0.9, 1e-4 * 0.9**0.9])


def test_weights_of_discriminators_come_from_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = DiscriminatorConfig(2).build(CLASSES, 0, 0).layers[0].weight
    torch.manual_seed(4)
    before = torch.get_rng_state()
    again, numbered, seeded = (DiscriminatorConfig(2).build(CLASSES, *key) for key in ((0, 0), (0, 1), (1, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again.layers[0].weight)
    assert not torch.equal(first, numbered.layers[0].weight)
    assert not torch.equal(first, seeded.layers[0].weight)
    # Runs of published figures can be repeated: what is drawn is what it was in earlier versions.
    assert first.flatten()[:3].tolist() == pytest.approx([0.120745, -0.033388, -0.099593], abs=1e-6)


# --- the step ----------------------------------------------------------------------------------------------------

CONFIGS: dict[str, AdversarialConfig] = {
    "adaptsegnet": AdaptSegNetConfig(OPTIMIZER, JUDGE),
    "adaptsegnet-ls": AdaptSegNetConfig(OPTIMIZER, JUDGE, "least_squares", 0.05),
    "advent": AdvEntConfig(OPTIMIZER, JUDGE),
    "multi-level": AdaptSegNetConfig(OPTIMIZER, JUDGE, multi_level=True),
    "advent, multi-level": AdvEntConfig(OPTIMIZER, JUDGE, "least_squares", multi_level=True),
}
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@every
def test_each_pass_trains_its_own_player(config: AdversarialConfig) -> None:
    """Source and generator: the network alone. Each half of the discriminator's: the discriminators alone."""
    method: Any = config.build(two_heads(), 10, 0)
    judges = set(method.players()) - {"model"}
    assert judges == ({"discriminator", "auxiliary_discriminator"} if config.multi_level else {"discriminator"})
    trained = [{"model"}, {"model"}, judges, judges]
    for expected, losses in zip(trained, method.step(batch(), 0), strict=True):
        for player in method.players().values():
            player.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        touched = {name for name, p in method.players().items() if any(w.grad is not None for w in p.parameters())}
        assert touched == expected
        for name in expected:
            missed = {key for key, w in method.players()[name].named_parameters() if w.grad is None}
            assert missed == ({"auxiliary.weight", "auxiliary.bias"} if missed else set())
            assert not missed or not config.multi_level


@every
def test_the_discriminators_losses_are_its_two_halves(config: AdversarialConfig) -> None:
    method: Any = config.build(two_heads().eval(), 10, 0)
    with torch.no_grad():
        logits = [method.model(given.image) for given in batch()]
        prefixes = {"": "logits", "auxiliary ": "auxiliary"} if config.multi_level else {"": "logits"}
        expected: dict[str, float] = {}
        for prefix, name in prefixes.items():
            full = (
                functional.interpolate(getattr(x, name), (SIZE, SIZE), mode="bilinear", align_corners=True)
                for x in logits
            )
            judge = method.players()[f"{prefix.replace(' ', '_')}discriminator"]
            source, target = (judge(method.shown(x.softmax(1))) for x in full)
            expected[f"{prefix}discriminator"] = discriminator_loss(source, target, config.loss).item()
            weight = config.auxiliary_weight if prefix else config.weight
            expected[f"{prefix}generator"] = weight * generator_loss(target, config.loss).item()
    # The statistics are frozen, so nothing has moved since.
    found = {key: loss.item() for losses in method.step(batch(), 0) for key, loss in losses.items()}
    for prefix in prefixes:
        halves = [found[f"{prefix}discriminator {domain}"] for domain in ("source", "target")]
        assert sum(halves) == pytest.approx(expected[f"{prefix}discriminator"], rel=1e-5)
        assert found[f"{prefix}generator"] == pytest.approx(expected[f"{prefix}generator"], rel=1e-5)


def test_multi_level_needs_an_auxiliary_classifier() -> None:
    method = CONFIGS["multi-level"].build(small(), 10, 0)
    with pytest.raises(ConfigError, match=r"multi_level = True: .*no auxiliary.*--network\.auxiliary True"):
        next(iter(method.step(batch(), 0)))


def test_a_second_level_of_no_weight_is_the_first_alone() -> None:
    """And its own discriminator still learns."""
    single, multi = (CONFIGS[name] for name in ("adaptsegnet", "multi-level"))
    multi = replace(multi, auxiliary_weight=0.0, auxiliary_segmentation=0.0)
    one, two = (config.build(two_heads(), 10, 0) for config in (single, multi))
    before = {name: weight.clone() for name, weight in two.players()["auxiliary_discriminator"].named_parameters()}
    for t in range(3):
        step(one, batch(), t)
        step(two, batch(), t)
    for name in ("model", "discriminator"):
        for key, weight in one.players()[name].named_parameters():
            if not key.startswith("auxiliary"):  # AdamW's decay is applied where there is a gradient, be it 0
                torch.testing.assert_close(two.players()[name].get_parameter(key), weight, rtol=0, atol=0)
    after = dict(two.players()["auxiliary_discriminator"].named_parameters())
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())


@every
def test_a_discriminator_learns_what_can_be_told_apart(config: AdversarialConfig) -> None:
    """Bright and dark images: within a few steps it knows them, against a network that stays nearly as it is."""
    frozen = replace(OPTIMIZER, lr=1e-12)
    judge = replace(JUDGE, optimizer=replace(JUDGE.optimizer, lr=3e-3))
    method: Any = replace(config, optimizer=frozen, discriminator=judge).build(two_heads(), 100, 0)
    method.model.classifier.weight.data *= 20
    method.model.auxiliary.weight.data *= 20
    given = Batch(images(1), images(2)._replace(image=images(2).image * 0.1))
    found = []
    for t in range(25):
        losses = {key: value for entry in step(method, given, t) for key, value in entry.items()}
        found.append(sum(value for key, value in losses.items() if key.startswith("discriminator")))
    assert found[-1] < 0.8 * found[0]
    assert found[-1] < (math.log(2) if config.loss == "vanilla" else 0.25)


@every
def test_the_network_learns_to_pass(config: AdversarialConfig) -> None:
    """Against discriminators that stay as they are, and with no source label, the generator's loss falls."""
    judge = replace(JUDGE, optimizer=replace(JUDGE.optimizer, lr=1e-12))
    method: Any = replace(config, discriminator=judge, weight=1.0).build(two_heads(), 100, 0)
    given = batch()
    given = given._replace(source=given.source._replace(label=torch.full_like(given.source.label, IGNORE)))
    found = [step(method, given, t)[1]["generator"] for t in range(10)]
    assert found[-1] < found[0]


@every
def test_labels_of_the_target_are_not_looked_at(config: AdversarialConfig) -> None:
    outcomes = []
    for label in (0, IGNORE):
        given = batch()
        given = given._replace(target=given.target._replace(label=torch.full_like(given.target.label, label)))
        outcomes.append(step(config.build(two_heads(), 10, 0), given))
    assert outcomes[0] == outcomes[1]


@every
def test_under_bfloat16(config: AdversarialConfig) -> None:
    exact = step(config.build(two_heads(), 10, 0), batch())
    method = config.build(two_heads(), 10, 0)
    for expected, losses in zip(exact, _autocast(method, batch()), strict=True):
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=2e-2, abs=1e-6)
        torch.stack(list(losses.values())).sum().backward()
    for player in method.players().values():
        assert all(w.grad.isfinite().all() for w in player.parameters() if w.grad is not None)


def _autocast(method: Any, given: Batch) -> list[dict[str, Tensor]]:
    with torch.autocast("cpu", torch.bfloat16):
        return list(method.step(given, 0))


# --- two processes -----------------------------------------------------------------------------------------------


PAIRS: dict[str, MethodConfig] = {
    "adaptsegnet": CONFIGS["adaptsegnet-ls"],
    "multi-level": replace(CONFIGS["advent, multi-level"], loss="vanilla", weight=0.1),
    "minent": MinEntConfig(OPTIMIZER, weight=0.1),
}


def trained(rank: int | None) -> dict[str, dict[str, Tensor]]:
    networks = {
        name: two_heads() if getattr(config, "multi_level", False) else small() for name, config in PAIRS.items()
    }
    return {name: three_steps(config.build(networks[name], 10, 0), rank) for name, config in PAIRS.items()}


@pytest.mark.slow
def test_two_processes_against_one(tmp_path: Path) -> None:
    """Three images on two processes: unequal shares, and still one global mean."""
    assert_two_processes_match_one(trained, tmp_path)
