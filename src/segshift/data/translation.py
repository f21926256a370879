"""Source images made to look like target images, training-free: Fourier amplitudes swapped, or LAB statistics matched.

Both are pure functions of two images. `Translator` draws the target image for a place in a batch: a function of
(seed, t, slot), like everything that is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from segshift.data.dataset import ImageDataset
from segshift.data.resizing import resize_image
from segshift.data.sampling import Stream, generator
from segshift.data.transforms import to_float, working_size
from segshift.errors import ConfigError

FLAT = 0.1
"""Standard deviation in CIELAB below which a channel has nothing to stretch: rounding to 8 bits alone makes as much."""


@dataclass(frozen=True)
class Translation:
    """How source images are translated towards target images."""

    kind: Literal["fourier", "lab"] = "fourier"
    """fourier: low-frequency amplitudes are the target image's (FDA). lab: mean and standard deviation of each CIELAB
    channel are (Reinhard et al., 2001)."""
    beta: float = 0.01
    """fourier: half the width of the window of swapped frequencies, as a share of the image's shorter side. FDA
    trains with 0.01, 0.05 and 0.09; below one pixel, such as 0.01 of 96, the mean colour alone is swapped."""
    chance: float = 1.0
    """Share of the source images that are translated; the others stay as they are."""

    def __post_init__(self) -> None:
        if self.kind not in ("fourier", "lab"):
            raise ConfigError(f"translation: kind = {self.kind!r}; expected fourier or lab")
        _check_beta(self.beta)
        if not 0 < self.chance <= 1:
            raise ConfigError(
                f"translation: chance = {self.chance}; expected a share above 0 and at most 1 (or no translation)"
            )


def _check_beta(beta: float) -> None:
    if not 0 <= beta <= 0.5:
        raise ConfigError(
            f"translation: beta = {beta}; expected 0 (the mean colour alone) to 0.5 (all frequencies of a square "
            "image), such as 0.01"
        )


def fourier(
    image: UInt8[Tensor, "3 h w"], reference: UInt8[Tensor, "3 rh rw"], beta: float = 0.01
) -> UInt8[Tensor, "3 h w"]:
    """Fourier domain adaptation (Yang & Soatto, FDA, CVPR 2020): the reference's low-frequency amplitudes.

    Of each RGB channel, the amplitudes of the frequencies within b = floor(beta * min(h, w)) of zero, in both
    directions, become those of the reference (resized to the image's size); phases, and all other amplitudes, stay.
    b = 0 is zero frequency alone: each channel gets the reference's mean. The paper prints a window of beta * h by
    beta * w; the square one is that of the authors' code. Rounded and clipped to 0 .. 255. ConfigError for a beta
    outside 0 .. 0.5.
    """
    _check_beta(beta)
    height, width = image.shape[1:]
    # NumPy's transform computes on one thread: the same numbers in the main process and in a data-loading one.
    spectrum = _spectrum(image)
    amplitude = np.abs(_spectrum(resize_image(reference, (height, width))))
    half = int(beta * min(height, width))
    # Frequencies run 0, 1, ..., -2, -1 along the height; along the width, those below zero are not kept.
    near = np.abs(np.fft.fftfreq(height, 1 / height)) < half + 0.5
    low = np.s_[:, near, : half + 1]
    spectrum[low] = amplitude[low] * np.exp(1j * np.angle(spectrum[low]))
    translated = np.fft.irfft2(spectrum, s=(height, width))
    return torch.from_numpy(np.clip(np.rint(translated), 0, 255).astype(np.uint8))


def _spectrum(image: UInt8[Tensor, "3 h w"]) -> np.ndarray:
    """Fourier coefficients of each channel, (3, h, w // 2 + 1): the other half are their conjugates."""
    return np.fft.rfft2(image.numpy().astype(np.float32))


def lab_statistics(image: UInt8[Tensor, "3 h w"], reference: UInt8[Tensor, "3 rh rw"]) -> UInt8[Tensor, "3 h w"]:
    """Colour transfer (Reinhard, Adhikhmin, Gooch & Shirley, 2001): the reference's mean and spread of each channel.

    Each channel is shifted and scaled to the mean and standard deviation of the reference (resized to the image's
    size). Done in CIELAB (D65), not in their l-alpha-beta, another space of lightness and two opponent colours. A
    channel without spread (`FLAT`), such as the colours of a grey image, is shifted alone. Colours that RGB cannot
    hold are clipped, so that statistics then differ from the reference's.
    """
    from kornia.color import lab_to_rgb

    own = _lab(image)
    other = _lab(resize_image(reference, (image.shape[1], image.shape[2])))
    mean, spread = own.mean((1, 2), keepdim=True), own.std((1, 2), correction=0, keepdim=True)
    to_mean, to_spread = other.mean((1, 2), keepdim=True), other.std((1, 2), correction=0, keepdim=True)
    factor = torch.where(spread > FLAT, to_spread / spread.clamp(min=FLAT), 1.0)
    moved = (own - mean) * factor + to_mean
    return lab_to_rgb(moved[None])[0].mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _lab(image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    from kornia.color import rgb_to_lab

    return rgb_to_lab(to_float(image)[None])[0]


def translate(
    image: UInt8[Tensor, "3 h w"], reference: UInt8[Tensor, "3 rh rw"], config: Translation
) -> UInt8[Tensor, "3 h w"]:
    """The image in the reference's style, by the config's kind."""
    return fourier(image, reference, config.beta) if config.kind == "fourier" else lab_statistics(image, reference)


class Translator:
    """Translates the source images of a training: each towards a target image drawn for its place."""

    def __init__(self, config: Translation, references: ImageDataset, short_side: int | None, seed: int) -> None:
        self.config, self.references, self.short_side, self.seed = config, references, short_side, seed

    def __call__(self, image: UInt8[Tensor, "3 h w"], t: int, slot: int) -> UInt8[Tensor, "3 H W"]:
        """The whole image at its working size, translated; as it came where chance leaves it so.

        Which target image, and the chance, are drawn from (seed, t, slot) by a generator that serves nothing else.
        """
        rng = generator(self.seed, Stream.SOURCE, 7, t, slot)
        index = int(rng.integers(len(self.references.names)))
        if rng.random() >= self.config.chance:
            return image
        size = working_size((image.shape[1], image.shape[2]), self.short_side)
        return translate(resize_image(image, size), self.references.image(index), self.config)
