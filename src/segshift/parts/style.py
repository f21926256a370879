"""The style of an image: statistics of a feature map's channels that forget where a pixel is.

Wang, Luo, Huang, Ge, Lu: Category-Adaptive Domain Adaptation for Semantic Segmentation (§2.1, Table 3): channel means.
Gatys, Ecker, Bethge: A Neural Algorithm of Artistic Style, 2015: Gram matrices. Huang, Belongie: Arbitrary Style
Transfer in Real-time with Adaptive Instance Normalization, ICCV 2017: means and standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from segshift.errors import DataError
from segshift.parts.losses import share_of_mean

EPSILON = 1e-5
"""Added to a variance before its root (as in AdaIN): a constant channel has a finite gradient."""


def channel_means(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """S of §2.1: global average pooling, the mean over an image's pixels. float32 or better."""
    return _precise(features).mean((2, 3))


def channel_deviations(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """Standard deviation over an image's pixels, the square root of variance + 1e-5. float32 or better.

    The variance divides by h·w, so that one pixel has one too.
    """
    return (_precise(features).var((2, 3), correction=0) + EPSILON).sqrt()


def gram_matrix(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """F Fᵀ / (c h w) of each image, F its features as (c, h·w). float32 or better, under autocast too."""
    channels, height, width = features.shape[1:]
    flat = _precise(features).flatten(2)
    with torch.autocast(flat.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / (channels * height * width)


def mean_squared_error(moved: Sequence[Tensor], still: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The MSE constraints of Table 3: of each statistic, the mean over images and entries; their sum.

    `moved`, `still`: the statistics of the two domains' images, (b, ...) each; the i-th image is compared with the
    i-th. Means over the entries of all processes. Raises DataError where the numbers of images differ.
    """
    losses = []
    for ours, theirs in zip(moved, still, strict=True):
        if ours.shape != theirs.shape:
            raise DataError(
                f"styles of {ours.shape[0]} and {theirs.shape[0]} images; expected as many of both domains in each "
                "batch: an MSE compares them in pairs"
            )
        total = (ours - theirs).square().sum()
        losses.append(share_of_mean(total, torch.full((), ours.numel(), dtype=torch.int64, device=ours.device)))
    return torch.stack(losses).sum()


def _precise(features: Tensor) -> Tensor:
    """Half precision as float32: a mean over 10,000 pixels is no matter for 8 bits."""
    return features.to(torch.promote_types(features.dtype, torch.float32))
