"""FCN-8s: the published structure and size, scores that lie where they should, any image size, published weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.networks import RandomWeights, caffe_images, descend, offline
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from segshift.errors import ConfigError, DataError
from segshift.models.fcn8s import FCN8s, _Upscore
from segshift.models.importer import map_fcn8s
from segshift.models.network import load_model, save_model
from segshift.models.segmenter import IMAGENET_MEAN
from segshift.taxonomy import unnamed

SMALL = 1 / 16
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def small(**changes: Any) -> FCN8s:
    return FCN8s(**{"width": SMALL, **changes})


def at(size: int, stride: int) -> int:
    return -(-size // stride)


@pytest.mark.parametrize("classes", [19, 21])
def test_parameters_are_the_published_ones(classes: int) -> None:
    count, inputs = 0, 3
    for channels, number in VGG16:
        for _ in range(number):
            count += 9 * inputs * channels + channels
            inputs = channels
    assert count == 14_714_688
    count += (49 * 512 * 4096 + 4096) + (4096 * 4096 + 4096)
    # All of torchvision's VGG16 (138 357 544) but its last layer; Table 1 of the paper prints 134 M.
    assert count == 138_357_544 - 4_097_000
    count += (4096 + 512 + 256) * classes + 3 * classes + 2 * 16 * classes**2
    with torch.device("meta"):
        model = FCN8s().build(classes)
    assert sum(p.numel() for p in model.parameters()) == count
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["encoder.conv1_1.weight"] == (64, 3, 3, 3)
    assert shapes["encoder.conv5_3.weight"] == (512, 512, 3, 3)
    assert shapes["encoder.fc6.weight"] == (4096, 512, 7, 7)
    assert shapes["encoder.fc7.weight"] == (4096, 4096, 1, 1)
    assert shapes["score_fr.weight"] == (classes, 4096, 1, 1)
    assert shapes["score_pool4.weight"] == (classes, 512, 1, 1)
    assert shapes["score_pool3.weight"] == (classes, 256, 1, 1)
    assert shapes["upscore2.weight"] == shapes["upscore_pool4.weight"] == (classes, classes, 4, 4)


@pytest.mark.parametrize("size", [(500, 500), (1024, 2048), (375, 1242)])
def test_shapes_of_the_published_width(size: tuple[int, int]) -> None:
    with torch.device("meta"):
        model = FCN8s().build(19)
        output = model(torch.empty(1, 3, *size))
    assert (model.stride, model.align_corners) == (8, False)
    assert output.logits.shape == (1, 19, at(size[0], 8), at(size[1], 8))
    strides, channels = (2, 4, 8, 16, 32), (64, 128, 256, 512, 512)
    assert [s.shape[1:] for s in output.stages] == [
        (c, at(size[0], s), at(size[1], s)) for s, c in zip(strides, channels)
    ]
    assert output.embedding is not None
    assert output.embedding.shape == (1, 4096, at(size[0], 32), at(size[1], 32))


@settings(max_examples=12)
@given(st.integers(1, 70), st.integers(1, 70))
def test_any_size_serves(height: int, width: int) -> None:
    logits = SERVING(torch.rand(1, 3, height, width)).logits
    assert logits.shape == (1, 5, at(height, 8), at(width, 8))
    assert logits.isfinite().all()


SERVING = small().build(5).eval()


@given(st.integers(1, 6), st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=12)
def test_upsampling_starts_as_the_bilinear_resize(height: int, width: int, classes: int) -> None:
    scores = torch.randn(2, classes, height, width)
    expected = F.interpolate(scores, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(_Upscore(classes)(scores), expected, atol=1e-6)


def test_score_layers_start_at_zero_and_all_parameters_learn() -> None:
    torch.manual_seed(2)
    model = small(dropout=0.0).build(4).train()
    image, label = torch.rand(2, 3, 40, 72), torch.randint(4, (2, 5, 9))
    assert torch.equal(model(image).logits, torch.zeros(2, 4, 5, 9))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = descend(model, image, label, 5, lr=0.003)
    assert losses[0] == pytest.approx(math.log(4), abs=1e-5)
    assert losses[-1] < losses[0]
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


def test_dropout_acts_in_training_only_and_not_on_the_embedding() -> None:
    model: Any = small(dropout=0.9).build(3)
    nn.init.ones_(model.score_fr.weight)
    image = torch.rand(1, 3, 64, 64)
    first, second = model.train()(image), model(image)
    assert not torch.equal(first.logits, second.logits)
    assert torch.equal(model.eval()(image).logits, model(image).logits)
    without: Any = small(dropout=0.0).build(3)
    without.load_state_dict(model.state_dict())
    assert torch.equal(without.train()(image).logits, model(image).logits)
    assert first.embedding is not None
    assert (first.embedding >= 0).all()


def test_backbone_holds_vgg16_and_the_head_the_rest() -> None:
    backbone, head = small().build(4).parameter_groups(0.1, head_multiplier=10)
    assert len(backbone["params"]) == 2 * 15
    assert len(head["params"]) == 3 * 2 + 2
    assert (backbone["lr"], head["lr"]) == (0.1, 1.0)


# --- weights ---------------------------------------------------------------------------------------------------


def published(classes: int) -> dict[str, Tensor]:
    """Random weights with the names and shapes of the release at a sixteenth of its width."""
    made = RandomWeights(5)

    def conv(name: str, inputs: int, outputs: int, kernel: int) -> None:
        made.conv(name, inputs, outputs, kernel)
        made.bias(name, outputs, 0.1)

    inputs = 3
    for group, (channels, number) in enumerate(VGG16, 1):
        for i in range(1, number + 1):
            conv(f"conv{group}_{i}", inputs, channels // 16, 3)
            inputs = channels // 16
    conv("fc6", inputs, 256, 7)
    conv("fc7", 256, 256, 1)
    for name, channels in (("score_fr", 256), ("score_pool3", 16), ("score_pool4", 32)):
        conv(name, channels, classes, 1)
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    for name in ("upscore2", "upscore_pool4"):
        made.state[f"{name}.weight"] = torch.einsum("ab,hw->abhw", torch.eye(classes), torch.outer(ramp, ramp))
    made.state["upscore8.weight"] = torch.zeros(classes, classes, 16, 16)
    return made.state


def conv(state: dict[str, Tensor], name: str, x: Tensor, padding: dict[str, int]) -> Tensor:
    """A layer; without a padding of its own it keeps the size."""
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=padding.get(name, weight.shape[2] // 2))


def vgg16(state: dict[str, Tensor], x: Tensor, padding: dict[str, int]) -> tuple[list[Tensor], Tensor]:
    """The five pooled maps, and the scores on the deepest."""
    pools = []
    for group, (_, number) in enumerate(VGG16, 1):
        for i in range(1, number + 1):
            x = conv(state, f"conv{group}_{i}", x, padding).relu()
        x = F.max_pool2d(x, 2, ceil_mode=True)
        pools.append(x)
    for name in ("fc6", "fc7"):
        x = conv(state, name, x, padding).relu()
    return pools, conv(state, "score_fr", x, padding)


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network's equation in plain functions, with bilinear resizes in place of the deconvolutions."""
    pools, scores = vgg16(state, x, {})
    for name, pool in (("score_pool4", pools[3]), ("score_pool3", pools[2])):
        skip = conv(state, name, pool, {})
        scores = F.interpolate(scores, scale_factor=2, mode="bilinear")[..., : skip.shape[2], : skip.shape[3]] + skip
    return scores


