"""Two processes (gloo, CPU) against one: thresholds to the bit, losses to rounding, equal weights on both."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.process import measured
from tests.fakes.tiny import WARMUP_STEPS, rounds, tiny, weights

from segshift import recipe as recipe_file
from segshift.adapt import start
from segshift.models.deeplab import DeepLabV2
from segshift.recipe import Recipe
from segshift.recipe_rows import retained
from segshift.run_log import RunLog

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 480
"""A group that hangs is ended after so long."""


class Pair(NamedTuple):
    """What two processes found, what one process finds, and the folders of their runs."""

    two: list[dict[str, Any]]
    one: dict[str, Any]
    folder: Path
    alone: Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def finished(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all; what they printed. One that fails or hangs ends the others."""
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


def careful(domains: tuple[Path, Path], devices: int) -> Recipe:
    """CBST with BatchNorm frozen from the shared warm-up's own weights: what no process count may change."""
    recipe = tiny("cbst", *domains, devices=devices, keep=50)
    assert recipe.adaptation is not None
    return replace(recipe, adaptation=replace(recipe.adaptation, adabn_before="none", batch=4))


def aligned(domains: tuple[Path, Path], devices: int) -> Recipe:
    """AdaptSegNet: two players, and more images than one a process."""
    recipe = tiny("adaptsegnet", *domains, devices=devices)
    assert recipe.adaptation is not None
    return replace(recipe, adaptation=replace(recipe.adaptation, adabn_before="none", adabn_after="none", batch=4))


def instance_adaptive(domains: tuple[Path, Path], devices: int) -> Recipe:
    """IAST with its warm-up kept; thresholds that start where the confidences of a network of three steps lie."""
    recipe = retained(tiny("iast", *domains, devices=devices))
    phase: Any = recipe.adaptation
    method = replace(phase.method, initial=0.3, beta=0.5, batch_norm="frozen")
    return replace(recipe, adaptation=replace(phase, method=method, adabn_before="none", adabn_after="none", batch=4))


def category_adaptive(domains: tuple[Path, Path], devices: int) -> Recipe:
    """Category-adaptive thresholds that keep about half of the pixels; the style gap's four players beside them."""
    recipe = tiny("category-adaptive", *domains, devices=devices)
    phase: Any = recipe.adaptation
    return replace(
        recipe,
        adaptation=replace(
            phase, method=replace(phase.method, delta=0.0), adabn_before="none", adabn_after="none", batch=4
        ),
    )


def clustered(domains: tuple[Path, Path], devices: int) -> Recipe:
    """CPSL with a bank that is full after the first step. CutMix pastes within a process, so it is left out."""
    recipe = tiny("cpsl", *domains, devices=devices)
    phase: Any = recipe.adaptation
    augment = replace(phase.method.augment, cutmix_probability=0.0)
    method = replace(phase.method, bank=24, samples=8, momentum=0.7, augment=augment)
    return replace(recipe, adaptation=replace(phase, method=method, adabn_before="none", adabn_after="none", batch=4))


def distilled(domains: tuple[Path, Path], devices: int) -> Recipe:
    """A student that starts at random in each round, on all processes alike."""
    recipe = tiny("cpsl-distill", *domains, devices=devices)
    phase: Any = recipe.distillation
    method = replace(phase.method, confidence=0.25, batch_norm="frozen")
    return replace(recipe, distillation=replace(phase, method=method, adabn_after="none", batch=4))


def released(domains: tuple[Path, Path], devices: int) -> Recipe:
    """One round of IAST as released: thresholds that move by pairs of images, in a drawn order."""
    recipe = tiny("iast-source-free", *domains, devices=devices)
    phase: Any = recipe.adaptation
    method = replace(phase.method, variant="released", unit=2, order="random", initial=0.3)
    return replace(recipe, adaptation=replace(phase, method=method, adabn_before="none", rounds=1, steps=1))


