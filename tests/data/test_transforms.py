"""Geometry treats image and label alike, and stays inside its bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from segshift.data.resizing import cut_image, cut_label, resize_image, resize_label
from segshift.data.transforms import (
    View,
    draw_geometry,
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
WINDOWS = st.builds(
    lambda crop, low, more: View(crop, window=(low, low + more)),
    st.tuples(st.integers(1, 48), st.integers(1, 48)),
    st.integers(1, 48),
    st.integers(0, 24),
)


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
    image, cut = to_float(cut_image(painted, geometry)), cut_label(label, geometry).long()
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


@settings(max_examples=200)
@given(size=SIZES, view=WINDOWS, short_side=SHORT_SIDES, seed=st.integers(0, 10**6), mined=st.booleans())
def test_a_window_is_one_that_the_image_can_hold(
    size: tuple[int, int], view: View, short_side: int | None, seed: int, mined: bool
) -> None:
    assert view.crop is not None and view.window is not None
    centre = (0.9, 0.2) if mined else None
    geometry = draw_geometry(size, view, short_side, np.random.default_rng(seed), centre=centre)
    assert geometry.size == view.crop
    (high, wide), (low, most) = working_size(size, short_side), view.window
    largest = min(high, wide * view.crop[0] / view.crop[1])
    # The crop lies wholly inside the scaled image: nothing is padded.
    for corner, crop, resized in zip((geometry.top, geometry.left), geometry.size, geometry.resized):
        assert 0 <= corner <= resized - crop
    # A window of height v becomes the crop where the image's height becomes crop / v of it, to the next pixel.
    scaled = [view.crop[0] * high / min(bound, largest) for bound in (most, low)]
    assert scaled[0] - 0.501 <= geometry.resized[0] <= scaled[1] + 0.501
    assert abs(geometry.resized[0] / high - geometry.resized[1] / wide) <= 0.5 / high + 0.5 / wide
    if low == most or largest <= low:
        again = draw_geometry(size, view, short_side, np.random.default_rng(seed + 1), centre=centre)
        assert again.resized == geometry.resized


def test_windows_are_drawn_evenly_as_published() -> None:
    """IAST, §5.1: height 341 to 950, aspect 2, resized to 1024 x 512; GTA5's images are 1052 x 1914."""
    view = View((512, 1024), window=(341, 950))
    drawn = [draw_geometry((1052, 1914), view, None, np.random.default_rng(seed)) for seed in range(2000)]
    heights = np.array([512 * 1052 / g.resized[0] for g in drawn])
    assert 340 < heights.min() < 345 and 945 < heights.max() < 951
    assert np.abs(np.quantile(heights, [0.25, 0.5, 0.75]) - [493, 645.5, 798]).max() < 20
    assert {g.size for g in drawn} == {(512, 1024)}
    left = np.array([g.left / (g.resized[1] - 1024) for g in drawn])
    assert abs(left.mean() - 0.5) < 0.03 and left.min() < 0.01 and left.max() > 0.99


def test_a_window_that_the_image_cannot_hold_is_drawn_no_larger_than_fits() -> None:
    wide = [
        draw_geometry((100, 120), View((10, 20), window=(50, 90)), None, np.random.default_rng(s)) for s in range(99)
    ]
    heights = [10 * 100 / g.resized[0] for g in wide]  # at most 60 high: twice that is the width
    assert max(heights) <= 60.5 and min(heights) < 52 and len(set(heights)) > 2
    # Nothing of the range fits: the largest window is the whole width.
    assert draw_geometry((100, 120), View((10, 20), window=(80, 90)), None, np.random.default_rng(0)).resized[1] == 20


