"""Groups, kinds and the schedules: poly, exponential decay."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from segshift import checkpoint
from segshift.errors import ConfigError
from segshift.models.small import SmallNet
from segshift.parts.optimizers import Optimizer


def test_head_and_backbone() -> None:
    network = SmallNet(width=4).build(3)
    entry = Optimizer(lr=0.01, head_multiplier=10, weight_decay=5e-4).build(network, 10)
    groups = {group["name"]: group for group in entry.optimizer.param_groups}
    assert groups["backbone"]["lr"] == 0.01
    assert groups["head"]["lr"] == pytest.approx(0.1)
    assert {group["weight_decay"] for group in groups.values()} == {5e-4}
    given = sum(len(group["params"]) for group in groups.values())
    assert given == len(list(network.parameters()))
    assert any(p is network.classifier.weight for p in groups["head"]["params"])


@pytest.mark.parametrize(("kind", "expected"), [("sgd", optim.SGD), ("adam", optim.Adam), ("adamw", optim.AdamW)])
def test_kinds(kind: str, expected: type) -> None:
    entry = Optimizer(kind=kind, momentum=0.7).build(nn.Conv2d(3, 3, 1), 10)  # type: ignore[arg-type]
    assert type(entry.optimizer) is expected
    group = entry.optimizer.param_groups[0]
    assert (group["momentum"] if kind == "sgd" else group["betas"][0]) == 0.7


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_beta2(kind: Any) -> None:
    """torch's own by default: recipes written before there was the option are as they were."""
    cases: list[tuple[dict[str, Any], float]] = [({}, 0.999), ({"beta2": 0.99}, 0.99), ({"beta2": 0.0}, 0.0)]
    for options, expected in cases:
        entry = Optimizer(kind, **options).build(nn.Linear(2, 1), 10)
        assert entry.optimizer.param_groups[0]["betas"] == (0.9, expected)


@pytest.mark.parametrize("power", [0.0, 0.9, 1.0, 2.0])
def test_poly_schedule(power: float) -> None:
    layer = nn.Linear(2, 1)
    entry = Optimizer(lr=0.5, power=power).build(layer, 8)
    rates = []
    for _ in range(8):
        rates.append(entry.schedule.get_last_lr()[0])
        layer(torch.ones(1, 2)).sum().backward()
        entry.optimizer.step()
        entry.schedule.step()
    assert rates == pytest.approx([0.5 * (1 - t / 8) ** power for t in range(8)])


@pytest.mark.parametrize("decay", [(0.1, 5), (0.5, 1), (1.0, 3)])
def test_exponential_decay(decay: tuple[float, int]) -> None:
    """Whatever the training's length, and with the head's rate in proportion; beyond that length too."""
    entry = Optimizer("adam", lr=0.5, power=0.0, decay=decay).build(SmallNet(width=4).build(3), 3)
    rate, period = decay
    for t in range(12):
        factor = rate ** (t / period)
        assert entry.schedule.get_last_lr() == pytest.approx([0.5 * factor, 5 * factor])
        entry.optimizer.step()
        entry.schedule.step()


@pytest.mark.parametrize("decay", [None, (0.1, 20)])
def test_a_schedule_comes_back_exactly(decay: tuple[float, int] | None) -> None:
    entry = Optimizer(lr=0.5, decay=decay).build(nn.Linear(2, 1), 50)
    again = Optimizer(lr=0.5, decay=decay).build(nn.Linear(2, 1), 50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a schedule stepped without its optimiser
        for _ in range(20):
            entry.schedule.step()
        again.schedule.load_state_dict(entry.schedule.state_dict())
        again.optimizer.load_state_dict(entry.optimizer.state_dict())
        entry.schedule.step()
        again.schedule.step()
    assert again.schedule.get_last_lr() == entry.schedule.get_last_lr()


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "sgdd"},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"head_multiplier": -1.0},
        {"momentum": 1.0},
        {"beta2": 1.0},
        {"beta2": float("nan")},
        {"weight_decay": -1e-4},
        {"power": -1.0},
        {"decay": (0.0, 10)},
        {"decay": (1.1, 10)},
        {"decay": (float("nan"), 10)},
        {"decay": (0.1, 0)},
    ],
)
def test_wrong_values_are_errors(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=re.escape(f"{name} = {options[name]!r}") + ".*expected"):
        Optimizer(**options)  # type: ignore[arg-type]


def trained(kind: Any, fused: bool, resumed: bool, path: Path) -> dict[str, Tensor]:
    """Weights after four steps; in the middle, the optimiser may come back from a checkpoint."""
    torch.manual_seed(0)
    network = SmallNet(width=16, dilations=(1,)).build(3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def build() -> optim.Optimizer:
        optimizer = Optimizer(kind, lr=1e-4).build(network, 10).optimizer
        for group in optimizer.param_groups:
            group["fused"] = fused
        return optimizer

    optimizer = build()
    for step in range(4):
        if resumed and step == 2:
            checkpoint.save(path, {"optimizer": optimizer.state_dict()})
            optimizer = build()
            optimizer.load_state_dict(checkpoint.load(path)["optimizer"])
            for weight, state in optimizer.state.items():
                assert all(v.stride() == weight.stride() for v in state.values() if v.shape == weight.shape)
        network.zero_grad()
        network(
            torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        ).logits.square().mean().backward()
        optimizer.step()
    return network.state_dict()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("fused", [False, True])
def test_resumed_with_the_strides_of_its_weights(kind: Any, fused: bool, tmp_path: Path) -> None:
    """Fused kernels, the default on a GPU, walk through memory: other strides would be other weights, or an error."""
    alone, again = (trained(kind, fused, resumed, tmp_path / "state.safetensors") for resumed in (False, True))
    assert all(torch.equal(alone[name], again[name]) for name in alone)


def test_fused_where_the_weights_are() -> None:
    """On a CPU it rounds differently: not there."""
    group = Optimizer().build(nn.Conv2d(3, 3, 1), 10).optimizer.param_groups[0]
    assert group["fused"] is None and group["foreach"] is None
