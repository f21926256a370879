"""The instance-adaptive selector of IAST: thresholds that move on from image to image, and what they keep.

Mei, Zhu, Zou, Zhang: Instance Adaptive Self-Training for Unsupervised Domain Adaptation, ECCV 2020. Algorithm 1 and
Eq. 5 to 7.

How Eq. 7 is read: with n = floor(alpha θ^gamma N), P[n] counted from 0 in descending order, so that exactly n of a
class's N pixels lie above it, unless they are tied. alpha is the decimal number one reads, as CBST's portion is. At
n = N, where there is no such entry, it is the last. A class that an image does not show keeps its threshold. Thresholds
are float64, confidences float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from segshift.errors import ConfigError
from segshift.parts.confidence import Confidence, confidences
from segshift.types import IGNORE, Prediction, Predictions, Scan

Variant = Literal["paper", "released"]
"""paper: Eq. 7. released: a percentile between two confidences, in float16 and with θ_{t-1} among them."""

RELEASED_CAP = 0.999
"""What the release puts in place of a threshold of 1 or more."""


def proportion(alpha: float, theta: float, gamma: float) -> Fraction:
    """alpha θ^gamma of Eq. 7: the share of a class that its local threshold keeps, less of a hard one (HWD). Exact."""
    return Fraction(repr(float(alpha))) * Fraction(theta**gamma)


def local_threshold(descending: Float[Tensor, " n"], count: int, share: Fraction) -> float:
    """Ψ of Eq. 7: the floor(share·N)-th of a class's N sorted confidences, from 0; the last where there are fewer.

    `descending`: at least the floor(share·N) + 1 largest of the N = `count`, or all.
    """
    return float(descending[min(math.floor(share * count), len(descending) - 1)])


def released_threshold(descending: Float[Tensor, " n"], count: int, share: Fraction, previous: float) -> float:
    """Ψ as released: the percentile 100 (1 - share) of θ_{t-1} and the N confidences in float16, interpolated.

    `descending`: at least the floor(share·N) + 2 largest of the N = `count` confidences, or all; N may be 0.
    """

    def joined(i: int) -> float:
        """The i-th of all N + 1: θ_{t-1} stands where it lies between its neighbours."""
        before = descending[i - 1].half().item() if i > 0 else math.inf
        after = descending[i].half().item() if i < len(descending) else -math.inf
        return sorted((before, previous, after))[1]

    position = share * count  # N + 1 values are N steps apart
    at = math.floor(position)
    weight = float(position - at)
    return (1 - weight) * joined(at) + weight * joined(at + 1) if weight else joined(at)


def moving_average(previous: Float64[Tensor, " k"], local: Float64[Tensor, " k"], beta: float) -> Float64[Tensor, " k"]:
    """Eq. 6: θ_t = β θ_{t-1} + (1 - β) Ψ."""
    return beta * previous + (1 - beta) * local


def labels_above(image: Confidence, thresholds: Float[Tensor, " k"], inclusive: bool = False) -> UInt8[Tensor, "h w"]:
    """Eq. 5: argmax_c p_c where p_c > θ_c, IGNORE elsewhere; `inclusive`: >= , which is how CBST's thresholds count.

    IGNORE stays IGNORE.
    """
    table = torch.full((IGNORE + 1,), math.inf, dtype=torch.float64, device=image.label.device)
    table[: len(thresholds)] = thresholds
    theta = table.index_select(0, image.label.flatten().int()).view(image.label.shape)
    kept = image.confidence >= theta if inclusive else image.confidence > theta
    return image.label.where(kept, IGNORE)


class Ranked(NamedTuple):
    """What the thresholds need of an image, or of several together: made ahead, without knowing θ_{t-1}."""

    top: tuple[Float[Tensor, " _"], ...]
    """The largest confidences of each class, in descending order: as many as may be asked for."""
    pixels: tuple[int, ...]
    """All pixels of each class."""


def ranked(images: Sequence[Confidence], num_classes: int, alpha: float) -> Ranked:
    """The ceil(alpha N) + 2 largest confidences of each class, sorted: with θ <= 1, Eq. 7 never reaches below."""
    if images[0].confidence.device.type != "cpu":
        return ranked_by_sorting(images, num_classes, alpha)
    confidence = np.concatenate([image.confidence.cpu().numpy().ravel() for image in images])
    label = np.concatenate([image.label.cpu().numpy().ravel() for image in images])
    top, counts = [], []
    for c in range(num_classes):
        values = confidence[label == c]
        count, wanted = len(values), math.ceil(alpha * len(values)) + 2
        if wanted < count:
            values = np.partition(values, count - wanted)[count - wanted :]
        top.append(torch.from_numpy(np.sort(values)[::-1].copy()))
        counts.append(count)
    return Ranked(tuple(top), tuple(counts))


def ranked_by_sorting(images: Sequence[Confidence], num_classes: int, alpha: float) -> Ranked:
    """`ranked`, the same numbers, by two sorts of all pixels: what a GPU does faster than a copy to the processor."""
    descending, order = torch.cat([image.confidence.flatten() for image in images]).sort(descending=True)
    label = torch.cat([image.label.flatten() for image in images])
    _, by_class = label[order].sort(stable=True)
    values, top, start = descending[by_class], [], 0
    counts = torch.bincount(label.int(), minlength=num_classes)[:num_classes].tolist()
    for count in counts:
        top.append(values[start : start + min(count, math.ceil(alpha * count) + 2)].cpu())
        start += count
    return Ranked(tuple(top), tuple(counts))


class InstanceAdaptiveSelector:
    """Algorithm 1: thresholds θ_t, moved by each image (or unit of images) before its own labels are chosen.

    alpha   share of a class's pixels that the threshold of an image by itself keeps, at θ = 1.
    beta    how much of θ_{t-1} stays (Eq. 6); 1: the thresholds never move.
    gamma   how much harder it is for classes with low thresholds (HWD, Eq. 7); 0: not at all.
    initial θ_0 of every class.
    Raises ConfigError where one is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.2,
        beta: float = 0.9,
        gamma: float = 8.0,
        initial: float = 0.9,
        variant: Variant = "paper",
    ) -> None:
        check_selector(alpha, beta, gamma, initial, variant)
        if num_classes < 1:
            raise ConfigError(f"num_classes = {num_classes}; expected at least 1")
        self.num_classes, self.variant = num_classes, variant
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.thresholds: Float64[Tensor, " k"] = torch.full((num_classes,), float(initial), dtype=torch.float64)

    def select(self, prob: Float[Tensor, "k h w"]) -> Int64[Tensor, "h w"]:
        """Move the thresholds by an image, then its labels: Eq. 5, IGNORE elsewhere.

        Raises DataError where a probability is NaN, ConfigError where there are more classes than thresholds.
        """
        return self.select_unit([prob])[0]

    def select_unit(self, probs: Sequence[Float[Tensor, "k h w"]]) -> list[Int64[Tensor, "h w"]]:
        """`select` for several images that share one move of the thresholds, as batches do in the release."""
        named = (Prediction(f"image {number} of the selected", prob) for number, prob in enumerate(probs, start=1))
        images = list(confidences(named, self.num_classes))
        self.update(self.rank(images))
        return [labels_above(image, self.thresholds).long() for image in images]

    def rank(self, images: Sequence[Confidence]) -> Ranked:
        """What `update` needs of a unit of images."""
        return ranked(images, self.num_classes, self.alpha)

    def update(self, unit: Ranked) -> None:
        """θ_{t-1} to θ_t: Eq. 7, then Eq. 6."""
        local = [self._local(*entry) for entry in zip(unit.top, unit.pixels, self.thresholds.tolist(), strict=True)]
        theta = moving_average(self.thresholds, torch.tensor(local, dtype=torch.float64), self.beta)
        self.thresholds = theta if self.variant == "paper" else theta.where(theta < 1, RELEASED_CAP)

    def _local(self, descending: Tensor, count: int, previous: float) -> float:
        share = proportion(self.alpha, previous, self.gamma)
        if self.variant == "released":
            return released_threshold(descending, count, share, previous)
        return local_threshold(descending, count, share) if count else previous


