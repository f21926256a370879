"""RandAugment without geometry: the usual operations, each image by itself, no pixel moved."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from segshift.parts.rand_augment import OPERATIONS, Drawn, autocontrast, draw_operations, rand_augment

NAMES = [operation.name for operation in OPERATIONS]
TAKE_STATISTICS = {"autocontrast", "equalize"}
"""What they do to a pixel depends on the whole image, at any magnitude."""


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (24, 25)) -> Tensor:
    """Images of 8 bits a channel, as files have them, darker than bright; with fewer than 255 pixels there is nothing
    to equalize."""
    drawn = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))
    return (255 * drawn**2).round() / 255


def one(name: str, signed: float) -> list[Drawn]:
    place = NAMES.index(name)
    return [Drawn(place, OPERATIONS[place].amount(signed))]


def as_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("name", "signed", "expected"),
    [
        ("identity", 0.7, lambda x: x),
        ("autocontrast", 0.7, reference.autocontrast),
        ("equalize", 0.7, lambda x: reference.equalize(as_bytes(x)) / 255),
        ("solarize", 0.3, lambda x: reference.solarize(as_bytes(x), 256 * 0.7) / 255),
        ("solarize", -0.3, lambda x: reference.solarize(as_bytes(x), 256 * 0.7) / 255),
        ("color", 0.5, lambda x: reference.adjust_saturation(x, 1.45)),
        ("color", -0.5, lambda x: reference.adjust_saturation(x, 0.55)),
        ("posterize", 0.5, lambda x: reference.posterize(as_bytes(x), 6) / 255),
        ("posterize", -1.0, lambda x: reference.posterize(as_bytes(x), 4) / 255),
        ("contrast", -0.5, lambda x: reference.adjust_contrast(x, 0.55)),
        ("brightness", 0.5, lambda x: reference.adjust_brightness(x, 1.45)),
        ("sharpness", 0.5, lambda x: reference.adjust_sharpness(x, 1.45)),
        ("sharpness", -1.0, lambda x: reference.adjust_sharpness(x, 0.1)),
    ],
)
def test_each_operation_is_the_usual_one(name: str, signed: float, expected) -> None:
    """Against torchvision, which is told its numbers here and takes one for all images."""
    image = 0.2 + 0.6 * pictures(2) if name == "autocontrast" else pictures(2)
    found = rand_augment(image, [one(name, signed)] * 2)
    torch.testing.assert_close(found, expected(image), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_magnitude_zero_changes_nothing(name: str) -> None:
    image = pictures(2)
    found = rand_augment(image, [one(name, 0.0)] * 2)
    assert (name in TAKE_STATISTICS) == bool((found - image).abs().max() > 1e-6)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6), count=st.integers(1, 5), turns=st.integers(0, 3), magnitude=st.sampled_from((0.3, 1.0))
)
def test_an_image_looks_at_itself_alone(seed: int, count: int, turns: int, magnitude: float) -> None:
    image = pictures(count, seed)
    drawn = [draw_operations(np.random.default_rng((seed, i)), turns, magnitude) for i in range(count)]
    before, state = image.clone(), torch.get_rng_state()
    found = rand_augment(image, drawn)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, before)
    assert found.shape == image.shape
    assert found.min() >= 0
    assert found.max() <= 1
    for i in range(count):
        assert torch.equal(rand_augment(image[i : i + 1], drawn[i : i + 1])[0], found[i])


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from([name for name in NAMES if name != "sharpness"]),
    signed=st.floats(-1, 1),
)
def test_no_pixel_moves(seed: int, name: str, signed: float) -> None:
    """Wherever a pixel stands it comes out the same; sharpening, which looks at neighbours, knows no direction."""
    image = pictures(1, seed)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(seed))

    def shuffled(x: Tensor) -> Tensor:
        return x.flatten(2)[..., order].view_as(x)

    drawn = [one(name, signed)]
    torch.testing.assert_close(rand_augment(shuffled(image), drawn), shuffled(rand_augment(image, drawn)))
    drawn = [one("sharpness", signed)]
    torch.testing.assert_close(rand_augment(image.flip(3), drawn), rand_augment(image, drawn).flip(3))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_constant_stays_so(name: str) -> None:
    image = torch.tensor([0.0, 0.3, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 9)
    found = rand_augment(image, [one(name, 0.3)])
    assert found.isfinite().all()
    torch.testing.assert_close(found, found[..., :1, :1].expand_as(found))
    if name in TAKE_STATISTICS:
        torch.testing.assert_close(found, image)


def test_a_constant_channel_has_no_contrast_to_stretch() -> None:
    image = torch.stack((torch.full((4, 4), 0.6), torch.linspace(0.25, 0.75, 16).view(4, 4), torch.zeros(4, 4)))[None]
    found = autocontrast(image)
    torch.testing.assert_close(found[0, 0], image[0, 0])
    torch.testing.assert_close(found[0, 1], torch.linspace(0, 1, 16).view(4, 4))
    torch.testing.assert_close(found[0, 2], image[0, 2])


def test_order_counts() -> None:
    image = pictures(1)
    bright, solar = one("brightness", 1.0), one("solarize", 0.5)
    first, second = rand_augment(image, [bright + solar]), rand_augment(image, [solar + bright])
    torch.testing.assert_close(first, rand_augment(rand_augment(image, [bright]), [solar]))
    assert (first - second).abs().max() > 0.1


def test_operations_are_drawn_evenly_and_both_ways() -> None:
    rng = np.random.default_rng(0)
    drawn = [one for _ in range(900) for one in draw_operations(rng, 2, 0.5)]
    counts = Counter(NAMES[one.operation] for one in drawn)
    assert set(counts) == set(NAMES)
    assert all(abs(count - 200) < 60 for count in counts.values())
    assert {one.amount for one in drawn if NAMES[one.operation] == "brightness"} == {0.55, 1.45}
    assert {one.amount for one in drawn if NAMES[one.operation] == "posterize"} == {6.0}


def test_no_operation_asked_no_copy_made() -> None:
    image = pictures(3)
    assert rand_augment(image, [[], [], []]) is image
