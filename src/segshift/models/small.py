"""A small residual network that learns a street scene of 96 x 192 pixels from scratch in a minute on two CPU cores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.backbone import Triple
from segshift.models.segmenter import Segmenter, check_normalisation, upsample
from segshift.types import Output

ENCODER_STRIDE = 8
DECODER_STRIDE = 4
SAFE_WIDTH = 16
"""Narrower convolutions in channels_last format corrupt the heap in torch 2.15's CPU kernels (seen at 4 and 8)."""


@dataclass(frozen=True)
class SmallNet:
    """Residual blocks to stride 8, the last ones dilated for context, and a decoder at stride 4 for thin objects.

    Every convolution but the classifier is followed by BatchNorm.
    """

    width: int = 24
    """Channels at stride 2; twice as many at stride 4 and in the embedding, four times at stride 8."""
    shallow_blocks: int = 1
    """Residual blocks at stride 4, the downsampling one included."""
    dilations: tuple[int, ...] = (1, 2, 4)
    """One residual block at stride 8 for each, the first of which downsamples."""
    align_corners: bool = False
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.25, 0.25, 0.25)

    def __post_init__(self) -> None:
        for name in ("width", "shallow_blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f"dilations is {self.dilations}; expected one or more rates of at least 1")
        check_normalisation(self.mean, self.std)

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes."""
        return ENCODER_STRIDE + 1

    def build(self, num_classes: int) -> Segmenter:
        """A network with random weights, in channels_last format where that is safe."""
        model = _SmallNet(self, num_classes)
        if self.width < SAFE_WIDTH:
            return model
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _SmallNet(Segmenter):
    def __init__(self, config: SmallNet, num_classes: int) -> None:
        super().__init__(
            num_classes,
            DECODER_STRIDE,
            align_corners=config.align_corners,
            minimum_size=config.minimum_size,
            mean=config.mean,
            std=config.std,
        )
        narrow, middle, wide = config.width, 2 * config.width, 4 * config.width
        shallow = [_Block(middle, middle) for _ in range(config.shallow_blocks - 1)]
        first, *others = config.dilations
        deep = [_Block(wide, wide, dilation=rate) for rate in others]
        self.encoder = nn.ModuleList(
            (
                nn.Sequential(_conv(3, narrow, stride=2), nn.ReLU(inplace=True)),
                nn.Sequential(_Block(narrow, middle, stride=2), *shallow),
                nn.Sequential(_Block(middle, wide, stride=2, dilation=first), *deep),
            )
        )
        self.reduce = _conv(wide, middle, kernel=1)
        self.skip = _conv(middle, middle, kernel=1)
        self.refine = nn.Sequential(_conv(middle, middle), nn.ReLU(inplace=True))
        self.classifier = nn.Conv2d(middle, num_classes, 1)

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Tensor) -> Output:
        stages = []
        x = image
        for stage in self.encoder:
            x = stage(x)
            stages.append(x)
        skip = self.skip(stages[1])
        deep = upsample(self.reduce(stages[2]), (skip.shape[2], skip.shape[3]), self.align_corners)
        embedding = self.refine(torch.relu(deep + skip))
        return Output(self.classifier(embedding), tuple(stages), embedding)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016); the shortcut is a 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride, dilation=dilation)
        self.second = _conv(outputs, outputs, dilation=dilation)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))
