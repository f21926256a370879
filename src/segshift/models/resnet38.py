"""ResNet-38 with a segmentation top (Wu, Shen, van den Hengel: Wider or Deeper, arXiv:1611.10080, 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.backbone import Triple
from segshift.models.importer import load, map_resnet38, read_checkpoint, unknown_layout
from segshift.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter, check_normalisation
from segshift.types import Output

STRIDE = 8
TOP_DILATION = 12
Variant = Literal["A1", "A2"]


@dataclass(frozen=True)
class ResNet38:
    """Wide pre-activation residual blocks at output stride 8, and two 3x3 convolutions of dilation 12 on top.

    Seven levels: a convolution of 64 channels; 3 blocks of (128, 128), 3 of (256, 256), 6 of (512, 512) and 3 of
    (512, 1024), each two 3x3 convolutions; a bottleneck (512, 1024, 2048) and one (1024, 2048, 4096), dilated
    by 4; level 5 is dilated by 2. Inside a block BatchNorm and ReLU stand before each convolution.

    The variants have the same parameters:

    - A1 (what the CBST paper trains) halves the size in the first convolution of levels 2, 3 and 4; the very
      first convolution of level 5 is not dilated yet.
    - A2 halves it by 3x3 max pooling before levels 2 and 3, and in the first convolution of level 4. Its public
      weights are those with the names mod2 to mod7, whose level 5 is dilated from its first convolution on.

    The top is the published one: a 3x3 convolution to 512 channels with ReLU and one to class scores, neither with
    BatchNorm.

    Output: `stages` are the levels' outputs (strides 2, 4, 8, 8, 8, 8; the last after BatchNorm and ReLU),
    `embedding` the 512 channels under the classifier (stride 8).
    """

    weights: str = "none"
    """"none" (He et al.'s initialisation, as published) or the path of a checkpoint with the names of the authors
    (MXNet), AffinityNet or inplace_abn (see `importer.map_resnet38`); no library offers them for download."""
    variant: Variant = "A1"
    mean: Triple | None = None
    """None: ImageNet's, as published; the same for `std`."""
    std: Triple | None = None
    dropout: tuple[float, float] = (0.3, 0.5)
    """In the bottlenecks of levels 6 and 7, before their last convolution, while training."""
    width: float = 1.0
    """Factor of all channels but the class scores'; 1 as published, smaller for small data."""

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ConfigError(f"variant is {self.variant!r}; expected A1 or A2")
        if self.weights == "pretrained":
            raise ConfigError(
                "weights is 'pretrained', but no library offers weights of ResNet-38; expected 'none' or the path of "
                "a checkpoint, such as the authors' (ademxapp), AffinityNet's or inplace_abn's"
            )
        if len(self.dropout) != 2 or not all(0 <= share < 1 for share in self.dropout):
            raise ConfigError(f"dropout is {self.dropout}; expected two shares from 0 to below 1, of levels 6 and 7")
        if self.width <= 0:
            raise ConfigError(f"width is {self.width}; expected a factor above 0")
        check_normalisation(self.mean, self.std)

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes."""
        return STRIDE + 1

    def build(self, num_classes: int) -> Segmenter:
        """Raises ConfigError where the weights cannot be had or do not fit."""
        model = _ResNet38(self, num_classes)
        if self.weights != "none":
            tensors = read_checkpoint(self.weights)
            imported = map_resnet38(tensors)
            if imported is None:
                raise unknown_layout(
                    Path(self.weights), tensors, "ademxapp's (bn2a_branch2a_gamma), AffinityNet's "
                    "(b2.bn_branch2a.weight) or inplace_abn's (mod2.block1.bn1.weight)"
                )  # fmt: skip
            load(model, imported, self.weights)
        return model


class _ResNet38(Segmenter):
    def __init__(self, config: ResNet38, num_classes: int) -> None:
        super().__init__(
            num_classes,
            STRIDE,
            minimum_size=config.minimum_size,
            mean=config.mean or IMAGENET_MEAN,
            std=config.std or IMAGENET_STD,
        )
        self.encoder = _Encoder(config)
        middle = _scaled(512, config.width)
        self.top = nn.Conv2d(self.encoder.channels, middle, 3, padding=TOP_DILATION, dilation=TOP_DILATION)
        self.classifier = nn.Conv2d(middle, num_classes, 3, padding=TOP_DILATION, dilation=TOP_DILATION)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Tensor) -> Output:
        stages = self.encoder(image)
        embedding = F.relu(self.top(stages[-1]), inplace=True)
        return Output(self.classifier(embedding), stages, embedding)


class _Encoder(nn.Module):
    """Levels 1 to 7. BatchNorm as published: eps 1e-5, a tenth of the batch's statistics a step."""

    def __init__(self, config: ResNet38) -> None:
        super().__init__()
        a1 = config.variant == "A1"

        def level(inputs: int, number: int, *widths: int, dilation: int = 1, **first: Any) -> nn.Sequential:
            """`number` blocks; stride, first dilation and dropout (`first`) are those of the first alone."""
            scaled = [_scaled(width, config.width) for width in widths]
            blocks = [_Block(_scaled(inputs, config.width), scaled, dilation=dilation, **first)]
            blocks += [_Block(scaled[-1], scaled, dilation=dilation) for _ in range(number - 1)]
            return nn.Sequential(*blocks)

        self.conv1 = nn.Conv2d(3, _scaled(64, config.width), 3, padding=1, bias=False)
        self.pool = nn.Identity() if a1 else nn.MaxPool2d(3, stride=2, padding=1)
        shallow = 2 if a1 else 1
        self.level2 = level(64, 3, 128, 128, stride=shallow)
        self.level3 = level(128, 3, 256, 256, stride=shallow)
        self.level4 = level(256, 6, 512, 512, stride=2)
        self.level5 = level(512, 3, 512, 1024, first_dilation=1 if a1 else 2, dilation=2)
        self.level6 = level(1024, 1, 512, 1024, 2048, dilation=4, dropout=config.dropout[0])
        self.level7 = level(2048, 1, 1024, 2048, 4096, dilation=4, dropout=config.dropout[1])
        self.channels = _scaled(4096, config.width)
        self.norm = nn.BatchNorm2d(self.channels)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        second = self.level2(self.pool(self.conv1(image)))
        third = self.level3(self.pool(second))
        fourth = self.level4(third)
        fifth = self.level5(fourth)
        sixth = self.level6(fifth)
        return second, third, fourth, fifth, sixth, F.relu(self.norm(self.level7(sixth)), inplace=True)


class _Block(nn.Module):
    """A pre-activation residual block: two 3x3 convolutions, or 1x1, 3x3 and 1x1 where three widths are given.

    The first convolution has the stride and `first_dilation`, the other 3x3 convolution has `dilation`. Where the
    shape changes, the shortcut is a 1x1 convolution of the activated input.
    """

    def __init__(
        self,
        inputs: int,
        widths: list[int],
        *,
        stride: int = 1,
        first_dilation: int | None = None,
        dilation: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        sources = (inputs, *widths[:-1])
        self.norms = nn.ModuleList(nn.BatchNorm2d(source) for source in sources)
        self.convs = nn.ModuleList()
        for i, (source, width, kernel) in enumerate(zip(sources, widths, kernels)):
            rate = 1 if kernel == 1 else first_dilation or dilation if i == 0 else dilation
            padding = rate * (kernel // 2)
            self.convs.append(nn.Conv2d(source, width, kernel, stride if i == 0 else 1, padding, rate, bias=False))
        self.dropout = nn.Dropout(dropout)
        same = inputs == widths[-1] and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, widths[-1], 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norms[0](x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(active)
        for i, conv in enumerate(self.convs):
            if i > 0:
                active = F.relu(self.norms[i](active), inplace=True)
            active = conv(self.dropout(active) if i == len(self.convs) - 1 else active)
        return active + shortcut


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
