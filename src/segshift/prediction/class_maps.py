"""What a network says of each pixel of one image: the class, and on request how sure it is, at the image's own size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16, Float32, UInt8, UInt16
from torch import Tensor, nn

from segshift.parts.logit_bands import ProbBand, most_probable, probability_bands
from segshift.prediction.tiles import Tiles, tiled_label, tiled_probabilities, working_sizes
from segshift.scan import Views, predict_label, view_logits

FULL = 65535
"""What 1 is in a map of 16 bits."""


@dataclass(frozen=True)
class Wanted:
    """Which maps are made beside the label."""

    confidence: bool = False
    entropy: bool = False
    probabilities: bool = False

    @property
    def any(self) -> bool:
        return self.confidence or self.entropy or self.probabilities


class ClassMaps(NamedTuple):
    """One image, predicted at (height, width)."""

    label: UInt8[np.ndarray, "h w"]
    """The most probable class; the same whatever else is asked for."""
    confidence: UInt16[np.ndarray, "h w"] | None = None
    """Its probability; 65535 is 1."""
    entropy: UInt16[np.ndarray, "h w"] | None = None
    """Entropy of the class probabilities as a share of the largest there can be, log(classes); 65535 is 1."""
    probabilities: Float16[Tensor, "k h w"] | None = None


def label_of(
    model: nn.Module,
    image: UInt8[Tensor, "3 h w"],
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    tiles: Tiles | None,
) -> UInt8[Tensor, "height width"]:
    """The class of each pixel at `size` (height, width), in tiles where they are given. The model is in evaluation
    mode."""
    if tiles is None:
        return predict_label(model, image, size, short_side, views)
    return tiled_label(model, image, size, short_side, views, tiles)


def class_maps(
    model: nn.Module,
    image: UInt8[Tensor, "3 h w"],
    short_side: int | None,
    views: Views,
    tiles: Tiles | None = None,
    wanted: Wanted | None = None,
) -> ClassMaps:
    """Predict an image at its own size. The model is expected in evaluation mode.

    Probabilities are made some rows at a time: all of them are only held where they are wanted (2 bytes each).
    """
    wanted, size = wanted or Wanted(), (image.shape[1], image.shape[2])
    if not wanted.any:
        return ClassMaps(label_of(model, image, size, short_side, views, tiles).numpy())
    label = np.empty(size, np.uint8)
    confidence = np.empty(size, np.uint16) if wanted.confidence else None
    entropy = np.empty(size, np.uint16) if wanted.entropy else None
    probabilities: Tensor | None = None
    for rows, prob, best, found in _bands(model, image, size, short_side, views, tiles):
        label[rows] = found.cpu().numpy()
        if confidence is not None:
            confidence[rows] = _sixteen_bits(best)
        if entropy is not None:
            entropy[rows] = _sixteen_bits(_share_of_entropy(prob))
        if wanted.probabilities:
            if probabilities is None:
                probabilities = torch.empty((len(prob), *size), dtype=torch.float16)
            probabilities[:, rows] = prob.to("cpu", torch.float16)
    return ClassMaps(label, confidence, entropy, probabilities)


def _bands(
    model: nn.Module,
    image: UInt8[Tensor, "3 h w"],
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    tiles: Tiles | None,
) -> Iterator[ProbBand]:
    if tiles is not None and not all(map(tiles.holds, working_sizes(size, short_side, views))):
        yield from tiled_probabilities(model, image, size, short_side, views, tiles)
        return
    maps, align = view_logits(model, image, short_side, views), bool(model.align_corners)
    label = most_probable(maps, size, align, views.average)
    for band in probability_bands(maps, size, align, views.average):
        yield band._replace(label=label[band.rows])


def _share_of_entropy(prob: Float32[Tensor, "k h w"]) -> Float32[Tensor, "h w"]:
    most = math.log(len(prob)) if len(prob) > 1 else 1.0
    return torch.special.entr(prob).sum(0).div_(most)


def _sixteen_bits(share: Float32[Tensor, "h w"]) -> UInt16[np.ndarray, "h w"]:
    return (share.clamp(0, 1) * FULL).round_().cpu().numpy().astype(np.uint16)
