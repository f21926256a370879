"""The contract of a segmentation network, and the one way its class scores are brought to another size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError
from segshift.types import Output

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module, ABC):
    """A network from images in [0, 1] to class scores; it normalises for itself.

    A network implements `encode_decode` and `backbone`. Mean and standard deviation are saved with the weights:
    a trained model never meets images normalised in another way than in its training.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        num_classes: int,
        stride: int,
        *,
        align_corners: bool = False,
        minimum_size: int = 1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        """`stride`: image pixels per logit; `minimum_size`: the shortest side in pixels that the network can take."""
        super().__init__()
        if not 1 <= num_classes <= 255:
            raise ConfigError(f"num_classes is {num_classes}; expected 1 to 255 (labels are 8-bit, and 255 is ignored)")
        self.num_classes = num_classes
        self.stride = stride
        self.align_corners = align_corners
        self.minimum_size = minimum_size
        self.compiled: Callable[[Segmenter, Tensor], Output] | None = None
        """`encode_decode`, compiled (`execution.prepared`): what runs where a gradient will be asked for."""
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Class scores of RGB images in [0, 1], in any memory format. Raises DataError where the input is no such."""
        self._check(image)
        normalised = (image - self.mean) / self.std
        if self.compiled is not None and torch.is_grad_enabled():
            return self.compiled(self, normalised)
        return self.encode_decode(normalised)

    @abstractmethod
    def encode_decode(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        """Class scores and features of normalised images."""

    @abstractmethod
    def backbone(self) -> nn.Module:
        """The encoder; all other parameters belong to the head."""

    def backbone_parameters(self) -> list[nn.Parameter]:
        return list(self.backbone().parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        backbone = {id(parameter) for parameter in self.backbone_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in backbone]

    def parameter_groups(self, lr: float, head_multiplier: float = 1.0) -> list[dict[str, Any]]:
        """Groups for an optimiser: the backbone at `lr`, the head at `lr * head_multiplier` (10 in the papers)."""
        return [
            {"name": "backbone", "params": self.backbone_parameters(), "lr": lr},
            {"name": "head", "params": self.head_parameters(), "lr": lr * head_multiplier},
        ]

    def _check(self, image: Tensor) -> None:
        if image.dim() != 4 or image.shape[1] != 3:
            raise DataError(f"image has shape {tuple(image.shape)}; expected (batch, 3, height, width), RGB")
        if not image.is_floating_point():
            raise DataError(
                f"image has type {image.dtype}; expected floating point in [0, 1]: divide 8-bit values by 255"
            )
        if min(image.shape[2:]) < self.minimum_size:
            height, width = (max(side, self.minimum_size) for side in image.shape[2:])
            raise DataError(
                f"image has size {image.shape[2]} x {image.shape[3]}; this network needs sides of at least "
                f"{self.minimum_size} pixels: resize or pad it to {height} x {width}"
            )


def upsample(
    logits: Float[Tensor, "b k h w"], size: tuple[int, int], align_corners: bool
) -> Float[Tensor, "b k height width"]:
    """Bilinear resize of class scores to `size` (height, width) in pixels."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def check_normalisation(mean: Iterable[float] | None, std: Iterable[float] | None) -> None:
    """Validation that network configs share: three means, three positive deviations, or None. Raises ConfigError."""
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(tuple(values)) != 3:
            raise ConfigError(f"{name} is {values}; expected three numbers, for red, green and blue in [0, 1]")
    if std is not None and min(std) <= 0:
        raise ConfigError(f"std is {std}; expected numbers above 0")
