"""What a run's own figures say is wrong with it, without a target label: pure judgements of counts.

A finding names what was found, what is expected, what it may mean and what helps. Whether it ends the run is the
user's policy (`phase.Settings.on_bad_numbers`), and not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segshift.errors import RunError
from segshift.taxonomy import LabelSpace

HINTS = frozenset({"absent class", "unselected class", "images without labels", "some blank batches"})
"""Kinds that are said and end no run: a sound run shows them too, with rare classes or a strict selector."""
SCARCE = 0.01
"""A round that labels less of the target than this. Every recipe starts with a fifth or more."""
COLLAPSE = 0.25
"""A round that labels less than this share of what the one before did. No schedule of portions ever goes down, and
thresholds on confidence move by less between rounds of a training that works."""
ALMOST_ALL = 0.99
"""One class with this share of all pixels leaves nothing to tell apart."""
WORTH = 10
"""Pixels of a class that its round's coverage lets expect, below which none at all is no surprise."""
BARE = 0.5
"""A share of images, or of batches, without any label above which they are most of the training."""
LEARNED = 0.05
"""The share of the way from chance to all right that a model must have come: an untrained network's colours go with
classes by accident, and most of such (31 of 32 tried) come less far."""


class Finding(NamedTuple):
    """One thing that is wrong with a run, or may be."""

    kind: str
    """In a few words, the same each time: for policies and tests."""
    text: str
    """For people: figure, place, what is expected, what it may mean, what helps."""

    @property
    def stops(self) -> bool:
        """Whether a run that is told to stop on bad numbers stops here; else it is said, and that is all."""
        return self.kind not in HINTS


# --- a round's pseudo-labels ----------------------------------------------------------------------------------------


def round_findings(statistics: Mapping[str, Any], before: Mapping[str, Any] | None, space: LabelSpace) -> list[Finding]:
    """What is wrong with a round, from its `statistics.json` and that of the round before (None: it is the first)."""
    where = f"round {statistics['round']}"
    predicted, kept = statistics.get("predicted"), statistics["kept_per_class"]
    collapsed = None if predicted is None else one_class(predicted, space, where)
    coverage = _coverage(statistics, before, where)
    found = [collapsed, coverage]
    # What follows from a cause that is said already is not said again.
    if collapsed is None and (coverage is None or coverage.kind == "coverage collapsed"):
        found.append(_one_class_labelled(kept, space, where))
    if statistics["kept"]:
        found += [_bare_images(statistics, where), *_classes(statistics, before, space, where)]
    return [finding for finding in found if finding is not None]


def one_class(counts: Sequence[int], space: LabelSpace, where: str = "the target") -> Finding | None:
    """Whether one class has (nearly) all predictions: the sign of a diverged or wrong model that needs no label.

    `counts`: pixels a class. None where it has not, where there is no pixel, and where the space has one class.
    """
    found = _alone(counts, space)
    if found is None:
        return None
    return Finding(
        "one class predicted",
        f"{where}: {found} predicted of the target; expected the others to have more than 1 % together. "
        "Unless the images show little else, the network has diverged, is not trained for such images, or "
        "reads them in other colours or another size than it was trained on. Look at what it predicts (`segshift "
        "predict`); a lower learning rate or another warm-up helps where training did this",
    )


def _one_class_labelled(counts: Sequence[int], space: LabelSpace, where: str) -> Finding | None:
    found = _alone(counts, space)
    if found is None:
        return None
    return Finding(
        "one class labelled",
        f"{where}: {found} selected as the target's pseudo-labels; expected the others to have more than 1 % "
        "together. The network predicts others too, but a round of such labels teaches it to forget them: take a "
        "threshold for each class (CBST, IAST), or a larger portion",
    )


def _alone(counts: Sequence[int], space: LabelSpace) -> str | None:
    """The class that leaves the others nothing, in words."""
    total, largest = sum(counts), max(counts)
    if len(space) == 1 or total == 0 or largest < ALMOST_ALL * total:
        return None
    return f"class {space.classes[list(counts).index(largest)]} is {100 * largest / total:.1f} % of what is"


