"""IAST: its rounds and steps, a warm-up kept, options. Its equations and whole runs have files of their own."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.methods.test_laws import (
    CLASSES,
    JUDGE,
    OPTIMIZER,
    POLICIES,
    Shelf,
    batch,
    model,
    predictions,
    same,
    state,
    step,
)
from torch import Tensor, nn

from segshift import recipe as recipe_file
from segshift import recipes
from segshift.cli import main
from segshift.data.sampling import no_images
from segshift.errors import ConfigError
from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.advent import MinEntConfig
from segshift.methods.cbst import CBSTConfig, class_thresholds
from segshift.methods.iast import IAST, IASTConfig
from segshift.methods.iast_selector import InstanceAdaptiveSelector
from segshift.methods.oracle import OracleConfig
from segshift.methods.source_only import SourceOnlyConfig
from segshift.parts.augment import ColourAugmentation
from segshift.parts.batch_norm import Policy, batch_norm_layers
from segshift.parts.losses import cross_entropy
from segshift.parts.optimizers import Optimizer
from segshift.types import IGNORE, Batch, MethodConfig

# --- a step --------------------------------------------------------------------------------------------------------


def test_weight_zero_is_training_on_labels_alone() -> None:
    method = IASTConfig(ignored_weight=0, confident_weight=0, optimizer=OPTIMIZER).build(model(), 10, 0)
    twin = SourceOnlyConfig(OPTIMIZER, batch_norm="frozen").build(model(), 10, 0)
    for t in range(3):
        ours, theirs = step(method, batch(), t), step(twin, Batch(batch().target, no_images()), t)
        assert ours == [{"target": theirs[0]["source"]}]
    assert same(state(method), state(twin))


def test_eq3_is_the_weighted_sum() -> None:
    found = {}
    for ignored, confident in ((3.0, 0.1), (1.5, 0.1), (3.0, 0.2)):
        config = IASTConfig(ignored_weight=ignored, confident_weight=confident, optimizer=OPTIMIZER)
        (losses,) = step(config.build(model(), 10, 0), batch())
        assert list(losses) == ["target", "ignored", "confident"]
        found[ignored, confident] = losses
    base = found[3.0, 0.1]
    assert found[1.5, 0.1] == pytest.approx(base | {"ignored": base["ignored"] / 2})
    assert found[3.0, 0.2] == pytest.approx(base | {"confident": base["confident"] * 2})
    printed = IASTConfig(normalisation="paper", optimizer=OPTIMIZER).build(model(), 10, 0)
    (losses,) = step(printed, batch())
    expected = {name: value * (1 if name == "target" else CLASSES) for name, value in base.items()}
    assert losses == pytest.approx(expected, rel=1e-5)


def test_no_source_is_needed() -> None:
    config = IASTConfig(optimizer=OPTIMIZER)
    method, twin = config.build(model(), 10, 0), config.build(model(), 10, 0)
    assert config.domains == ("target",)
    assert step(method, Batch(no_images(), batch().target)) == step(twin, batch())
    assert same(state(method), state(twin))


def test_colours_are_augmented_where_asked() -> None:
    losses = [
        step(IASTConfig(augment=augment, optimizer=OPTIMIZER).build(model(), 10, 0), batch())[0]["target"]
        for augment in (None, ColourAugmentation(jitter_probability=1), ColourAugmentation(jitter_probability=1))
    ]
    assert losses[0] != losses[1] == losses[2]


@pytest.mark.parametrize("policy", POLICIES)
def test_frozen_statistics_are_used_and_kept(policy: Policy) -> None:
    """The policy decides, whatever mode the network was in; scale and shift train under each."""
    network = model().train()
    method = IASTConfig(batch_norm=policy, optimizer=OPTIMIZER).build(network, 10, 0)

    def statistics() -> list[Tensor]:
        layers = batch_norm_layers(network).values()
        found = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
        return [tensor.clone() for tensor in found if tensor is not None]

    before = statistics()
    (loss,) = step(method, batch())
    kept = all(torch.equal(a, b) for a, b in zip(before, statistics(), strict=True))
    assert kept is (policy in ("frozen", "source"))
    if kept:  # used, too: each image is predicted as it is by itself
        again = IASTConfig(batch_norm=policy, ignored_weight=0, confident_weight=0, optimizer=OPTIMIZER)
        network = model().eval()
        logits = network(batch().target.image).logits
        full = nn.functional.interpolate(logits, batch().target.label.shape[1:], mode="bilinear")
        expected = cross_entropy(full, batch().target.label).item()
        assert step(again.build(model(), 10, 0), batch())[0]["target"] == pytest.approx(expected, rel=1e-5)
    affine = [p for layer in batch_norm_layers(network).values() for p in (layer.weight, layer.bias)]
    assert all(p.requires_grad for p in affine)
    assert all(math.isfinite(value) for value in loss.values())


# --- a round -------------------------------------------------------------------------------------------------------


def begun(config: IASTConfig, n: int = 1, seed: int = 0) -> tuple[Shelf, IAST]:
    method, store = config.build(model(), 10, seed), Shelf()
    method.begin_round(n, predictions(7), None, store)  # type: ignore[arg-type]
    assert sorted(store.labels) == sorted(store.predicted) == [f"image_{i}" for i in range(7)]
    for image in predictions(7):
        assert torch.equal(store.predicted[image.name].long(), image.prob.argmax(0))
    assert method.state_dict()["thresholds"] == store.thresholds["theta"]
    return store, method


@pytest.mark.parametrize(("n", "alpha"), [(1, 0.2), (2, 0.6), (3, 0.6)])
def test_a_round_writes_algorithm_1(n: int, alpha: float) -> None:
    config = IASTConfig(alpha=(0.2, 0.6), beta=0.7, gamma=2.0, initial=0.8, optimizer=OPTIMIZER)
    store, method = begun(config, n)
    selector = InstanceAdaptiveSelector(CLASSES, alpha, 0.7, 2.0, 0.8)
    for image in predictions(7):
        assert torch.equal(store.labels[image.name].long(), selector.select(image.prob))
    assert store.thresholds == {"theta": selector.thresholds.tolist()}
    again = Shelf()  # Algorithm 1 is run anew in each round: nothing is left of the one before
    method.begin_round(n, predictions(7), None, again)  # type: ignore[arg-type]
    assert again.thresholds == store.thresholds


def test_the_release_moves_by_pairs_in_a_drawn_order() -> None:
    chosen: dict[str, Any] = {"variant": "released", "unit": 2, "optimizer": OPTIMIZER}
    drawn: list[tuple[Any, int, int]] = [
        ("name", 0, 1), ("name", 1, 2), ("random", 0, 1), ("random", 0, 2), ("random", 1, 1),
    ]  # fmt: skip
    thetas = {
        (order, seed, n): tuple(begun(IASTConfig(order=order, **chosen), n, seed)[0].thresholds["theta"])
        for order, seed, n in drawn
    }
    assert thetas["name", 0, 1] == thetas["name", 1, 2]
    assert len(set(thetas.values())) == 4
    selector = InstanceAdaptiveSelector(CLASSES, variant="released")
    maps = [image.prob for image in predictions(7)]
    for at in range(0, 7, 2):
        selector.select_unit(maps[at : at + 2])
    assert thetas["name", 0, 1] == tuple(selector.thresholds.tolist())


def test_the_constant_selector_is_beta_1() -> None:
    constant = begun(IASTConfig("constant", constant=0.6, optimizer=OPTIMIZER))[0]
    frozen = begun(IASTConfig(beta=1.0, initial=0.6, optimizer=OPTIMIZER))[0]
    assert constant.thresholds == frozen.thresholds == {"theta": [0.6] * CLASSES}
    assert all(torch.equal(constant.labels[name], label) for name, label in frozen.labels.items())
    assert any((label != IGNORE).any() and (label == IGNORE).any() for label in frozen.labels.values())


def test_the_class_balanced_selector_has_cbsts_thresholds() -> None:
    store = begun(IASTConfig("class_balanced", alpha=(0.3,), optimizer=OPTIMIZER))[0]
    theta = class_thresholds(predictions(7), 0.3, CLASSES)
    assert store.thresholds == {"theta": theta.tolist()}
    predicted = torch.stack(list(store.predicted.values()))
    labels = torch.stack(list(store.labels.values()))
    for c in range(CLASSES):
        total = int((predicted == c).sum())
        assert total > 20
        assert int((labels == c).sum()) == math.floor(0.3 * total)  # the pixels that were counted pass


@pytest.mark.parametrize("power", [0.0, 0.9])
@pytest.mark.parametrize("fresh", [False, True])
def test_each_round_has_its_learning_rate(power: float, fresh: bool) -> None:
    factors, total, lr = (1.2, 1.0, 0.8), 9, 1e-3
    optimizer = Optimizer("adam", lr=lr, head_multiplier=10, weight_decay=0, power=power)
    config = IASTConfig(optimizer=optimizer, lr_factors=factors)
    method = config.build(model(), total, 0)
    for t in range(total):
        if t % 3 == 0:
            if fresh and t:
                method = config.build(model(), total, 0)
            method.begin_round(t // 3 + 1, predictions(), None, Shelf())  # type: ignore[arg-type]
        optimizer_now, schedule = method.optimizers()["model"]
        passed = t % 3 if fresh else t
        expected = lr * (1 - passed / total) ** power * factors[t // 3]
        found = [group["lr"] for group in optimizer_now.param_groups]
        assert found == pytest.approx([expected, 10 * expected])
        assert schedule.get_last_lr() == found
        step(method, batch(), t)


# --- a warm-up kept ------------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """As an engine wraps a player."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.module(*arguments)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


