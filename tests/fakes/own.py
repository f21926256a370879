"""Networks as users bring them: tiny ones of their own, and of Hugging Face, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Plain(nn.Module):
    """An encoder and a head at half the image's size; what users write."""

    def __init__(self, num_classes: int = 5, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU()
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.encoder(image))


class Upsampled(Plain):
    """The same with what torchvision and smp do: a dict, scores at the image's size, an auxiliary head."""

    def __init__(self, num_classes: int = 5, align_corners: bool = False) -> None:
        super().__init__(num_classes)
        self.aux = nn.Conv2d(16, num_classes, 1)
        self.align_corners = align_corners

    def forward(self, image: Tensor) -> Any:
        features = self.encoder(image)
        size = image.shape[2:]
        scores = F.interpolate(self.head(features), size=size, mode="bilinear", align_corners=self.align_corners)
        return {"aux": self.aux(features), "out": scores}


class Wholes(Plain):
    """Takes sides that are multiples of 32 alone, as U-Nets do, and at least 64 pixels."""

    def forward(self, image: Tensor) -> Tensor:
        if any(side % 32 or side < 64 for side in image.shape[2:]):
            raise RuntimeError(f"wrong size {tuple(image.shape[2:])}")
        return super().forward(image)


def segformer(num_classes: int = 5, names: tuple[str, ...] | None = None) -> Any:
    """A SegFormer of a few thousand weights."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    labels = {} if names is None else {"id2label": dict(enumerate(names))}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SegformerForSemanticSegmentation(
            SegformerConfig(
                hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
                decoder_hidden_size=16, num_labels=num_classes, **labels,
            )
        )  # fmt: skip


def upernet(num_classes: int = 5) -> Any:
    """An UperNet on ConvNeXt, with its auxiliary head."""
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=stages)
    return UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone, num_labels=num_classes, hidden_size=16, auxiliary_channels=8,
            auxiliary_in_channels=16, pool_scales=[1, 2],
        )
    )  # fmt: skip


def mask2former(num_classes: int = 5) -> Any:
    """A Mask2Former on Swin: masks and their classes, no class scores."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2, image_size=64, out_features=stages
    )
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone, num_labels=num_classes, hidden_dim=32, feature_size=32, mask_feature_size=32,
            num_attention_heads=2, encoder_layers=1, decoder_layers=2, encoder_feedforward_dim=16, dim_feedforward=16,
            num_queries=7,
        )
    )  # fmt: skip


def saved(model: Any, folder: Path) -> str:
    """A model of Hugging Face in a folder, as `--model` names it."""
    model.save_pretrained(folder)
    return f"hf:{folder}"


MODULE_FILE = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 5, 1))


def needs(width):
    return nn.Conv2d(3, width, 1)


def text():
    return "no module"
"""