def _coverage(now: Mapping[str, Any], before: Mapping[str, Any] | None, where: str) -> Finding | None:
    kept, pixels = int(now["kept"]), int(now["pixels"])
    if kept == 0:
        return Finding(
            "no labels",
            f"{where}: none of the target's {pixels:,} pixels got a pseudo-label; expected some: without any, the "
            "round learns nothing from the target's labels. No confidence reaches the thresholds: train the warm-up "
            "longer, or ask for more pixels (a larger portion, a lower threshold)",
        )
    if kept < SCARCE * pixels:
        return Finding(
            "few labels",
            f"{where}: {_percent(kept, pixels)} of the target's pixels got a pseudo-label ({kept:,} of {pixels:,}); "
            f"expected at least {100 * SCARCE:.0f} %: from fewer, the round learns next to nothing. Train the warm-up "
            "longer, or ask for more pixels (a larger portion, a lower threshold)",
        )
    if before is None or not before["pixels"]:
        return None
    share, share_before = kept / max(pixels, 1), before["kept"] / before["pixels"]
    if share < COLLAPSE * share_before:
        return Finding(
            "coverage collapsed",
            f"{where}: {100 * share:.1f} % of the target's pixels got a pseudo-label, after {100 * share_before:.1f} % "
            f"in round {before['round']}; expected at least a quarter of that. The network has become much less "
            f"certain, as it does when training diverges: look at the losses of round {before['round']}, and lower "
            "the learning rate",
        )
    return None


def _bare_images(now: Mapping[str, Any], where: str) -> Finding | None:
    bare, images = now.get("unlabelled_images"), now.get("images", 0)
    if bare is None or bare <= BARE * images:
        return None
    return Finding(
        "images without labels",
        f"{where}: {bare:,} of {images:,} target images have no pseudo-label at all; expected fewer than half: what "
        "these images show is not learned from. A selector that looks at each image (IAST) or at each class (CBST) "
        "labels more of them",
    )


def _classes(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, space: LabelSpace, where: str
) -> list[Finding | None]:
    """Classes without a pseudo-label: forgotten or shut out since the round before, or never selected or predicted."""
    predicted = now.get("predicted")
    groups: dict[str, list[str]] = {"forgotten": [], "shut out": [], "unselected": [], "absent": []}
    for i, name in enumerate(space.classes):
        if now["kept_per_class"][i]:
            continue
        seen = 0 if predicted is None else int(predicted[i])
        kept_before = 0 if before is None else int(before["kept_per_class"][i])
        if kept_before >= WORTH:
            group = "shut out" if _expected(now, i) >= WORTH else "forgotten"
            said = (
                f"{kept_before:,} pixels then, {seen:,} still predicted"
                if predicted
                else f"{kept_before:,} pixels then"
            )
            groups[group].append(f"{name} ({said})")
        elif _expected(now, i) >= WORTH and (before is None or _expected(before, i) < WORTH):
            groups["unselected"].append(f"{name} ({seen:,} pixels)")
        elif before is None and seen == 0:
            groups["absent"].append(name)
    n = 0 if before is None else before["round"]
    said = {group: text.format(where=where, n=n, classes=", ".join(groups[group])) for group, text in _SAID.items()}
    kinds = {"forgotten": "vanished class", "shut out": "vanished class"}
    return [Finding(kinds.get(group, f"{group} class"), said[group]) for group in _SAID if groups[group]]


