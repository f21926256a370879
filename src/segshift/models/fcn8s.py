"""FCN-8s over VGG16 (Long, Shelhamer, Darrell, CVPR 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.backbone import Triple, pretrained_tensors
from segshift.models.importer import CAFFE_MEAN, CAFFE_STD, load, map_fcn8s, read_checkpoint, unknown_layout
from segshift.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter, check_normalisation
from segshift.types import Output

STRIDE = 8
GROUPS = (("conv1", 64, 2), ("conv2", 128, 2), ("conv3", 256, 3), ("conv4", 512, 3), ("conv5", 512, 3))
"""VGG16 (configuration D): name, channels and number of 3x3 convolutions before each of its five poolings."""
FC_CHANNELS = 4096


@dataclass(frozen=True)
class FCN8s:
    """VGG16 whose classifier is a convolution, and skips from pool3 and pool4: class scores at stride 8.

    Layers, names and parameter shapes are the published ones, so published weights fit; the skips and the inner
    upsampling are learned, the latter from bilinear weights. Two things depart from the release:

    - It pads the image by 100 pixels and crops what the unpadded fc6 leaves. Here each convolution keeps the size
      (fc6 pads by 3), poolings round up, and a skip ends where its finer level ends: any size serves, and nothing is
      computed for the frame. An image that is framed by 99 pixels of the mean colour gives the release's scores;
      without the frame they differ near the border, and inside they are those of cells that lie 3 pixels beside.
    - Its last, fixed bilinear deconvolution (upscore8) is the bilinear resize that every network here ends in.

    Output: `stages` are the five pooled maps (strides 2 to 32), `embedding` is fc7 after its ReLU and before its
    dropout (stride 32): what the deepest classifier sees.
    """

    weights: str = "none"
    """"none" (He et al.'s initialisation, score layers zero as published), "pretrained" (timm's vgg16: fc6 and fc7 from
    its classifier) or the path of a checkpoint: the whole network with pytorch-fcn's names, or VGG16 with torchvision's
    (see `importer.map_fcn8s`)."""
    dropout: float = 0.5
    """Of fc6 and fc7, while training."""
    mean: Triple | None = None
    """None: those that belong to the weights (Caffe's for pytorch-fcn's names, else ImageNet's); the same for `std`."""
    std: Triple | None = None
    width: float = 1.0
    """Factor of all channels but the class scores'; 1 as published, smaller for small data."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; expected a share from 0 to below 1")
        if self.width <= 0:
            raise ConfigError(f"width is {self.width}; expected a factor above 0")
        check_normalisation(self.mean, self.std)

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes."""
        return 1

    def build(self, num_classes: int) -> Segmenter:
        """Raises ConfigError where the weights cannot be had or do not fit."""
        model = _FCN8s(self, num_classes)
        if self.weights != "none":
            _load(model, self)
        return model


def _load(model: _FCN8s, config: FCN8s) -> None:
    pretrained = config.weights == "pretrained"
    tensors = pretrained_tensors("vgg16") if pretrained else read_checkpoint(config.weights)
    imported = map_fcn8s(tensors)
    if imported is None:
        raise unknown_layout(Path(config.weights), tensors, "pytorch-fcn's (conv1_1.weight) or torchvision's VGG16's")
    load(model, imported, config.weights)
    if imported.caffe:
        mean, std = config.mean or CAFFE_MEAN, config.std or CAFFE_STD
        model.mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
        model.std.copy_(torch.tensor(std).view(1, 3, 1, 1))


class _FCN8s(Segmenter):
    def __init__(self, config: FCN8s, num_classes: int) -> None:
        super().__init__(
            num_classes,
            STRIDE,
            mean=config.mean or IMAGENET_MEAN,
            std=config.std or IMAGENET_STD,
            minimum_size=config.minimum_size,
        )
        self.encoder = _VGG16(config.width, config.dropout)
        _, _, pool3, pool4, _, fc7 = self.encoder.channels
        self.score_fr = nn.Conv2d(fc7, num_classes, 1)
        self.score_pool4 = nn.Conv2d(pool4, num_classes, 1)
        self.score_pool3 = nn.Conv2d(pool3, num_classes, 1)
        for score in (self.score_fr, self.score_pool4, self.score_pool3):
            for parameter in score.parameters():
                nn.init.zeros_(parameter)
        self.upscore2 = _Upscore(num_classes)
        self.upscore_pool4 = _Upscore(num_classes)

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Tensor) -> Output:
        stages, embedding = self.encoder(image)
        deep = self.score_fr(F.dropout(embedding, self.encoder.dropout, self.training))
        middle = _add(self.upscore2(deep), self.score_pool4(stages[3]))
        logits = _add(self.upscore_pool4(middle), self.score_pool3(stages[2]))
        return Output(logits, stages, embedding)


def _add(coarse: Float[Tensor, "b k H W"], fine: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """Sum on the finer map. A coarse map that was rounded up reaches past it at the bottom and the right."""
    return coarse[:, :, : fine.shape[2], : fine.shape[3]] + fine


class _VGG16(nn.Module):
    """conv1_1 to fc7. A forward gives the five pooled maps and fc7."""

    def __init__(self, width: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        scaled = [(name, max(1, round(channels * width)), number) for name, channels, number in GROUPS]
        fc = max(1, round(FC_CHANNELS * width))
        self.channels = [*(channels for _, channels, _ in scaled), fc]
        self.groups = [[f"{name}_{i + 1}" for i in range(number)] for name, _, number in scaled]
        inputs = 3
        for name, channels, number in scaled:
            for i in range(number):
                self.add_module(f"{name}_{i + 1}", _conv(inputs, channels, 3))
                inputs = channels
        self.fc6 = _conv(inputs, fc, 7)
        self.fc7 = _conv(fc, fc, 1)

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        stages = []
        for group in self.groups:
            for name in group:
                x = F.relu(self.get_submodule(name)(x), inplace=True)
            x = F.max_pool2d(x, 2, ceil_mode=True)
            stages.append(x)
        x = F.dropout(F.relu(self.fc6(x), inplace=True), self.dropout, self.training)
        return tuple(stages), F.relu(self.fc7(x), inplace=True)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class _Upscore(nn.Module):
    """Twice the size, pixel centres aligned: at first exactly the bilinear resize of each class, then learned.

    The map's border is repeated outwards, as the bilinear resize does it: an unpadded deconvolution sees zeros there
    and would fade the scores of the border.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
        bilinear = torch.eye(num_classes)[:, :, None, None] * torch.outer(ramp, ramp)
        self.weight = nn.Parameter(bilinear)

    def forward(self, x: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h2 w2"]:
        return F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.weight, stride=2, padding=3)
