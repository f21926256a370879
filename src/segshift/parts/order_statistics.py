"""Exact order statistics of float32 values, per group, in memory that does not grow with their number.

The n-th largest value is found in two passes. Floats become integer keys in the same order; the first pass
counts keys by their high 16 bits and finds, for each group, the bin the answer lies in; the second counts
the low 16 bits of the keys in that bin. Counts are integers and merge by sums, so the answer is the same to
the bit however the values are split over images and processes. Memory: 2^16 counts of 8 bytes a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction

import torch
from jaxtyping import Float32, Int32, Int64, Integer
from torch import Tensor

from segshift.errors import ConfigError
from segshift.parts.threads import one_thread

BINS = 1 << 16

Part = tuple[Tensor, Tensor]
"""Some values, float32 (n,), and the group each belongs to, integer (n,)."""


def descending_keys(values: Float32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """Integers in the opposite order of the values: the largest value has the smallest key.

    -0.0 and 0.0 share a key. Every float but NaN is welcome, infinities and denormals included.
    """
    bits = (values + 0.0).view(torch.int32)  # -0.0 + 0.0 is 0.0
    # Negative floats grow in magnitude with their bits: flipping all but the sign makes the order one.
    return ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))


def values_of_keys(keys: Int32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """The inverse of `descending_keys`."""
    ordered = ~keys
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def high_bins(keys: Int32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """The high 16 bits of a key, as 0 .. 65535."""
    return (keys >> 16) + BINS // 2


def low_bins(keys: Int32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """The low 16 bits of a key."""
    return keys & (BINS - 1)


class KeyHistogram:
    """How many keys of each group fall into each of 2^16 bins; two histograms add up to that of all keys."""

    def __init__(self, groups: int) -> None:
        self.counts = torch.zeros(BINS, groups, dtype=torch.int64)

    def add(self, bins: Int32[Tensor, " n"], group: Integer[Tensor, " n"]) -> None:
        """Count bins 0 .. 65535 of groups 0 .. groups - 1."""
        if bins.numel() == 0:
            return
        groups = self.counts.shape[1]
        # One image fills a short run of bins: counting only that run keeps the work in the cache.
        first, last = (int(v) for v in bins.aminmax())
        part = torch.bincount((bins - first) * groups + group, minlength=(last - first + 1) * groups)
        self.counts[first : last + 1] += part.view(-1, groups).cpu()


def locate(counts: Int64[Tensor, "bins groups"], n: Int64[Tensor, " groups"]) -> tuple[Tensor, Tensor]:
    """The bin that holds each group's n-th key, and the key's rank within that bin (from 1).

    Where n = 0 the answer is bin 0 and rank 0.
    """
    filled = counts.any(1).nonzero()
    first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 1)
    upto = counts[first:last].cumsum(0)
    bins = (upto < n).sum(0, keepdim=True)
    rank = n - (upto.gather(0, bins) - counts[first:last].gather(0, bins))[0]
    return torch.where(n > 0, bins[0] + first, 0), torch.where(n > 0, rank, 0)


def nth_largest(
    read: Callable[[], Iterable[Part]],
    groups: int,
    rank: Callable[[Int64[Tensor, " groups"]], Int64[Tensor, " groups"]],
    merge: Callable[[Tensor], Tensor] | None = None,
    nothing: float = math.nan,
    again: Callable[[Float32[Tensor, " groups"], Float32[Tensor, " groups"]], Iterable[Part]] | None = None,
) -> Float32[Tensor, " groups"]:
    """The n-th largest value of each group, exactly, counting repeated values as often as they occur.

    read    called at most twice; each time it gives all values of this process, in parts of any size
            and in any order: (float32 (n,) without NaN, group numbers (n,)).
    again   called instead the second time, with the least and the largest value of each group that then counts (inf
            and inf where none does): what lies outside may be left out.
    rank    from the number of values of each group over all processes to n, 0 <= n <= that number.
    merge   sums an int64 tensor over processes; None on one process.
    nothing the answer for a group whose n is 0.
    Raises ConfigError where the second reading differs from the first.
    """
    merge = merge or (lambda partial: partial)
    high = KeyHistogram(groups)
    for values, group in read():
        _count_high(high, values, group)
    counts = merge(high.counts).cpu()
    n = rank(counts.sum(0))
    if not n.any():
        return torch.full((groups,), nothing)
    high_bin, rest = locate(counts, n)
    expected = torch.where(n > 0, counts.gather(0, high_bin[None])[0], 0)
    del high, counts  # no two histograms at a time

    wanted = torch.where(n > 0, high_bin, -1).int()
    low = KeyHistogram(groups)
    for values, group in read() if again is None else again(*_bounds(wanted)):
        _count_low(low, wanted, values, group)
    counts = merge(low.counts).cpu()
    if not torch.equal(counts.sum(0), expected):
        raise ConfigError(
            f"scan: its second reading gave {int(counts.sum())} of the {int(expected.sum())} values sought; "
            "expected the same predictions each time (a list or a Scan, not a generator)"
        )
    low_bin, _ = locate(counts, rest)
    keys = ((high_bin - BINS // 2) * BINS + low_bin).int()
    return torch.where(n > 0, values_of_keys(keys), nothing)


def _bounds(bins: Int32[Tensor, " groups"]) -> tuple[Tensor, Tensor]:
    """The least and the largest value that fall into each high bin; inf and inf for bin -1."""
    first = (bins - BINS // 2) * BINS
    # Beyond infinity a key stands for no number.
    least, largest = values_of_keys(first + (BINS - 1)), values_of_keys(first)
    least, largest = least.where(~least.isnan(), -torch.inf), largest.where(~largest.isnan(), torch.inf)
    return least.where(bins >= 0, torch.inf), largest.where(bins >= 0, torch.inf)


@one_thread()
def _count_high(histogram: KeyHistogram, values: Tensor, group: Tensor) -> None:
    histogram.add(high_bins(descending_keys(values)), group)


@one_thread()
def _count_low(histogram: KeyHistogram, wanted: Tensor, values: Tensor, group: Tensor) -> None:
    """Counts the low bits of those keys whose high bits are wanted of their group."""
    keys = descending_keys(values)
    inside = high_bins(keys) == wanted.to(keys.device).index_select(0, group.int())
    histogram.add(low_bins(keys[inside]), group[inside])


def portion_of(portion: float, counts: Int64[Tensor, " groups"]) -> Int64[Tensor, " groups"]:
    """n = floor(p·N) with p the decimal number one reads, exactly: .35 of 180 is 63.

    The product of two doubles falls below 63 there. At p = .2, .25, .3, .4 and .5 both agree.
    """
    exact = Fraction(repr(float(portion)))
    return torch.tensor([math.floor(exact * int(count)) for count in counts], dtype=torch.int64)
