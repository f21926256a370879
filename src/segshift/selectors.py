"""The pseudo-label selectors of the papers as functions of one knob each, brought to equal coverage.

How much a selector labels and how well are two things: one that labels less is right more often. So each is run with
the knob that makes it label a given share of all pixels of the target (its coverage), which takes no truth to find.
How right those labels are is then counted against withheld truth: an oracle diagnosis, by which nothing is chosen.
The selectors are those of `methods/`, none is written again here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from segshift.kept_predictions import Kept, Truth
from segshift.label_quality import Quality, pixel_counts
from segshift.methods import category_adaptive as adaptive
from segshift.methods.cbst import class_thresholds, global_threshold, pseudo_labels
from segshift.methods.iast_selector import InstanceAdaptiveSelector, labels_above, select_all
from segshift.parts.confidence import confidences
from segshift.parts.order_statistics import Part, nth_largest, portion_of
from segshift.taxonomy import LabelSpace
from segshift.types import IGNORE

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares of all pixels that are labelled where selectors are compared."""
TOLERANCE = 0.002
"""How far from a level a selector's coverage may be."""
PASSES = 10
"""Over the target, at most, while a knob is sought."""
LEAST = 1e-4
"""The smallest share that is tried where 0 is none."""

_TIED = "pixels that are equal are labelled together"
TIED = _TIED, _TIED

Label = UInt8[Tensor, "h w"]


class Selector(Protocol):
    """A way to choose pseudo-labels, over the predictions it was made for."""

    name: str
    knob: str
    """What is turned to label more or less."""

    @property
    def limits(self) -> tuple[str, str]:
        """Why it may not label less, and why not more."""
        ...

    def match(self, levels: Sequence[float]) -> list[float]:
        """The knob whose coverage is nearest to each level. Sees no truth."""
        ...

    def labels(self, knobs: Sequence[float]) -> Iterator[list[Label]]:
        """Of each image in name order: its labels at each knob. Several knobs share a pass over the predictions."""
        ...

    def published(self) -> Mapping[str, float]:
        """The settings of the papers: how they are called, and the knob."""
        ...


def selectors(kept: Kept) -> tuple[Selector, ...]:
    """Those of all papers, in the order of a table."""
    return (
        Constant(kept),
        ClassBalanced(kept),
        InstanceAdaptive(kept),
        Bidirectional(kept),
        CategoryAdaptive(kept, "category-adaptive"),
        CategoryAdaptive(kept, "category-adaptive, mean", weighting="mean"),
        CategoryAdaptive(kept, "category-adaptive, per image", scope="image"),
    )


# --- the knob of a coverage ----------------------------------------------------------------------------------------


def coverages(images: Iterator[Sequence[Label]]) -> list[float]:
    """The share of all pixels that each of several selections labels."""
    labelled, pixels = None, 0
    for labels in images:
        counts = torch.tensor([int((label != IGNORE).sum()) for label in labels])
        labelled = counts if labelled is None else labelled + counts
        pixels += labels[0].numel()
    assert labelled is not None, "there is at least one image"
    return (labelled.double() / pixels).tolist()


def search(coverages_at: Callable[[list[float]], list[float]], levels: Sequence[float]) -> list[float]:
    """The knob in [LEAST, 1] whose coverage is nearest to each level, where coverage grows with the knob.

    `coverages_at` tells the coverages of several knobs in one pass over the data, and every pass tries a knob for each
    level that is further than TOLERANCE from all tried: first the level itself, then by interpolation between its
    neighbours, in the middle in every third pass. What was tried for one level serves all.
    """
    found: dict[float, float] = {}
    wanted = sorted({LEAST, *levels, 1.0})
    for number in range(PASSES):
        found |= zip(wanted, coverages_at(wanted), strict=True)
        tries = {_between(found, level, halve=number % 3 == 2) for level in levels if not _near(found, level)}
        wanted = sorted(knob for knob in tries if knob is not None and knob not in found)
        if not wanted:
            break
    return [min(found, key=lambda knob: abs(found[knob] - level)) for level in levels]


def _near(found: Mapping[float, float], level: float) -> bool:
    return any(abs(coverage - level) <= TOLERANCE for coverage in found.values())


