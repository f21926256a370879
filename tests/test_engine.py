"""The loop: what it draws, logs, clips, refuses and saves. whole runs are in test_runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segshift import checkpoint
from segshift.data.dataset import OracleTarget, Unlabelled
from segshift.data.domains import Domains
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.transforms import View
from segshift.engine import Engine
from segshift.errors import ConfigError, DataError, TrainingError
from segshift.feeding import target_labels
from segshift.methods.cbst import CBSTConfig
from segshift.methods.source_only import SourceOnly, SourceOnlyConfig
from segshift.models.small import SmallNet
from segshift.parts.optimizers import Optimizer
from segshift.phase import Phase, Settings
from segshift.progress import Reporter
from segshift.run_log import RunLog
from segshift.snapshot import Position
from segshift.taxonomy import unnamed
from segshift.types import Batch, Losses, MethodConfig

CLASSES = 3
OPTIMIZER = Optimizer("adamw", lr=1e-2, head_multiplier=1)
VIEW = View((16, 16))
SETTINGS = Settings(threads=1, accelerator="cpu", checkpoint_share=0, keep=100)


class Stripes:
    """Labelled images whose colour tells the class."""

    space = unnamed(CLASSES)

    def __init__(self, count: int = 3, sizes: tuple[tuple[int, int], ...] = ((16, 20),)) -> None:
        self.names = tuple(f"image_{i}" for i in range(count))
        self.sizes = sizes

    def image(self, index: int) -> Tensor:
        return (self.label(index) * 90).expand(3, -1, -1).contiguous()

    def label(self, index: int) -> Tensor:
        height, width = self.sizes[index % len(self.sizes)]
        return ((torch.arange(width) + 5 * index) // 6 % CLASSES).to(torch.uint8).expand(height, width).contiguous()

    def fingerprint(self) -> str:
        return ""


class Locked(Stripes):
    """Images that must not be looked at."""

    def image(self, index: int) -> Tensor:
        raise AssertionError("decoded")


def phase(config: MethodConfig | None = None, **options: Any) -> Phase:
    views = {"source_view": VIEW, "target_view": VIEW}
    return Phase(config or SourceOnlyConfig(OPTIMIZER), **({"steps": 4, "batch": 2} | views | options))


def train(
    folder: Path, trained: Phase, target: Any = None, seed: int = 0, **settings: Any
) -> tuple[nn.Module, Position]:
    torch.manual_seed(0)
    model = SmallNet(width=4, dilations=(1,)).build(CLASSES)
    chosen = replace(SETTINGS, seed=seed, **settings)
    fabric = Fabric(accelerator="cpu", devices=1, precision=chosen.precision)
    fabric.launch()
    engine = Engine(folder, chosen, fabric, Reporter(quiet=True))
    data = Domains(Stripes(), target or Unlabelled(Stripes()), Stripes().space)
    folder.mkdir(exist_ok=True)
    return model, engine.train(trained, "adaptation", model, data, Position(t=5, first=5), None)


def log(folder: Path) -> list[dict[str, Any]]:
    return RunLog(folder / "log.jsonl").read()


def positions(folder: Path) -> list[dict[str, int]]:
    return [checkpoint.load(path)["position"] for path in sorted((folder / "checkpoints").iterdir())]


def test_rounds_steps_and_rates(tmp_path: Path) -> None:
    _, at = train(tmp_path, phase(rounds=2, steps=3))
    assert at == Position(1, 0, 11, 11)
    entries = log(tmp_path)
    assert [(e["phase"], e["round"], e["step"]) for e in entries] == [
        ("adaptation", 1 + i // 3, 5 + i) for i in range(6)
    ]
    assert [e["lr"] for e in entries] == pytest.approx([1e-2 * (1 - i / 6) ** 0.9 for i in range(6)])
    assert all(e["seconds"] >= 0 and set(e["losses"]) == {"source"} for e in entries)
    # Checkpoints at each round's start and end; one step has one file.
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == [f"step-{step:06d}.safetensors" for step in (5, 8, 11)]
    assert [state["round"] for state in positions(tmp_path)] == [1, 2, 2]


def test_it_learns(tmp_path: Path) -> None:
    train(tmp_path, phase(steps=60))
    losses = [e["losses"]["source"] for e in log(tmp_path)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_a_domain_nobody_looks_at_is_not_decoded(tmp_path: Path) -> None:
    _, at = train(tmp_path, phase(), Unlabelled(Locked()))
    assert at.t == 9
    with pytest.raises(AssertionError, match="decoded"):
        train(tmp_path / "cbst", phase(CBSTConfig(optimizer=OPTIMIZER)), Unlabelled(Locked()))


def test_no_rounds_change_nothing(tmp_path: Path) -> None:
    model, at = train(tmp_path, phase(rounds=0))
    torch.manual_seed(0)
    fresh = SmallNet(width=4, dilations=(1,)).build(CLASSES).state_dict()
    assert at == Position(1, 0, 5, 5)
    assert all(torch.equal(tensor, fresh[key]) for key, tensor in model.state_dict().items())


def test_workers_and_global_random_numbers_change_nothing(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "a", phase(CBSTConfig(optimizer=OPTIMIZER)))
    torch.rand(1000)
    second, _ = train(tmp_path / "b", phase(CBSTConfig(optimizer=OPTIMIZER)), workers=2)
    other, _ = train(tmp_path / "c", phase(CBSTConfig(optimizer=OPTIMIZER)), seed=1)
    states = [model.state_dict() for model in (first, second, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


def test_clipping_bounds_the_update(tmp_path: Path) -> None:
    plain = SourceOnlyConfig(Optimizer("sgd", lr=1.0, head_multiplier=1, momentum=0, weight_decay=0, power=0))
    torch.manual_seed(0)
    fresh = dict(SmallNet(width=4, dilations=(1,)).build(CLASSES).named_parameters())

    def moved(name: str, clip: float | None) -> float:
        model, _ = train(tmp_path / name, phase(plain, steps=1, clip=clip))
        steps = [(p - fresh[key]).detach().flatten() for key, p in model.named_parameters()]
        return float(torch.cat(steps).norm())

    assert moved("free", None) > 0.5
    assert moved("clipped", 0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved("loose", 1e6) == pytest.approx(moved("again", None))


def test_bf16_mixed(tmp_path: Path) -> None:
    model, _ = train(tmp_path, phase(CBSTConfig(optimizer=OPTIMIZER), rounds=1), precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert len(log(tmp_path)) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    step = SourceOnly.step

    def diverging(method: SourceOnly, batch: Batch, t: int) -> Iterator[Losses]:
        for found in step(method, batch, t):
            yield {**found, "other": torch.tensor(value if t == 7 else 0.0)}

    monkeypatch.setattr(SourceOnly, "step", diverging)
    with pytest.raises(
        TrainingError, match=rf"step 7: loss other = {value}; .*step-000007\.safetensors.*learning rate"
    ):
        train(tmp_path, phase(), checkpoint_steps=1)
    path, _, warning = checkpoint.latest(tmp_path / "checkpoints")
    assert path is not None
    assert warning == ""
    state = checkpoint.load(path)
    assert state["position"]["t"] == 7
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["players"]["model"].values())
    assert [e["step"] for e in log(tmp_path)] == [5, 6]


@dataclass(frozen=True)
class Steep(SourceOnlyConfig):
    """A finite loss with a gradient that is not."""

    def build(self, model: nn.Module, steps: int, seed: int) -> SourceOnly:
        class Method(SourceOnly):
            def step(self, batch: Batch, t: int) -> Iterator[Losses]:
                for losses in super().step(batch, t):
                    yield {"source": losses["source"] + (losses["source"] * 0).sqrt()}

        return Method(model, self, steps, seed)


def test_a_gradient_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 5: the gradient of model has norm nan; .*Last good checkpoint"):
        train(tmp_path, phase(Steep(OPTIMIZER)))
    assert log(tmp_path) == []


def test_images_of_several_sizes_need_a_crop(tmp_path: Path) -> None:
    mixed = Unlabelled(Stripes(3, ((16, 20), (18, 24))))
    with pytest.raises(DataError, match="set a crop"):
        train(tmp_path, phase(CBSTConfig(optimizer=OPTIMIZER), target_view=View(), batch=3), mixed)


def test_where_target_labels_come_from(tmp_path: Path) -> None:
    store = PseudoLabels(tmp_path / "round-1", CLASSES)
    target = Unlabelled(Stripes())
    assert target_labels(target, store) is None
    for name in target.names:
        store.write(name, torch.full((16, 20), 2))
    assert target_labels(target, store) is None  # a round cut short
    store.finish({"theta": [0.5] * CLASSES})
    read = target_labels(target, store)
    assert read is not None
    assert (read(1) == 2).all()
    truth = target_labels(OracleTarget(Stripes()), store)
    assert truth is not None
    assert torch.equal(truth(1), Stripes().label(1))


def test_checkpoints_as_often_as_asked(tmp_path: Path) -> None:
    train(tmp_path / "every", phase(steps=6), checkpoint_steps=2)
    found = [int(path.stem[-6:]) for path in sorted((tmp_path / "every" / "checkpoints").iterdir())]
    assert found == [5, 6, 8, 10, 11]
    train(tmp_path / "share", phase(steps=6), checkpoint_share=0.999)
    assert len(list((tmp_path / "share" / "checkpoints").iterdir())) > 2
    train(tmp_path / "few", phase(steps=6), checkpoint_steps=1, keep=2)
    found = [int(path.stem[-6:]) for path in sorted((tmp_path / "few" / "checkpoints").iterdir())]
    assert found == [10, 11]


@pytest.mark.parametrize(
    ("kind", "options", "found"),
    [
        (Phase, {"steps": 0}, "steps = 0"),
        (Phase, {"rounds": -1}, "rounds = -1"),
        (Phase, {"clip": 0.0}, "clip = 0.0"),
        (Phase, {"adabn_after": "both"}, "adabn_after = 'both'"),
        (Settings, {"threads": 0}, "threads = 0"),
        (Settings, {"checkpoint_share": 1.0}, "checkpoint_share = 1.0"),
        (Settings, {"seed": -1}, "seed = -1"),
        (Settings, {"precision": "16-mixed"}, "16-mixed"),
        (Settings, {"checkpoint_steps": 0}, "checkpoint_steps = 0"),
    ],
)
def test_wrong_values_are_errors(kind: Any, options: dict[str, Any], found: str) -> None:
    given = {"method": SourceOnlyConfig()} if kind is Phase else {}
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        kind(**given, **options)
