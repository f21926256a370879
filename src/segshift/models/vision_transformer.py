"""A plain vision transformer of timm (DINOv2, DINOv3, MAE, ...) with a small head on its last layers' patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.backbone import Triple, build_transformer, check_name, normalisation
from segshift.models.segmenter import Segmenter, check_normalisation
from segshift.types import Output


@dataclass(frozen=True)
class VisionTransformer:
    """The last layers' patch features side by side, as DINOv2 (Oquab et al., TMLR 2024, §7.4) evaluates them, then
    a convolution to `width` channels (the embedding) and a linear classifier. One class score a patch."""

    backbone: str = "vit_small_patch14_dinov2.lvd142m"
    """Any transformer of timm that gives feature maps."""
    layers: int = 4
    """How many of the last ones are looked at."""
    width: int = 256
    weights: str = "none"
    """"none", "pretrained" (timm's own) or the path of a checkpoint with timm's names."""
    mean: Triple | None = None
    """None: that of timm's pretrained weights where they are used, else ImageNet's; the same for `std`."""
    std: Triple | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        check_normalisation(self.mean, self.std)

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes: sides are brought to whole patches."""
        return 1

    def build(self, num_classes: int) -> Segmenter:
        """The network. ConfigError where backbone or weights cannot be had."""
        return _VisionTransformer(self, num_classes)


class _VisionTransformer(Segmenter):
    def __init__(self, config: VisionTransformer, num_classes: int) -> None:
        check_name(config.backbone)
        mean, std = normalisation(config.backbone, config.weights, config.mean, config.std)
        encoder, channels, patch = build_transformer(config.backbone, config.layers, config.weights)
        super().__init__(num_classes, patch, mean=mean, std=std)
        self.encoder = encoder
        self.reduce = nn.Sequential(
            nn.BatchNorm2d(sum(channels)),
            nn.Conv2d(sum(channels), config.width, 3, padding=1, bias=False),
            nn.BatchNorm2d(config.width),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Conv2d(config.width, num_classes, 1)

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        # Whole patches: at most half a patch is gained or lost a side, and scores still cover the image.
        height, width = (max(1, (side + self.stride // 2) // self.stride) * self.stride for side in image.shape[2:])
        if (height, width) != tuple(image.shape[2:]):
            image = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
        stages = tuple(self.encoder(image))
        embedding = self.reduce(torch.cat(stages, dim=1))
        return Output(self.classifier(embedding), stages, embedding)
