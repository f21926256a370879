"""Weights that a network starts a round from: which they are, that they are drawn anew, what is said of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.fakes.networks import offline
from tests.test_engine import phase
from torch import Tensor

from segshift import recipes
from segshift.errors import ConfigError
from segshift.models.deeplab import DeepLabV3Plus
from segshift.models.small import SmallNet
from segshift.recipe import Recipe
from segshift.restart import check_restarts, restart_weights, student_note

SMALL = SmallNet(width=4, dilations=(1,))
RESNET = DeepLabV3Plus("resnet10t", output_stride=16, aspp_channels=8, decoder=False)
"""1.2 million weights; without the decoder a few layers less."""


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


# --- which weights ---------------------------------------------------------------------------------------------------


def test_random_weights_are_a_function_of_seed_and_round() -> None:
    before = torch.get_rng_state()
    found = restart_weights(SMALL, 5, "random", 3, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert equal(found, restart_weights(SMALL, 5, "random", 3, 1))
    for seed, n in ((3, 2), (4, 1)):
        other = restart_weights(SMALL, 5, "random", seed, n)
        assert not torch.equal(other["classifier.weight"], found["classifier.weight"])


def test_they_are_not_what_the_warmup_began_with() -> None:
    torch.manual_seed(3)
    first = SMALL.build(5).state_dict()
    for n in (1, 2):
        assert not torch.equal(
            restart_weights(SMALL, 5, "random", 3, n)["classifier.weight"], first["classifier.weight"]
        )


def test_batch_norm_starts_anew_too() -> None:
    found = restart_weights(SMALL, 5, "random", 0, 1)
    means = [tensor for name, tensor in found.items() if name.endswith("running_mean")]
    assert means
    assert not any(bool(mean.any()) for mean in means)


def test_random_weights_pass_over_those_of_the_network() -> None:
    """The warm-up's are pretrained; the student's are not, and nothing is asked of the file."""
    network = replace(RESNET, weights="/no/such/file.pth")
    assert equal(restart_weights(network, 3, "random", 0, 1), restart_weights(RESNET, 3, "random", 0, 1))


@pytest.fixture
def backbone(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file of backbone weights as a self-supervised training leaves them, and the weights."""
    torch.manual_seed(5)
    state = {n: t for n, t in timm.create_model("resnet10t").state_dict().items() if not n.startswith("fc.")}
    moco = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    moco |= {f"module.encoder_k.{name}": tensor + 1 for name, tensor in state.items()}
    moco |= {"module.encoder_q.fc.0.weight": torch.zeros(4, 512), "module.queue": torch.zeros(4, 9)}
    torch.save({"state_dict": moco, "epoch": 7}, tmp_path / "moco.pth")
    return tmp_path / "moco.pth", state


