"""Resized and cut in less time, to the same bits as torch's own functions give of the whole image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from segshift.data import resizing
from segshift.data.resizing import cut_image, cut_label, resize_image, resize_label
from segshift.types import IGNORE, Geometry

SIDES = st.integers(2, 90)  # of one pixel: torch itself fails at some
SIZES = st.tuples(SIDES, SIDES)


@st.composite
def geometries(draw: st.DrawFn, resized: tuple[int, int] | None = None) -> Geometry:
    """Crops within the resized image, and larger ones."""
    resized, size = resized or draw(SIZES), draw(SIZES)
    top, left = (draw(st.integers(0, max(a - b, 0))) for a, b in zip(resized, size))
    return Geometry(resized, top, left, size, draw(st.booleans()))


def image_of(size: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def whole(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def nearest(label: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(label[None, None], size, mode="nearest-exact")[0, 0]


def seen(resized: Tensor, geometry: Geometry, fill: int) -> Tensor:
    """A geometry's view of what was resized as a whole: laid upon a sheet of the crop's size."""
    (height, width), top, left = geometry.size, geometry.top, geometry.left
    cut = resized[..., top : top + height, left : left + width]
    sheet = torch.full((*resized.shape[:-2], height, width), fill, dtype=torch.uint8)
    sheet[..., : cut.shape[-2], : cut.shape[-1]] = cut
    return sheet.flip(-1) if geometry.flip else sheet


@given(SIZES, SIZES)
@example((8, 8), (5, 1))
@example((1, 40), (30, 30))
def test_an_image_is_resized_as_torch_does(size: tuple[int, int], to: tuple[int, int]) -> None:
    image = image_of(size)
    found = resize_image(image, to)
    assert torch.equal(found, whole(image, to))
    assert found.is_contiguous()


@given(SIZES, geometries())
@example((64, 128), Geometry((32, 64), 0, 0, (32, 64), False))
@example((8, 8), Geometry((20, 20), 19, 19, (4, 4), True))
def test_a_cut_image_is_cut_from_the_whole_one(size: tuple[int, int], geometry: Geometry) -> None:
    """Also where it is a part of another one in memory."""
    image = image_of((size[0] + 3, size[1] + 5))[:, 2 : 2 + size[0], 4 : 4 + size[1]]
    assert torch.equal(cut_image(image, geometry), seen(whole(image, geometry.resized), geometry, 127))


@given(SIZES, geometries())
def test_a_cut_label_likewise(size: tuple[int, int], geometry: Geometry) -> None:
    label = image_of(size)[0]
    assert torch.equal(resize_label(label, geometry.resized), nearest(label, geometry.resized))
    assert torch.equal(cut_label(label, geometry), seen(nearest(label, geometry.resized), geometry, IGNORE))


@given(st.data())
def test_what_is_not_resized_keeps_its_pixels(data: st.DataObject) -> None:
    geometry = data.draw(geometries())
    image = image_of(geometry.resized)
    assert torch.equal(cut_image(image, geometry), seen(image, geometry, 127))
    assert torch.equal(cut_label(image[0], geometry), seen(image[0], geometry, IGNORE))
    assert resize_image(image, geometry.resized) is image


@given(st.integers(1000, 5000), st.integers(300, 6000))
def test_long_sides_are_rounded_alike(length: int, to: int) -> None:
    """A rounding that went another way would show at sides as long as those of photographs."""
    label = torch.arange(length).remainder(251).to(torch.uint8).expand(2, length)
    image, geometry = label.expand(3, 2, length).contiguous(), Geometry((3, to), 0, to // 3, (3, to // 2), False)
    assert torch.equal(cut_label(label, geometry), seen(nearest(label, (3, to)), geometry, IGNORE))
    assert torch.equal(cut_image(image, geometry), seen(whole(image, (3, to)), geometry, 127))


def test_without_a_kernel_for_bytes_images_are_rounded_from_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision has it on processors for which torch has no such kernel: the two may differ by 1."""
    monkeypatch.setattr(resizing, "_resizes_bytes", lambda: False)
    image, geometry = image_of((40, 70)), Geometry((23, 51), 3, 5, (17, 20), True)
    exact = F.interpolate(image[None].float(), (23, 51), mode="bilinear", antialias=True)[0].round().to(torch.uint8)
    assert torch.equal(resize_image(image, (23, 51)), exact)
    assert torch.equal(cut_image(image, geometry), seen(exact, geometry, 127))
