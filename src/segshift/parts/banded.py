"""Sums over pixels of functions of each pixel's upsampled class scores, without the upsampled scores.

A segmentation network scores at stride 4 or 8, and its losses are sums over the pixels of the image: 16 or 64 times as
many numbers, several times over (scores, log-softmax, and the gradients of both). Here the image is taken a band of
rows at a time: the band is upsampled, its sums are taken, and their gradients go back to the low resolution at once.
Beside one band, memory holds the low-resolution gradient of each sum.

Upsampling is two products with sparse matrices, written densely: the very interpolation of `models.segmenter.upsample`
but for rounding, and its gradient is two products with their transposes, which add up in the same order each time (the
gradient of torch's own is a race of additions on a GPU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Term = Callable[[Tensor, slice], Tensor]
"""Scores (b, k, rows, w) of some rows of the image, and which rows these are -> a sum over their pixels.

What it looks at besides (labels, another network's probabilities) is a constant, cut to the rows by itself. Over all
rows at once it gives the sum that over bands it gives in parts."""

CACHE_BYTES, DEVICE_BYTES = 3 << 20, 256 << 20
"""Of a band's scores: on a processor, about what a core's cache holds; on a GPU, what keeps all of it at work."""


def banded_sums(
    scores: Float[Tensor, "b k h w"],
    size: tuple[int, int],
    align_corners: bool,
    terms: Sequence[Term],
    band_bytes: int | None = None,
) -> tuple[Float[Tensor, ""], ...]:
    """Each term's sum over the pixels of `scores` brought bilinearly to `size` (height, width).

    Computed in float32 or better whatever the scores are, also under autocast; the gradient has the scores' type. It
    is computed with the sums, once, and cannot be differentiated again. `band_bytes`: of a band's
    scores, at most, but for at least one row of pixels; None: what suits the device.
    """
    if band_bytes is None:
        band_bytes = CACHE_BYTES if scores.device.type == "cpu" else DEVICE_BYTES
    return _BandedSums.apply(scores, size, align_corners, tuple(terms), band_bytes)  # pyright: ignore[reportReturnType]


class _BandedSums(torch.autograd.Function):
    """Forward computes the sums and, where anybody will ask, the gradient of each; backward adds these up."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, size: tuple[int, int], align_corners: bool, terms: tuple[Term, ...], band_bytes: int
    ) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(scores.dtype, torch.float32)
        low = scores.detach().to(dtype).contiguous()
        wanted = ctx.needs_input_grad[0]
        # In double precision, as the bands' sums are many. None of these is kept: it would break up the memory that the
        # next band could have.
        exact = dtype if scores.device.type == "mps" else torch.float64  # which has none
        sums = low.new_zeros(len(terms), dtype=exact)
        gradients = low.new_zeros((len(terms) if wanted else 0, *low.shape))
        with torch.autocast(scores.device.type, enabled=False):
            for band in _bands(low, size, align_corners, band_bytes):
                full = band.upsampled(low)
                for number, term in enumerate(terms):
                    value, slope = _value_and_slope(term, full, band.rows, wanted)
                    sums[number] += value
                    if slope is not None:
                        gradients[number, :, :, band.cells] += band.transposed(slope)
        ctx.save_for_backward(gradients)
        ctx.dtype = scores.dtype
        return tuple(total.clone() for total in sums.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        total = torch.zeros_like(gradients[0])
        for factor, gradient in zip(upstream, gradients, strict=True):
            total.addcmul_(gradient, factor)
        return total.to(ctx.dtype), None, None, None, None


def _value_and_slope(term: Term, full: Tensor, rows: slice, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """A term of one band, and its gradient with respect to the band's scores."""
    if not wanted:
        return term(full, rows), None
    leaf = full.detach().requires_grad_()
    with torch.enable_grad():
        value = term(leaf, rows)
        (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


# --- upsampling ------------------------------------------------------------------------------------------------------


class _Band(NamedTuple):
    """Rows of the image, the rows of the scores that they lie between, and the shares of these."""

    rows: slice
    cells: slice
    down: Float[Tensor, "rows cells"]
    across: Float[Tensor, "width w"]

    def upsampled(self, low: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k rows width"]:
        return torch.matmul(self.down, torch.matmul(low[:, :, self.cells], self.across.T))

    def transposed(self, slope: Float[Tensor, "b k rows width"]) -> Float[Tensor, "b k cells w"]:
        """A gradient with respect to the band, as one with respect to the scores' rows."""
        return torch.matmul(torch.matmul(self.down.T, slope), self.across)


def _bands(low: Tensor, size: tuple[int, int], align_corners: bool, band_bytes: int) -> list[_Band]:
    """Bands of as many rows as `band_bytes` of scores allow, from the top."""
    height, width = size
    images, classes, rows, columns = low.shape
    across = _shares(columns, width, align_corners, low.dtype, low.device)
    down = _shares(rows, height, align_corners, low.dtype, low.device)
    first = _neighbours(rows, height, align_corners)[0].tolist()
    step = max(1, band_bytes // max(1, images * classes * width * low.element_size()))
    bands = []
    for top, end in pairwise([*range(0, height, step), height]):
        # A row lies between its first neighbour and the next one, unless that is the last row of all.
        cells = slice(first[top], min(first[end - 1] + 2, rows))
        bands.append(_Band(slice(top, end), cells, down[top:end, cells], across))
    return bands


@lru_cache(maxsize=16)
def _shares(
    old: int, new: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "new old"]:
    """How much each of `old` cells on a line counts for each of `new` pixels on it. A row sums to 1."""
    before, share = _neighbours(old, new, align_corners)
    shares = torch.zeros(new, old, dtype=torch.float64)
    shares.scatter_add_(1, before[:, None], 1 - share[:, None])
    shares.scatter_add_(1, (before + 1).clamp_max(old - 1)[:, None], share[:, None])
    return shares.to(device, dtype)


def _neighbours(old: int, new: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """For each of `new` pixels on a line of `old` cells: the cell before it, and the share of the one after."""
    pixels = torch.arange(new, dtype=torch.float64)
    at = pixels * ((old - 1) / max(new - 1, 1)) if align_corners else ((pixels + 0.5) * (old / new) - 0.5).clamp_min(0)
    # Rounding may put the last pixel a hair before or behind the last cell.
    before = at.floor().clamp_max(old - 1)
    return before.long(), at - before