@pytest.mark.parametrize("size", [(64, 96), (75, 45)])
def test_the_release_on_caffe_images_is_this_network_on_rgb(tmp_path: Path, size: tuple[int, int]) -> None:
    state = published(5)
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "fcn8s.pth.tar")
    model = small(weights=str(tmp_path / "fcn8s.pth.tar")).build(5).eval()
    image = torch.rand(1, 3, *size)
    expected = reference(state, caffe_images(image))
    assert expected.std() > 1
    assert torch.allclose(model(image).logits, expected, rtol=1e-4, atol=1e-2)

    save_model(tmp_path, small(weights="gone.pth"), model.state_dict(), unnamed(5), None)
    again = load_model(tmp_path).network.eval()
    assert torch.equal(again(image).logits, model(image).logits)


def released_scores(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The release up to its last deconvolution: the image padded by 100, fc6 unpadded, the skips cropped by 5 and 9."""
    pools, scores = vgg16(state, x, {"conv1_1": 100, "fc6": 0})
    for up, name, pool, at in (("upscore2", "score_pool4", pools[3], 5), ("upscore_pool4", "score_pool3", pools[2], 9)):
        scores = F.conv_transpose2d(scores, state[f"{up}.weight"], stride=2)
        scores = scores + conv(state, name, pool, {})[:, :, at : at + scores.shape[2], at : at + scores.shape[3]]
    return scores


def test_an_image_framed_by_the_mean_gives_the_scores_of_the_release(tmp_path: Path) -> None:
    state = published(5)
    generator = torch.Generator().manual_seed(3)
    for name in ("upscore2.weight", "upscore_pool4.weight"):
        state[name] = state[name] + 0.1 * torch.randn(state[name].shape, generator=generator)
    torch.save(state, tmp_path / "w.pth")
    model = small(weights=str(tmp_path / "w.pth")).build(5).eval()
    image = torch.rand(1, 3, 70, 96)
    framed = model.mean.repeat(1, 1, 70 + 198, 96 + 198)
    framed[:, :, 99:-99, 99:-99] = image
    # Scores of pool3's first nine cells are cropped; the deconvolutions of the release see zeros outside of its map.
    expected = released_scores(state, caffe_images(image))[:, :, 6:-6, 6:-6]
    height, width = expected.shape[2:]
    assert min(height, width) >= 6
    found = model(framed).logits[:, :, 15 : 15 + height, 15 : 15 + width]
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_other_classes_load_the_encoder_and_say_so(tmp_path: Path) -> None:
    state = published(21)
    torch.save(state, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"w\.pth.*head starts new.*21 classes and this network 5"):
        model = small(weights=str(tmp_path / "w.pth")).build(5)
    assert torch.equal(model.state_dict()["encoder.fc7.weight"], state["fc7.weight"])
    assert not model.state_dict()["score_fr.weight"].any()


def test_given_normalisation_is_kept(tmp_path: Path) -> None:
    torch.save(published(5), tmp_path / "w.pth")
    model = small(weights=str(tmp_path / "w.pth"), mean=(0.1, 0.2, 0.3)).build(5)
    assert torch.allclose(model.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert torch.allclose(model.std.flatten(), torch.tensor([1 / 255] * 3))


class _Vgg(nn.Module):
    """torchvision's VGG16 (its layers and names) at a sixteenth of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.features = make_layers([x for c, n in VGG16 for x in [*[c // 16] * n, "M"]])
        first, second, last = nn.Linear(32 * 49, 256), nn.Linear(256, 256), nn.Linear(256, 9)
        self.classifier = nn.Sequential(first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), nn.Dropout(), last)


