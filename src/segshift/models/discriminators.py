"""Which domain does it come from? Of maps: AdaptSegNet's and AdvEnt's; of an image's style: category-adaptive's."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError

LAYERS = 5
MINIMUM_SIZE = 2**LAYERS
"""Shortest side of its input in pixels."""
SLOPE = 0.2
"""Of the leaky ReLU between layers, below zero."""
Stride = Literal[16, 32]
StyleKind = Literal["mlp", "conv1d"]


class Discriminator(nn.Module):
    """Fully convolutional, as published (Tsai et al., CVPR 2018; Vu et al., CVPR 2019, take the same).

    Five 4x4 convolutions of stride 2 and padding 1 to `width`, twice, four times, eight times as many channels (64 to
    512) and one, leaky ReLU of slope .2 between them, no normalisation. One raw score for 32 x 32 pixels, no sigmoid.
    The paper resizes the scores to the input's size, the release does not, nor is it done here: the label is the same
    at every pixel. `stride` 16 is the category-adaptive paper's: "a 16x downsampled confidence probability map"; its
    last layer has stride 1, as that of PatchGAN (Isola et al., CVPR 2017).
    """

    def __init__(self, in_channels: int, width: int = 64, stride: Stride = 32) -> None:
        """`in_channels`: classes of the maps; `stride`: pixels a score. Raises ConfigError where one is too small."""
        super().__init__()
        check_stride(stride)
        if min(in_channels, width) < 1:
            raise ConfigError(f"discriminator: in_channels = {in_channels}, width = {width}; expected at least 1")
        inputs, layers = in_channels, []
        for outputs in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 4, stride // 16, 1))

    def forward(self, maps: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 1 rows columns"]:
        """Scores of maps at the image's size, floor(h / 32) x floor(w / 32) of them. Raises DataError below 32.

        With stride 16: floor(h / 16) - 1 x floor(w / 16) - 1.
        """
        height, width = maps.shape[2:]
        if min(height, width) < MINIMUM_SIZE:
            raise DataError(
                f"discriminator: maps of {height} x {width} pixels; expected sides of at least {MINIMUM_SIZE}, which "
                f"its {LAYERS} convolutions need: take larger crops or images"
            )
        # Contiguous: convolutions of few channels in channels_last format, which the maps of such a network have,
        # corrupt the heap in torch 2.15's CPU kernels (`small.SAFE_WIDTH`).
        return self.layers(maps.contiguous())


def check_stride(stride: int) -> None:
    """Raise ConfigError where `stride` is none of `Stride`."""
    if stride not in get_args(Stride):
        raise ConfigError(f"discriminator: stride = {stride}; expected 32 (AdaptSegNet) or 16 (category-adaptive)")


STYLE_LAYERS = 4
"""As many as the category-adaptive paper prints."""
STYLE_MINIMUM = 2**STYLE_LAYERS
"""Channels that the 1-D convolutions need: each layer halves the sequence."""


class StyleDiscriminator(nn.Module):
    """D_f of the category-adaptive paper (Wang et al., §2.1, §3.2): raw scores of an image's channel means, no sigmoid.

    - mlp: four linear layers, the three hidden ones of `width` units. One score an image.
    - conv1d: as printed, a "PatchGAN" of "four 1-D convolutional layers with kernel size of 4", here of stride 2 and
      padding 1, to `width`, twice and four times as many channels and one. It takes the c means for a sequence, and
      gives floor(c / 16) scores, each of a patch of neighbouring channels. But the order of a network's channels is
      arbitrary: which are neighbours means nothing, and weights shared along the sequence ask the same of each place.
      So it is not the default.

    Leaky ReLU of slope .2 between the layers.
    """

    def __init__(self, in_channels: int, kind: StyleKind = "mlp", width: int = 64) -> None:
        """`in_channels`: c. Raises ConfigError where there are too few, or an option is none of those above."""
        super().__init__()
        check_style_discriminator(kind, width)
        least = 1 if kind == "mlp" else STYLE_MINIMUM
        if in_channels < least:
            raise ConfigError(
                f"style discriminator {kind}: a stage of {in_channels} channels; expected at least {least}: take a "
                "deeper or wider stage, or kind = 'mlp'"
            )
        self.in_channels = in_channels
        layers: list[nn.Module] = []
        if kind == "mlp":
            sizes = (in_channels, width, width, width, 1)
            for inputs, outputs in pairwise(sizes):
                layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(SLOPE, inplace=True)]
            self.layers = nn.Sequential(*layers[:-1])
        else:
            sizes = (1, width, 2 * width, 4 * width, 1)
            for inputs, outputs in pairwise(sizes):
                layers += [nn.Conv1d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)]
            self.layers = nn.Sequential(nn.Unflatten(1, (1, in_channels)), *layers[:-1], nn.Flatten())

    def forward(self, style: Float[Tensor, "b c"]) -> Float[Tensor, "b n"]:
        """n = 1 (mlp) or floor(c / 16) (conv1d) scores an image. Raises DataError where c is another one."""
        if style.shape[1] != self.in_channels:
            raise DataError(
                f"style discriminator: styles of {style.shape[1]} channels; expected {self.in_channels}, those of the "
                "stage it was made for"
            )
        return self.layers(style)


def check_style_discriminator(kind: str, width: int) -> None:
    """Raise ConfigError where `kind` is none of `StyleKind`, or `width` below 1."""
    if kind not in get_args(StyleKind):
        raise ConfigError(f"style discriminator: kind = {kind!r}; expected {' or '.join(get_args(StyleKind))}")
    if width < 1:
        raise ConfigError(f"style discriminator: width = {width}; expected at least 1")
