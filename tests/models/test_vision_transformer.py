"""Plain transformers of timm, and networks of segmentation_models_pytorch, through the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segshift.errors import ConfigError
from segshift.models.backbone import is_transformer
from segshift.models.deeplab import DeepLabV3Plus
from segshift.models.smp import SegmentationModels
from segshift.models.vision_transformer import VisionTransformer
from segshift.models.wrapped import Wrapped

IMAGE = torch.rand(1, 3, 70, 100, generator=torch.Generator().manual_seed(1))


def test_scores_are_one_a_patch() -> None:
    network = VisionTransformer("vit_tiny_patch16_224", layers=2, width=16).build(5).eval()
    output = network(IMAGE)
    assert output.logits.shape == (1, 5, 4, 6), "70 x 100 pixels are nearest to 4 x 6 patches of 16"
    assert [tuple(stage.shape) for stage in output.stages] == [(1, 192, 4, 6)] * 2
    assert network.stride == 16
    assert {name.split(".")[0] for name, _ in network.named_parameters() if not name.startswith("encoder.")} == {
        "reduce",
        "classifier",
    }


def test_whole_patches_are_not_touched() -> None:
    network = VisionTransformer("vit_tiny_patch16_224", layers=1, width=16).build(5).eval()
    image = torch.rand(1, 3, 64, 96)
    stage = network.get_submodule("encoder")((image - network.mean) / network.std)[-1]
    assert torch.equal(network(image).stages[-1], stage)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"]
)
def test_dino(backbone: str) -> None:
    network = VisionTransformer(backbone, layers=2, width=16).build(5)
    network(torch.cat([IMAGE, IMAGE])).logits.sum().backward()
    stem = next(network.backbone().parameters())
    assert stem.grad is not None
    assert is_transformer(backbone)


def test_convnext_goes_under_deeplab() -> None:
    assert not is_transformer("convnext_atto")
    network = DeepLabV3Plus("convnext_atto", output_stride=16, aspp_channels=16).build(5).eval()
    assert network(IMAGE).logits.shape == (1, 5, 17, 25)


def test_weights_with_timms_names(tmp_path: Path) -> None:
    first = VisionTransformer("vit_tiny_patch16_224", layers=1, width=16).build(5)
    path = tmp_path / "vit.safetensors"
    names = {name.removeprefix("model."): tensor for name, tensor in first.backbone().state_dict().items()}
    save_file(names, path)
    second = VisionTransformer("vit_tiny_patch16_224", layers=1, width=16, weights=str(path)).build(5)
    for name, tensor in first.backbone().state_dict().items():
        assert torch.equal(second.backbone().state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("mobilenetv2_100", "features of several strides: take DeepLabV3Plus"),
        ("vit_tiny", "which timm .* does not have"),
    ],
)
def test_other_backbones_are_refused(backbone: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        VisionTransformer(backbone, layers=2).build(5)


def test_a_plain_transformer_under_deeplab_names_the_other() -> None:
    with pytest.raises(ConfigError, match=r"cannot give features at stride 16|take VisionTransformer"):
        DeepLabV3Plus("vit_tiny_patch16_224", output_stride=16).build(5)


# --- segmentation_models_pytorch ---------------------------------------------------------------------------------


def test_smp_networks(tmp_path: Path) -> None:
    network = SegmentationModels("fpn", "resnet18").build(5).eval()
    assert isinstance(network, Wrapped)
    assert network(IMAGE).logits.shape == (1, 5, 24, 32), "sides of 32, a score every 4 pixels"
    assert network.align_corners
    path = tmp_path / "fpn.safetensors"
    save_file(network.body.state_dict(), path)
    again = SegmentationModels("fpn", "resnet18", weights=str(path)).build(5).eval()
    assert torch.equal(again(IMAGE).logits, network(IMAGE).logits)
    with pytest.raises(ConfigError, match="do not fit: missing or of another shape: segmentation_head"):
        SegmentationModels("fpn", "resnet18", weights=str(path)).build(4)


@pytest.mark.parametrize(("architecture", "encoder"), [("upnet", "resnet18"), ("unet", "resnet1")])
def test_smp_names_that_are_none(architecture: str, encoder: str) -> None:
    with pytest.raises(ConfigError, match=f"model = smp:{architecture}/{encoder}.*expected names of"):
        SegmentationModels(architecture, encoder).build(5)