def check_selector(alpha: float, beta: float, gamma: float, initial: float, variant: str) -> None:
    """Raise ConfigError where a parameter of Algorithm 1 is out of its range."""
    if not 0 < alpha <= 1:
        raise ConfigError(f"alpha = {alpha}; expected a share above 0, at most 1 (the paper: 0.2)")
    if not 0 <= beta <= 1 or not 0 <= gamma < math.inf or not 0 < initial <= 1:
        raise ConfigError(
            f"beta = {beta}, gamma = {gamma}, initial = {initial}; expected 0 <= beta <= 1, gamma >= 0 and "
            "0 < initial <= 1 (the paper: 0.9, 8, 0.9)"
        )
    if variant not in get_args(Variant):
        raise ConfigError(f"variant = {variant!r}; expected paper or released")


# --- over a data set -----------------------------------------------------------------------------------------------


class Selected(NamedTuple):
    """An image's pseudo-label, and what its pixels were predicted as."""

    name: str
    label: UInt8[Tensor, "h w"]
    """A class, or IGNORE."""
    predicted: UInt8[Tensor, "h w"]


Order = Callable[[int], Sequence[int]]
"""From the number of images to their order: indices into the sorted names."""


@runtime_checkable
class SharedScan(Protocol):
    """A scan whose images several processes share, and can share otherwise."""

    rank: int
    world: int

    @property
    def total(self) -> int:
        """Images of all processes."""
        ...

    def reordered(self, order: Sequence[int], unit: int = 1) -> Scan:
        """The units rank, rank + world, ... of an order, `unit` images each."""
        ...

    def merge(self, partial: Tensor) -> Tensor:
        """The sum over processes."""
        ...


