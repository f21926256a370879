"""DeepLab v2 (Chen et al., TPAMI 2018) and v3+ (Chen et al., ECCV 2018) over any timm backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.backbone import (
    Triple,
    build_backbone,
    channels,
    check_name,
    normalisation,
    reductions,
    to_caffe,
)
from segshift.models.importer import (
    CAFFE_MEAN,
    CAFFE_STD,
    load,
    map_caffe_deeplab,
    read_checkpoint,
    unknown_layout,
)
from segshift.models.segmenter import Segmenter, check_normalisation, upsample
from segshift.types import Output

LOW_LEVEL_STRIDE = 4
"""Stride of the decoder of v3+, and so of its class scores."""
Layout = Literal["timm", "caffe"]
CAFFE_BACKBONES = ("resnet50", "resnet101", "resnet152")


@dataclass(frozen=True)
class DeepLabV2:
    """DeepLab v2: dilated 3x3 convolutions from the deepest features to class scores, summed; no global pooling.

    Output: `embedding` is the deepest stage (2048 channels for the ResNets), for the classifier is that sum and there
    is nothing between. The release of ProDA, and so of CPSL, projects to 256 channels before class scores instead.
    """

    backbone: str = "resnet101"
    output_stride: int = 8
    """Image pixels per logit: 8 or 16."""
    weights: str = "none"
    """"none", "pretrained" (timm's own) or the path of a checkpoint: with timm's names of the backbone; with layout
    "caffe", a DeepLab v2 of the AdaptSegNet family or its ResNet (see `importer.map_caffe_deeplab`)."""
    dilations: tuple[int, ...] = (6, 12, 18, 24)
    """Rates at stride 8; halved at 16. The AdaptSegNet release returns inside its loop: (6, 12) is what it runs."""
    auxiliary: bool = False
    """A second classifier on the features before the deepest (AdaptSegNet's multi-level variant)."""
    align_corners: bool = True
    mean: Triple | None = None
    """None: that of timm's pretrained weights where they are used, else ImageNet's (with layout "caffe", Caffe's); the
    same for `std`."""
    std: Triple | None = None
    layout: Layout = "timm"
    """"caffe": strides, dilations and pooling of the Caffe model that the papers start from, whose logits are one
    row and column more where the image's side is a multiple of 8. Its weights compute nothing sensible without."""

    def __post_init__(self) -> None:
        _check_common(self.output_stride, (8, 16), self.dilations, self.mean, self.std)
        if self.layout not in get_args(Layout):
            raise ConfigError(f"layout is {self.layout!r}; expected timm or caffe")
        if self.layout == "caffe" and self.backbone not in CAFFE_BACKBONES:
            raise ConfigError(
                f"backbone is {self.backbone!r} with layout 'caffe', which is a ResNet of bottlenecks; "
                f"expected one of {', '.join(CAFFE_BACKBONES)}"
            )
        if self.layout == "caffe" and self.weights == "pretrained":
            raise ConfigError(
                "weights is 'pretrained' with layout 'caffe', but timm's weights are of layout 'timm'; "
                "give the path of a converted Caffe model"
            )

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes."""
        return self.output_stride + 1

    def build(self, num_classes: int) -> Segmenter:
        """A network in channels_last format. Raises ConfigError where backbone or weights cannot be had."""
        model = _DeepLabV2(self, num_classes)
        if self.layout == "caffe" and self.weights != "none":
            _load_caffe(model, self)
        return _channels_last(model)


def _load_caffe(model: Segmenter, config: DeepLabV2) -> None:
    tensors = read_checkpoint(config.weights)
    imported = map_caffe_deeplab(tensors, len(config.dilations), config.auxiliary)
    if imported is None:
        raise unknown_layout(Path(config.weights), tensors, "a ResNet's (conv1.weight, layer1.0.conv1.weight)")
    load(model, imported, config.weights)


@dataclass(frozen=True)
class DeepLabV3Plus:
    """DeepLab v3+: ASPP with image pooling, and a decoder that joins features of stride 4 (without it: DeepLab v3)."""

    backbone: str = "mobilenetv2_100"
    output_stride: int = 16
    """Stride of the deepest features: 8, 16 or 32; the class scores have it too where there is no decoder."""
    weights: str = "none"
    """"none", "pretrained" (timm's own) or the path of a checkpoint with timm's names."""
    dilations: tuple[int, ...] = (6, 12, 18)
    """Rates at stride 16; doubled at 8, halved at 32."""
    aspp_channels: int = 256
    separable: bool = True
    """Depthwise-separable 3x3 convolutions in ASPP and decoder."""
    decoder: bool = True
    low_level_channels: int = 48
    align_corners: bool = False
    mean: Triple | None = None
    """None: that of timm's pretrained weights where they are used, else ImageNet's; the same for `std`."""
    std: Triple | None = None

    def __post_init__(self) -> None:
        _check_common(self.output_stride, (8, 16, 32), self.dilations, self.mean, self.std)
        for name in ("aspp_channels", "low_level_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes."""
        return self.output_stride + 1

    def build(self, num_classes: int) -> Segmenter:
        """A network in channels_last format. Raises ConfigError where backbone or weights cannot be had."""
        return _channels_last(_DeepLabV3Plus(self, num_classes))


def _check_common(
    output_stride: int, strides: Sequence[int], dilations: Sequence[int], mean: Triple | None, std: Triple | None
) -> None:
    if output_stride not in strides:
        raise ConfigError(f"output_stride is {output_stride}; expected one of {', '.join(map(str, strides))}")
    if not dilations or min(dilations) < 1:
        raise ConfigError(f"dilations is {dilations}; expected one or more rates of at least 1")
    check_normalisation(mean, std)


def _channels_last(model: Segmenter) -> Segmenter:
    """On a CPU, MobileNetV2 trains 1.5 times as fast so."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _scaled(dilations: Sequence[int], at_stride: int, output_stride: int) -> list[int]:
    """Rates that cover the same image region at another output stride."""
    return [max(1, round(rate * at_stride / output_stride)) for rate in dilations]


class _DeepLabV2(Segmenter):
    def __init__(self, config: DeepLabV2, num_classes: int) -> None:
        check_name(config.backbone)
        caffe = config.layout == "caffe"
        mean, std = normalisation(config.backbone, config.weights, config.mean, config.std)
        if caffe:
            mean, std = config.mean or CAFFE_MEAN, config.std or CAFFE_STD
        super().__init__(
            num_classes,
            config.output_stride,
            align_corners=config.align_corners,
            minimum_size=config.minimum_size,
            mean=mean,
            std=std,
        )
        self.encoder = build_backbone(config.backbone, config.output_stride, "none" if caffe else config.weights)
        if caffe:
            to_caffe(self.encoder)
        rates = _scaled(config.dilations, 8, config.output_stride)
        *_, before, deepest = channels(self.encoder)
        self.classifier = _ClassifierV2(deepest, num_classes, rates)
        self.auxiliary = _ClassifierV2(before, num_classes, rates) if config.auxiliary else None

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Tensor) -> Output:
        stages = tuple(self.encoder(image))
        auxiliary = self.auxiliary(stages[-2]) if self.auxiliary is not None else None
        return Output(self.classifier(stages[-1]), stages, stages[-1], auxiliary)


class _ClassifierV2(nn.Module):
    """The ASPP of v2 (Fig. 7): one 3x3 convolution a rate, directly to class scores; their sum."""

    def __init__(self, channels: int, num_classes: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.branches
        scores = first(x)
        for branch in others:
            scores = scores + branch(x)
        return scores


class _DeepLabV3Plus(Segmenter):
    def __init__(self, config: DeepLabV3Plus, num_classes: int) -> None:
        check_name(config.backbone)
        mean, std = normalisation(config.backbone, config.weights, config.mean, config.std)
        super().__init__(
            num_classes,
            LOW_LEVEL_STRIDE if config.decoder else config.output_stride,
            align_corners=config.align_corners,
            minimum_size=config.minimum_size,
            mean=mean,
            std=std,
        )
        self.encoder = build_backbone(config.backbone, config.output_stride, config.weights)
        width = config.aspp_channels
        rates = _scaled(config.dilations, 16, config.output_stride)
        self.aspp = _Aspp(channels(self.encoder)[-1], width, rates, config.separable)
        self.low_level = _low_level_stage(self.encoder, config.backbone) if config.decoder else -1
        self.decoder = None
        if config.decoder:
            low = channels(self.encoder)[self.low_level]
            self.decoder = _Decoder(low, config.low_level_channels, width, config.separable, config.align_corners)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Tensor) -> Output:
        stages = tuple(self.encoder(image))
        embedding = self.aspp(stages[-1])
        if self.decoder is not None:
            embedding = self.decoder(embedding, stages[self.low_level])
        return Output(self.classifier(embedding), stages, embedding)


def _low_level_stage(encoder: nn.Module, backbone: str) -> int:
    strides = reductions(encoder)
    if LOW_LEVEL_STRIDE not in strides:
        raise ConfigError(
            f"backbone {backbone} has strides {strides}; the decoder needs features of stride {LOW_LEVEL_STRIDE}: "
            "set decoder to False, or take another backbone"
        )
    return len(strides) - 1 - strides[::-1].index(LOW_LEVEL_STRIDE)


class _Aspp(nn.Module):
    """Atrous spatial pyramid pooling of v3: a 1x1, dilated 3x3 convolutions and the image's mean, projected to one."""

    def __init__(self, inputs: int, width: int, rates: Sequence[int], separable: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv(inputs, width, 1)])
        self.branches.extend(_conv(inputs, width, 3, rate, separable) for rate in rates)
        # No BatchNorm here: over the 1x1 map of one image it has no variance, and training would fail.
        self.pooled = nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ReLU(inplace=True))
        self.project = _conv(width * (len(rates) + 2), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))


class _Decoder(nn.Module):
    """The decoder of v3+: upsampled ASPP features beside projected low-level ones, then two 3x3 convolutions."""

    def __init__(self, low: int, projected: int, width: int, separable: bool, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.project = _conv(low, projected, 1)
        self.refine = nn.Sequential(
            _conv(width + projected, width, 3, separable=separable), _conv(width, width, 3, separable=separable)
        )

    def forward(self, deep: Tensor, low: Tensor) -> Tensor:
        low = self.project(low)
        deep = upsample(deep, (low.shape[2], low.shape[3]), self.align_corners)
        return self.refine(torch.cat([deep, low], dim=1))


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1, separable: bool = False) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU; a separable one is depthwise first, with its own BatchNorm and ReLU."""
    padding = dilation * (kernel // 2)
    if separable:
        depthwise = nn.Conv2d(inputs, inputs, kernel, padding=padding, dilation=dilation, groups=inputs, bias=False)
        return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), *_conv(inputs, outputs, 1))
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