def _between(found: Mapping[float, float], level: float, halve: bool) -> float | None:
    """A knob between the two neighbours whose coverages enclose the level; None where none do."""
    knobs = sorted(found)
    for below, above in pairwise(knobs):
        if found[below] < level < found[above]:
            share = (level - found[below]) / (found[above] - found[below])
            return below + (above - below) * (0.5 if halve else min(max(share, 0.05), 0.95))
    return None


def _above(kept: Kept, thresholds: Sequence[Tensor]) -> Iterator[list[Label]]:
    """Of each image the pixels that reach the threshold of their class, for several (k,) of thresholds."""
    for image in confidences(kept, kept.num_classes):
        yield [labels_above(image, theta, inclusive=True) for theta in thresholds]


# --- the selectors -------------------------------------------------------------------------------------------------


class Constant:
    """One threshold for all classes: a constant, or that of self-training (ST: CBST paper, Eq. 5, Algorithm 1)."""

    name, knob, limits = "constant", "threshold", TIED

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def match(self, levels: Sequence[float]) -> list[float]:
        """Exactly: the threshold of a coverage is an order statistic."""
        return [global_threshold(self._kept, level) for level in levels]

    def labels(self, knobs: Sequence[float]) -> Iterator[list[Label]]:
        return _above(self._kept, [torch.full((self._kept.num_classes,), knob).double() for knob in knobs])

    def published(self) -> dict[str, float]:
        return {".9 (IAST, Fig. 4a)": 0.9, "portion .2 (ST)": global_threshold(self._kept, 0.2)}


class ClassBalanced:
    """CBST: a threshold a class (Algorithm 2) and Eq. 8, by which a pixel may get another than its likeliest class."""

    name, knob = "CBST", "portion"
    limits = TIED[0], "some pixels fall short of all thresholds"

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def match(self, levels: Sequence[float]) -> list[float]:
        return search(lambda knobs: coverages(self.labels(knobs)), levels)

    def labels(self, knobs: Sequence[float]) -> Iterator[list[Label]]:
        thresholds = [class_thresholds(self._kept, knob, self._kept.num_classes) for knob in knobs]
        for prediction in self._kept:
            yield [pseudo_labels(prediction.prob, theta).to(torch.uint8) for theta in thresholds]

    def published(self) -> dict[str, float]:
        return {"portion .2": 0.2}


class InstanceAdaptive:
    """IAST: thresholds that move from image to image (Algorithm 1), with beta .9, gamma 8 and thresholds from .9."""

    name, knob = "IAST", "alpha"
    limits = (
        "thresholds that are averaged over images lie below the best pixels of many images, whatever alpha is",
        "at alpha 1, gamma 8 still keeps few pixels of classes with low thresholds",
    )

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def match(self, levels: Sequence[float]) -> list[float]:
        return search(lambda knobs: coverages(self.labels(knobs)), levels)

    def labels(self, knobs: Sequence[float]) -> Iterator[list[Label]]:
        runs = [select_all(self._kept, InstanceAdaptiveSelector(self._kept.num_classes, knob)) for knob in knobs]
        for selected in zip(*runs, strict=True):
            yield [image.label for image in selected]

    def published(self) -> dict[str, float]:
        return {"alpha .2": 0.2}


class Bidirectional:
    """BDL: a class's quantile of its confidences, .9 at most."""

    name, knob = "BDL", "portion"
    limits = "no threshold is above .9, and all pixels above .9 are always labelled", TIED[1]

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def match(self, levels: Sequence[float]) -> list[float]:
        return search(lambda knobs: coverages(self.labels(knobs)), levels)

    def labels(self, knobs: Sequence[float]) -> Iterator[list[Label]]:
        k = self._kept.num_classes
        return _above(self._kept, [adaptive.bdl_thresholds(self._kept, k, 0.9, knob).double() for knob in knobs])

    def published(self) -> dict[str, float]:
        return {"min(median, .9)": 0.5}


