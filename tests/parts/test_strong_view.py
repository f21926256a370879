"""The strong view: decided by the slot, over the weak view's pixels, and honest about what is pasted and hidden."""

from __future__ import annotations

from dataclasses import replace

import cattrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.errors import ConfigError
from segshift.parts.augment import ColourAugmentation, augment_colour
from segshift.parts.strong_view import MID_GREY, StrongView, strong_view
from segshift.types import Geometry, Images

SIZE = (24, 30)
NOTHING = StrongView(operations=0, colour=None, cutmix_probability=0, cutout_probability=0)
COLOURS = StrongView(cutmix_probability=0, cutout_probability=0)
REGIONS = StrongView(operations=0, colour=None, cutmix_probability=1, cutout_probability=1)
SEEDS = st.integers(0, 10**6)


def batch(slots: range | tuple[int, ...], image: Tensor | None = None, seed: int = 0) -> Images:
    """The images of the given slots; each slot has an image and a label of its own."""
    if image is None:
        image = torch.stack([noise(seed, slot) for slot in slots])
    label = torch.stack([torch.full(tuple(image.shape[2:]), slot, dtype=torch.long) for slot in slots])
    size = (image.shape[2], image.shape[3])
    geometry = tuple(Geometry(size, 0, 0, size, False, slot) for slot in slots)
    return Images(image, label, tuple(str(slot) for slot in slots), geometry)


def noise(seed: int, slot: int) -> Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1000 * seed + slot))


@settings(max_examples=25)
@given(seed=SEEDS, t=SEEDS, count=st.integers(1, 5))
def test_the_slot_decides(seed: int, t: int, count: int) -> None:
    """Colours, and what is pasted over or hidden, are the same whatever else is in the batch."""
    config, images = StrongView(), batch(range(count), seed=seed)
    before, state = images.image.clone(), torch.get_rng_state()
    whole = strong_view(images, t, seed, config)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images.image, before)
    assert whole.image.shape == images.image.shape
    assert whole.image.isfinite().all()
    assert whole.image.min() >= 0
    assert whole.image.max() <= 1
    for rank in range(2):
        slots = range(rank, count, 2)
        if not slots:
            continue
        part = strong_view(batch(slots, seed=seed), t, seed, config)
        assert torch.equal(part.hidden, whole.hidden[rank::2])
        if len(slots) > 1:
            assert torch.equal(part.pasted, whole.pasted[rank::2])
        own = ~(part.pasted | whole.pasted[rank::2])[:, None].expand_as(part.image)
        torch.testing.assert_close(part.image[own], whole.image[rank::2][own], rtol=0, atol=1e-6)


@settings(max_examples=25)
@given(seed=SEEDS, t=SEEDS, count=st.integers(2, 4))
def test_pasted_and_hidden_say_where_pixels_come_from(seed: int, t: int, count: int) -> None:
    config = StrongView(cutmix_probability=0.7, cutout_probability=0.7)
    images = batch(range(count), seed=seed)
    found = strong_view(images, t, seed, config)
    colours = strong_view(images, t, seed, COLOURS).image
    for i in range(count):
        partner = int(found.partner[i])
        expected = torch.where(found.pasted[i], colours[partner], colours[i])
        expected[:, found.hidden[i]] = MID_GREY
        assert torch.equal(found.image[i], expected)


@settings(max_examples=25)
@given(seed=SEEDS, t=SEEDS, count=st.integers(1, 4))
def test_maps_are_mixed_as_the_pixels_are(seed: int, t: int, count: int) -> None:
    images = batch(range(count), seed=seed)
    found = strong_view(images, t, seed, replace(REGIONS, cutmix_probability=0.5, cutout_probability=0))
    assert torch.equal(found.mixed(images.image), found.image)
    label = found.mixed(images.label)
    assert label.dtype == images.label.dtype
    slots, partners = torch.arange(count)[:, None, None], found.partner[:, None, None]
    assert torch.equal(label, torch.where(found.pasted, partners, slots))
    stacked = torch.stack((images.image, 1 - images.image), 1)
    assert torch.equal(found.mixed(stacked)[:, 1], 1 - found.image)


def test_everything_off_is_the_very_same_tensor() -> None:
    images = batch(range(3))
    for config in (NOTHING, replace(NOTHING, cutout_probability=1, cutout_holes=0)):
        found = strong_view(images, 4, 0, config)
        assert found.image is images.image
        assert not found.pasted.any()
        assert not found.hidden.any()
        assert torch.equal(found.mixed(images.label), images.label)


@pytest.mark.parametrize(
    ("slots", "partner"),
    [((0, 1, 2), [1, 2, 0]), ((6, 2, 9), [2, 0, 1]), ((1, 3), [1, 0]), ((5,), [0])],
)
def test_the_partner_has_the_next_slot(slots: tuple[int, ...], partner: list[int]) -> None:
    found = strong_view(batch(slots), 0, 0, REGIONS)
    assert found.partner.tolist() == partner
    assert found.partner.dtype == torch.int64
    assert bool(found.pasted.flatten(1).any(1).all()) == (len(slots) > 1)


