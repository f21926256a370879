"""DeepLab v2 and v3+: shapes at every stride, weights from a file, and errors that name what is wrong."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tests.fakes.networks import offline

from segshift.errors import ConfigError, DataError
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.segmenter import IMAGENET_MEAN, upsample

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
IMAGENET = SHARED / "weights" / "mobilenetv2_100.imagenet.safetensors"
TINY = "mobilenetv2_035"


def v2(**changes: Any) -> DeepLabV2:
    return DeepLabV2(**{"backbone": "resnet18", **changes})


def v3(**changes: Any) -> DeepLabV3Plus:
    return DeepLabV3Plus(**{"backbone": TINY, "aspp_channels": 16, "low_level_channels": 8, **changes})


def at(size: int, stride: int) -> int:
    return -(-size // stride)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 50)])
@pytest.mark.parametrize(
    ("config", "stride", "deepest"),
    [
        (v2(), 8, 8),
        (v2(output_stride=16, auxiliary=True), 16, 16),
        (v3(), 4, 16),
        (v3(output_stride=8), 4, 8),
        (v3(decoder=False, separable=False), 16, 16),
        (v3(output_stride=32), 4, 32),
    ],
)
def test_shapes(config: DeepLabV2 | DeepLabV3Plus, stride: int, deepest: int, size: tuple[int, int]) -> None:
    model = config.build(5).eval()
    output = model(torch.rand(2, 3, *size))
    assert (model.num_classes, model.stride, model.align_corners) == (5, stride, config.align_corners)
    assert output.logits.shape == (2, 5, at(size[0], stride), at(size[1], stride))
    strides = [2, 4, 8, min(16, deepest), deepest]
    assert [s.shape[2:] for s in output.stages] == [(at(size[0], s), at(size[1], s)) for s in strides]
    assert output.embedding is not None
    assert output.embedding.shape[2:] == output.logits.shape[2:]
    assert (output.auxiliary is not None) == getattr(config, "auxiliary", False)
    assert upsample(output.logits, size, model.align_corners).shape == (2, 5, *size)


@pytest.mark.parametrize("layout", ["timm", "caffe"])
def test_parameters_of_the_published_v2(layout: Any) -> None:
    # torchvision's published ResNet-101 less its classifier of 1000 classes; four 3x3 convolutions to 19 scores.
    count = (44_549_160 - 2_049_000) + 4 * (9 * 2048 * 19 + 19)
    with torch.device("meta"):
        model = DeepLabV2(layout=layout).build(19)
        both = DeepLabV2(layout=layout, auxiliary=True).build(19)
    assert sum(p.numel() for p in model.parameters()) == count == 43_901_068
    assert sum(p.numel() for p in both.parameters()) == count + 4 * (9 * 1024 * 19 + 19)


@pytest.mark.parametrize("size", [(500, 500), (1024, 2048)])
@pytest.mark.parametrize("layout", ["timm", "caffe"])
def test_shapes_of_the_published_v2(layout: Any, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        output = DeepLabV2(layout=layout).build(19)(torch.empty(1, 3, *size))
    # Caffe's pooling rounds up: 1024 pixels give 129 scores, whose corners lie on those of a 1025-pixel image.
    expected = tuple(side // 8 + 1 if layout == "caffe" else at(side, 8) for side in size)
    assert output.logits.shape == (1, 19, *expected)
    assert [stage.shape[1] for stage in output.stages] == [64, 256, 512, 1024, 2048]
    assert output.stages[-1].shape[2:] == expected


def test_v2_sums_dilated_convolutions_from_the_embedding() -> None:
    model: Any = v2().build(3).eval()
    output = model(torch.rand(1, 3, 64, 64))
    assert [b.dilation[0] for b in model.classifier.branches] == [6, 12, 18, 24]
    expected = torch.stack([b(output.embedding) for b in model.classifier.branches]).sum(0)
    assert torch.allclose(output.logits, expected, atol=1e-6)
    halved: Any = v2(output_stride=16).build(3)
    assert [b.dilation[0] for b in halved.classifier.branches] == [3, 6, 9, 12]


def test_v3_classifies_the_embedding_and_scales_its_rates() -> None:
    model: Any = v3(output_stride=8, separable=False).build(3).eval()
    output = model(torch.rand(1, 3, 64, 64))
    assert torch.allclose(output.logits, model.classifier(output.embedding))
    assert [branch[0].dilation[0] for branch in model.aspp.branches] == [1, 12, 24, 36]


@pytest.mark.parametrize("config", [v2(auxiliary=True), v3(), v3(separable=False, decoder=False)])
def test_gradients_flow_to_every_parameter_with_one_image(config: DeepLabV2 | DeepLabV3Plus) -> None:
    model = config.build(4).train()
    output = model(torch.rand(1, 3, 40, 40))
    loss = output.logits.square().mean()
    if output.auxiliary is not None:
        loss = loss + output.auxiliary.square().mean()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_parameter_groups_hold_every_parameter_once() -> None:
    model = v3().build(4)
    backbone, head = model.parameter_groups(0.1, head_multiplier=10)
    assert (backbone["lr"], head["lr"]) == (0.1, 1.0)
    counted = [id(p) for group in (backbone, head) for p in group["params"]]
    assert sorted(counted) == sorted(id(p) for p in model.parameters())
    encoder = timm.create_model(TINY, features_only=True)
    assert len(backbone["params"]) == len(list(encoder.parameters()))
    torch.optim.SGD(model.parameter_groups(0.1, 10))


def test_memory_format_of_the_image_makes_no_difference() -> None:
    model = v3().build(4).eval()
    weight = next(p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    image = torch.rand(2, 3, 64, 64)
    assert torch.allclose(model(image).logits, model(image.to(memory_format=torch.channels_last)).logits, atol=1e-5)


def test_normalises_for_itself() -> None:
    model = v3(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).build(2).eval()
    plain = v3(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).build(2).eval()
    weights = {name: t for name, t in model.state_dict().items() if name not in ("mean", "std")}
    plain.load_state_dict(weights, strict=False)
    image = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    assert torch.allclose(model(image).logits, plain((image - mean) / std).logits, atol=1e-5)
    assert torch.allclose(v3().build(2).mean.flatten(), torch.tensor(IMAGENET_MEAN))


def test_state_dict_round_trip_restores_normalisation_too() -> None:
    model = v3(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).build(3).eval()
    other = v3().build(3).eval()
    image = torch.rand(1, 3, 64, 64)
    assert not torch.equal(model(image).logits, other(image).logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(image).logits, other(image).logits)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 64, 64), "shape"),
        (torch.rand(1, 4, 64, 64), "RGB"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "divide 8-bit values by 255"),
        (torch.rand(1, 3, 64, 16), "64 x 17"),
    ],
)
@pytest.mark.usefixtures("wrong_shapes")
def test_wrong_images_are_errors(image: torch.Tensor, message: str) -> None:
    model = v3().build(2).eval()
    with pytest.raises(DataError, match=message):
        model(image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: v2(output_stride=32), "8, 16"),
        (lambda: v3(output_stride=4), "8, 16, 32"),
        (lambda: v3(dilations=()), "dilations"),
        (lambda: v3(dilations=(6, 0)), "dilations"),
        (lambda: v3(aspp_channels=0), "aspp_channels"),
        (lambda: v3(mean=(0.5, 0.5)), "mean"),
        (lambda: v3(std=(0.5, 0.5, 0.0)), "std"),
        (lambda: v3(backbone="resnet5").build(2), "near it: resnet5"),
        (lambda: v3(backbone="densenet121").build(2), "densenet121 cannot give features at stride 16"),
        (lambda: v3(weights="nowhere.safetensors").build(2), "nowhere.safetensors"),
        (lambda: v3().build(0), "num_classes is 0"),
        (lambda: v3().build(256), "num_classes is 256"),
    ],
)
def test_wrong_configs_are_errors(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The whole timm model, in half precision, without its classifier."""
    torch.manual_seed(3)
    state = {k: v for k, v in timm.create_model(TINY).state_dict().items() if not k.startswith("classifier")}
    save_file({k: v.half() if v.dim() == 4 else v for k, v in state.items()}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_weights_of_a_file_are_loaded_as_float32(weights: Path) -> None:
    given = load_file(weights)
    encoder = v3(weights=str(weights)).build(2).backbone().state_dict()
    assert all(torch.equal(tensor, given[name].to(tensor.dtype)) for name, tensor in encoder.items())
    assert {tensor.dtype for tensor in encoder.values()} == {torch.float32, torch.int64}


def test_names_of_nested_stages_are_matched(tmp_path: Path) -> None:
    whole = timm.create_model("convnext_atto").state_dict()
    save_file(whole, tmp_path / "w.safetensors")
    model = v3(backbone="convnext_atto", weights=str(tmp_path / "w.safetensors")).build(2)
    encoder = model.backbone().state_dict()
    assert torch.equal(encoder["stages_0.blocks.0.conv_dw.weight"], whole["stages.0.blocks.0.conv_dw.weight"])


def test_wrong_weights_are_named(weights: Path) -> None:
    state = load_file(weights)
    state["bn1.bias"] = torch.zeros(3)
    state["mystery"] = torch.zeros(1)
    del state["conv_stem.weight"]
    save_file(state, weights)
    with pytest.raises(ConfigError) as error:
        v3(weights=str(weights)).build(2)
    text = str(error.value)
    assert "w.safetensors" in text
    assert "missing: conv_stem.weight" in text
    assert "wrong shape: bn1.bias (3,) instead of (16,)" in text
    assert "not in this model: mystery" in text


def test_damaged_weights_are_named(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"w\.safetensors cannot be read"):
        v3(weights=str(weights)).build(2)


def test_pretrained_without_internet_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(ConfigError, match=r"no route to host.*connect to the internet"):
        v3(weights="pretrained").build(2)


@pytest.mark.skipif(not IMAGENET.is_file(), reason="needs the shared ImageNet weights")
def test_shared_imagenet_weights_load() -> None:
    half = (0.5, 0.5, 0.5)
    config = DeepLabV3Plus(weights=str(IMAGENET), mean=half, std=half, aspp_channels=16)
    given = load_file(IMAGENET)
    encoder = config.build(11).backbone().state_dict()
    assert all(torch.equal(tensor, given[name].to(tensor.dtype)) for name, tensor in encoder.items())