class CategoryAdaptive:
    """Entropy below that of the centroid of the pixel's class, by Δ at least (category-adaptive paper, Eq. 1 to 3).

    weighting   of the pixels in a centroid: by their confidence, or all alike (mean).
    scope       centroids of the whole target, or of each image by itself.
    """

    knob, limits = "Δ", TIED

    def __init__(
        self,
        kept: Kept,
        name: str,
        weighting: adaptive.Weighting = "confidence",
        scope: adaptive.Scope = "dataset",
    ) -> None:
        self.name = name
        self._kept, self._scope = kept, scope
        self._weighting: adaptive.Weighting = weighting

    @cached_property
    def _entropies(self) -> list[Tensor]:
        """E(f^l) of each class (k,), of each image; k numbers an image where each has its own."""
        k, weighting = self._kept.num_classes, self._weighting
        if self._scope == "dataset":
            return [adaptive.entropy_thresholds(adaptive.centroids(self._kept, k, weighting), 0.0)] * self._kept.total
        return [adaptive.entropy_thresholds(adaptive.centroids([image], k, weighting), 0.0) for image in self._kept]

    def match(self, levels: Sequence[float]) -> list[float]:
        """Exactly: a pixel is labelled where its margin E(f^l) - E(P) is above Δ, so Δ is an order statistic."""

        def rank(counts: Int64[Tensor, " groups"]) -> Int64[Tensor, " groups"]:
            return torch.cat([portion_of(level, count[None]) + 1 for level, count in zip(levels, counts, strict=True)])

        return nth_largest(partial(self._margins, len(levels)), len(levels), rank).tolist()

    def _margins(self, groups: int) -> Iterator[Part]:
        """E(f^l) - E(P) of all pixels, image by image, once for each group."""
        for index, entropies in enumerate(self._entropies):
            label = self._kept.read("label", index).flatten().int()
            margin = entropies.float().index_select(0, label) - self._kept.read("entropy", index).flatten()
            yield margin.repeat(groups), torch.arange(groups).repeat_interleave(len(margin))

    def labels(self, knobs: Sequence[float]) -> Iterator[list[Label]]:
        for prediction, entropies in zip(self._kept, self._entropies, strict=True):
            yield [adaptive.select(prediction.prob, entropies - knob).to(torch.uint8) for knob in knobs]

    def published(self) -> dict[str, float]:
        return {"Δ .1 (ours: the paper gives none)": 0.1}


# --- against withheld truth ----------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """A selector at one setting, and how right its labels are."""

    selector: str
    setting: str
    """What the setting is called; empty where it was matched to a level."""
    level: float | None
    """The coverage that was wanted; None at a published setting."""
    knob: float
    quality: Quality
    limits: tuple[str, str]
    """Those of the selector."""

    @property
    def out_of_reach(self) -> str:
        """Why the coverage is not the level's; empty where it is."""
        more = self.quality.coverage - (self.quality.coverage if self.level is None else self.level)
        return "" if abs(more) <= TOLERANCE else self.limits[0 if more > 0 else 1]


def measure(
    selector: Selector, kept: Kept, truth: Truth, space: LabelSpace, levels: Sequence[float] = LEVELS
) -> list[Measured]:
    """A selector at each level of coverage and at its published settings. Truth is looked at last."""
    published = selector.published()
    knobs = [*selector.match(levels), *published.values()]
    k = len(space)
    totals = torch.zeros(len(knobs), k + 1, k + 1, dtype=torch.int64)
    for index, labels in enumerate(selector.labels(knobs)):
        known = truth.label(index, (labels[0].shape[0], labels[0].shape[1]))
        totals += torch.stack([pixel_counts(known, label.cpu(), k) for label in labels])
    qualities = [Quality(1, space, kept.total, total, kept.predicted) for total in totals]
    settings = [*((level, "") for level in levels), *((None, name) for name in published)]
    return [
        Measured(selector.name, name, level, knob, quality, selector.limits)
        for (level, name), knob, quality in zip(settings, knobs, qualities, strict=True)
    ]


def of_all(kept: Kept, truth: Truth, space: LabelSpace) -> Quality:
    """Every pixel labelled as its likeliest class: the predictions themselves."""
    k = len(space)
    total = torch.zeros(k + 1, k + 1, dtype=torch.int64)
    for index, image in enumerate(confidences(kept, k)):
        total += pixel_counts(truth.label(index, (image.label.shape[0], image.label.shape[1])), image.label, k)
    return Quality(1, space, kept.total, total, kept.predicted)
