"""What holds for every method: the laws of `step`, the BatchNorm policy, and methods that must equal each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.advent import AdvEntConfig, MinEntConfig
from segshift.methods.category_adaptive import CategoryAdaptiveConfig
from segshift.methods.cbst import CBSTConfig, class_thresholds, global_threshold, pseudo_labels
from segshift.methods.cpsl import CPSLConfig
from segshift.methods.distillation import DistillationConfig
from segshift.methods.iast import IASTConfig
from segshift.methods.oracle import OracleConfig
from segshift.methods.source_only import SourceOnlyConfig
from segshift.methods.style_gap import StyleGapConfig
from segshift.models.small import SmallNet
from segshift.parts import losses as parts
from segshift.parts.adversarial import DiscriminatorConfig
from segshift.parts.augment import ColourAugmentation
from segshift.parts.batch_norm import Policy, batch_norm_layers
from segshift.parts.optimizers import Optimizer
from segshift.recipe import METHODS
from segshift.types import IGNORE, Batch, Geometry, Images, Losses, Method, MethodConfig, Prediction

CLASSES, SIZE = 4, 32
OPTIMIZER = Optimizer("adamw", lr=1e-2, head_multiplier=1)
JUDGE = DiscriminatorConfig(width=4)
CPSL = CPSLConfig(samples=8, bank=48, momentum=0.9, optimizer=OPTIMIZER, head_optimizer=OPTIMIZER)
CONFIGS: dict[str, MethodConfig] = {
    "source-only": SourceOnlyConfig(OPTIMIZER),
    "source-only, strong colours": SourceOnlyConfig(OPTIMIZER, ColourAugmentation()),
    "st": CBSTConfig("global", optimizer=OPTIMIZER),
    "cbst": CBSTConfig(optimizer=OPTIMIZER),
    "cbst, as published": CBSTConfig(batch_norm="both", augment=None, optimizer=OPTIMIZER),
    "oracle": OracleConfig(OPTIMIZER),
    "adaptsegnet": AdaptSegNetConfig(OPTIMIZER, JUDGE),
    "adaptsegnet-ls": AdaptSegNetConfig(OPTIMIZER, JUDGE, "least_squares", weight=0.05),
    "advent": AdvEntConfig(OPTIMIZER, JUDGE),
    "minent": MinEntConfig(OPTIMIZER),
    "style-gap": StyleGapConfig(OPTIMIZER, JUDGE),
    "style-gap, the target moved": StyleGapConfig(OPTIMIZER, JUDGE, moved="target"),
    "style-gap, mean & std": StyleGapConfig(OPTIMIZER, JUDGE, style="mean_std"),
    "category-adaptive": CategoryAdaptiveConfig(optimizer=OPTIMIZER),
    "category-adaptive, phase 1 kept": CategoryAdaptiveConfig(
        optimizer=OPTIMIZER, retain=StyleGapConfig(OPTIMIZER, JUDGE)
    ),
    "cpsl": CPSL,
    "cpsl, in prototype space": replace(CPSL, consistency="prototype_kl", target_loss="symmetric", head="cosine"),
    "cpsl, no head": replace(CPSL, self_labelling=False, augment=None),
    "cpsl, the student's features": replace(CPSL, features="student"),
    "distillation": DistillationConfig(optimizer=OPTIMIZER),
    "iast": IASTConfig(optimizer=OPTIMIZER),
    "iast, without regularisation": IASTConfig(ignored_weight=0, confident_weight=0, optimizer=OPTIMIZER),
    "iast, the warm-up kept": IASTConfig(optimizer=OPTIMIZER, retain=AdaptSegNetConfig(OPTIMIZER, JUDGE)),
}
WITHOUT_LABELS = {
    "generator", "discriminator source", "discriminator target", "entropy", "ignored",
    "style", "style discriminator source", "style discriminator target",
}  # fmt: skip
"""Losses over whole images, or over what has no label: they are not empty where no pixel is labelled."""
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return SmallNet(width=4, dilations=(1,)).build(CLASSES)


def images(seed: int, count: int = 2, ignored: float = 0.2) -> Images:
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (count, SIZE, SIZE), generator=rng)
    label[torch.rand(label.shape, generator=rng) < ignored] = IGNORE
    geometry = tuple(Geometry((SIZE, SIZE), 0, 0, (SIZE, SIZE), False, slot) for slot in range(count))
    names = tuple(f"{seed}_{i}" for i in range(count))
    image = torch.rand(count, 3, SIZE, SIZE, generator=rng)
    soft = torch.randn(count, CLASSES, SIZE, SIZE, generator=rng).softmax(1) * (label != IGNORE)[:, None]
    return Images(image, label, names, geometry, soft)


def batch(ignored: float = 0.2) -> Batch:
    return Batch(images(1), images(2, ignored=ignored))


def step(method: Method, given: Batch, t: int = 0) -> list[dict[str, float]]:
    """One step as the engine takes it; the losses of each yield."""
    seen = []
    for entry in method.optimizers().values():
        entry.optimizer.zero_grad()
    for losses in method.step(given, t):
        torch.stack(list(losses.values())).sum().backward()
        seen.append({name: loss.item() for name, loss in losses.items()})
    for entry in method.optimizers().values():
        entry.optimizer.step()
        entry.schedule.step()
    method.end_step(t)
    return seen


def state(method: Method) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in method.players()["model"].state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def alike(a: Any, b: Any) -> bool:
    """Equal to the bit, tensors in it included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_every_method_is_tested_here() -> None:
    assert {type(config) for config in CONFIGS.values()} == set(METHODS)