def auxiliary(domains: tuple[Path, Path]) -> Recipe:
    """A network with a classifier that no loss looks at, in the warm-up and in the phase after it."""
    recipe = tiny("adaptsegnet", *domains, devices=2)
    return replace(recipe, network=DeepLabV2("mobilenetv2_035", auxiliary=True))


@pytest.fixture(scope="module")
def pair(domains: tuple[Path, Path], source_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder, alone = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    recipes = {"cbst": careful(domains, 2), "naive": tiny("cbst-naive", *domains, devices=2)}
    recipes["adaptsegnet"] = aligned(domains, 2)
    recipes |= {"iast": instance_adaptive(domains, 2), "iast-released": released(domains, 2)}
    recipes |= {"category-adaptive": category_adaptive(domains, 2), "cpsl": clustered(domains, 2)}
    recipes |= {"cpsl-distill": distilled(domains, 2), "auxiliary": auxiliary(domains)}
    job = {
        "model": str(source_only),
        "target": str(domains[1]),
        "whole": ["auxiliary"],
        "recipes": {name: recipe_file.to_dict(recipe) for name, recipe in recipes.items()},
    }
    (folder / "job.json").write_text(json.dumps(job))
    port = str(free_port())
    command = [sys.executable, "-m", "tests.fakes.process"]
    started = [
        subprocess.Popen(
            [*command, str(rank), "2", port, str(folder / "job.json")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    finished(started)
    start(careful(domains, 1), alone / "cbst", source_only)
    start(aligned(domains, 1), alone / "adaptsegnet", source_only)
    start(instance_adaptive(domains, 1), alone / "iast", source_only)
    start(category_adaptive(domains, 1), alone / "category-adaptive", source_only)
    start(clustered(domains, 1), alone / "cpsl", source_only)
    start(distilled(domains, 1), alone / "cpsl-distill", source_only)
    start(released(domains, 1), alone / "iast-released", source_only)
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


def test_a_whole_run_agrees(pair: Pair) -> None:
    two, one = pair.folder / "cbst", pair.alone / "cbst"
    first = {name: content for name, content in rounds(one).items() if name.startswith("round-1")}
    assert first.items() <= rounds(two).items()
    logs = [RunLog(run / "log.jsonl").read() for run in (two, one)]
    assert [entry["step"] for entry in logs[0]] == [entry["step"] for entry in logs[1]]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=2e-5)
        assert 0 < ours["losses"]["target"] < 10
    state = load_file(one / "model" / "model.safetensors")
    for name, tensor in load_file(two / "model" / "model.safetensors").items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=1e-4)
    assert json.loads((two / "run.json").read_text())["processes"] == 2


def test_two_players_agree(pair: Pair) -> None:
    two, one = pair.folder / "adaptsegnet", pair.alone / "adaptsegnet"
    logs = [RunLog(run / "log.jsonl").read() for run in (two, one)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=2e-5)
        assert 0 < ours["losses"]["discriminator target"] < 10
    state = load_file(one / "model" / "model.safetensors")
    for name, tensor in load_file(two / "model" / "model.safetensors").items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["iast", "iast-released"])
def test_thresholds_that_move_from_image_to_image_are_the_same_to_the_bit(pair: Pair, name: str) -> None:
    """Labels, counts and thresholds: each of five images waits for those that the other process has."""
    first = [
        {file: content for file, content in rounds(run / name).items() if file.startswith("round-1")}
        for run in (pair.folder, pair.alone)
    ]
    assert first[0] == first[1]
    assert len(first[0]) == 6
    statistics = json.loads((pair.folder / name / "round-1" / "statistics.json").read_text())
    assert len(set(statistics["thresholds"]["theta"])) > 2


def test_centroids_are_the_same_to_the_bit(pair: Pair) -> None:
    """Labels, counts and entropies of the centroids, whose sums are of floats."""
    first = [
        {file: content for file, content in rounds(run / "category-adaptive").items() if file.startswith("round-1")}
        for run in (pair.folder, pair.alone)
    ]
    assert first[0] == first[1]
    statistics = json.loads((pair.folder / "category-adaptive" / "round-1" / "statistics.json").read_text())
    assert len(set(statistics["thresholds"]["entropy"])) > 2
    assert 0 < statistics["coverage"] < 1
    logs = [RunLog(run / "category-adaptive" / "log.jsonl").read() for run in (pair.folder, pair.alone)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=2e-5)
        assert 0 < ours["losses"]["style"] < 10
        assert 0 < ours["losses"]["style discriminator source"] < 10


def test_clusters_agree(pair: Pair) -> None:
    """Soft labels, δ_pseudo and prototypes to the bit, as their sums have no order; then steps, but for rounding."""
    two, one = pair.folder / "cpsl", pair.alone / "cpsl"
    written = [
        {file: content for file, content in rounds(run).items() if file.startswith(("round-1/soft", "round-1/pseudo"))}
        for run in (two, one)
    ]
    assert written[0] == written[1] and len(written[0]) == 11
    statistics = [json.loads((run / "round-1" / "statistics.json").read_text()) for run in (two, one)]
    assert statistics[0] == statistics[1]
    logs = [RunLog(run / "log.jsonl").read() for run in (two, one)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=2e-4)
        assert ours["measured"] == pytest.approx(theirs["measured"], abs=1e-4)
        assert 0 < ours["losses"]["self-labelling"] < 10


def test_students_agree(pair: Pair) -> None:
    """The teacher's labels to the bit in round 1; the student starts anew in each round, and is the same but for
    rounding."""
    two, one = (run / "cpsl-distill" for run in (pair.folder, pair.alone))
    files = sorted(path.relative_to(one) for path in (one / "distillation" / "round-1").rglob("*") if path.is_file())
    assert len(files) == 5 + 5 + 2  # labels, soft labels and their index, statistics
    assert all((two / file).read_bytes() == (one / file).read_bytes() for file in files)
    logs = [RunLog(run / "log.jsonl").read() for run in (two, one)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=2e-4)
        assert 0 < ours["losses"]["distillation"] < 10
        assert 0 < ours["losses"]["target"] < 10
    state = load_file(one / "model" / "model.safetensors")
    for name, tensor in load_file(two / "model" / "model.safetensors").items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-3, atol=1e-3)