def test_a_file_fills_the_encoder_and_the_head_is_drawn(backbone: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = backbone
    first, second = (restart_weights(RESNET, 3, str(path), 0, n) for n in (1, 2))
    encoder = {name.removeprefix("encoder."): t for name, t in first.items() if name.startswith("encoder.")}
    assert encoder.keys() == state.keys()
    assert equal(encoder, state)
    heads = [name for name in first if not name.startswith("encoder.") and first[name].dim() == 4]
    assert any(not torch.equal(first[name], second[name]) for name in heads)
    assert equal(encoder, {name: second[f"encoder.{name}"] for name in encoder})


def undownloaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """timm gives random weights where it would download some; what it is asked for."""
    create, asked = timm.create_model, []

    def create_model(name: str, pretrained: bool = False, **options: Any) -> Any:
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", create_model)
    return asked


def test_pretrained_and_a_tag_are_timms(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = undownloaded(monkeypatch)
    restart_weights(RESNET, 3, "pretrained", 0, 1)
    restart_weights(RESNET, 3, "timm:resnet10t.c3_in1k", 0, 1)
    assert asked == [("resnet10t", True), ("resnet10t.c3_in1k", True)]


def test_pretrained_is_the_file_that_the_warm_up_started_from(tmp_path: Path) -> None:
    """Where the warm-up's backbone came from a file, nothing is downloaded for the student."""
    file = tmp_path / "imagenet.safetensors"
    save_file({name: tensor + 1.0 for name, tensor in timm.create_model("resnet10t").state_dict().items()}, file)
    network = replace(RESNET, weights=str(file))
    found = restart_weights(network, 3, "pretrained", 0, 1)
    expected = restart_weights(RESNET, 3, str(file), 0, 1)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    recipe = replace(with_student("pretrained"), network=network)
    note = student_note(recipe)
    assert note is not None and "weights of the warm-up (imagenet.safetensors), a stand-in" in note


def test_the_normalisation_is_that_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student may expect other images than its teacher: mean and deviation come with the weights."""
    undownloaded(monkeypatch)
    network = DeepLabV3Plus("mobilenetv3_small_050", output_stride=16, aspp_channels=8, decoder=False)
    tag = "mobilenetv3_small_050.lamb_in1k"
    expected = timm.get_pretrained_cfg(tag)
    assert expected is not None
    found = restart_weights(network, 3, f"timm:{tag}", 0, 1)
    assert found["mean"].flatten().tolist() == pytest.approx(expected.mean)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "restart", "said"),
    [
        (SMALL, "pretrained", "restart = pretrained: SmallNet has no backbone to load weights into; expected random"),
        (
            RESNET,
            "/no/moco.pth",
            r"restart = /no/moco\.pth: is no file; .*self-supervised.*--distillation\.restart FILE",
        ),
        (RESNET, "timm:resnet50.a1_in1k", r"expected weights that timm has for .*DeepLabV3Plus, resnet10t: resnet10t"),
        (RESNET, "timm:resnet10t.nobodys", r"restart = timm:resnet10t\.nobodys: expected weights that timm has"),
        (recipes.find("gta5-cityscapes-resnet38/cbst").network, "timm:x", "ResNet38: none"),
    ],
)
def test_what_cannot_be_had_is_named(network: Any, restart: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        restart_weights(network, 3, restart, 0, 1)


def test_no_way_to_download(monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(ConfigError, match=r"timm's weights for resnet10t cannot be had.*give the path of a checkpoint"):
        restart_weights(RESNET, 3, "pretrained", 0, 1)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in timm.create_model("resnet14t").state_dict().items()}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"other\.safetensors do not fit backbone resnet10t"):
        restart_weights(RESNET, 3, str(tmp_path / "other.safetensors"), 0, 1)


def with_student(restart: str, **options: Any) -> Recipe:
    recipe = recipes.find("own/cpsl-distill")
    assert recipe.distillation is not None
    return replace(recipe, network=RESNET, distillation=replace(recipe.distillation, restart=restart, **options))


def test_a_recipe_is_checked_before_its_first_step(backbone: tuple[Path, dict[str, Tensor]]) -> None:
    check_restarts(with_student(str(backbone[0])), 3)
    check_restarts(recipes.find("own/cbst"), 3)
    check_restarts(with_student("/no/file.pth", rounds=0), 3)  # it is never looked at
    with pytest.raises(ConfigError, match=r"^distillation\.restart = /no/file\.pth: is no file"):
        check_restarts(with_student("/no/file.pth"), 3)


@pytest.mark.parametrize(("restart", "fresh"), [("random", False), ("", True)])
def test_a_restart_needs_a_fresh_optimiser(restart: str, fresh: bool) -> None:
    with pytest.raises(ConfigError, match=r"restart = .*fresh_optimizer = (True|False); expected random, pretrained"):
        phase(restart=restart, fresh_optimizer=fresh)


# --- what is said of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "said", "stands_in"),
    [
        ("random", "starts from random weights", True),
        ("pretrained", "labels of ImageNet", True),
        ("timm:convnext_tiny.dinov3_lvd1689m", "starts from the weights convnext_tiny.dinov3_lvd1689m.", False),
        ("/here/moco_r101.pth", "starts from the weights moco_r101.pth.", False),
    ],
)
def test_a_stand_in_is_called_one(restart: str, said: str, stands_in: bool) -> None:
    note = student_note(with_student(restart))
    assert note is not None
    assert said in note
    assert ("a stand-in for the self-supervised ones of the paper" in note) is stands_in
    assert "/here" not in note


def test_recipes_without_a_student_say_nothing() -> None:
    assert student_note(recipes.find("own/cpsl")) is None