class _Listed:
    """Predictions that one process holds."""

    rank, world = 0, 1

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self._images = sorted(predictions, key=lambda prediction: prediction.name)
        self.total = len(self._images)

    def reordered(self, order: Sequence[int], unit: int = 1) -> list[Prediction]:
        del unit  # all of them are here
        return [self._images[i] for i in order]

    def merge(self, partial: Tensor) -> Tensor:
        return partial


def select_all(
    scan: Predictions, selector: InstanceAdaptiveSelector, unit: int = 1, order: Order = range
) -> Iterator[Selected]:
    """Algorithm 1 over a data set: this process's images, each by thresholds that all images before it have moved.

    Of every `world` units, each process sorts the confidences of one at the same time; then the thresholds go
    through their hands in order, k numbers a unit; then each writes its labels. So they are the same to the bit on
    any number of processes, and every process merges once for each unit of the whole data set. Predictions that are
    no `SharedScan` are all taken to be here, and are sorted by name.
    """
    shared = scan if isinstance(scan, SharedScan) else _Listed(scan)
    mine = confidences(shared.reordered(order(shared.total), unit), selector.num_classes)
    units = math.ceil(shared.total / unit)
    for first in range(0, units, shared.world):
        at_hand = list(islice(mine, unit))
        ready = selector.rank(at_hand) if at_hand else None
        own = selector.thresholds
        for turn in range(min(shared.world, units - first)):
            given = torch.zeros_like(own)
            if turn == shared.rank and ready is not None:
                selector.update(ready)
                given = own = selector.thresholds
            # A sum with zeros is exact: all go on with the thresholds of the one whose turn it is.
            selector.thresholds = shared.merge(given)
        for image in at_hand:
            yield Selected(image.name, labels_above(image, own), image.label)
