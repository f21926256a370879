"""What the engine gives a method around its steps: soft labels to train on, a look at each round's end, measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tests.test_engine import CLASSES, OPTIMIZER, SETTINGS, Locked, Stripes, log, phase
from torch import Tensor, nn

from segshift import checkpoint
from segshift.data.dataset import OracleTarget, Unlabelled
from segshift.data.domains import Domains
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.transforms import View
from segshift.engine import Engine
from segshift.errors import RunError
from segshift.feeding import soft_labels
from segshift.methods.source_only import SourceOnly, SourceOnlyConfig
from segshift.models.segmenter import upsample
from segshift.models.small import SmallNet
from segshift.phase import Phase
from segshift.progress import Reporter
from segshift.scan import LogitScan, Views
from segshift.snapshot import Position
from segshift.types import Batch, Domain, LabelStore, Losses, MethodConfig

ROUNDS, STEPS, FIRST = 3, 2, 5
KIND = "rectified"


@dataclass(frozen=True)
class Soft(SourceOnlyConfig):
    """Cross-entropy with the soft labels of the first two rounds; each round's end is looked at, or is not."""

    looks: bool = True
    kept_in: tuple[int, ...] = (1, 2)

    @property
    def domains(self) -> tuple[Domain, ...]:
        return ("target",)

    def build(self, model: nn.Module, steps: int, seed: int) -> SoftMethod:
        return SoftMethod(model, self, steps, seed)


class SoftMethod(SourceOnly):
    def __init__(self, model: nn.Module, config: Soft, steps: int, seed: int) -> None:
        super().__init__(model, config, steps, seed)
        self.soft, self.seen, self.ended = config, {}, []
        self.largest = torch.zeros(())
        BUILT.append(self)

    def begin_round(self, n: int, scan: Any, source: Any, store: LabelStore) -> None:
        for found in scan.features():
            label = scan.probabilities(found, found.size).argmax(0)
            store.write(found.name, label, label)
            if n in self.soft.kept_in:
                store.write_soft(found)
        store.finish({})

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        images = batch.target
        assert images.soft is not None and images.geometry is not None
        self.seen[t] = (images.name, images.geometry, images.soft.clone())
        size = (images.soft.shape[2], images.soft.shape[3])
        logits = upsample(self.model(images.image).logits, size, False)
        self.largest = logits.detach().max()
        yield {"soft": -(images.soft * logits.log_softmax(1)).sum(1).mean()}

    def end_round(self, n: int, scan: Any, store: LabelStore) -> None:
        self.ended.append(n)
        if self.soft.looks:
            torch.rand(17)
            for prediction in scan:
                store.write_view(KIND, prediction.name, prediction.prob.argmax(0))

    def measured(self) -> Mapping[str, Tensor]:
        return {"largest logit": self.largest}


BUILT: list[Any] = []
TRAINED = phase(Soft(OPTIMIZER), rounds=ROUNDS, steps=STEPS, target_view=View((16, 16), (0.8, 1.6)), scan=Views(True))


def train(
    folder: Path, trained: Phase = TRAINED, state: Any = None, target: Any = None, **settings: Any
) -> tuple[SoftMethod, dict[str, Tensor]]:
    """The method, and the network's weights after it; from a checkpoint, on another network."""
    torch.manual_seed(0 if state is None else 1)
    model = SmallNet(width=4, dilations=(1,)).build(CLASSES)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    engine = Engine(folder, replace(SETTINGS, checkpoint_steps=1, **settings), fabric, Reporter(quiet=True))
    data = Domains(Stripes(), target or Unlabelled(Stripes()), Stripes().space)
    folder.mkdir(exist_ok=True)
    at = Position(t=FIRST, first=FIRST) if state is None else Position(**state["position"])
    engine.log.cut(at.t)
    engine.train(trained, "adaptation", model, data, at, state)
    return BUILT[-1], {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SoftMethod, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("soft") / "run"
    return folder, *train(folder)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("round-*/**/*") if path.is_file()}


# --- soft labels ---------------------------------------------------------------------------------------------------