def test_target_only_training_with_a_warm_up_kept_agrees(pair: Pair) -> None:
    two, one = pair.folder / "iast", pair.alone / "iast"
    logs = [RunLog(run / "log.jsonl").read() for run in (two, one)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=2e-5)
        assert 0 < ours["losses"]["ignored"] < 10
        assert 0 < ours["losses"]["discriminator target"] < 10
    assert any(entry["losses"]["target"] > 0 and entry["losses"]["confident"] > 0 for entry in logs[0])
    state = load_file(one / "model" / "model.safetensors")
    for name, tensor in load_file(two / "model" / "model.safetensors").items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "cbst",
        "naive",
        "adaptsegnet",
        "iast",
        "iast-released",
        "category-adaptive",
        "cpsl-distill",
        "auxiliary",
        "resumed",
    ],
)
def test_both_processes_end_with_equal_weights(pair: Pair, name: str) -> None:
    first, second = (load_file(f"{pair.folder / name}-rank-{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_resume_on_two_processes(pair: Pair) -> None:
    assert weights(pair.folder / "resumed") == weights(pair.folder / "cbst")
    assert rounds(pair.folder / "resumed") == rounds(pair.folder / "cbst")


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
    assert said.count("round 1: ") == 1
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["processes"], info["threads"]) == (2, 1)
    steps = [entry["step"] for entry in RunLog(tmp_path / "run" / "log.jsonl").read()]
    assert steps == list(range(WARMUP_STEPS + 4))
    assert json.loads((tmp_path / "run" / "round-2" / "statistics.json").read_text())["images"] == 5
    assert weights(tmp_path / "run")
