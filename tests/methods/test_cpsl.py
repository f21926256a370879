"""CPSL over a small target: what its rounds prepare, what a step trains, what is left where a part is switched off."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.steps import step
from tests.methods.test_laws import CLASSES, SIZE, images, model
from torch import Tensor

from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import ConfigError
from segshift.methods.cpsl import CPSL, CPSLConfig
from segshift.methods.cpsl_head import normalise
from segshift.parts.optimizers import Optimizer
from segshift.scan import LogitScan
from segshift.snapshot import Position, restore, snapshot
from segshift.types import IGNORE, Batch, Images

OPTIMIZER = Optimizer("adamw", lr=1e-2, head_multiplier=1)
SMALL = CPSLConfig(bank=64, samples=8, momentum=0.9, optimizer=OPTIMIZER, head_optimizer=OPTIMIZER)
COUNT = 4


class Target:
    """Four noise images."""

    names = tuple(f"image_{i}" for i in range(COUNT))

    def image(self, index: int) -> Tensor:
        rng = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, SIZE, SIZE + 4 * index), generator=rng, dtype=torch.uint8)

    def fingerprint(self) -> str:
        return ""


def scan_of(network: Any, folder: Path) -> LogitScan:
    return LogitScan(network, Target(), folder / "scan", None)


def begun(folder: Path, config: CPSLConfig = SMALL, network: Any = None) -> tuple[CPSL, PseudoLabels]:
    """The method after the start of its first round, and what that has written."""
    network = model() if network is None else network
    method = config.build(network, 10, seed=0)
    store = PseudoLabels(folder / "round-1", CLASSES)
    method.begin_round(1, scan_of(network, folder), None, store)
    return method, store


def batch(seed: int = 2, padding: int = 0) -> Batch:
    """Source images with labels; target images with soft labels, the last rows of which are padding."""
    target = images(seed)
    rng = torch.Generator().manual_seed(seed)
    soft = torch.randn(2, CLASSES, SIZE, SIZE, generator=rng).softmax(1)
    soft[:, :, SIZE - padding :] = 0
    return Batch(images(1), target._replace(label=torch.full_like(target.label, IGNORE), soft=soft))


# --- the first round -------------------------------------------------------------------------------------------------


def test_the_first_round_keeps_what_the_warm_up_says(tmp_path: Path) -> None:
    """Y_ST as pseudo-labels, P_ST to be cut, δ_pseudo as Eq. 10, all of the network as it comes."""
    network = model()
    method, store = begun(tmp_path, network=network)
    counts = torch.zeros(CLASSES)
    for found in scan_of(network, tmp_path / "again"):
        assert torch.equal(store.read(found.name).long(), found.prob.argmax(0))
        soft = store.read_soft(found.name, (found.prob.shape[1], found.prob.shape[2]))
        torch.testing.assert_close(soft, found.prob, atol=1e-5, rtol=0)
        counts += torch.bincount(found.prob.argmax(0).reshape(-1), minlength=CLASSES)
    torch.testing.assert_close(method.clusters.delta, counts / counts.sum(), atol=1e-6, rtol=0)
    assert store.statistics()["coverage"] == 1


def test_the_head_starts_from_the_prototypes_of_eq_7(tmp_path: Path) -> None:
    network = model()
    method, _ = begun(tmp_path, network=network)
    sums, counts = torch.zeros(CLASSES, 2 * 4), torch.zeros(CLASSES)
    for found in scan_of(network, tmp_path / "again").features():
        z, label = normalise(found.embedding[None])[0], found.maps[0].float().argmax(0)
        for c in range(CLASSES):
            sums[c] += z[label == c].sum(0)
            counts[c] += (label == c).sum()
    weight = dict(method.head.named_parameters())["weight"]
    torch.testing.assert_close(weight, sums / counts.clamp(min=1)[:, None], atol=1e-5, rtol=0)
    assert torch.equal(dict(method._teachers["head"].network.named_parameters())["weight"], weight)


def test_without_initialisation_the_head_stays_at_random(tmp_path: Path) -> None:
    config = replace(SMALL, initialise=False)
    before = copy.deepcopy(config.build(model(), 10, seed=0).head.state_dict())
    method, _ = begun(tmp_path, config)
    assert torch.equal(method.head.state_dict()["weight"], before["weight"])


# --- a step ----------------------------------------------------------------------------------------------------------


def test_a_step_trains_network_and_head_by_the_terms_of_eq_14(tmp_path: Path) -> None:
    method, _ = begun(tmp_path)
    before = copy.deepcopy(method.head.state_dict()["weight"])
    source, target = step(method, batch(), 0)
    assert list(source) == ["source"]
    assert list(target) == ["target", "consistency", "self-labelling"]
    assert all(value > 0 for value in target.values())
    assert not torch.equal(before, method.head.state_dict()["weight"])


def gradients(method: CPSL, given: Batch) -> dict[str, Tensor]:
    """Of the head and of the network's first weight, by the target's losses."""
    for player in method.players().values():
        player.zero_grad()
    losses = list(method.step(given, 0))[1]
    torch.stack(list(losses.values())).sum().backward()
    network = next(p for p in method.model.parameters() if p.grad is not None)
    assert network.grad is not None
    head = next(method.head.parameters()).grad
    assert head is not None
    return {"network": network.grad.clone(), "head": head.clone()}


def test_the_self_labelling_loss_reaches_the_head_alone_unless_told_otherwise(tmp_path: Path) -> None:
    """Fig. 1: features are the momentum network's. With the student's own, λ_1 weighs on the network too."""
    found = {}
    for features in ("momentum", "student"):
        for weight in (0.1, 10.0):
            config = replace(SMALL, features=features, labelling_weight=weight)
            found[features, weight] = gradients(begun(tmp_path / f"{features}{weight}", config)[0], batch())
    assert torch.equal(found["momentum", 0.1]["network"], found["momentum", 10.0]["network"])
    assert not torch.equal(found["student", 0.1]["network"], found["student", 10.0]["network"])
    for features in ("momentum", "student"):
        few, many = found[features, 0.1]["head"], found[features, 10.0]["head"]
        torch.testing.assert_close(100 * few, many, rtol=1e-4, atol=1e-7)
        assert few.abs().max() > 0


def test_momentum_networks_follow_after_the_step(tmp_path: Path) -> None:
    method, _ = begun(tmp_path)
    before = {name: copy.deepcopy(teacher.network) for name, teacher in method._teachers.items()}
    step(method, batch(), 0)
    method.end_step(0)
    for name, teacher in method._teachers.items():
        triples = zip(teacher.network.parameters(), before[name].parameters(), getattr(method, name).parameters())
        for own, old, student in triples:
            torch.testing.assert_close(own, 0.9 * old + 0.1 * student)


def test_padding_is_no_part_of_any_target_loss(tmp_path: Path) -> None:
    """What the network says of padding changes neither labels nor losses, where no view is augmented."""
    method, _ = begun(tmp_path, replace(SMALL, augment=None, self_labelling=False))
    given = batch(padding=SIZE)
    _, target = step(method, given)
    assert target == {"target": 0.0, "consistency": 0.0}


def test_a_view_that_is_the_same_is_consistent(tmp_path: Path) -> None:
    """Before the first step the momentum network is the network: without augmentation Eq. 13 is 0."""
    method, _ = begun(tmp_path, replace(SMALL, augment=None))
    assert step(method, batch())[1]["consistency"] == pytest.approx(0, abs=1e-5)
    method, _ = begun(tmp_path / "strong", SMALL)
    assert step(method, batch())[1]["consistency"] > 1e-3


def labels_of(method: CPSL, given: Images) -> Tensor:
    return method._weak(given).label


def test_what_labels_are_left_without_either_source_of_them(tmp_path: Path) -> None:
    given = batch().target
    assert given.soft is not None
    without_sl, _ = begun(tmp_path / "st", replace(SMALL, self_labelling=False))
    assert torch.equal(labels_of(without_sl, given), given.soft.argmax(1))
    assert list(without_sl.players()) == ["model"]
    without_st, _ = begun(tmp_path / "sl", replace(SMALL, self_training=False))
    weak = without_st._weak(given)
    assert torch.equal(weak.label, weak.scores.argmax(1))
    both, _ = begun(tmp_path / "both", SMALL)
    weak = both._weak(given)
    expected = ((weak.scores / SMALL.temperature).softmax(1) * given.soft).argmax(1)
    assert torch.equal(weak.label, expected)
    assert not torch.equal(expected, given.soft.argmax(1))


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": "random", "partition": "equal"},
        {"bank_from": "start"},
        {"bank": 0},
        {"momentum": 0.0},
        {"labelling_weight": 0.0},
        {"consistency_weight": 0.0},
        {"consistency": "prototype_kl", "target_loss": "symmetric", "head": "cosine", "distribution_momentum": 1.0},
        {"confidence": 0.9, "floor": 2},
    ],
    ids=str,
)
def test_every_option_trains_to_finite_weights(tmp_path: Path, change: dict[str, Any]) -> None:
    method, _ = begun(tmp_path, replace(SMALL, **change))
    before = copy.deepcopy(method.model.state_dict())
    for t in range(3):
        step(method, batch(t, padding=4), t)
        method.end_step(t)
    state = method.model.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in state.items())
    assert torch.isfinite(method.measured()["transport error"])
    total = float(method.clusters.delta.sum())
    assert total == pytest.approx(1, abs=1e-5)


# --- later rounds ----------------------------------------------------------------------------------------------------


def trained(folder: Path, config: CPSLConfig = SMALL) -> tuple[CPSL, PseudoLabels]:
    method, store = begun(folder, config)
    for t in range(2):
        step(method, batch(t), t)
        method.end_step(t)
    return method, store


def test_a_later_round_writes_the_labels_as_they_have_become(tmp_path: Path) -> None:
    method, _ = trained(tmp_path)
    second = PseudoLabels(tmp_path / "round-2", CLASSES)
    delta, weight = method.clusters.delta.clone(), method.head.state_dict()["weight"].clone()
    method.begin_round(2, scan_of(method.model, tmp_path), None, second)
    method.end_round(2, scan_of(method.model, tmp_path), second)
    for name in Target.names:
        rectified = second.read(name)
        assert torch.equal(second.read_view("rectified", name), rectified)
        height, width = rectified.shape
        p_st = second.read_soft(name, (height, width))
        assert torch.equal(second.read_view("self-training", name).long(), p_st.argmax(0))
        by_warm_up, by_clusters = (second.read_view(kind, name) for kind in ("self-training", "self-labelling"))
        agree = by_warm_up == by_clusters
        assert torch.equal(rectified[agree], by_warm_up[agree])
    kept = second.kept("cpsl")
    assert kept is not None
    assert torch.equal(kept["delta_pseudo"], delta)
    assert torch.equal(method.clusters.delta, delta) and torch.equal(method.head.state_dict()["weight"], weight)


def test_it_goes_on_from_its_state_bit_by_bit(tmp_path: Path) -> None:
    """Bank, momentum networks and δ_pseudo are restored: a step of the copy is the step of the original."""
    config = replace(SMALL, bank=24, momentum=0.7)
    first, _ = trained(tmp_path / "first", config)
    second = config.build(model(5), 10, seed=0)
    state = snapshot(first, Position(), labelled=True)
    restore(second, copy.deepcopy(state))
    for t in (2, 3):
        assert step(first, batch(t), t) == step(second, batch(t), t)
        for method in (first, second):
            method.end_step(t)
    for ours, theirs in zip(flat(second.state_dict()), flat(first.state_dict()), strict=True):
        assert torch.equal(ours, theirs)
    assert first.clusters.bank is not None and first.clusters.bank.full


def flat(state: Any) -> Iterator[Tensor]:
    """All tensors of a nested state, and its numbers."""
    if isinstance(state, dict):
        for value in state.values():
            yield from flat(value)
    else:
        yield torch.as_tensor(state)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature = 0.0; expected a number above 0"),
        ({"epsilon": float("inf")}, "epsilon = inf"),
        ({"iterations": 0}, "iterations = 0; expected a whole number of at least 1"),
        ({"samples": 0}, "samples = 0"),
        ({"bank": -1}, "bank = -1"),
        ({"floor": -1}, "floor = -1"),
        ({"momentum": 1.5}, "momentum = 1.5; expected 0"),
        ({"distribution_momentum": -0.1}, "distribution_momentum = -0.1; expected a share"),
        ({"labelling_weight": -1.0}, "labelling_weight = -1.0"),
        ({"partition": "unequal"}, "partition = 'unequal'; expected one of aligned, equal"),
        ({"batch_norm": "never"}, "batch_norm is 'never'"),
        ({"self_labelling": False, "self_training": False}, "nothing is left to label pixels with"),
        ({"self_labelling": False, "consistency": "prototype_kl"}, "there is no self-labelling head"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CPSLConfig(**options)