WARMUPS: dict[str, tuple[MethodConfig, list[str]]] = {
    "source-only": (SourceOnlyConfig(OPTIMIZER, batch_norm="frozen"), ["model"]),
    "adaptsegnet": (AdaptSegNetConfig(OPTIMIZER, JUDGE), ["model", "discriminator"]),
    "minent": (MinEntConfig(OPTIMIZER), ["model"]),
}


@pytest.mark.parametrize(("warmup", "players"), WARMUPS.values(), ids=WARMUPS)
def test_a_warm_up_is_kept(warmup: MethodConfig, players: list[str]) -> None:
    """Its losses follow IAST's own, on the same network, by wrapped players."""
    config = IASTConfig(optimizer=OPTIMIZER, retain=warmup)
    assert config.domains == ("source", "target")
    method, alone = config.build(model(), 10, 0), warmup.build(model(), 10, 0)
    plain = IASTConfig(optimizer=OPTIMIZER).build(model(), 10, 0)
    assert list(method.players()) == list(method.optimizers()) == players
    wrapped = {name: Wrapped(player) for name, player in method.players().items()}
    for name, player in wrapped.items():
        setattr(method, name, player)
    expected = [*step(plain, batch()), *step(alone, batch())]
    before = {name: [p.detach().clone() for p in player.parameters()] for name, player in wrapped.items()}
    found = []
    for losses in method.step(batch(), 0):
        torch.stack(list(losses.values())).sum().backward()
        found.append({name: loss.item() for name, loss in losses.items()})
    assert [list(losses) for losses in found] == [list(losses) for losses in expected]
    assert [list(losses.values()) for losses in found] == [list(losses.values()) for losses in expected]
    method.end_step(0)
    assert all(player.calls > 0 for player in wrapped.values())
    for entry in method.optimizers().values():
        entry.optimizer.step()
    for name, player in wrapped.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], player.parameters(), strict=True))


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"selector": "mine"}, "selector = 'mine'"),
        ({"alpha": ()}, r"alpha = \(\)"),
        ({"alpha": (0.2, 1.5)}, r"alpha = 1\.5"),
        ({"beta": 2.0}, r"beta = 2\.0"),
        ({"gamma": -1.0}, r"gamma = -1\.0"),
        ({"initial": 0.0}, r"initial = 0\.0"),
        ({"constant": 1.5}, r"constant = 1\.5"),
        ({"variant": "mine"}, "variant = 'mine'"),
        ({"unit": 0}, "unit = 0"),
        ({"unit": 2}, "unit = 2"),
        ({"order": "size"}, "order = 'size'"),
        ({"ignored_weight": -1.0}, r"ignored_weight = -1\.0"),
        ({"confident_weight": math.nan}, "confident_weight = nan"),
        ({"normalisation": "mine"}, "normalisation = 'mine'"),
        ({"batch_norm": "none"}, "batch_norm is 'none'"),
        ({"lr_factors": (1.0, 0.0)}, r"lr_factors = \(1\.0, 0\.0\)"),
        ({"retain": OracleConfig()}, "retain = OracleConfig"),
        ({"retain": CBSTConfig()}, "retain = CBSTConfig"),
        ({"retain": IASTConfig()}, "retain = IASTConfig"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        IASTConfig(**options)


def test_a_recipe_with_a_warm_up_kept_survives_json() -> None:
    base = recipes.find("minicity/iast")
    assert base.adaptation is not None
    for warmup in (None, SourceOnlyConfig(batch_norm="frozen"), AdaptSegNetConfig(weight=0.05)):
        recipe = replace(base, adaptation=replace(base.adaptation, method=IASTConfig(retain=warmup, alpha=(0.2, 0.3))))
        content = json.loads(json.dumps(recipe_file.to_dict(recipe)))
        assert recipe_file.from_dict(content, "here") == recipe
    content["adaptation"]["method"]["retain"]["kind"] = "Nothing"
    with pytest.raises(ConfigError, match="method kind is 'Nothing'"):
        recipe_file.from_dict(content, "here")


def test_the_command_line_knows_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["adapt", "minicity/iast", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for option in ("selector", "alpha", "gamma", "ignored-weight", "normalisation", "lr-factors", "unit"):
        assert f"--adaptation.method.{option}" in said