def test_one_effect_off_leaves_the_others() -> None:
    images = batch(range(4))
    for t in range(5):
        full = strong_view(images, t, 0, StrongView(cutmix_probability=1, cutout_probability=1))
        assert torch.equal(strong_view(images, t, 0, REGIONS).pasted, full.pasted)
        assert torch.equal(strong_view(images, t, 0, REGIONS).hidden, full.hidden)
        assert torch.equal(strong_view(images, t, 0, replace(REGIONS, cutmix_probability=0)).hidden, full.hidden)
        only_colour = strong_view(images, t, 0, replace(NOTHING, colour=ColourAugmentation())).image
        assert torch.equal(only_colour, augment_colour(images.image, range(4), t, 0, ColourAugmentation()))


def test_another_slot_step_or_seed_draws_anew() -> None:
    """Each of the pictures is the same noise; each comes out in another look, with other regions."""
    image = noise(0, 0).expand(2, 3, *SIZE)
    config = StrongView(colour=None, operations=4, magnitude=0.8, cutmix_probability=1, cutout_probability=1)
    views = [strong_view(batch((0, 1), image), t, seed, config) for seed in (0, 1) for t in (0, 1)]
    for kind in ("pasted", "hidden"):
        assert len({tuple(mask.flatten().tolist()) for view in views for mask in getattr(view, kind)}) == 8
    looks = [strong_view(batch((0, 1), image), t, seed, replace(config, cutmix_probability=0, cutout_probability=0))
             for seed in (0, 1) for t in (0, 1)]  # fmt: skip
    assert len({round(float(x.sum()), 3) for look in looks for x in look.image}) == 8


def test_pasted_rectangles_have_the_areas_asked_for() -> None:
    config, size = StrongView(cutmix_probability=0.6, cutmix_area=(0.1, 0.4)), (100, 180)
    boxes = np.array([config.draw_pasted(np.random.default_rng(i), size) for i in range(2000)])
    top, bottom, left, right = boxes[boxes[:, 1] > 0].T
    assert abs(len(top) / 2000 - 0.6) < 0.04
    assert top.min() == left.min() == 0
    assert bottom.max() == 100
    assert right.max() == 180
    share = (bottom - top) * (right - left) / (100 * 180)
    assert 0.095 < share.min() < 0.12
    assert 0.38 < share.max() < 0.405
    assert np.abs((right - left) / (bottom - top) - 1.8).max() < 0.06
    whole = replace(config, cutmix_probability=1, cutmix_area=(1.0, 1.0))
    assert whole.draw_pasted(np.random.default_rng(0), size) == (0, 100, 0, 180)


def test_hidden_squares_have_the_side_asked_for() -> None:
    config = replace(REGIONS, cutmix_probability=0, cutout_holes=1, cutout_size=0.25)
    image = torch.rand(1, 3, *SIZE).clamp(max=0.49)
    heights, widths = set(), set()
    for t in range(200):
        found = strong_view(batch((0,), image), t, 0, config)
        rows, columns = found.hidden[0].any(1).sum(), found.hidden[0].any(0).sum()
        assert found.hidden[0].sum() == rows * columns
        assert torch.equal((found.image == MID_GREY).all(1), found.hidden)
        heights.add(int(rows))
        widths.add(int(columns))
    # Whole inside the crop, and down to a half over its edge.
    assert heights == widths == {3, 4, 5, 6}


def test_hiding_is_as_frequent_as_asked_for() -> None:
    config = StrongView(cutout_probability=0.3, cutout_holes=4)
    drawn = [config.draw_hidden(np.random.default_rng(i), SIZE) for i in range(1000)]
    assert {len(boxes) for boxes in drawn} == {4}
    assert abs(np.mean([boxes[0][1] > 0 for boxes in drawn]) - 0.3) < 0.05


@settings(max_examples=25)
@given(seed=SEEDS, t=SEEDS)
def test_a_constant_area_stays_constant(seed: int, t: int) -> None:
    """Away from the edge of an area by the reach of the blur (3) and of two sharpenings, a pixel is its area's."""
    image = torch.empty(2, 3, *SIZE)
    left, right = torch.rand(2, 2, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    image[..., :15], image[..., 15:] = left, right
    found = strong_view(batch((0, 1), image), t, seed, COLOURS).image
    for area in (found[..., :9], found[..., 21:]):
        torch.testing.assert_close(area, area[..., :1, :1].expand_as(area), rtol=0, atol=1e-5)


def test_no_pixel_decides_what_is_done() -> None:
    """Tensors without contents go through, so the host never waits to read one from the device."""
    images = batch(range(4), torch.empty(4, 3, *SIZE, device="meta"))
    for t in range(20):
        found = strong_view(images, t, 0, replace(StrongView(), colour=None))
        assert found.mixed(found.image).device.type == "meta"


def test_a_config_is_plain_values() -> None:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for config in (StrongView(), NOTHING):
        assert converter.structure(converter.unstructure(config), StrongView) == config


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"operations": -1}, "operations = -1"),
        ({"magnitude": 9.0}, "magnitude = 9.0"),
        ({"cutmix_probability": 1.5}, "cutmix_probability = 1.5"),
        ({"cutmix_area": (0.5, 0.1)}, "cutmix_area"),
        ({"cutmix_area": (0.0, 0.1)}, "cutmix_area"),
        ({"cutout_probability": -0.5}, "cutout_probability = -0.5"),
        ({"cutout_holes": -2}, "cutout_holes = -2"),
        ({"cutout_size": 0.0}, "cutout_size = 0.0"),
    ],
)
def test_wrong_values_are_errors(options: dict, found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        StrongView(**options)