@every
def test_losses_in_bands_are_those_at_once(config: MethodConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger crops than these have their class scores upsampled in bands: the same losses and the same gradients."""
    found = []
    for most in (parts.FULL_SIZE_BYTES, 0):
        monkeypatch.setattr(parts, "FULL_SIZE_BYTES", most)
        method = config.build(model(), 10, 0)
        seen = step(method, batch())
        found.append((seen, [p.grad for p in method.players()["model"].parameters()]))
    (at_once, gradients), (in_bands, others) = found
    for ours, theirs in zip(in_bands, at_once, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for ours, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("most", [0, parts.FULL_SIZE_BYTES])
@pytest.mark.parametrize("name", ["iast", "distillation", "cpsl", "minent"])
def test_losses_are_float32_where_networks_are_not(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under bf16-mixed, as the engine wraps networks: near those of float32, and every weight gets its gradient."""
    monkeypatch.setattr(parts, "FULL_SIZE_BYTES", most)
    found = []
    for precision in ("32-true", "bf16-mixed"):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        method = CONFIGS[name].build(model(), 10, 0)
        for player, network in method.players().items():
            setattr(method, player, fabric.setup_module(network))
        seen: Losses = {}
        for terms in method.step(batch(), 0):
            assert {loss.dtype for loss in terms.values()} == {torch.float32}
            fabric.backward(torch.stack(list(terms.values())).sum())
            seen |= terms
        assert all(p.grad is not None and p.grad.isfinite().all() for p in method.players()["model"].parameters())
        found.append({term: loss.item() for term, loss in seen.items()})
    assert found[0] == pytest.approx(found[1], rel=0.1, abs=0.02)


@every
def test_the_number_of_yields_does_not_depend_on_data(config: MethodConfig) -> None:
    found = []
    for given in (
        batch(),
        batch(1.0),
        Batch(images(1, ignored=1.0), images(2, ignored=1.0)),
        Batch(images(3, 1), images(4, 1)),
    ):
        method = config.build(model(), 10, 0)
        found.append([sorted(losses) for losses in step(method, given)])
    assert found[0]
    assert all(names == found[0] for names in found)


@every
def test_a_loss_over_no_pixels_is_zero(config: MethodConfig) -> None:
    nothing = Batch(images(1, ignored=1.0), images(2, ignored=1.0))
    method = config.build(model(), 10, 0)
    for losses in method.step(nothing, 0):
        method.players()["model"].zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert not any(loss for name, loss in losses.items() if name not in WITHOUT_LABELS)
        if losses.keys() & WITHOUT_LABELS:
            continue
        gradients = [p.grad for p in method.players()["model"].parameters()]
        assert all(gradient is not None and not gradient.any() for gradient in gradients)


@every
def test_every_forward_enters_the_next_yield(config: MethodConfig) -> None:
    method, waiting = config.build(model(), 10, 0), []

    def remember(_: nn.Module, __: Any, output: Any) -> None:
        scores = getattr(output, "logits", output)
        scores.retain_grad()
        waiting.append(scores)

    for player in method.players().values():
        player.register_forward_hook(remember)
    for losses in method.step(batch(), 0):
        assert len(waiting) > 0
        torch.stack(list(losses.values())).sum().backward()
        assert all(scores.grad is not None and scores.grad.any() for scores in waiting)
        waiting.clear()
    assert not waiting


@every
def test_a_step_is_a_function_of_its_arguments(config: MethodConfig) -> None:
    outcomes = []
    for _ in range(2):
        method = config.build(model(), 10, 0)
        before = torch.get_rng_state()
        step(method, batch(), 3)
        assert torch.equal(torch.get_rng_state(), before)
        outcomes.append(state(method))
    assert same(*outcomes)
    method = config.build(model(), 10, 0)
    step(method, Batch(images(1), images(5)), 3)
    looks_at_target = "target" in config.domains
    assert same(state(method), outcomes[0]) is not looks_at_target


@every
def test_state_comes_back(config: MethodConfig) -> None:
    method, again = config.build(model(), 10, 0), config.build(model(1), 10, 0)
    step(method, batch())
    again.players()["model"].load_state_dict(method.players()["model"].state_dict())
    again.load_state_dict(method.state_dict())
    assert alike(again.state_dict(), method.state_dict())
    assert list(method.players()) == list(again.optimizers())
    assert next(iter(method.players())) == "model"


POLICIES: dict[Policy, tuple[bool, bool]] = {
    "source": (True, False), "frozen": (False, False), "target": (False, True), "both": (True, True),
}  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("config", [CONFIGS["cbst"], CONFIGS["oracle"]], ids=["cbst", "oracle"])
def test_the_batch_norm_policy_is_respected(config: Any, policy: Policy) -> None:
    network = model()
    method = replace(config, batch_norm=policy).build(network, 10, 0)

    def count() -> int:
        (tracked,) = {int(layer.num_batches_tracked) for layer in batch_norm_layers(network).values()}
        return tracked

    seen, before = [], count()
    for losses in method.step(batch(), 0):
        torch.stack(list(losses.values())).sum().backward()
        seen.append(count() > before)
        before = count()
    assert tuple(seen) == POLICIES[policy]
    affine = [p for layer in batch_norm_layers(network).values() for p in (layer.weight, layer.bias)]
    assert all(p.grad is not None and p.grad.any() for p in affine)


@pytest.mark.parametrize("augment", [None, ColourAugmentation()])
@pytest.mark.parametrize("policy", POLICIES)
def test_true_pseudo_labels_make_cbst_the_oracle(policy: Policy, augment: ColourAugmentation | None) -> None:
    cbst = CBSTConfig(batch_norm=policy, augment=augment, optimizer=OPTIMIZER).build(model(), 10, 7)
    oracle = OracleConfig(OPTIMIZER, policy, augment).build(model(), 10, 7)
    for t in range(3):
        assert [list(d.values()) for d in step(cbst, batch(), t)] == [
            list(d.values()) for d in step(oracle, batch(), t)
        ]
    assert same(state(cbst), state(oracle))


def test_no_pseudo_labels_make_cbst_source_only() -> None:
    cbst = CBSTConfig(batch_norm="source", optimizer=OPTIMIZER).build(model(), 10, 0)
    plain = SourceOnlyConfig(OPTIMIZER).build(model(), 10, 0)
    for t in range(3):
        step(cbst, batch(1.0), t)
        step(plain, batch(), t)
    assert same(state(cbst), state(plain))


# --- CBST's rounds -----------------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """A label store in memory."""

    labels: dict[str, Tensor] = field(default_factory=dict)
    predicted: dict[str, Tensor] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    def write(self, name: str, label: Tensor, predicted: Tensor | None = None) -> None:
        self.labels[name] = label
        assert predicted is not None
        self.predicted[name] = predicted

    def finish(self, thresholds: Mapping[str, Any]) -> None:
        self.thresholds = thresholds


def predictions(count: int = 3) -> list[Prediction]:
    rng = torch.Generator().manual_seed(5)
    return [Prediction(f"image_{i}", (2 * torch.randn(CLASSES, 9, 11, generator=rng)).softmax(0)) for i in range(count)]


def class_balanced(portion: float) -> Tensor:
    return class_thresholds(predictions(), portion, CLASSES)


def single(portion: float) -> Tensor:
    return torch.full((CLASSES,), global_threshold(predictions(), portion))


@pytest.mark.parametrize(("selection", "expected"), [("class_balanced", class_balanced), ("global", single)])
def test_a_round_writes_eq_8(selection: Any, expected: Callable[[float], Tensor]) -> None:
    method = CBSTConfig(selection, portion=0.3, portion_step=0.1, portion_limit=0.45).build(model(), 10, 0)
    for n, portion in ((1, 0.3), (2, 0.4), (3, 0.45), (4, 0.45)):
        store = Shelf()
        method.begin_round(n, predictions(), None, store)  # type: ignore[arg-type]
        theta = expected(portion)
        assert store.thresholds == {"theta": theta.tolist()}
        assert method.state_dict() == {"thresholds": theta.tolist()}
        for prediction in predictions():
            assert torch.equal(store.labels[prediction.name], pseudo_labels(prediction.prob, theta))
            assert torch.equal(store.predicted[prediction.name], prediction.prob.argmax(0).to(torch.uint8))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"portion": 0.0}, "portion: 0.0"),
        ({"portion": 0.6}, "portion = 0.6"),
        ({"portion_step": -0.1}, "portion_step = -0.1"),
        ({"portion_limit": 1.5}, "portion_limit = 1.5"),
        ({"stride": 0}, "stride: 0"),
        ({"selection": "both"}, "selection = 'both'"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        CBSTConfig(**options)


@pytest.mark.parametrize("kind", [CBSTConfig, OracleConfig])
def test_an_unknown_policy_is_an_error_before_training(kind: Any) -> None:
    with pytest.raises(ConfigError, match="batch_norm is 'none'; expected one of source, frozen, target, both"):
        kind(batch_norm="none")


def test_a_method_without_a_step_says_so() -> None:
    from segshift.parts.single_network import SingleNetwork

    with pytest.raises(NotImplementedError, match="SingleNetwork defines"):
        _: Iterator[Losses] = SingleNetwork(model(), OPTIMIZER, 1, 0).step(batch(), 0)


def test_source_only_with_frozen_statistics() -> None:
    """The running statistics stay, and are what the images are normalised by."""
    found = {}
    for policy in ("source", "frozen"):
        network = model()
        before = {k: v.clone() for k, v in network.state_dict().items() if k.endswith(("running_mean", "running_var"))}
        method = SourceOnlyConfig(OPTIMIZER, batch_norm=policy).build(network, 10, 0)  # type: ignore[arg-type]
        found[policy] = next(method.step(batch(), 0))["source"].item()
        changed = any(not torch.equal(network.state_dict()[k], v) for k, v in before.items())
        assert changed is (policy == "source")
    assert found["source"] != found["frozen"]
    with pytest.raises(ConfigError, match=r"batch_norm = 'target'; expected source or frozen"):
        SourceOnlyConfig(batch_norm="target")  # type: ignore[arg-type]
