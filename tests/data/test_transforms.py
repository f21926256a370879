"""Geometry treats image and label alike, and stays inside its bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.data.transforms import (
    View,
    apply_to_image,
    apply_to_label,
    draw_geometry,
    resize_image,
    resize_label,
    to_float,
    working_size,
)
from segshift.errors import ConfigError
from segshift.types import IGNORE, Geometry

SIZES = st.tuples(st.integers(8, 40), st.integers(8, 40))
VIEWS = st.builds(
    lambda crop, low, more, flip: View(crop, (low, low + more), flip),
    st.none() | st.tuples(st.integers(1, 48), st.integers(1, 48)),
    st.floats(0.3, 1.5),
    st.floats(0, 1),
    st.booleans(),
)
SHORT_SIDES = st.none() | st.integers(16, 32)


def blocks(size: tuple[int, int], seed: int) -> Tensor:
    """(h, w) uint8: 0 and 1 in blocks of 4 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 2, (size[0] // 4 + 1, size[1] // 4 + 1), dtype=np.uint8)
    return torch.from_numpy(np.kron(coarse, np.ones((4, 4), np.uint8))[: size[0], : size[1]].copy())


@settings(max_examples=60)
@given(size=SIZES, view=VIEWS, short_side=SHORT_SIDES, seed=st.integers(0, 10**6))
def test_image_and_label_get_the_same_geometry(
    size: tuple[int, int], view: View, short_side: int | None, seed: int
) -> None:
    label = blocks(size, seed)
    painted = (label * 255).expand(3, -1, -1).contiguous()
    geometry = draw_geometry(size, view, short_side, np.random.default_rng(seed))
    image, cut = apply_to_image(painted, geometry), apply_to_label(label, geometry)
    assert image.shape == (3, *geometry.size)
    assert cut.shape == geometry.size
    assert (image.dtype, cut.dtype) == (torch.float32, torch.int64)
    # Where the image is not blended from two labels, it shows the label at that place.
    for colour in (0, 1):
        pure = (image[0] == colour) & (cut != IGNORE)
        assert (cut[pure] == colour).all()
    assert (image[:, cut == IGNORE] == 127 / 255).all()
    if geometry.resized == size:
        inside = cut != IGNORE
        assert torch.equal(image[0][inside], cut[inside].float())


@given(size=SIZES, view=VIEWS, short_side=SHORT_SIDES, seed=st.integers(0, 10**6))
def test_a_drawn_crop_lies_inside(size: tuple[int, int], view: View, short_side: int | None, seed: int) -> None:
    geometry = draw_geometry(size, view, short_side, np.random.default_rng(seed), slot=3)
    for corner, crop, resized in zip((geometry.top, geometry.left), geometry.size, geometry.resized):
        assert 0 <= corner <= max(resized - crop, 0)
    assert geometry.size == (view.crop or working_size(size, short_side))
    assert geometry.slot == 3
    assert view.flip or not geometry.flip
    assert geometry == draw_geometry(size, view, short_side, np.random.default_rng(seed), slot=3)


@given(size=SIZES, short_side=st.integers(16, 64))
def test_working_size_keeps_the_aspect(size: tuple[int, int], short_side: int) -> None:
    found = working_size(size, short_side)
    assert min(found) == short_side
    assert abs(found[0] / found[1] - size[0] / size[1]) <= size[0] / size[1] / short_side
    assert working_size(size, None) == size


@pytest.mark.parametrize("flip", [False, True])
def test_padding(flip: bool) -> None:
    geometry = Geometry((4, 4), 0, 0, (6, 5), flip)
    label = apply_to_label(torch.ones(4, 4, dtype=torch.uint8), geometry)
    expected = torch.full((6, 5), IGNORE)
    expected[:4, :4] = 1
    assert torch.equal(label, expected.flip(1) if flip else expected)
    image = apply_to_image(torch.full((3, 4, 4), 255, dtype=torch.uint8), geometry)
    assert torch.equal(image[0] == 1, label == 1)


def test_half_of_the_images_are_mirrored() -> None:
    drawn = [draw_geometry((8, 8), View(), None, np.random.default_rng(seed)).flip for seed in range(400)]
    assert 160 < sum(drawn) < 240


def test_resizing() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 5, (20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert resize_image(image, (20, 30)) is image
    assert resize_label(label, (20, 30)) is label
    # Every second pixel's centre is nearest.
    assert torch.equal(resize_label(label.repeat_interleave(2, 0).repeat_interleave(2, 1), (20, 30)), label)
    flat = torch.full((3, 20, 30), 77, dtype=torch.uint8)
    assert (resize_image(flat, (7, 11)) == 77).all()
    # Anti-aliasing: a pattern finer than a pixel becomes its mean.
    stripes = torch.zeros(3, 32, 32, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    small = resize_image(stripes, (8, 8)).float()[:, :, 1:-1]
    assert (small - 127.5).abs().max() < 4
    assert to_float(torch.tensor([[[[255]], [[0]], [[51]]]], dtype=torch.uint8)).flatten().tolist() == pytest.approx(
        [1, 0, 0.2]
    )


def test_a_label_of_another_size_is_brought_to_the_image() -> None:
    label = blocks((10, 12), 0)
    geometry = Geometry((20, 24), 3, 5, (9, 11), True)
    double = label.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(apply_to_label(label, geometry), double[3:12, 5:16].flip(1).long())


@pytest.mark.parametrize(
    ("options", "found"), [({"scale": (0, 1)}, "scale"), ({"scale": (1.2, 1)}, "scale"), ({"crop": (0, 8)}, "crop")]
)
def test_wrong_views_are_errors(options: dict, found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found} = .*expected"):
        View(**options)
