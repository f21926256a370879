"""FSDP, two processes (gloo, CPU): every method trains what one process does, and any number goes on with it."""

from __future__ import annotations

import copy
import json
import os
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from tests.fakes.pairs import PARITY, auxiliary
from tests.fakes.process import cut_short, train
from tests.fakes.tiny import rounds, weights
from tests.fakes.together import assert_alike, sharded, train_together
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from segshift.errors import TrainingError
from segshift.guards import require_finite
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.discriminators import Discriminator
from segshift.models.fcn8s import FCN8s
from segshift.models.resnet38 import ResNet38
from segshift.models.segmenter import Segmenter
from segshift.models.small import SmallNet
from segshift.parts.sharded import clip, is_shared, norm_of, own_part, shared_like, whole
from segshift.parts.teacher import Teacher
from segshift.runs import resume
from segshift.sharding import WholeCopy, distribute
from segshift.snapshot import restore_player

pytestmark = pytest.mark.slow
RESUMED = ("cbst", "advent", "iast", "cpsl")


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(domains: tuple[Path, Path], source_only: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the runs of two processes and of one."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    recipes = {name: sharded(keeping(parity.recipe(domains, 2))) for name, parity in PARITY.items()}
    recipes["auxiliary"] = sharded(auxiliary(domains))
    whole = ["auxiliary", *(name for name, parity in PARITY.items() if parity.whole)]
    again = {f"{name}-{strategy}": (name, strategy) for name in RESUMED for strategy in ("fsdp", "ddp")}
    train_together(recipes, two, source_only, whole, again)
    for name, parity in PARITY.items():
        train(parity.recipe(domains, 1), one / name, None if parity.whole else source_only)
    for name in RESUMED:
        cut_short(two / name, one / f"{name}-again")
        resume(one / f"{name}-again", devices=1, strategy="ddp")
    return two, one


def keeping(recipe: Any) -> Any:
    """All checkpoints are kept: it is resumed from the middle."""
    return replace(recipe, settings=replace(recipe.settings, keep=50))


@pytest.mark.parametrize("name", PARITY)
def test_a_method_trains_what_one_process_does(runs: tuple[Path, Path], name: str) -> None:
    two, one = runs
    assert_alike(two / name, one / name, PARITY[name].losses, PARITY[name].weights)
    assert json.loads((two / name / "run.json").read_text())["recipe"]["settings"]["strategy"] == "fsdp"


@pytest.mark.parametrize("name", [*PARITY, "auxiliary"])
def test_all_processes_end_with_the_same_whole_network(runs: tuple[Path, Path], name: str) -> None:
    first, second = (load_file(f"{runs[0] / name}-rank-{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", RESUMED)
def test_a_killed_run_goes_on_to_the_bit(runs: tuple[Path, Path], name: str) -> None:
    run, again = runs[0] / name, runs[0] / f"{name}-fsdp"
    assert weights(again) == weights(run)
    assert rounds(again) == rounds(run)


@pytest.mark.parametrize("name", RESUMED)
def test_replicas_and_one_process_go_on_with_it(runs: tuple[Path, Path], name: str) -> None:
    two, one = runs
    losses, tolerance = PARITY[name].losses, PARITY[name].weights
    assert_alike(two / f"{name}-ddp", two / name, losses, tolerance)
    assert_alike(one / f"{name}-again", two / name, losses, tolerance)


# --- the pieces, each on two processes -------------------------------------------------------------------------------

NETWORKS: dict[str, Callable[[], Segmenter]] = {
    "small": lambda: SmallNet(width=24).build(5),
    "small of one unit": lambda: SmallNet(width=4).build(5),
    "deeplab": lambda: DeepLabV2("resnet18", weights="none", auxiliary=True).build(5),
    "deeplab of depthwise blocks": lambda: DeepLabV2("mobilenetv2_100", weights="none").build(5),
    "deeplab v3+": lambda: DeepLabV3Plus("resnet18", weights="none").build(5),
    "fcn": lambda: FCN8s(width=0.25, dropout=0.0).build(5),
    "resnet38": lambda: ResNet38(width=0.25).build(5),
}


def built(name: str) -> Segmenter:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()  # BatchNorm of each process's own images would be another function


def given(rank: int | None) -> Tensor:
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return images if rank is None else images[rank::2]


def loss_of(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).logits.logsumexp(1).square().mean()


def gradients(network: Segmenter) -> dict[str, Tensor]:
    """Of one process that sees all images."""
    loss_of(network, given(None)).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def check_gradients(rank: int, mesh: Any) -> None:
    """Each unit's; twice, so that what the first backward pass has let go of is gathered again."""
    for name in NETWORKS:
        expected, network = gradients(built(name)), built(name)
        distributed = distribute(True)(network, mesh)
        for _ in range(2):
            loss_of(distributed, given(rank)).backward()
        found = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
        assert found.keys() == expected.keys(), name
        for key, gradient in found.items():
            scale = float(expected[key].abs().max())
            assert float((whole(gradient) / 2 - expected[key]).abs().max()) <= 1e-4 * scale + 1e-9, (name, key)
        norm = norm_of(list(found.values()))
        torch.testing.assert_close(norm / 2, nn.utils.get_total_norm(expected.values()), rtol=1e-4, atol=0)
        clip(list(found.values()), 0.5, norm)
        assert float(norm_of(list(found.values()))) == pytest.approx(min(0.5, float(norm)), rel=1e-4)


def check_shares(rank: int, mesh: Any) -> None:
    """A process holds half of the numbers, or a little more where a tensor cannot be halved; all units but one."""
    for name in NETWORKS:
        network = built(name)
        count = sum(p.numel() for p in network.parameters())
        own = sum(own_part(p).numel() for p in distribute(False)(network, mesh).parameters())
        assert 0.45 * count < own < 0.55 * count, (name, rank)


def check_whole_copy(rank: int, mesh: Any) -> None:
    """It is filled with what training has made of the network, in its own layout, and emptied."""
    network = built("small")
    network.get_buffer("mean").fill_(rank)
    ours, expected = copy.deepcopy(network), {key: tensor.clone() for key, tensor in network.state_dict().items()}
    strides = [p.stride() for p in network.parameters()]
    distributed = distribute(False)(ours, mesh)
    held = WholeCopy(network, ours)
    assert sum(p.numel() for p in network.parameters()) == 0
    with torch.no_grad():
        for parameter in distributed.parameters():
            parameter.mul_(2)
    held.fill()
    parameters = dict(network.named_parameters())
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[key] * 2 if key in parameters else expected[key]), key
    assert [p.stride() for p in network.parameters()] == strides
    held.empty()
    assert sum(p.numel() for p in network.parameters()) == 0


def check_statistics(rank: int, mesh: Any) -> None:
    """Every process trains on with the first's BatchNorm statistics, as replicas do."""
    network = built("small")
    distributed = distribute(False)(network, mesh)
    network.train()
    before = network.get_buffer("encoder.0.0.1.running_mean").clone()
    for _ in range(2):
        loss_of(distributed, given(rank)).backward()
    network.eval()
    loss_of(distributed, given(rank)).backward()
    for name, buffer in network.named_buffers():
        others = [torch.empty_like(buffer) for _ in range(2)]
        dist.all_gather(others, buffer)
        assert torch.equal(*others), name
    assert not torch.equal(network.get_buffer("encoder.0.0.1.running_mean"), before)


def check_teacher(_: int, mesh: Any) -> None:
    """A momentum network follows the whole student."""
    network, alone = built("small"), built("small")
    teachers = [Teacher(network, 0.9), Teacher(alone, 0.9)]
    distributed = distribute(False)(network, mesh)
    with torch.no_grad():
        for ours, theirs in zip(distributed.parameters(), alone.parameters(), strict=True):
            ours.mul_(3)
            theirs.mul_(3)
    teachers[0].follow(distributed)
    teachers[1].follow(alone)
    for ours, theirs in zip(teachers[0].state_dict().values(), teachers[1].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def check_restored(rank: int, mesh: Any) -> None:
    network = built("small")
    distribute(False)(network, mesh)
    state = {key: tensor + 1 for key, tensor in built("small").state_dict().items()}
    restore_player(network, state)
    for key, tensor in network.state_dict().items():
        assert torch.equal(whole(tensor), state[key]), key
    shared = shared_like(torch.arange(5.0), next(network.parameters()))
    assert own_part(shared).tolist() == ([0, 1, 2], [3, 4])[rank]
    assert shared_like(shared, shared) is shared


def check_others_are_whole(rank: int, mesh: Any) -> None:
    """Discriminators: methods take their weights for constants."""
    player = distribute(False)(Discriminator(5, 4), mesh)
    assert not is_shared(player.parameters())
    player(torch.full((1, 5, 64, 64), float(rank))).sum().backward()
    for parameter in player.parameters():
        assert parameter.grad is not None
        others = [torch.empty_like(parameter.grad) for _ in range(2)]
        dist.all_gather(others, parameter.grad)
        assert torch.equal(*others)


def check_all_find_the_same_bad_number(rank: int, mesh: Any) -> None:
    """In whoever's part it is: a process that raised alone would leave the others waiting."""
    network = built("small")
    distribute(False)(network, mesh)
    require_finite({"model": network}, 3)
    weight = network.get_parameter("classifier.weight")
    if rank == 1:
        own_part(weight.detach())[0] = torch.inf
    with pytest.raises(TrainingError, match=r"after step 2: weight classifier.weight of model: \d+ of 240 numbers"):
        require_finite({"model": network}, 3)


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}


def _process(rank: int, folder: str) -> None:
    """What each check says; it is no use to go on after one that has failed, for the processes may be apart."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    wait = timedelta(seconds=120)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2, timeout=wait)
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",))
    found = {}
    for name, check in CHECKS.items():
        try:
            check(rank, mesh)
            found[name] = ""
        except Exception:  # whatever it is, the test shows it
            found[name] = traceback.format_exc()
            break
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("checks")
    mp.start_processes(_process, (str(folder),), nprocs=2, start_method="spawn")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_share_a_network(checked: list[dict[str, str]], name: str) -> None:
    for said in checked:
        assert said.get(name, "an earlier one has failed") == "", said.get(name)
