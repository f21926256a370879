"""Strong colours: decided by the slot alone, inside [0, 1], and nothing at all where nothing is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.parts.augment import ColourAugmentation, augment_colour, augment_images
from segshift.types import Geometry, Images

NOTHING = ColourAugmentation(jitter_probability=0, grayscale_probability=0, blur_probability=0)


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 12, 14, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), t=st.integers(0, 10**6), count=st.integers(1, 5))
def test_the_slot_decides(seed: int, t: int, count: int) -> None:
    image, config = pictures(count, seed), ColourAugmentation()
    before, state = image.clone(), torch.get_rng_state()
    whole = augment_colour(image, range(count), t, seed, config)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, before)
    assert whole.shape == image.shape
    assert whole.min() >= 0
    assert whole.max() <= 1
    for rank in range(2):
        slots = range(rank, count, 2)
        if slots:
            part = augment_colour(image[rank::2], slots, t, seed, config)
            torch.testing.assert_close(part, whole[rank::2], rtol=0, atol=1e-6)


def test_another_slot_step_or_seed_draws_anew() -> None:
    config = ColourAugmentation(jitter_probability=1)
    places = [(seed, t, slot) for seed in (0, 1) for t in (0, 1) for slot in (0, 1)]
    drawn = {tuple(config.draw(generator(seed, Stream.AUGMENT, t, slot))) for seed, t, slot in places}
    assert len(drawn) == 8


def test_nothing_asked_nothing_changed() -> None:
    image = pictures(3)
    torch.testing.assert_close(augment_colour(image, range(3), 5, 0, NOTHING), image, rtol=0, atol=2e-6)
    images = Images(image, torch.zeros(3, 12, 14, dtype=torch.long), ("a", "b", "c"))
    assert augment_images(images, 0, 0, None) is image


def test_images_bring_their_slots() -> None:
    image = pictures(2)
    geometry = tuple(Geometry((12, 14), 0, 0, (12, 14), False, slot) for slot in (6, 2))
    images = Images(image, torch.zeros(2, 12, 14, dtype=torch.long), ("a", "b"), geometry)
    expected = augment_colour(image, (6, 2), 3, 1, ColourAugmentation())
    assert torch.equal(augment_images(images, 3, 1, ColourAugmentation()), expected)


class Fixed(ColourAugmentation):
    """Always the same numbers, in `draw`'s order."""

    values = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0)

    def draw(self, rng: np.random.Generator) -> list[float]:
        return list(self.values)


def fixed(*values: float) -> ColourAugmentation:
    config = Fixed()
    object.__setattr__(config, "values", values)
    return config


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1.3, 1, 1, 0, 0, 0), lambda x: reference.adjust_brightness(x, 1.3)),
        ((0.6, 1, 1, 0, 0, 0), lambda x: reference.adjust_brightness(x, 0.6)),
        ((1, 0.5, 1, 0, 0, 0), lambda x: reference.adjust_contrast(x, 0.5)),
        ((1, 1, 0.4, 0, 0, 0), lambda x: reference.adjust_saturation(x, 0.4)),
        ((1, 1, 1, 2 * np.pi * 0.1, 0, 0), lambda x: reference.adjust_hue(x, 0.1)),
        ((1, 1, 1, 0, 1, 0), lambda x: reference.rgb_to_grayscale(x, 3)),
        ((1, 1, 1, 0, 0, 1.0), lambda x: reference.gaussian_blur(x, [7, 7], [1.0, 1.0])),
    ],
)
def test_each_operation_is_the_usual_one(values: tuple[float, ...], expected) -> None:
    """Against torchvision, away from what is clipped."""
    image = 0.25 + 0.5 * pictures(2)
    found = augment_colour(image, (0, 1), 0, 0, fixed(*values))
    torch.testing.assert_close(found, expected(image), rtol=0, atol=4e-3)


def test_drawn_numbers_stay_in_their_ranges() -> None:
    config = ColourAugmentation()
    drawn = np.array([config.draw(np.random.default_rng(i)) for i in range(2000)])
    assert drawn[:, :3].min() >= 0.5
    assert drawn[:, :3].max() <= 1.5
    assert np.abs(drawn[:, 3]).max() <= 2 * np.pi * 0.1
    assert set(drawn[:, 4]) == {0, 1}
    assert abs((drawn[:, 0] == 1).mean() - 0.2) < 0.04
    assert abs(drawn[:, 4].mean() - 0.1) < 0.03
    assert abs((drawn[:, 5] == 0).mean() - 0.5) < 0.05
    blurred = drawn[drawn[:, 5] > 0, 5]
    assert 0.15 <= blurred.min() < blurred.max() <= 1.15


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"jitter_probability": 1.5}, "jitter_probability = 1.5"),
        ({"contrast": -0.1}, "contrast = -0.1"),
        ({"hue": 0.6}, "hue = 0.6"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
    ],
)
def test_wrong_values_are_errors(options: dict, found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        ColourAugmentation(**options)
