"""Strong colour augmentation, batched on the device: kornia's operations, parameters drawn by us.

The parameters are a pure function of (seed, t, slot), so they do not depend on how many processes share a batch,
and no library draws from a global generator. kornia is imported where it is used: it takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.types import Images


@dataclass(frozen=True)
class ColourAugmentation:
    """Ranges of the jitter (as in torchvision's ColorJitter) and of the blur; each with its probability."""

    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.1
    """In turns of the colour circle: 0.5 is half a turn."""
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.1
    blur_sigma: tuple[float, float] = (0.15, 1.15)
    """Standard deviation of the Gaussian blur in pixels, drawn evenly."""
    blur_probability: float = 0.5

    def __post_init__(self) -> None:
        for name in ("jitter_probability", "grayscale_probability", "blur_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a probability from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a range from 0 to 1 around factor 1")
        if not 0 <= self.hue <= 0.5 or not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ConfigError(
                f"hue = {self.hue}, blur_sigma = {self.blur_sigma}; expected hue <= 0.5 and 0 < low <= high"
            )

    def draw(self, rng: np.random.Generator) -> list[float]:
        """Brightness, contrast, saturation factors; hue shift in radians; grey 0/1; blur sigma (0: none)."""
        jitter, grey, blur = rng.random(3) < (
            self.jitter_probability,
            self.grayscale_probability,
            self.blur_probability,
        )
        spread = np.array([self.brightness, self.contrast, self.saturation])
        factors = 1 + jitter * spread * rng.uniform(-1, 1, 3)
        hue = jitter * 2 * np.pi * self.hue * rng.uniform(-1, 1)
        sigma = blur * rng.uniform(*self.blur_sigma)
        return [*factors.tolist(), float(hue), float(grey), float(sigma)]


def augment_colour(
    image: Float[Tensor, "b 3 h w"], slots: Sequence[int], t: int, seed: int, config: ColourAugmentation
) -> Float[Tensor, "b 3 h w"]:
    """Another look at the same pixels: colours jittered, greyed, blurred; geometry untouched; range [0, 1]."""
    from kornia import enhance, filters

    rows = [config.draw(generator(seed, Stream.AUGMENT, t, slot)) for slot in slots]
    drawn = torch.tensor(rows, dtype=image.dtype, device=image.device)
    brightness, contrast, saturation, hue, grey, sigma = drawn.unbind(1)
    image = enhance.adjust_brightness_accumulative(image, brightness)
    image = enhance.adjust_contrast_with_mean_subtraction(image, contrast)
    image = enhance.adjust_saturation_with_gray_subtraction(image, saturation * (1 - grey))
    image = enhance.adjust_hue(image, hue)
    # A sigma of 0.05 pixels leaves an image as it is: one batched blur serves the blurred and the others.
    sigma = sigma.clamp(min=0.05)
    size = 2 * int(np.ceil(2 * float(config.blur_sigma[1]))) + 1
    return filters.gaussian_blur2d(image, (size, size), torch.stack((sigma, sigma), 1)).clamp_(0, 1)


def augment_images(images: Images, t: int, seed: int, config: ColourAugmentation | None) -> Float[Tensor, "b 3 h w"]:
    """A batch's images with strong colours, each drawn for its own slot; as they are without a config."""
    if config is None:
        return images.image
    assert images.geometry is not None, "strong augmentation needs each image's slot"
    return augment_colour(images.image, [g.slot for g in images.geometry], t, seed, config)
