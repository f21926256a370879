"""The label maps that CPSL leaves of a round, counted: how often each class stands in them, and which of them is right.

What needs target labels is called oracle; nothing is chosen by it (CPSL paper, Fig. 5 and 6).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from segshift import checkpoint
from segshift.data.dataset import OracleTarget
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.resizing import resize_label
from segshift.errors import RunError
from segshift.methods.cpsl import KEPT, RECTIFIED, SL, ST
from segshift.taxonomy import IGNORE, LabelSpace

KINDS = (ST, SL, RECTIFIED)
"""Folders of a round."""
OUTCOMES = ("both right", "self-training alone right", "self-labelling alone right", "neither right")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
FILE = Path("evaluation") / "label-views.json"
_REPORTED = ("round", "images", "distributions", "agree", "outcomes", "outcomes_per_class", "accuracy")


@dataclass(frozen=True)
class LabelViews:
    """The label maps of one round."""

    store: PseudoLabels
    kinds: tuple[str, ...]
    """Those of KINDS that there are: without self-labelling it has no map."""
    names: tuple[str, ...]
    """Images that have a map of each of these kinds, in order."""

    @property
    def compares(self) -> bool:
        """Whether self-training and self-labelling can be compared."""
        return ST in self.kinds and SL in self.kinds

    def read(self, name: str) -> dict[str, UInt8[Tensor, "h w"]]:
        """Kind -> an image's map at its working size: class ids, or 255. RunError where one is damaged."""
        return {kind: self.store.read_view(kind, name) for kind in self.kinds}


def last_views(run: Path, space: LabelSpace) -> LabelViews | None:
    """The label maps of the last round that has any; None for a run of another method."""
    folders = (path.name.removeprefix("round-") for path in run.glob("round-*") if path.is_dir())
    for n in sorted((int(number) for number in folders if _NUMBER.fullmatch(number)), reverse=True):
        store = PseudoLabels(run / f"round-{n}", len(space))
        found = {kind: _names(store.folder / kind) for kind in KINDS}
        kinds = tuple(kind for kind in KINDS if found[kind])
        if kinds:
            names = set.intersection(*(found[kind] for kind in kinds))
            return LabelViews(store, kinds, tuple(sorted(names)))
    return None


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix().removesuffix(".png") for path in folder.rglob("*.png")}


@dataclass(frozen=True, eq=False)
class ViewCounts:
    """What a round's label maps hold, over all its images."""

    round: int
    images: int
    labels: dict[str, Int64[Tensor, "k"]]
    """Kind -> pixels of each class, those of unknown truth included."""
    delta: dict[str, Tensor]
    """delta_pseudo (Eq. 11), and delta_0 (Eq. 10) where it was kept: (k,), shares."""
    agree: tuple[int, int]
    """Pixels on which self-training and self-labelling agree, and all pixels."""
    truth: Int64[Tensor, "k"] | None
    """Pixels of each class where the truth is known; None without target labels."""
    outcomes: Int64[Tensor, "k 4"] | None
    """Of these, by class, how many are of each of OUTCOMES; None without both maps, or without target labels."""
    right: dict[str, Int64[Tensor, "k"]]
    """Kind -> pixels of each class that it labels rightly; empty without target labels."""

    def shares(self) -> dict[str, list[float]]:
        """Class distributions by name, each summing to 1: δ_pseudo, those of the maps, the truth's (oracle)."""
        found = {name: values.double() for name, values in self.delta.items()}
        found |= {kind: counts.double() for kind, counts in self.labels.items()}
        if self.truth is not None:
            found["truth"] = self.truth.double()
        return {name: (values / values.sum().clamp_min(1e-12)).tolist() for name, values in found.items()}

    def to_dict(self, space: LabelSpace) -> dict[str, Any]:
        """Plain JSON values, shares as fractions of 1: what a report prints."""
        content: dict[str, Any] = {
            "what": "label maps of CPSL; what needs target labels is oracle, and nothing was chosen by it",
            "round": self.round,
            "images": self.images,
            "classes": list(space.classes),
            "distributions": self.shares(),
            "agree": self.agree[0] / self.agree[1] if self.agree[1] else None,
            "outcomes": None,
            "outcomes_per_class": None,
            "accuracy": None,
        }
        if self.outcomes is not None:
            pixels = self.outcomes.sum(0)
            content["outcomes"] = dict(zip(OUTCOMES, _shares(pixels), strict=True))
            rows = (dict(zip(OUTCOMES, _shares(row), strict=True)) for row in self.outcomes)
            content["outcomes_per_class"] = dict(zip(space.classes, rows, strict=True))
        if self.truth is not None:
            known = int(self.truth.sum())
            content["accuracy"] = {kind: int(n.sum()) / known if known else None for kind, n in self.right.items()}
        return content


