"""Joint geometry for image and label: resize, random scale, crop, flip. Drawn here, applied in `resizing`.

A `Geometry` says everything that was done to an image, so a soft label or a second view can repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from segshift.errors import ConfigError
from segshift.types import Geometry


@dataclass(frozen=True)
class View:
    """How training images are cut from a data set's images."""

    crop: tuple[int, int] | None = None
    """Crop, height x width in pixels of the resized image; None: the whole image."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the random scale, on top of the working size."""
    flip: bool = True
    """Mirror half of the images left to right."""
    window: tuple[int, int] | None = None
    """Multi-scale crops (IAST paper, §5.1): the range of the window's height, in pixels of the working size. The
    window has the crop's aspect, is no larger than the image can hold, and is resized to the crop. None: no window."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 100:
            raise ConfigError(f"scale = {self.scale}; expected two numbers, 0 < low <= high <= 100, such as 0.7 1.3")
        if self.crop is not None and min(self.crop) < 1:
            raise ConfigError(f"crop = {self.crop}; expected height and width of at least 1 pixel")
        if self.window is not None:
            self._check_window(*self.window)

    def _check_window(self, low: int, high: int) -> None:
        if not 1 <= low <= high:
            raise ConfigError(f"window = {self.window}; expected two heights, 1 <= low <= high, such as 341 950")
        if self.crop is None:
            raise ConfigError(
                f"window = {self.window}, crop = None; expected the crop that a window is resized to, such as 512 1024"
            )
        if self.scale != (1.0, 1.0):
            raise ConfigError(
                f"window = {self.window}, scale = {self.scale}: a window's height is a scale already; expected scale "
                "1 1, or window None"
            )


def working_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """The size an image is worked on: its shorter side becomes `short_side`, the aspect stays (None: as it is)."""
    if short_side is None:
        return size
    factor = short_side / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def draw_geometry(
    size: tuple[int, int],
    view: View,
    short_side: int | None,
    rng: np.random.Generator,
    slot: int = 0,
    centre: tuple[float, float] | None = None,
) -> Geometry:
    """Draw scale (or window), crop corner and flip for an image of `size` (h, w).

    A window of height v resized to a crop of height c is the crop from the image scaled by c / v. Where the image
    cannot hold all of the view's range, v is drawn from what it can hold of it, or is the largest that it can.
    `centre`: a place (down, across), 0 to 1 of the image, that the crop is put around, as near as the border allows.
    """
    height, width = working_size(size, short_side)
    crop = view.crop or (height, width)
    if view.window is None:
        factor = rng.uniform(*view.scale)
    else:
        largest = min(height, width * crop[0] / crop[1])
        low, high = (min(bound, largest) for bound in view.window)
        factor = crop[0] / rng.uniform(low, high)
    resized = (max(1, round(height * factor)), max(1, round(width * factor)))
    top = int(rng.integers(0, max(resized[0] - crop[0], 0) + 1))
    left = int(rng.integers(0, max(resized[1] - crop[1], 0) + 1))
    flip = bool(rng.random() < 0.5) and view.flip
    if centre is not None:
        top, left = (_around(centre[axis], resized[axis], crop[axis]) for axis in (0, 1))
    return Geometry(resized, top, left, crop, flip, slot)


def _around(place: float, length: int, crop: int) -> int:
    """Where a crop begins whose middle is at `place` of a line of `length` pixels, and which stays on it."""
    return min(max(round(place * length - crop / 2), 0), max(length - crop, 0))


def to_float(image: UInt8[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 3 h w"]:
    """[0, 255] to [0, 1]."""
    return image.float().div_(255)
