"""DeepLab v2 in Caffe's layout: the published weights of the AdaptSegNet family compute what they did."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.fakes.networks import RandomWeights, caffe_images
from torch import Tensor

from segshift.errors import ConfigError
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.network import load_model, save_model
from segshift.taxonomy import unnamed

BLOCKS = (3, 4, 6, 3)
"""ResNet-50's, the smallest that has Caffe's layout."""
CLASSES = 5


@cache
def _released() -> dict[str, Tensor]:
    made = RandomWeights(11)
    made.conv("conv1", 3, 64, 7, gain=1)
    made.norm("bn1", 64)
    inputs = 64
    for stage, number in enumerate(BLOCKS, 1):
        width = 32 * 2**stage
        for block in range(number):
            name = f"layer{stage}.{block}"
            if block == 0:
                made.conv(f"{name}.downsample.0", inputs, 4 * width, 1, gain=1)
                made.norm(f"{name}.downsample.1", 4 * width)
            for i, (outputs, kernel) in enumerate(((width, 1), (width, 3), (4 * width, 1)), 1):
                made.conv(f"{name}.conv{i}", inputs, outputs, kernel, gain=1)
                made.norm(f"{name}.bn{i}", outputs)
                inputs = outputs
    for name, channels in (("layer5", 1024), ("layer6", 2048)):
        for i in range(4):
            made.conv(f"{name}.conv2d_list.{i}", channels, CLASSES, 3, gain=1)
            made.bias(f"{name}.conv2d_list.{i}", CLASSES)
    return made.state


def released(two_heads: bool = False) -> dict[str, Tensor]:
    """Random weights with the names and shapes of the AdaptSegNet family; one classifier is called layer5."""
    state = dict(_released())
    if not two_heads:
        main = {name: state.pop(name) for name in list(state) if name.startswith("layer6")}
        state |= {name.replace("layer6", "layer5"): tensor for name, tensor in main.items()}
    return state


def caffe_reference(state: dict[str, Tensor], rgb: Tensor, rates: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(features of layer3, class scores) of the release in plain functions, from images in [0, 1]."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    x = norm("bn1", F.conv2d(caffe_images(rgb), state["conv1.weight"], stride=2, padding=3)).relu()
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    third = x
    for stage, number in enumerate(BLOCKS, 1):
        rate = {3: 2, 4: 4}.get(stage, 1)
        for block in range(number):
            name = f"layer{stage}.{block}"
            stride = 2 if stage == 2 and block == 0 else 1
            y = norm(f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride)).relu()
            y = norm(f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], padding=rate, dilation=rate)).relu()
            y = norm(f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]))
            if block == 0:
                shortcut = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = norm(f"{name}.downsample.1", shortcut)
            x = (x + y).relu()
        third = x if stage == 3 else third
    return third, classify(state, "layer6" if "layer6.conv2d_list.0.bias" in state else "layer5", x, rates)


def classify(state: dict[str, Tensor], name: str, x: Tensor, rates: tuple[int, ...]) -> Tensor:
    branches = [(state[f"{name}.conv2d_list.{i}.weight"], state[f"{name}.conv2d_list.{i}.bias"]) for i in range(4)]
    return torch.stack(
        [F.conv2d(x, *branch, padding=rate, dilation=rate) for branch, rate in zip(branches, rates)]
    ).sum(0)


def caffe(**changes: Any) -> DeepLabV2:
    return DeepLabV2(**{"backbone": "resnet50", "layout": "caffe", **changes})


@pytest.mark.parametrize(("rates", "size"), [((6, 12, 18, 24), (64, 72)), ((6, 12), (75, 41))])
def test_the_release_on_caffe_images_is_this_network_on_rgb(
    tmp_path: Path, rates: tuple[int, ...], size: tuple[int, int]
) -> None:
    state = released()
    torch.save({f"Scale.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.pth")
    model = caffe(weights=str(tmp_path / "w.pth"), dilations=rates).build(CLASSES).eval()
    image = torch.rand(1, 3, *size)
    _, expected = caffe_reference(state, image, rates)
    assert expected.std() > 0.5
    assert torch.allclose(model(image).logits, expected, rtol=1e-3, atol=1e-3)


def test_a_saved_model_computes_the_same(tmp_path: Path) -> None:
    config = caffe(weights="gone.pth", dilations=(6,))
    model = caffe(dilations=(6,)).build(CLASSES).eval()
    save_model(tmp_path, config, model.state_dict(), unnamed(CLASSES), None)
    image = torch.rand(1, 3, 40, 40)
    assert torch.equal(load_model(tmp_path).network.eval()(image).logits, model(image).logits)


def test_the_release_with_two_classifiers(tmp_path: Path) -> None:
    state = released(two_heads=True)
    torch.save(state, tmp_path / "w.pth")
    image = torch.rand(1, 3, 64, 64)
    third, expected = caffe_reference(state, image, (6, 12))
    for auxiliary in (True, False):
        config = caffe(weights=str(tmp_path / "w.pth"), dilations=(6, 12), auxiliary=auxiliary)
        output = config.build(CLASSES).eval()(image)
        assert torch.allclose(output.logits, expected, rtol=1e-3, atol=1e-3)
        if auxiliary:
            assert output.auxiliary is not None
            assert torch.allclose(output.auxiliary, classify(state, "layer5", third, (6, 12)), rtol=1e-3, atol=1e-3)


def test_a_caffe_resnet_of_other_classes_leaves_the_head_new(tmp_path: Path) -> None:
    state = released()
    torch.save(state, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"w\.pth: loaded the encoder; the head starts new: its head has 5 classes"):
        model = caffe(weights=str(tmp_path / "w.pth")).build(3)
    conv1 = model.state_dict()["encoder.conv1.weight"]
    assert torch.equal(conv1, state["conv1.weight"].flip(1))
    torch.save({name: tensor for name, tensor in state.items() if "conv2d_list" not in name}, tmp_path / "w.pth")
    assert torch.equal(caffe(weights=str(tmp_path / "w.pth")).build(3).state_dict()["encoder.conv1.weight"], conv1)


def test_caffe_weights_in_timm_layout_are_refused(tmp_path: Path) -> None:
    torch.save(released(), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"w\.pth is a DeepLab v2 of Caffe's layout.*layout 'caffe'"):
        caffe(layout="timm", weights=str(tmp_path / "w.pth")).build(CLASSES)
    with pytest.raises(ConfigError, match=r"w\.pth is a DeepLab v2 of Caffe's layout"):
        DeepLabV3Plus(backbone="resnet50", weights=str(tmp_path / "w.pth")).build(CLASSES)


def test_wrong_caffe_weights_are_named(tmp_path: Path) -> None:
    state = released()
    del state["layer3.2.bn2.weight"]
    state["layer3.6.conv1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError) as error:
        caffe(weights=str(tmp_path / "w.pth")).build(CLASSES)
    assert "missing: encoder.layer3.2.bn2.weight" in str(error.value)
    assert "not in this network: encoder.layer3.6.conv1.weight" in str(error.value)
    torch.save({"conv_stem.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"not known here: conv_stem\.weight; expected a ResNet's"):
        caffe(weights=str(tmp_path / "w.pth")).build(CLASSES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "torch"}, "timm or caffe"),
        ({"backbone": "resnet18"}, "resnet50, resnet101, resnet152"),
        ({"weights": "pretrained"}, "timm's weights are of layout 'timm'"),
    ],
)
def test_wrong_caffe_configs_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        caffe(**changes)
