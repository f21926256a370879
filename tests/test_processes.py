"""Two processes (gloo, CPU) against one: thresholds to the bit, losses to rounding, equal weights on both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.pairs import PARITY, auxiliary, released
from tests.fakes.process import cut_short, measured, train
from tests.fakes.tiny import STEPS, WARMUP_STEPS, rounds, tiny, weights
from tests.fakes.together import assert_alike, finished, shapes, sharded, train_together

from segshift.checkpoint import latest
from segshift.run_log import RunLog
from segshift.runs import resume


class Pair(NamedTuple):
    """What two processes found, what one process finds, and the folders of their runs."""

    two: list[dict[str, Any]]
    one: dict[str, Any]
    folder: Path
    alone: Path


@pytest.fixture(scope="module")
def pair(domains: tuple[Path, Path], source_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder, alone = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    recipes = {name: parity.recipe(domains, 2) for name, parity in PARITY.items()}
    recipes |= {"naive": tiny("cbst-naive", *domains, devices=2), "iast-released": released(domains, 2)}
    recipes["auxiliary"] = auxiliary(domains)
    recipes["sharded"] = sharded(recipes["cbst"])
    whole = ["auxiliary", *(name for name, parity in PARITY.items() if parity.whole)]
    again = {"resumed": ("cbst", None), "sharded again": ("sharded", None)}
    train_together(recipes, folder, source_only, whole, again, domains[1])
    for name, parity in PARITY.items():
        train(parity.recipe(domains, 1), alone / name, None if parity.whole else source_only)
    train(released(domains, 1), alone / "iast-released", source_only)
    cut_short(folder / "sharded", alone / "sharded")
    resume(alone / "sharded", devices=1, strategy="ddp")
    found = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
    return Pair(found, measured(source_only, domains[1], alone, 0, 1), folder, alone)


def test_thresholds_are_the_same_to_the_bit(pair: Pair) -> None:
    assert [len(found["names"]) for found in pair.two] == [3, 2]
    assert sorted(pair.two[0]["names"] + pair.two[1]["names"]) == pair.one["names"]
    for key in ("cbst 0.2 1", "cbst 0.5 4", "st"):
        assert pair.two[0][key] == pair.two[1][key] == pair.one[key]
    assert len(set(pair.one["cbst 0.2 1"])) > 1


def test_adabn_pools_all_images(pair: Pair) -> None:
    assert pair.two[0]["adabn"] == pair.two[1]["adabn"]
    for two, one in zip(pair.two[0]["adabn"], pair.one["adabn"], strict=True):
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", PARITY)
def test_two_processes_train_what_one_does(pair: Pair, name: str) -> None:
    """The same steps, the same losses but for rounding, and the same weights in the end."""
    two, one, parity = pair.folder / name, pair.alone / name, PARITY[name]
    logs = [RunLog(run / "log.jsonl").read() for run in (two, one)]
    assert len(logs[1]) >= STEPS
    for ours, theirs in zip(*logs, strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=parity.losses)
        assert ours.get("measured") == pytest.approx(theirs.get("measured"), abs=1e-4)
    for loss in parity.above_zero:
        assert all(0 < entry["losses"][loss] < 10 for entry in logs[0] if entry["phase"] == logs[0][-1]["phase"])
    state = load_file(one / "model" / "model.safetensors")
    for key, tensor in load_file(two / "model" / "model.safetensors").items():
        torch.testing.assert_close(tensor, state[key], rtol=parity.weights, atol=parity.weights)
    assert json.loads((two / "run.json").read_text())["processes"] == 2


FIRST = {
    "cbst": 6, "st": 6, "cbst-sp": 6, "iast": 6, "iast-released": 6, "category-adaptive": 6, "cpsl": 12,
    "cpsl-distill": 12,
}  # fmt: skip
"""What a method writes before its first step: five images' labels, statistics, and soft labels with their index."""


