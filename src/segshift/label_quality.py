"""How right the pseudo-labels of a run are, against target labels that the run never saw: an oracle diagnosis.

It reads withheld target labels, so its figures are called oracle wherever they stand; nothing is chosen by them. The
proportion of labels and their mean IoU are the first two lines of the IAST paper's Table 4, the share kept of each
predicted class is its Fig. 6.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from segshift import recipe as recipe_file
from segshift import taxonomy
from segshift.checkpoint import atomic_write
from segshift.data.dataset import OracleTarget
from segshift.data.folder import locate
from segshift.data.layouts import FOLDER, LAYOUTS, SHARDS
from segshift.data.open_data import MINICITY, DataConfig, open_oracle, place_of
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.recognise import has_labels
from segshift.data.resizing import resize_label
from segshift.data.shards import have_labels
from segshift.errors import DataError
from segshift.json_shape import misfit
from segshift.run_folder import read_run
from segshift.taxonomy import LabelSpace

MEANING = "pseudo-labels against withheld target labels (oracle): nothing was chosen by these figures"


@dataclass(frozen=True)
class RarerHalf:
    """The rarer half of the classes, by their pixels in the truth: what self-training loses first."""

    classes: tuple[str, ...]
    share_of_truth: float
    share_of_labels: float
    precision: float
    """Mean over those of them that got a label."""
    recall: float
    """Mean over all of them."""


@dataclass(frozen=True, eq=False)
class Quality:
    """A round's pseudo-labels against the truth: fractions of 1, nan where there is nothing to divide.

    All is over the pixels whose truth is known, but for what needs no truth: `coverage`, `classes_labelled`, `kept`.
    """

    round: int
    space: LabelSpace
    images: int
    confusion: Int64[Tensor, "k1 k1"]
    """Pixels by (truth, pseudo-label); the last row is unknown truth, the last column pixels without a label."""
    predicted: tuple[int, ...] | None = None
    """Pixels predicted as each class, labelled or not; None where the method did not say."""

    def __post_init__(self) -> None:
        k = len(self.space)
        if tuple(self.confusion.shape) != (k + 1, k + 1) or bool((self.confusion < 0).any()):
            raise DataError(
                f"quality of pseudo-labels: pixel counts of shape {tuple(self.confusion.shape)} for {k} classes of "
                f"{self.space.name}; expected ({k + 1}, {k + 1}), none negative"
            )
        if self.predicted is not None and len(self.predicted) != k:
            raise DataError(f"quality of pseudo-labels: {len(self.predicted)} predicted counts; expected {k}")

    @property
    def labelled(self) -> Int64[Tensor, "k k"]:
        """Pixels by (truth, pseudo-label) where both are known."""
        return self.confusion[:-1, :-1]

    @property
    def proportion(self) -> float:
        """Share of the pixels that have a label."""
        return float(self.labelled.sum().double() / self.confusion[:-1].sum())

    @property
    def coverage(self) -> float:
        """Share of all pixels that have a label, those of unknown truth included: it needs no truth."""
        return float(self.confusion[:, :-1].sum().double() / self.confusion.sum())

    @property
    def classes_labelled(self) -> int:
        """Classes that at least one pixel is labelled as, those of unknown truth included."""
        return int((self.confusion[:, :-1].sum(0) > 0).sum())

    @property
    def accuracy(self) -> float:
        """Share of the labels that are right."""
        return float(self.labelled.trace().double() / self.labelled.sum())

    @property
    def iou(self) -> Float64[Tensor, "k"]:
        """Intersection over union of each class among labelled pixels; nan where it is in neither truth nor labels."""
        hits = self.labelled.diagonal()
        return hits.double() / (self.labelled.sum(0) + self.labelled.sum(1) - hits)

    @property
    def miou(self) -> float:
        """P-mIoU (IAST, Table 4): the mean over the classes that occur among labelled pixels, in truth or labels."""
        return float(self.iou.nanmean())

    @property
    def precision(self) -> Float64[Tensor, "k"]:
        """Share of a class's labels that are right."""
        return self.labelled.diagonal().double() / self.labelled.sum(0)

    @property
    def recall(self) -> Float64[Tensor, "k"]:
        """Share of a class's pixels, labelled or not, that got the right label."""
        return self.labelled.diagonal().double() / self.confusion[:-1].sum(1)

    @property
    def share(self) -> Float64[Tensor, "k"]:
        """Share of all labels that are of the class."""
        return self.labelled.sum(0).double() / self.labelled.sum()

    @property
    def kept(self) -> Float64[Tensor, "k"]:
        """A class's labels over the pixels predicted as it (IAST, Fig. 6), those of unknown truth included.

        Above 1 where a method gives a pixel another label than its most probable class (CBST, Eq. 8).
        """
        predicted = torch.tensor(self.predicted or [0] * len(self.space), dtype=torch.float64)
        return self.confusion[:, :-1].sum(0) / predicted.where(predicted > 0, torch.nan)

    @property
    def rarer_half(self) -> RarerHalf:
        """Of the classes that occur in the truth; of an odd number the smaller half."""
        truth, labels = self.confusion[:-1].sum(1), self.labelled.sum(0)
        occurs = [int(c) for c in truth.argsort(stable=True) if truth[c] > 0]
        rare = occurs[: len(occurs) // 2]
        return RarerHalf(
            tuple(self.space.classes[c] for c in rare),
            float(truth[rare].sum().double() / truth.sum()),
            float(labels[rare].sum().double() / labels.sum()),
            float(self.precision[rare].nanmean()),
            float(self.recall[rare].mean()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values (nan becomes None); `from_dict` reads it back."""
        rare = self.rarer_half
        return {
            "what": MEANING,
            "round": self.round,
            "images": self.images,
            "proportion": _number(self.proportion),
            "accuracy": _number(self.accuracy),
            "miou": _number(self.miou),
            "miou_classes": int((~self.iou.isnan()).sum()),
            **{
                name: {c: _number(v) for c, v in zip(self.space.classes, getattr(self, name).tolist(), strict=True)}
                for name in ("iou", "precision", "recall", "share", "kept")
            },
            "rarer_half": {
                "classes": list(rare.classes),
                **{name: _number(getattr(rare, name)) for name in _RARER_FIGURES},
            },
            "space": self.space.to_dict(),
            "confusion": self.confusion.tolist(),
            "predicted": None if self.predicted is None else list(self.predicted),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], origin: str = "quality of pseudo-labels") -> Quality:
        """From `to_dict`'s form: the figures are computed again from the counts. DataError names `origin`."""
        try:
            space, _ = taxonomy.from_dict(content["space"], origin)
            if wrong := misfit(content["confusion"], list[list[int]], "confusion"):
                raise DataError(wrong)
            matrix, predicted = torch.tensor(content["confusion"], dtype=torch.int64), content["predicted"]
            counts = None if predicted is None else tuple(int(n) for n in predicted)
            return cls(int(content["round"]), space, int(content["images"]), matrix, counts)
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, DataError) as error:
            raise DataError(f"{origin}: cannot be read ({error!r}); measure the pseudo-labels again") from error


_RARER_FIGURES = ("share_of_truth", "share_of_labels", "precision", "recall")


def measure(store: PseudoLabels, target: OracleTarget, space: LabelSpace) -> Quality:
    """A finished round's pseudo-labels against the target's labels, which are resized to theirs (nearest pixel).

    Raises RunError where a pseudo-label is missing or damaged, or the round is not finished; DataError for a label.
    """
    k = len(space)
    statistics = store.statistics()
    total = torch.zeros(k + 1, k + 1, dtype=torch.int64)
    for index, name in enumerate(target.names):
        label = store.read(name)
        total += pixel_counts(resize_label(target.label(index), (label.shape[0], label.shape[1])), label, k)
    predicted = statistics["predicted"]
    counts = None if predicted is None else tuple(predicted)
    return Quality(store.round, space, len(target.names), total, counts)


def pixel_counts(
    truth: Integer[Tensor, "h w"], label: Integer[Tensor, "h w"], num_classes: int
) -> Int64[Tensor, "k1 k1"]:
    """Pixels of an image by (truth, pseudo-label), as `Quality.confusion` has them; ids from `num_classes` are IGNORE.

    They add up over images.
    """
    k = num_classes
    pairs = truth.long().clamp_max(k) * (k + 1) + label.long().clamp_max(k)
    return torch.bincount(pairs.flatten(), minlength=(k + 1) ** 2).view(k + 1, k + 1)


def measure_round(folder: Path, n: int, target: OracleTarget, space: LabelSpace) -> Quality:
    """`measure` of round n of a run, also written to RUN/evaluation/labels-N.json."""
    quality = measure(PseudoLabels(folder / f"round-{n}", len(space)), target, space)
    content = json.dumps(quality.to_dict(), indent=1).encode()
    atomic_write(folder / "evaluation" / f"labels-{n}.json", content)
    return quality


def measure_run(folder: Path, target: str | None = None) -> dict[int, Quality]:
    """`measure_round` of every finished round of a run, in order; empty where the target has no labels.

    `target`: where the images adapted to are now, if they have moved.
    """
    run = read_run(folder)
    config = recipe_file.from_dict(run.info.get("recipe"), str(folder / "run.json")).data
    if target is not None:
        config = replace(config, **{place_of(config, "target").domain: target})
    truth = withheld(config, run.space)
    if truth is None:
        return {}
    return {n: measure_round(folder, n, truth, run.space) for n in (int(entry["round"]) for entry in run.rounds)}


def withheld(config: DataConfig, space: LabelSpace) -> OracleTarget | None:
    """The images adapted to with their labels, for measuring alone; None where they have none. `space`: the model's.

    DataError where only some have a label, or labels are of other classes.
    """
    place = place_of(config, "target")
    root = Path(place.path)
    if place.path == MINICITY:
        there = True
    elif place.layout == SHARDS:
        there = have_labels(place.path, place.split)
    elif place.layout == FOLDER:
        there = (locate(root, place.split) / "labels").is_dir()
    else:
        there = has_labels(LAYOUTS[place.layout], root, place.split)
    return open_oracle(config, space) if there else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