def _shares(counts: Tensor) -> list[float | None]:
    total = int(counts.sum())
    return [int(n) / total if total else None for n in counts]


def count_views(views: LabelViews, truth: OracleTarget | None) -> ViewCounts:
    """Count the maps of a round; `truth` has the labels that the run never saw, resized to each map (nearest pixel)."""
    k = views.store.num_classes
    labels = {kind: torch.zeros(k, dtype=torch.int64) for kind in views.kinds}
    right = {kind: torch.zeros(k, dtype=torch.int64) for kind in views.kinds if truth is not None}
    known = None if truth is None else torch.zeros(k, dtype=torch.int64)
    outcomes = torch.zeros(k, 4, dtype=torch.int64) if truth is not None and views.compares else None
    agreed = pixels = 0
    for name in views.names:
        maps = views.read(name)
        for kind, label in maps.items():
            labels[kind] += _histogram(label, k)
        if views.compares:
            agreed += int((maps[ST] == maps[SL]).sum())
            pixels += maps[ST].numel()
        if truth is None or known is None:
            continue
        true = true_label(truth, name, next(iter(maps.values())))
        known += _histogram(true, k)
        for kind, label in maps.items():
            right[kind] += _histogram(true[label == true], k)
        if outcomes is not None:
            outcomes += _outcome_counts(true, outcome_map(maps[ST], maps[SL], true), k)
    delta = views.store.kept(KEPT) or {}
    return ViewCounts(views.store.round, len(views.names), labels, delta, (agreed, pixels), known, outcomes, right)


def true_label(truth: OracleTarget, name: str, like: UInt8[Tensor, "h w"]) -> UInt8[Tensor, "h w"]:
    """The withheld label of an image, at the size of a map of it."""
    return resize_label(truth.label(truth.names.index(name)), (like.shape[0], like.shape[1]))


def outcome_map(
    st: UInt8[Tensor, "h w"], sl: UInt8[Tensor, "h w"], truth: UInt8[Tensor, "h w"]
) -> UInt8[Tensor, "h w"]:
    """Which of OUTCOMES each pixel is (Fig. 5); 255 where the truth is unknown."""
    found = 2 * (st != truth).to(torch.uint8) + (sl != truth).to(torch.uint8)
    # Wrong bits as they come: 0 both right, 1 self-training alone, 2 self-labelling alone, 3 neither.
    return found.masked_fill(truth == IGNORE, IGNORE)


def _histogram(label: Tensor, k: int) -> Int64[Tensor, "k"]:
    return torch.bincount(label.reshape(-1).long(), minlength=256)[:k]


def _outcome_counts(true: Tensor, outcome: Tensor, k: int) -> Int64[Tensor, "k 4"]:
    known = outcome != IGNORE
    return torch.bincount(true[known].long() * 4 + outcome[known].long(), minlength=4 * k).view(k, 4)


def write_counts(run: Path, counts: ViewCounts, space: LabelSpace) -> Path:
    """RUN/evaluation/label-views.json, which the report reads."""
    path = run / FILE
    checkpoint.atomic_write(path, json.dumps(counts.to_dict(space), indent=1).encode())
    return path


def read_counts(run: Path) -> dict[str, Any] | None:
    """What `write_counts` wrote; None for a run of another method. RunError where it is damaged."""
    path = run / FILE
    if not path.is_file():
        return None
    cure = "delete it and resume the run, which counts again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {cure}") from error
    missing = [key for key in _REPORTED if not isinstance(content, dict) or key not in content]
    if missing:
        raise RunError(f"{path}: {', '.join(missing)} missing; {cure}")
    return content