@pytest.mark.parametrize("name", FIRST)
def test_labels_and_thresholds_of_the_first_round_are_the_same_to_the_bit(pair: Pair, name: str) -> None:
    """In IAST each image waits for those that the other process has; centroids and prototypes are sums of floats."""
    where = "distillation/round-1" if name == "cpsl-distill" else "round-1"
    kinds = ("pseudo-labels/*", "soft-labels/*", "statistics.json")
    found = [
        {str(path.relative_to(run)): path.read_bytes() for kind in kinds for path in (run / where).glob(kind)}
        for run in (pair.folder / name, pair.alone / name)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == FIRST[name]


@pytest.mark.parametrize(
    ("name", "key"), [("iast", "theta"), ("iast-released", "theta"), ("category-adaptive", "entropy")]
)
def test_those_thresholds_are_none_of_a_kind(pair: Pair, name: str, key: str) -> None:
    """Equal ones would agree by having looked at nothing."""
    statistics = json.loads((pair.folder / name / "round-1" / "statistics.json").read_text())
    assert len(set(statistics["thresholds"][key])) > 2
    assert 0 < statistics["coverage"] < 1


def test_self_training_has_pixels_to_train_on(pair: Pair) -> None:
    entries = RunLog(pair.folder / "iast" / "log.jsonl").read()
    assert any(entry["losses"]["target"] > 0 and entry["losses"]["confident"] > 0 for entry in entries)


@pytest.mark.parametrize("name", [*PARITY, "naive", "iast-released", "auxiliary", "resumed", "sharded"])
def test_both_processes_end_with_equal_weights(pair: Pair, name: str) -> None:
    first, second = (load_file(f"{pair.folder / name}-rank-{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_resume_on_two_processes(pair: Pair) -> None:
    assert weights(pair.folder / "resumed") == weights(pair.folder / "cbst")
    assert rounds(pair.folder / "resumed") == rounds(pair.folder / "cbst")


def test_a_sharded_run_is_the_replicated_one_but_for_rounding(pair: Pair) -> None:
    """FSDP, and what a checkpoint of it holds: whole tensors, with which any number of processes can go on."""
    run, other = pair.folder / "sharded", pair.folder / "cbst"
    assert_alike(run, other)
    state, reference = (latest(folder / "checkpoints").state for folder in (run, other))
    assert shapes(state) == shapes(reference)
    assert weights(pair.folder / "sharded again") == weights(run)
    assert rounds(pair.folder / "sharded again") == rounds(run)
    assert_alike(pair.alone / "sharded", run)
    (resumed,) = json.loads((pair.alone / "sharded" / "run.json").read_text())["resumed"]
    # Beside what the environment of the tests differs in.
    assert {"devices was 2, is 1", "strategy was fsdp, is ddp"} <= set(resumed["changed"])


@pytest.mark.slow
def test_the_command_starts_its_own_processes(tmp_path: Path) -> None:
    words = (
        "adapt minicity/cbst --settings.devices 2 --settings.accelerator cpu --threads 1 --network.width 4 "
        "--data.minicity.train 5 --data.minicity.test 3 --data.minicity.size 32 64 --warmup.steps 3 --warmup.batch 2 "
        "--warmup.source-view.crop 32 32 --warmup.target-view.crop 32 32 "
        "--adaptation.steps 2 --adaptation.rounds 2 --adaptation.batch 2 "
        "--adaptation.source-view.crop 32 32 --adaptation.target-view.crop 32 32"
    )
    command = [str(Path(sys.executable).with_name("segshift")), *words.split(), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    (said,) = finished([process])
    assert said.count("pixel accuracy") == 2  # one table: pixel accuracy, mean pixel accuracy
    assert said.count("of the target's pixels labelled") == 2  # a line a round, by the first process
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["processes"], info["threads"]) == (2, 1)
    steps = [entry["step"] for entry in RunLog(tmp_path / "run" / "log.jsonl").read()]
    assert steps == list(range(WARMUP_STEPS + 4))
    assert json.loads((tmp_path / "run" / "round-2" / "statistics.json").read_text())["images"] == 5
    assert weights(tmp_path / "run")
