"""Sums of real numbers that have no order: the same bits however the terms are split over images and processes.

A float64 sum depends on the order of its terms. Here each term becomes a whole number and a fraction of 52 bits, both
int64, and integers are added. A term of magnitude 1 or more is kept exactly, a smaller one to 2^-53.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

FRACTION_BITS = 52
"""As many as a float64 of magnitude 1 or more can have: its fraction needs no rounding."""

_UNIT = 1 << FRACTION_BITS


class ExactSum:
    """The sum of finite float64 tensors of one shape; all terms together below 2^53 in magnitude.

    Each process may hold the sum of its own terms, up to 2^10 processes: `total` adds them.
    """

    def __init__(self, *shape: int) -> None:
        self._limbs = torch.zeros(2, *shape, dtype=torch.int64)
        """Whole numbers, and fractions in units of 2^-52: at least 0 and below 1."""

    def add(self, term: Float64[Tensor, "..."]) -> None:
        """One more term."""
        whole = term.floor()
        fraction = ((term - whole) * _UNIT).round()
        self._limbs = _carried(self._limbs + torch.stack((whole, fraction)).to(torch.int64).cpu())

    def total(self, merge: Callable[[Tensor], Tensor] | None = None) -> Float64[Tensor, "..."]:
        """The sum; `merge` sums an int64 tensor over processes (None: there is one)."""
        limbs = self._limbs if merge is None else _carried(merge(self._limbs).cpu())
        whole, fraction = limbs.double()
        return whole + fraction / _UNIT


def _carried(limbs: Tensor) -> Tensor:
    """The same numbers with fractions below 1."""
    whole, fraction = limbs
    return torch.stack((whole + (fraction >> FRACTION_BITS), fraction & (_UNIT - 1)))
