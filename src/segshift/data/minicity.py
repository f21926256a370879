"""MiniCity: two small towns drawn on demand, the data set that needs no download.

Procedural street scenes under the Cityscapes train ids: road, sidewalk, building, wall, fence, pole, traffic
light, traffic sign, vegetation, terrain, sky, person, rider, car, truck, bus, motorcycle and bicycle (no train).
The source is a clean daylight rendering; the target is another town at dusk or in fog, with rough textures, a
soft and noisy camera and other habits. Own work, no licence beyond the package's.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.minicity_scene import draw
from segshift.errors import ConfigError
from segshift.taxonomy import CITYSCAPES, LabelSpace

DRAWING_VERSION = 1
"""Raised whenever the same (fields, index) would be drawn differently."""

_DOMAINS = ("source", "target")
_SPLITS = ("train", "test")
_MOST = 100_000
"""Images a split: names have five digits, so that name order is index order."""
_SMALLEST, _LARGEST = 32, 4096


@dataclass(frozen=True)
class MiniCity:
    """`count` scenes of one domain and split. Scene i is a pure function of (domain, split, size, seed, i).

    All sizes show the same scenes; the two splits, the two domains and two seeds never share one.
    """

    domain: Literal["source", "target"]
    split: Literal["train", "test"] = "train"
    count: int = 200
    size: tuple[int, int] = (96, 192)
    """Height, width in pixels; meant to be twice as wide as high."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.domain not in _DOMAINS:
            raise ConfigError(f"domain = {self.domain!r}; expected source or target")
        if self.split not in _SPLITS:
            raise ConfigError(f"split = {self.split!r}; expected train or test")
        if not 1 <= self.count <= _MOST:
            raise ConfigError(f"count = {self.count}; expected 1 to {_MOST} images")
        if len(self.size) != 2 or not all(_SMALLEST <= side <= _LARGEST for side in self.size):
            raise ConfigError(
                f"size = {self.size}; expected height and width from {_SMALLEST} to {_LARGEST} pixels, such as 96 192"
            )
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed}; expected 0 or more")
        object.__setattr__(self, "size", tuple(self.size))

    @property
    def space(self) -> LabelSpace:
        """The 19 classes of Cityscapes; a train never comes."""
        return CITYSCAPES

    @property
    def names(self) -> tuple[str, ...]:
        """One name an image, in index order, which is also their sorted order."""
        return tuple(f"{self.domain}_{self.split}_{i:05d}" for i in range(self.count))

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """RGB of scene `index`."""
        return torch.from_numpy(_drawn(self, self._checked(index))[0].transpose(2, 0, 1).copy())

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """Cityscapes train ids of scene `index`; no pixel is ignored."""
        return torch.from_numpy(_drawn(self, self._checked(index))[1].copy())

    def fingerprint(self) -> str:
        """16 hexadecimal digits from the fields and the version of the drawing code."""
        return hashlib.sha256(repr((DRAWING_VERSION, astuple(self))).encode()).hexdigest()[:16]

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"MiniCity image {index}; expected 0 to {self.count - 1}")
        return index


# Image and label of a scene are asked for one after the other: a few kept scenes save every second drawing, and
# stay under 40 MB at 512 x 1024.
@lru_cache(maxsize=16)
def _drawn(dataset: MiniCity, index: int) -> tuple[np.ndarray, np.ndarray]:
    keys = dataset.seed, _DOMAINS.index(dataset.domain), _SPLITS.index(dataset.split), index
    return draw(dataset.domain, dataset.size, np.random.default_rng(np.random.SeedSequence(keys)))


def contact_sheet(dataset: MiniCity, rows: int, columns: int) -> UInt8[np.ndarray, "H W 3"]:
    """The first rows x columns scenes, each as image above coloured label."""
    palette = dataset.space.palette()
    lines = []
    for row in range(rows):
        scenes = [_drawn(dataset, dataset._checked(row * columns + column)) for column in range(columns)]
        lines += [np.hstack([image for image, _ in scenes]), np.hstack([palette[label] for _, label in scenes])]
    return np.vstack(lines)