def test_steps_see_the_newest_soft_labels_cut_like_the_image(run: tuple[Path, SoftMethod, Any]) -> None:
    folder, method, _ = run
    assert sorted(method.seen) == list(range(FIRST, FIRST + ROUNDS * STEPS))
    for t, (names, geometries, soft) in method.seen.items():
        n = min(1 + (t - FIRST) // STEPS, 2)  # the third round keeps none: it goes on with those of the second
        kept = PseudoLabels(folder / f"round-{n}", CLASSES).soft_labels()
        assert kept is not None
        assert kept.round == n
        assert soft.shape == (2, CLASSES, 16, 16)
        expected = torch.stack([kept.cut(name, geometry) for name, geometry in zip(names, geometries, strict=True)])
        assert torch.equal(soft, expected)
    assert not (folder / "round-3" / "soft-labels").exists()
    # Some crop is larger than its image: its padding is of no class.
    assert any(soft.sum(1).min() == 0 for _, _, soft in method.seen.values())


def test_soft_labels_are_the_networks_own_probabilities(run: tuple[Path, SoftMethod, Any], tmp_path: Path) -> None:
    folder, _, _ = run
    torch.manual_seed(0)
    first = SmallNet(width=4, dilations=(1,)).build(CLASSES)
    store = PseudoLabels(folder / "round-1", CLASSES)
    for prediction in LogitScan(first, Stripes(), tmp_path / "scan", None, Views(True)):
        found = store.read_soft(prediction.name, (16, 20))
        torch.testing.assert_close(found, prediction.prob, rtol=0, atol=1e-5)


def test_loader_processes_change_nothing(run: tuple[Path, SoftMethod, dict[str, Tensor]], tmp_path: Path) -> None:
    _, method, weights = run
    again, found = train(tmp_path / "run", workers=1)
    assert_same(found, weights)
    assert all(torch.equal(again.seen[t][2], soft) for t, (_, _, soft) in method.seen.items())


def test_resumed_from_any_checkpoint_a_run_is_the_same(
    run: tuple[Path, SoftMethod, dict[str, Tensor]],
) -> None:
    folder, _, weights = run
    expected, logged = files(folder), [entry["losses"] for entry in log(folder)]
    checkpoints = sorted((folder / "checkpoints").iterdir())
    # The last of a round stands for the first of the next: both have the same step.
    assert len(checkpoints) == ROUNDS * STEPS + 1
    for path in checkpoints:
        state = checkpoint.load(path)
        method, found = train(folder, state=state)
        assert_same(found, weights)
        assert files(folder) == expected
        assert [entry["losses"] for entry in log(folder)] == logged
        assert method.ended == list(range(state["position"]["round"], ROUNDS + 1))


def test_training_does_not_go_on_without_its_soft_labels(tmp_path: Path) -> None:
    train(tmp_path)
    states = [checkpoint.load(path) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert [state["soft"] for state in states] == [1, 1, 2, 2, 2, 2, 2]
    (tmp_path / "round-2" / "soft-labels" / "index.json").unlink()
    train(tmp_path, state=states[0])  # the first round's are there, and the second's are written again
    assert (tmp_path / "round-2" / "soft-labels" / "index.json").is_file()
    (tmp_path / "round-2" / "soft-labels" / "image_1.safetensors").unlink()
    with pytest.raises(RunError, match=r"image_1\.safetensors: does not exist.*start of round 2"):
        train(tmp_path, state=states[3])


def test_a_method_that_keeps_none_is_given_none(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="soft"):
        train(tmp_path, phase(Soft(OPTIMIZER, kept_in=(2,)), rounds=2))
    path = checkpoint.latest(tmp_path / "checkpoints").path
    assert path is not None
    assert "soft" not in checkpoint.load(path)
    store = PseudoLabels(tmp_path / "round-1", CLASSES)
    assert soft_labels(Unlabelled(Stripes()), store) is None
    assert soft_labels(OracleTarget(Stripes()), store) is None


# --- the end of a round --------------------------------------------------------------------------------------------


def test_each_round_ends_once_with_the_network_it_trained(run: tuple[Path, SoftMethod, Any], tmp_path: Path) -> None:
    folder, method, _ = run
    assert method.ended == list(range(1, ROUNDS + 1))
    for n in range(1, ROUNDS + 1):
        store = PseudoLabels(folder / f"round-{n}", CLASSES)
        model = SmallNet(width=4, dilations=(1,)).build(CLASSES)
        state = checkpoint.load(checkpoint.step_file(folder / "checkpoints", FIRST + n * STEPS))
        model.load_state_dict(state["players"]["model"])
        for prediction in LogitScan(model, Stripes(), tmp_path / "scan", None, Views(True)):
            assert torch.equal(store.read_view(KIND, prediction.name).long(), prediction.prob.argmax(0))
    assert not (folder / "scan").exists()


def test_a_run_killed_at_a_rounds_end_looks_again(
    run: tuple[Path, SoftMethod, dict[str, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, weights = run

    whole = SoftMethod.end_round

    def killed(method: SoftMethod, n: int, scan: Any, store: LabelStore) -> None:
        whole(method, n, scan, store)
        (tmp_path / "round-1" / KIND / "image_1.png").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SoftMethod, "end_round", killed)
        train(tmp_path)
    path = checkpoint.latest(tmp_path / "checkpoints").path
    assert path is not None
    state = checkpoint.load(path)
    assert (state["position"]["round"], state["position"]["t"]) == (1, FIRST + STEPS)
    method, found = train(tmp_path, state=state)
    assert method.ended == list(range(1, ROUNDS + 1))
    assert_same(found, weights)
    assert files(tmp_path) == files(folder)


def test_a_look_at_the_rounds_end_changes_nothing(run: tuple[Path, SoftMethod, Any], tmp_path: Path) -> None:
    """Weights, optimisers and random numbers: every checkpoint is the same file."""
    folder, _, weights = run
    _, found = train(tmp_path / "run", replace(TRAINED, method=Soft(OPTIMIZER, looks=False)))
    state = torch.get_rng_state()
    assert_same(found, weights)
    assert not list(tmp_path.rglob(KIND))
    paths = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.read_bytes() for path in paths] == [
        (folder / "checkpoints" / path.name).read_bytes() for path in paths
    ]
    train(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_method_that_does_not_look_costs_nothing(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Plain(SourceOnlyConfig):
        def build(self, model: nn.Module, steps: int, seed: int) -> SourceOnly:
            method = SourceOnly(model, self, steps, seed)
            BUILT.append(method)
            return method

    config: MethodConfig = Plain(OPTIMIZER)
    train(tmp_path, phase(config, rounds=2), target=Unlabelled(Locked()))
    assert not (tmp_path / "scan").exists()
    assert all("measured" not in entry for entry in log(tmp_path))


def test_measures_are_logged_beside_the_losses(run: tuple[Path, SoftMethod, Any]) -> None:
    folder, method, _ = run
    entries = log(folder)
    assert all(set(entry["losses"]) == {"soft"} for entry in entries)
    assert entries[-1]["measured"] == {"largest logit": pytest.approx(float(method.largest), abs=1e-6)}
    assert len({entry["measured"]["largest logit"] for entry in entries}) == len(entries)
