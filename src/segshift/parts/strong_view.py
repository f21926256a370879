"""The strong view of an image (CPSL, §3.4 and §4.1): RandAugment, colour jitter, blur, Cutout, CutMix.

It shares the geometry of the weak view, the image as it was cut: a pixel of the one is the same place in the other,
unless `Strong` says that it was pasted or hidden. What is drawn is a pure function of (seed, t, slot).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.parts.augment import ColourAugmentation, augment_colour
from segshift.parts.rand_augment import draw_operations, rand_augment
from segshift.types import Images

_OPERATIONS, _REGIONS = 8, 9
"""Keys that keep these random numbers apart from each other and from those of the colour jitter, which has none."""
MID_GREY = 0.5

Box = tuple[int, int, int, int]
"""First row, row after the last, first column, column after the last."""
_NO_BOX: Box = (0, 0, 0, 0)


@dataclass(frozen=True)
class StrongView:
    """What is done to an image, in this order; the paper names the kinds (§4.1) and no numbers."""

    operations: int = 2
    """RandAugment's N: operations an image, of those that move no pixel; 0: none."""
    magnitude: float = 0.3
    """RandAugment's M as a share of its range, 0 to 1: 0.3 is M = 9 of 30, its authors' choice for ImageNet."""
    colour: ColourAugmentation | None = field(default_factory=ColourAugmentation)
    """Colour jitter and random blur; None: neither."""
    cutmix_probability: float = 0.5
    """How often a rectangle of another image of the batch is pasted (Yun et al., ICCV 2019); 0: never."""
    cutmix_area: tuple[float, float] = (0.1, 0.4)
    """Its share of the crop, drawn evenly. It has the crop's aspect and lies inside the crop."""
    cutout_probability: float = 0.5
    """How often squares are hidden under mid-grey (DeVries and Taylor, 2017); 0: never."""
    cutout_holes: int = 3
    """How many squares."""
    cutout_size: float = 0.2
    """Their side as a share of the crop's shorter side. Centres lie anywhere, so a square may reach over the edge."""

    def __post_init__(self) -> None:
        for name in ("operations", "cutout_holes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a number of at least 0 (0 turns it off)")
        if not 0 <= self.magnitude <= 1:
            raise ConfigError(f"magnitude = {self.magnitude}; expected a share of RandAugment's range, 0 to 1")
        for name in ("cutmix_probability", "cutout_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a probability from 0 to 1")
        if not 0 < self.cutmix_area[0] <= self.cutmix_area[1] <= 1:
            raise ConfigError(f"cutmix_area = {self.cutmix_area}; expected shares of the crop, 0 < low <= high <= 1")
        if not 0 < self.cutout_size <= 1:
            raise ConfigError(f"cutout_size = {self.cutout_size}; expected a share of the shorter side, 0 < size <= 1")

    def draw_pasted(self, rng: np.random.Generator, size: tuple[int, int]) -> Box:
        """Where another image is pasted into a crop of `size` (h, w)."""
        chance, area, down, across = rng.random(4)
        if chance >= self.cutmix_probability:
            return _NO_BOX
        low, high = self.cutmix_area
        scale = (low + area * (high - low)) ** 0.5
        height, width = (max(1, round(scale * side)) for side in size)
        top, left = int(down * (size[0] - height + 1)), int(across * (size[1] - width + 1))
        return top, top + height, left, left + width

    def draw_hidden(self, rng: np.random.Generator, size: tuple[int, int]) -> list[Box]:
        """The squares hidden in a crop of `size` (h, w), as many for each image; some may be empty."""
        chance, places = rng.random(), rng.random((self.cutout_holes, 2))
        if chance >= self.cutout_probability:
            return [_NO_BOX] * self.cutout_holes
        side = max(1, round(self.cutout_size * min(size)))
        corners = [(int(down * size[0]) - side // 2, int(across * size[1]) - side // 2) for down, across in places]
        return [(max(top, 0), top + side, max(left, 0), left + side) for top, left in corners]


class Strong(NamedTuple):
    """A batch's strong views, and what of them is not the image's own."""

    image: Float[Tensor, "b 3 h w"]
    """RGB in [0, 1]."""
    pasted: Bool[Tensor, "b h w"]
    """True where CutMix put the partner's pixels, from the same place."""
    partner: Int[Tensor, "b"]
    """Index of each image's partner in this process's batch."""
    hidden: Bool[Tensor, "b h w"]
    """True under the squares of Cutout, which lie over what was pasted."""

    def mixed(self, values: Shaped[Tensor, "b ... h w"]) -> Shaped[Tensor, "b ... h w"]:
        """A map of the weak views (labels, probabilities) as it belongs to the strong ones: the partner's where its
        pixels are."""
        pasted = self.pasted.view(len(values), *[1] * (values.ndim - 3), *values.shape[-2:])
        return torch.where(pasted, values[self.partner], values)


def strong_view(images: Images, t: int, seed: int, config: StrongView) -> Strong:
    """The strong views of a batch at step t; with every effect off, the very same image tensor.

    Colours are drawn for each slot and do not depend on the rest of the batch. CutMix comes after them and pastes the
    partner's *strong* pixels, so that the two regions also differ in look, as when two strong views are mixed; Cutout
    comes last, so its squares lie where they were drawn. An image's partner is the one with the next slot, cyclically,
    among those of this process: only there are its pixels. A batch of one image has no partner, nothing is pasted.
    """
    assert images.geometry is not None, "a strong view needs each image's slot"
    slots = [geometry.slot for geometry in images.geometry]
    size, device = (images.image.shape[2], images.image.shape[3]), images.image.device
    image = rand_augment(
        images.image,
        [
            draw_operations(generator(seed, Stream.AUGMENT, _OPERATIONS, t, slot), config.operations, config.magnitude)
            for slot in slots
        ],
    )
    if config.colour is not None:
        image = augment_colour(image, slots, t, seed, config.colour)

    pasted, hidden = [], []
    for slot in slots:
        rng = generator(seed, Stream.AUGMENT, _REGIONS, t, slot)
        box = config.draw_pasted(rng, size)
        pasted.append([box if len(slots) > 1 else _NO_BOX])
        hidden.append(config.draw_hidden(rng, size))
    partner = torch.tensor(_next_slot(slots)).to(device, non_blocking=True)
    strong = Strong(image, _inside(pasted, size, device), partner, _inside(hidden, size, device))
    if _any(pasted):
        strong = strong._replace(image=strong.mixed(image))
    if _any(hidden):
        strong = strong._replace(image=strong.image.masked_fill(strong.hidden[:, None], MID_GREY))
    return strong


def _next_slot(slots: list[int]) -> list[int]:
    """For each image, the index of the one with the next larger slot; for the last, of the first."""
    order = sorted(range(len(slots)), key=slots.__getitem__)
    following = dict(zip(order, order[1:] + order[:1]))
    return [following[i] for i in range(len(slots))]


def _any(boxes: list[list[Box]]) -> bool:
    return any(box != _NO_BOX for row in boxes for box in row)


def _inside(boxes: list[list[Box]], size: tuple[int, int], device: torch.device) -> Bool[Tensor, "b h w"]:
    """True inside any of an image's boxes."""
    edges = torch.tensor(boxes, dtype=torch.int32).reshape(len(boxes), -1, 4, 1).to(device, non_blocking=True)
    top, bottom, left, right = edges.unbind(2)
    rows, columns = (torch.arange(side, dtype=torch.int32, device=device) for side in size)
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (down[..., :, None] & across[..., None, :]).any(1)