def test_torchvision_classifier_is_the_centre_of_the_embedding(tmp_path: Path) -> None:
    vgg = _Vgg().eval()
    torch.save({f"module.{name}": tensor for name, tensor in vgg.state_dict().items()}, tmp_path / "vgg16.pth")
    model = small(weights=str(tmp_path / "vgg16.pth")).build(3).eval()
    image = torch.rand(1, 3, 224, 224)
    assert torch.allclose(model.mean.flatten(), torch.tensor(IMAGENET_MEAN))
    expected = vgg.classifier[:5](vgg.features((image - model.mean) / model.std).flatten(1))
    output = model(image)
    assert output.embedding is not None
    assert torch.allclose(output.embedding[:, :, 3, 3], expected, rtol=1e-4, atol=1e-5)
    assert not output.logits.any()


def test_timm_weights_have_every_tensor_of_the_encoder() -> None:
    with torch.device("meta"):
        encoder = {n: t.shape for n, t in FCN8s().build(2).state_dict().items() if n.startswith("encoder.")}
        imported = map_fcn8s(timm.create_model("vgg16").state_dict())
    assert imported is not None
    assert {name: tensor.shape for name, tensor in imported.tensors.items()} == encoder
    assert (imported.classes, imported.others, imported.caffe) == (None, (), False)


def test_pretrained_without_internet_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(ConfigError, match=r"vgg16 cannot be had \(no route to host\).*connect to the internet"):
        small(weights="pretrained").build(2)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    state = published(5)
    del state["conv4_2.bias"]
    state["conv4_4.bias"] = torch.zeros(32)
    state["fc7.weight"] = torch.zeros(256, 128, 1, 1)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError) as error:
        small(weights=str(tmp_path / "w.pth")).build(5)
    text = str(error.value)
    assert "w.pth do not fit FCN8s" in text
    assert "missing: encoder.conv4_2.bias" in text
    assert "wrong shape: encoder.fc7.weight (256, 128, 1, 1) instead of (256, 256, 1, 1)" in text
    assert "not in this network: encoder.conv4_4.bias" in text


def test_batch_normalised_vgg16_is_refused(tmp_path: Path) -> None:
    features = make_layers([x for c, n in VGG16 for x in [*[c // 16] * n, "M"]], batch_norm=True)
    torch.save({f"features.{n}": t for n, t in features.state_dict().items()}, tmp_path / "bn.pth")
    with pytest.raises(ConfigError, match=r"bn\.pth do not fit FCN8s: .*not in this network: .*running_mean"):
        small(weights=str(tmp_path / "bn.pth")).build(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"width": 0.0}, "width is 0.0"),
        ({"std": (1.0, 1.0, 0.0)}, "std"),
    ],
)
def test_wrong_configs_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FCN8s(**changes)


@pytest.mark.usefixtures("wrong_shapes")
def test_wrong_images_are_errors() -> None:
    with pytest.raises(DataError, match="RGB"):
        SERVING(torch.rand(1, 1, 32, 32))


@pytest.mark.slow
def test_the_published_width_trains() -> None:
    torch.manual_seed(0)
    model = FCN8s().build(19).train()
    image, label = torch.rand(2, 3, 64, 64), torch.randint(19, (2, 8, 8))
    losses = descend(model, image, label, 3, lr=1e-5)
    assert losses[-1] < losses[0]
