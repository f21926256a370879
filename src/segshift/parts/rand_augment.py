"""RandAugment (Cubuk et al., CVPR workshops 2020) without its geometry: N operations an image, all at one magnitude.

The operations are those of the paper's list that move no pixel; the ranges are those of the authors' code, with a
random sign where an operation goes both ways, so that magnitude 0 changes nothing. They are kornia's, except where
that says so. What is drawn comes in as an argument: no library draws from a global generator. kornia is imported where
it is used: it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "n 3 h w"]


class Operation(NamedTuple):
    """One operation of the list."""

    name: str
    amount: Callable[[float], float]
    """Magnitude in -1..1 -> what `apply` is told; the sign matters only to operations that go both ways."""
    apply: Callable[[Pictures, Float[Tensor, "n"]], Pictures]
    """Images in [0, 1] and an amount for each -> images in [0, 1]; no image looks at another."""


class Drawn(NamedTuple):
    """One operation for one image."""

    operation: int
    """Place in `OPERATIONS`."""
    amount: float


def autocontrast(image: Pictures) -> Pictures:
    """Each channel of each image stretched to [0, 1]; a constant channel stays as it is.

    kornia's `normalize_min_max` makes a constant channel black, which no image editor does.
    """
    low, high = torch.aminmax(image.flatten(2), dim=2, keepdim=True)
    low, spread = low[..., None], (high - low)[..., None]
    stretched = (image - low) / torch.where(spread > 0, spread, 1)
    return torch.where(spread > 0, stretched, image)


def _factor(signed: float) -> float:
    """0.1 to 1.9; 1 leaves an image as it is."""
    return 1 + 0.9 * signed


def _bits(signed: float) -> float:
    """8 bits, which is all there are, to 4."""
    return float(8 - round(4 * abs(signed)))


def _threshold(signed: float) -> float:
    """Grey value from which on a channel is inverted: 256 of 255, that is nothing, to 0, that is everything."""
    return 256 / 255 * (1 - abs(signed))


def _enhance() -> ModuleType:
    from kornia import enhance

    return enhance


OPERATIONS: tuple[Operation, ...] = (
    Operation("identity", lambda _: 0.0, lambda x, _: x),
    Operation("autocontrast", lambda _: 0.0, lambda x, _: autocontrast(x)),
    Operation("equalize", lambda _: 0.0, lambda x, _: _enhance().equalize(x)),
    Operation("solarize", _threshold, lambda x, amount: _enhance().solarize(x, amount)),
    Operation("color", _factor, lambda x, amount: _enhance().adjust_saturation_with_gray_subtraction(x, amount)),
    Operation("posterize", _bits, lambda x, amount: _enhance().posterize(x, amount.to(torch.int32))),
    Operation("contrast", _factor, lambda x, amount: _enhance().adjust_contrast_with_mean_subtraction(x, amount)),
    Operation("brightness", _factor, lambda x, amount: _enhance().adjust_brightness_accumulative(x, amount)),
    Operation("sharpness", _factor, lambda x, amount: _enhance().sharpness(x, amount)),
)
"""The paper's list without rotation, shear and translation."""


def draw_operations(rng: np.random.Generator, operations: int, magnitude: float) -> list[Drawn]:
    """`operations` operations for one image, each as likely as the others, with replacement; `magnitude` in 0..1."""
    places = rng.integers(len(OPERATIONS), size=operations).tolist()
    signs = rng.choice((-1.0, 1.0), size=operations).tolist()
    return [Drawn(place, OPERATIONS[place].amount(sign * magnitude)) for place, sign in zip(places, signs)]


def rand_augment(image: Float[Tensor, "b 3 h w"], drawn: Sequence[Sequence[Drawn]]) -> Float[Tensor, "b 3 h w"]:
    """Each image through its own operations, in order. As many for one as for another; none: the very same tensor."""
    if not drawn[0]:
        return image
    amounts = torch.tensor([[one.amount for one in row] for row in drawn], dtype=image.dtype)
    amounts = amounts.to(image.device, non_blocking=True)
    # One image at a time: seldom have two of a batch drawn the same operation, and in a batch of its own an image
    # comes out the same to the bit whatever else is there. Rounding matters before a step such as posterize's.
    return torch.cat([_augment_one(one, row, told) for one, row, told in zip(image.split(1), drawn, amounts)])


def _augment_one(
    image: Float[Tensor, "1 3 h w"], drawn: Sequence[Drawn], amounts: Float[Tensor, "n"]
) -> Float[Tensor, "1 3 h w"]:
    for (place, _), amount in zip(drawn, amounts.split(1)):
        image = OPERATIONS[place].apply(image, amount)
    return image
