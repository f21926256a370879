"""Channel statistics against numpy, and what they must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from segshift.errors import DataError
from segshift.parts.style import EPSILON, channel_deviations, channel_means, gram_matrix, mean_squared_error

STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "means": channel_means,
    "deviations": channel_deviations,
    "gram": gram_matrix,
}
every = pytest.mark.parametrize("statistic", STATISTICS.values(), ids=STATISTICS)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
features = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-10, 10))).map(torch.from_numpy)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@settings(max_examples=50)
@given(features)
def test_the_statistics_are_their_formulas(x: Tensor) -> None:
    values = x.numpy()
    _, channels, height, width = values.shape
    for b, image in enumerate(values):
        flat = image.reshape(channels, -1)
        np.testing.assert_allclose(channel_means(x)[b], flat.mean(1), atol=1e-12)
        np.testing.assert_allclose(channel_deviations(x)[b], np.sqrt(flat.std(1) ** 2 + EPSILON), atol=1e-12)
        gram = [[(f * g).sum() / (channels * height * width) for g in flat] for f in flat]
        np.testing.assert_allclose(gram_matrix(x)[b], gram, atol=1e-12)


@every
@settings(max_examples=30)
@given(x=features, random=st.randoms(use_true_random=False))
def test_where_a_pixel_is_does_not_matter(statistic: Callable[[Tensor], Tensor], x: Tensor, random: Any) -> None:
    order = list(range(x.shape[2] * x.shape[3]))
    random.shuffle(order)
    moved = x.flatten(2)[:, :, order].view_as(x)
    torch.testing.assert_close(statistic(moved), statistic(x), rtol=1e-9, atol=1e-9)


@every
def test_how_large_an_image_is_does_not_matter(statistic: Callable[[Tensor], Tensor]) -> None:
    """Crops of both domains may differ in size."""
    x = drawn(2, 3, 4, 5)
    torch.testing.assert_close(statistic(x.repeat(1, 1, 3, 2)), statistic(x), rtol=1e-5, atol=1e-6)


@every
def test_a_constant_map_has_a_finite_gradient(statistic: Callable[[Tensor], Tensor]) -> None:
    """A channel that its ReLU never lets through; one pixel is such a map too."""
    for shape in ((2, 3, 4, 4), (1, 2, 1, 1)):
        x = torch.zeros(shape, requires_grad=True)
        statistic(x).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@every
def test_half_precision_counts_in_float32(statistic: Callable[[Tensor], Tensor]) -> None:
    half = drawn(2, 3, 40, 40).bfloat16()
    expected = statistic(half.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = [statistic(half), statistic(half.float())]
    for value in found:
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_the_error_is_the_sum_of_the_statistics_means() -> None:
    """(1 + 9) / 2 of one statistic, 4 of the other: by hand."""
    moved = (torch.tensor([[1.0], [5.0]]), torch.zeros(2, 3, 3))
    still = (torch.tensor([[2.0], [2.0]]), torch.full((2, 3, 3), 2.0))
    assert mean_squared_error(moved, still).item() == 9.0
    assert mean_squared_error(moved[:1], still[:1]).item() == 5.0


@settings(max_examples=30)
@given(features)
def test_equal_images_have_no_error(x: Tensor) -> None:
    style = tuple(statistic(x) for statistic in STATISTICS.values())
    assert mean_squared_error(style, style).item() == 0
    further = tuple(values + 1 for values in style)
    assert mean_squared_error(style, further).item() == pytest.approx(3)


def test_images_are_compared_in_pairs() -> None:
    with pytest.raises(DataError, match=r"styles of 2 and 3 images; expected as many of both domains"):
        mean_squared_error((torch.zeros(2, 4),), (torch.zeros(3, 4),))
