"""ResNet-38: the published structure, size and strides of A1 and A2, and weights under three kinds of names."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.fakes.networks import RandomWeights, descend
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError
from segshift.models.importer import map_resnet38
from segshift.models.network import load_model, save_model
from segshift.models.resnet38 import ResNet38
from segshift.taxonomy import unnamed

SMALL = 1 / 16
LEVELS = {
    2: ((128, 128), 3),
    3: ((256, 256), 3),
    4: ((512, 512), 6),
    5: ((512, 1024), 3),
    6: ((512, 1024, 2048), 1),
    7: ((1024, 2048, 4096), 1),
}
"""Level -> widths of a block's convolutions, number of blocks (Table 1 of the paper, model A)."""


def small(**changes: Any) -> ResNet38:
    return ResNet38(**{"width": SMALL, **changes})


def at(size: int, stride: int) -> int:
    return -(-size // stride)


@pytest.mark.parametrize("variant", ["A1", "A2"])
def test_parameters_are_the_published_ones(variant: Any) -> None:
    count, inputs, convolutions = 27 * 64, 64, 1
    for widths, number in LEVELS.values():
        kernels = (9, 9) if len(widths) == 2 else (1, 9, 1)
        for block in range(number):
            count += inputs * widths[-1] if block == 0 else 0
            for width, kernel in zip(widths, kernels):
                count += 2 * inputs + kernel * inputs * width
                inputs = width
                convolutions += 1
    count += 2 * 4096
    # 37 convolutions and a last layer: the 38 of its name.
    assert convolutions == 37
    assert count == 105_070_912
    count += (9 * 4096 * 512 + 512) + (9 * 512 * 19 + 19)
    assert count == 124_033_363
    with torch.device("meta"):
        model = ResNet38(variant=variant).build(19)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("variant", ["A1", "A2"])
@pytest.mark.parametrize("size", [(500, 500), (1024, 2048), (375, 1242)])
def test_shapes_of_the_published_width(variant: Any, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = ResNet38(variant=variant).build(19)
        output = model(torch.empty(1, 3, *size))
    assert (model.stride, model.align_corners) == (8, False)
    assert output.logits.shape == (1, 19, at(size[0], 8), at(size[1], 8))
    strides, channels = (2, 4, 8, 8, 8, 8), (128, 256, 512, 1024, 2048, 4096)
    expected = [(c, at(size[0], s), at(size[1], s)) for s, c in zip(strides, channels)]
    assert [stage.shape[1:] for stage in output.stages] == expected
    assert output.embedding is not None
    assert output.embedding.shape == (1, 512, at(size[0], 8), at(size[1], 8))


def test_batch_norm_and_dropout_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = ResNet38().build(19)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(layer.eps, layer.momentum) for layer in norms} == {(1e-5, 0.1)}
    dropouts = {n: m.p for n, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p > 0}
    assert dropouts == {"encoder.level6.0.dropout": 0.3, "encoder.level7.0.dropout": 0.5}


def test_training_lowers_the_loss_and_moves_every_parameter() -> None:
    torch.manual_seed(1)
    model = small(dropout=(0.0, 0.0)).build(4).train()
    image, label = torch.rand(2, 3, 40, 56), torch.randint(4, (2, 5, 7))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = descend(model, image, label, 6, lr=0.01, momentum=0.9)
    assert losses[-1] < losses[0]
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


def test_smallest_image_trains_and_a_smaller_one_is_refused() -> None:
    model = small().build(3).train()
    assert model(torch.rand(1, 3, 9, 9)).logits.isfinite().all()
    with pytest.raises(DataError, match="at least 9 pixels"):
        model(torch.rand(1, 3, 9, 8))


def test_head_is_the_top_alone() -> None:
    model = small().build(3)
    backbone, head = model.parameter_groups(0.1, head_multiplier=10)
    assert len(head["params"]) == 4
    assert len(backbone["params"]) + 4 == len(list(model.parameters()))


# --- weights ---------------------------------------------------------------------------------------------------


def published(classes: int | None = None) -> dict[str, Tensor]:
    """Random weights with AffinityNet's names, a sixteenth as wide; with `classes`, the authors' top besides."""
    made = RandomWeights(7)
    made.conv("conv1a", 3, 4, 3)
    inputs = 4
    for level, (widths, number) in LEVELS.items():
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        for block in range(number):
            name = f"b{level}_{block}" if block else f"b{level}"
            if not block:
                made.conv(f"{name}.conv_branch1", inputs, widths[-1] // 16, 1)
            for part, width, kernel in zip(("2a", "2b1", "2b2"), widths, kernels):
                made.norm(f"{name}.bn_branch{part}", inputs)
                made.conv(f"{name}.conv_branch{part}", inputs, width // 16, kernel)
                inputs = width // 16
    made.norm("bn7", inputs)
    if classes:
        made.conv("conv6a", inputs, 32, 3)
        made.conv(f"linear{classes}", 32, classes, 3)
        made.bias("conv6a", 32)
        made.bias(f"linear{classes}", classes)
    return made.state


def reference(state: dict[str, Tensor], x: Tensor, pooled: bool) -> Tensor:
    """Levels 1 to 7 in plain functions: A1, or A2 where `pooled`."""

    def norm_relu(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5).relu()

    x = F.conv2d(x, state["conv1a.weight"], padding=1)
    for level, (widths, number) in LEVELS.items():
        if pooled and level in (2, 3):
            x = F.max_pool2d(x, 3, 2, 1)
        for block in range(number):
            name = f"b{level}_{block}" if block else f"b{level}"
            stride = 2 if block == 0 and (level == 4 or (level in (2, 3) and not pooled)) else 1
            dilation = {5: 2, 6: 4, 7: 4}.get(level, 1)
            y = x
            for i, part in enumerate(("2a", "2b1", "2b2")[: len(widths)]):
                weight = state[f"{name}.conv_branch{part}.weight"]
                y = norm_relu(f"{name}.bn_branch{part}", y)
                if i == 0 and block == 0:
                    x = F.conv2d(y, state[f"{name}.conv_branch1.weight"], stride=stride)
                undilated = i == 0 and block == 0 and not pooled
                rate = 1 if weight.shape[2] == 1 or undilated else dilation
                padding = rate * (weight.shape[2] // 2)
                y = F.conv2d(y, weight, None, stride if i == 0 else 1, padding, rate)
            x = x + y
    return norm_relu("bn7", x)


def abn(state: dict[str, Tensor], nested: bool) -> dict[str, Tensor]:
    """AffinityNet's names as inplace_abn's; `nested`: each BatchNorm is the first of a Sequential with its ReLU."""
    table = {"conv1a": "mod1.conv1", "bn7": "bn_out"}
    parts = {"conv_branch1": "proj_conv", "bn_branch2a": "bn1", "conv_branch2a": "convs.conv1"}
    parts |= {f"bn_branch2b{i}": f"convs.bn{i + 1}" for i in (1, 2)}
    parts |= {f"conv_branch2b{i}": f"convs.conv{i + 1}" for i in (1, 2)}
    renamed = {}
    for name, tensor in state.items():
        layer, kind = name.rsplit(".", 1)
        if match := re.fullmatch(r"b(\d)(?:_(\d))?\.(\w+)", layer):
            level, block, part = match.groups()
            new = f"mod{level}.block{int(block or 0) + 1}.{parts[part]}"
        else:
            new = table[layer]
        renamed[f"{new}.0.{kind}" if nested and "bn" in new.rsplit(".", 1)[-1] else f"{new}.{kind}"] = tensor
    return renamed


def mxnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """AffinityNet's names as the authors'."""
    kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    renamed = {}
    for name, tensor in state.items():
        layer, kind = name.rsplit(".", 1)
        if match := re.fullmatch(r"b(\d)(?:_(\d))?\.(bn|conv)_(\w+)", layer):
            level, block, part, branch = match.groups()
            block = f"b{block}" if block else "a"
            layer = f"{'bn' if part == 'bn' else 'res'}{level}{block}_{branch}"
        kind = kinds[kind] if layer.startswith("bn") else kind
        renamed[f"{'aux' if kind.startswith('moving') else 'arg'}:{layer}_{kind}"] = tensor
    return renamed


@pytest.mark.parametrize("size", [(64, 48), (53, 75)])
@pytest.mark.parametrize("variant", ["A1", "A2"])
def test_published_weights_compute_the_published_function(tmp_path: Path, variant: Any, size: tuple[int, int]) -> None:
    state = published()
    names = state if variant == "A1" else abn(state, nested=True)
    torch.save({"state_dict": {f"module.{n}": t for n, t in names.items()}, "epoch": 1}, tmp_path / "w.pth")
    model = small(variant=variant, weights=str(tmp_path / "w.pth")).build(3).eval()
    image = torch.rand(2, 3, *size)
    expected = reference(state, (image - model.mean) / model.std, variant == "A2")
    assert (expected > 0).float().mean() > 0.2
    assert torch.allclose(model(image).stages[-1], expected, rtol=1e-4, atol=1e-4)


def test_variants_differ_in_function_alone(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "w.pth")
    one, two = (small(variant=v, weights=str(tmp_path / "w.pth")).build(3).eval() for v in ("A1", "A2"))
    two.load_state_dict(one.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert not torch.allclose(one(image).logits, two(image).logits, rtol=0.1)


@pytest.mark.parametrize("nested", [False, True])
def test_all_kinds_of_names_give_the_same_tensors(nested: bool) -> None:
    state = published()
    first = map_resnet38(state)
    assert first is not None
    for names in (abn(state, nested), {f"body.{n}": t for n, t in abn(state, nested).items()}, mxnet(state)):
        other = map_resnet38(names)
        assert other is not None
        assert (other.classes, other.others) == (None, ())
        assert other.tensors.keys() == first.tensors.keys()
        assert all(torch.equal(tensor, first.tensors[name]) for name, tensor in other.tensors.items())


def test_the_authors_segmentation_network_loads_whole(tmp_path: Path) -> None:
    state = published(classes=5)
    torch.save(mxnet(state), tmp_path / "w.pth")
    model = small(weights=str(tmp_path / "w.pth")).build(5).eval()
    image = torch.rand(1, 3, 64, 64)
    features = reference(state, (image - model.mean) / model.std, False)
    hidden = F.conv2d(features, state["conv6a.weight"], state["conv6a.bias"], padding=12, dilation=12).relu()
    expected = F.conv2d(hidden, state["linear5.weight"], state["linear5.bias"], padding=12, dilation=12)
    output = model(image)
    assert torch.allclose(output.logits, expected, rtol=1e-3, atol=1e-3)
    assert output.embedding is not None
    assert torch.allclose(output.embedding, hidden, rtol=1e-3, atol=1e-3)

    save_model(tmp_path, small(weights="gone.pth"), model.state_dict(), unnamed(5), 96)
    assert torch.equal(load_model(tmp_path).network.eval()(image).logits, output.logits)


def test_heads_of_other_designs_are_said(tmp_path: Path) -> None:
    names = abn(published(), nested=False)
    names |= {"classifier.fc.weight": torch.zeros(1000, 256), "aspp.0.weight": torch.zeros(1)}
    torch.save(names, tmp_path / "w.pth")
    with pytest.warns(
        UserWarning, match=r"loaded the encoder; the head starts new: this network has no aspp\.0\.weight$"
    ):
        small(variant="A2", weights=str(tmp_path / "w.pth")).build(3)
    torch.save(mxnet(published(classes=19)), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="head has 19 classes and this network 16"):
        small(weights=str(tmp_path / "w.pth")).build(16)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    state = published()
    del state["b4_5.conv_branch2a.weight"]
    state["b4_6.conv_branch2a.weight"] = torch.zeros(1)
    state["bn7.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError) as error:
        small(weights=str(tmp_path / "w.pth")).build(3)
    text = str(error.value)
    assert "missing: encoder.level4.5.convs.0.weight" in text
    assert "wrong shape: encoder.norm.bias (3,) instead of (256,)" in text
    assert "not in this network: encoder.level4.6.convs.0.weight" in text


def test_unknown_names_are_shown(tmp_path: Path) -> None:
    torch.save({"stem.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(
        ConfigError, match=r"w\.pth has names that are not known here: stem\.weight; expected ademxapp's"
    ):
        small(weights=str(tmp_path / "w.pth")).build(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "B"}, "A1 or A2"),
        ({"weights": "pretrained"}, "no library offers"),
        ({"dropout": (0.3, 1.0)}, "dropout is"),
        ({"dropout": (0.3,)}, "dropout is"),
        ({"width": -1.0}, "width is -1.0"),
        ({"mean": (0.1, 0.2)}, "mean"),
    ],
)
def test_wrong_configs_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResNet38(**changes)


@pytest.mark.slow
def test_the_published_width_trains() -> None:
    torch.manual_seed(0)
    model = ResNet38(dropout=(0.0, 0.0)).build(19).train()
    image, label = torch.rand(2, 3, 64, 64), torch.randint(19, (2, 8, 8))
    losses = descend(model, image, label, 3, lr=1e-3)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
