"""The discriminator of AdaptSegNet and AdvEnt: which domain do these maps come from?"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError

LAYERS = 5
MINIMUM_SIZE = 2**LAYERS
"""Shortest side of its input in pixels: each layer halves it."""


class Discriminator(nn.Module):
    """Fully convolutional, as published (Tsai et al., CVPR 2018; Vu et al., CVPR 2019, take the same).

    Five 4x4 convolutions of stride 2 and padding 1 to `width`, twice, four times, eight times as many channels (64 to
    512) and one, leaky ReLU of slope .2 between them, no normalisation. One raw score for 32 x 32 pixels, no sigmoid.
    The paper resizes the scores to the input's size, the release does not, nor is it done here: the label is the same
    at every pixel.
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        """`in_channels`: classes of the maps. Raises ConfigError where either is below 1."""
        super().__init__()
        if min(in_channels, width) < 1:
            raise ConfigError(f"discriminator: in_channels = {in_channels}, width = {width}; expected at least 1")
        inputs, layers = in_channels, []
        for outputs in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 4, 2, 1))

    def forward(self, maps: Float[Tensor, "b k h w"]) -> Float[Tensor, "b 1 rows columns"]:
        """Scores of maps at the image's size, floor(h / 32) x floor(w / 32) of them. Raises DataError below 32."""
        height, width = maps.shape[2:]
        if min(height, width) < MINIMUM_SIZE:
            raise DataError(
                f"discriminator: maps of {height} x {width} pixels; expected sides of at least {MINIMUM_SIZE}, which "
                f"its {LAYERS} convolutions of stride 2 need: take larger crops or images"
            )
        # Contiguous: convolutions of few channels in channels_last format, which the maps of such a network have,
        # corrupt the heap in torch 2.15's CPU kernels (`small.SAFE_WIDTH`).
        return self.layers(maps.contiguous())