_SAID = {
    "forgotten": "{where}: vanished from the pseudo-labels since round {n}: {classes}; expected classes that were "
    "there to stay. The network is forgetting them, and without labels the target does not bring them back: lower the "
    "learning rate, end at round {n}, or crop around rare classes (phase option mining)",
    "shut out": "{where}: vanished from the pseudo-labels since round {n}, though still predicted: {classes}; expected "
    "some of these pixels to be selected. The thresholds shut the classes out: a threshold for each class (CBST, IAST) "
    "or a larger portion keeps them",
    "unselected": "{where}: predicted, but in no pseudo-label: {classes}; expected some of their pixels. The selector "
    "prefers other classes: a threshold for each class (CBST, IAST) or a larger portion keeps them",
    "absent": "{where}: no target pixel is predicted as {classes}. This is usual where the target shows none, or for "
    "rare classes after a short warm-up; the target then does not teach them (said once)",
}


def _expected(statistics: Mapping[str, Any], i: int) -> float:
    """The labels of class i, if as much of it were selected as of all pixels; 0 where predictions are not known."""
    predicted = statistics.get("predicted")
    return 0.0 if predicted is None else predicted[i] * statistics["kept"] / max(statistics["pixels"], 1)


# --- batches without labels -----------------------------------------------------------------------------------------


def blank_finding(where: str, domain: str, blank: int, steps: int) -> Finding | None:
    """What is said of a round's batches in which no pixel of a domain (source, target) has a label."""
    if blank == 0:
        return None
    kind = "blank batches" if blank > BARE * steps else "some blank batches"
    cause = (
        "the labels are 255 nearly everywhere: check them (`segshift check`)"
        if domain == "source"
        else "few pixels are selected, or only in some images: ask for more of them (a larger portion, a lower "
        "threshold), or crop around labels"
    )
    return Finding(
        kind,
        f"{where}: {blank:,} of {steps:,} {domain} batches had no labelled pixel: their loss on labels is 0, and they "
        f"teach nothing; expected none. Crops are small for what is labelled, or {cause}",
    )


# --- a model against chance -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chance:
    """How a model does on a few source images, beside what no look at an image can better."""

    images: tuple[str, ...]
    """Names of those it was asked about."""
    accuracy: Mapping[str, float]
    """Class that occurs in them -> share of its pixels that are predicted as it."""

    @property
    def mean(self) -> float:
        """Mean class accuracy; nan where no class occurs."""
        return sum(self.accuracy.values()) / len(self.accuracy) if self.accuracy else math.nan

    @property
    def chance(self) -> float:
        """1/K of the K classes that occur: what every prediction has that does not look at the image, whether it is
        one class everywhere or drawn for each pixel. nan where no class occurs."""
        return 1 / len(self.accuracy) if self.accuracy else math.nan

    def finding(self) -> Finding | None:
        """What is wrong: no label to compare with, or hardly better than chance. None where neither."""
        count = len(self.images)
        if not self.accuracy:
            return Finding(
                "unlabelled source",
                f"none of {count} source images looked at has a labelled pixel ({_some(self.images)}); "
                "expected labels to train on. Check them (`segshift check`): ids may be mapped to 255",
            )
        if len(self.accuracy) == 1 or self.mean > self.chance + LEARNED * (1 - self.chance):
            return None
        said = ", ".join(f"{name} {100 * value:.0f} %" for name, value in self.accuracy.items())
        return Finding(
            "no better than chance",
            f"mean class accuracy on {count} source images is {100 * self.mean:.1f} % ({said}); a prediction that "
            f"never looks at the image has {100 * self.chance:.1f} % (1 of {len(self.accuracy)} classes); expected "
            "well above that. The model has not learned its own source, and cannot label a target: train the warm-up "
            "longer, at another learning rate, or give the right weights and classes",
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of `chance.json`; `from_dict` reads it back."""
        return {"images": list(self.images), "class_accuracy": dict(self.accuracy)}

    @classmethod
    def from_dict(cls, content: Any, origin: str) -> Chance:
        """Read what `to_dict` gave. RunError, naming `origin`, where it is something else."""
        try:
            accuracy = {str(name): float(value) for name, value in content["class_accuracy"].items()}
            images = tuple(str(name) for name in content["images"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{origin}: cannot be read ({error!r}); expected images and class_accuracy: delete the file"
            ) from error
        return cls(images, accuracy)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