def test_a_window_is_the_resized_cut() -> None:
    """A flat quarter of an image, drawn by mining's centre: the crop holds nothing else."""
    image = torch.zeros(3, 80, 160, dtype=torch.uint8)
    image[:, :40, :80] = 255
    view = View((20, 40), flip=False, window=(40, 40))
    geometry = draw_geometry((80, 160), view, None, np.random.default_rng(0), centre=(0.25, 0.25))
    assert (geometry.resized, geometry.top, geometry.left) == ((40, 80), 0, 0)
    assert (to_float(cut_image(image, geometry))[:, :-1, :-1] > 0.95).all()
    assert (cut_label(image[0] // 255, geometry) == 1).all()


@given(size=SIZES, view=VIEWS, short_side=SHORT_SIDES, seed=st.integers(0, 10**6))
def test_without_a_window_the_random_stream_is_as_it_was(
    size: tuple[int, int], view: View, short_side: int | None, seed: int
) -> None:
    """Scale, top, left, flip, in this order, and nothing after them."""
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    geometry = draw_geometry(size, view, short_side, rng)
    high, wide = working_size(size, short_side)
    factor = again.uniform(*view.scale)
    resized = max(1, round(high * factor)), max(1, round(wide * factor))
    crop = view.crop or (high, wide)
    top, left = (int(again.integers(0, max(resized[axis] - crop[axis], 0) + 1)) for axis in (0, 1))
    mirrored = bool(again.random() < 0.5) and view.flip
    assert geometry == Geometry(resized, top, left, crop, mirrored, 0)
    assert rng.random() == again.random()


@given(size=SIZES, short_side=st.integers(16, 64))
def test_working_size_keeps_the_aspect(size: tuple[int, int], short_side: int) -> None:
    found = working_size(size, short_side)
    assert min(found) == short_side
    assert abs(found[0] / found[1] - size[0] / size[1]) <= size[0] / size[1] / short_side
    assert working_size(size, None) == size


@pytest.mark.parametrize("flip", [False, True])
def test_padding(flip: bool) -> None:
    geometry = Geometry((4, 4), 0, 0, (6, 5), flip)
    label = cut_label(torch.ones(4, 4, dtype=torch.uint8), geometry)
    expected = torch.full((6, 5), IGNORE)
    expected[:4, :4] = 1
    assert torch.equal(label, expected.flip(1) if flip else expected)
    image = to_float(cut_image(torch.full((3, 4, 4), 255, dtype=torch.uint8), geometry))
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


LINES = st.integers(1, 70)


@settings(max_examples=60)
@given(
    before=st.tuples(LINES, LINES), after=st.tuples(LINES, LINES.filter(lambda n: n > 1)), seed=st.integers(0, 10**6)
)
def test_resizing_gives_the_bits_of_torchvision(before: tuple[int, int], after: tuple[int, int], seed: int) -> None:
    image = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *before), dtype=np.uint8))
    expected = reference.resize(image, list(after), antialias=True)
    found = resize_image(image, after)
    assert torch.equal(found, expected) and found.stride() == expected.stride()
    nearest = reference.resize(image[:1], list(after), interpolation=InterpolationMode.NEAREST_EXACT)[0]
    assert torch.equal(resize_label(image[0], after), nearest)


def test_resizing_without_a_kernel_for_bytes_gives_the_bits_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors without AVX2: float32, rounded."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 61, 83), dtype=np.uint8))
    for size in ((30, 40), (90, 127), (61, 20)):
        assert torch.equal(resize_image(image, size), reference.resize(image, list(size), antialias=True))


def test_a_label_of_another_size_is_brought_to_the_image() -> None:
    label = blocks((10, 12), 0)
    geometry = Geometry((20, 24), 3, 5, (9, 11), True)
    double = label.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(cut_label(label, geometry), double[3:12, 5:16].flip(1))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"scale": (0, 1)}, "scale"),
        ({"scale": (1.2, 1)}, "scale"),
        ({"crop": (0, 8)}, "crop"),
        ({"crop": (8, 8), "window": (9, 8)}, "window"),
        ({"crop": (8, 8), "window": (0, 8)}, "window"),
        ({"window": (8, 9)}, "window = .*, crop"),
        ({"crop": (8, 8), "window": (8, 9), "scale": (0.5, 1)}, "window = .*, scale"),
    ],
)
def test_wrong_views_are_errors(options: dict, found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found} = .*expected"):
        View(**options)
