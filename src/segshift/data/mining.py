"""CBST's "hard sample mining strategy" (§5): target images are cropped where rare classes are predicted.

Which classes are rare is counted once a round over the whole target set; where they are in an image is read from
what the round left on disk. So what is drawn stays a pure function of (seed, t, slot) and these files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from segshift.errors import ConfigError
from segshift.types import IGNORE


@dataclass(frozen=True)
class Mining:
    """How target crops prefer rare classes."""

    share: float = 0.001
    """A class predicted on less than this share of the target's pixels has priority; the paper: .1 %."""
    classes: tuple[int, ...] = ()
    """Ids that have priority however often they are predicted."""
    fallback: int = 0
    """Where an image has no class of priority: the so many rarest classes of the target. The paper has none; the
    release takes 3."""
    chance: float = 0.8
    """How often a crop is placed so, where it can be. The paper names no figure; this is the release's."""
    where: Literal["predictions", "pseudo_labels"] = "predictions"
    """Pixels predicted as the class (the paper), or those of its pseudo-labels alone (the release)."""

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.chance <= 1) or self.fallback < 0:
            raise ConfigError(
                f"share = {self.share}, chance = {self.chance}, fallback = {self.fallback}; "
                "expected shares from 0 to 1 (the paper: share 0.001), and a fallback of at least 0 classes"
            )
        if any(not 0 <= c < IGNORE for c in self.classes):
            raise ConfigError(f"classes = {self.classes}; expected class ids from 0 to {IGNORE - 1}")
        if self.where not in ("predictions", "pseudo_labels"):
            raise ConfigError(
                f"where = {self.where!r}; expected predictions (the paper) or pseudo_labels (the release)"
            )


def rare_classes(predicted: Sequence[int], mining: Mining) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids with priority, and those to fall back on, from the pixels predicted as each class over the target set."""
    total = max(sum(predicted), 1)
    priority = {c for c, count in enumerate(predicted) if count / total < mining.share} | set(mining.classes)
    # Of equal counts the lower id first; a class that is nowhere would only take another's place.
    present = sorted((count, c) for c, count in enumerate(predicted) if count)
    return tuple(sorted(priority)), tuple(c for _, c in present[: mining.fallback])


Place = tuple[float, float]
"""Where a crop is centred: (down, across), 0 to 1 of the whole image."""


class Miner:
    """Draws where the crops of one round are centred."""

    def __init__(self, mining: Mining, predicted: Sequence[int], label_of: Callable[[int], Tensor]) -> None:
        self._chance, self._label_of = mining.chance, label_of
        self._tiers = rare_classes(predicted, mining)

    def place(self, index: int, rng: np.random.Generator) -> Place | None:
        """A random pixel of a random rare class that image `index` holds; None: crop anywhere."""
        if rng.random() >= self._chance:
            return None
        label = self._label_of(index).numpy()
        found = np.bincount(label.reshape(-1), minlength=IGNORE + 1)
        for tier in self._tiers:
            here = [c for c in tier if found[c]]
            if here:
                pixels = np.flatnonzero(label == here[int(rng.integers(len(here)))])
                row, column = divmod(int(pixels[int(rng.integers(len(pixels)))]), label.shape[1])
                return (row + 0.5) / label.shape[0], (column + 0.5) / label.shape[1]
        return None
