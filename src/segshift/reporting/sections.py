"""Figures of a report beyond the tables of scores: confusions, calibration, single images, classes of pseudo-labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from segshift.evaluate import Scores
from segshift.picked_images import pick
from segshift.reporting.rows import Row
from segshift.run_folder import Run
from segshift.scored_details import Details, read_details
from segshift.source_shares import read_source_shares

LARGEST = 5
"""Confusions that are named in words."""
WIDEST = 40
"""Classes; of more, a matrix could not be read, and only the largest confusions are shown."""
_LEAST = 0.001
"""Of all pixels: a class with a smaller share in the truth is not among the largest confusions."""


def confusion_figures(scores: Scores) -> dict[str, Any]:
    """`share`: of the pixels of each class (row), how many were predicted as each (column); None without such pixels.
    `largest`: the greatest of them off the diagonal, as truth, predicted, share."""
    counts = scores.confusion.tolist()
    classes, total = scores.space.classes, max(int(scores.confusion.sum()), 1)
    share = [[n / sum(row) for n in row] if sum(row) else None for row in counts]
    wrong = [
        (value, classes[true], classes[seen])
        for true, values in enumerate(share)
        if values is not None and sum(counts[true]) >= _LEAST * total
        for seen, value in enumerate(values)
        if seen != true and value > 0
    ]
    largest = sorted(wrong, key=lambda entry: -entry[0])[:LARGEST]
    return {"share": share, "largest": [{"truth": t, "predicted": p, "share": v} for v, t, p in largest]}


def calibration_figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each row whose run kept them: bins of confidence and the expected calibration error (ECE)."""
    found = []
    for row in rows:
        details = details_of(row)
        if row.scores is not None and details is not None and float(details.bins[:, 0].sum()):
            found.append(
                {
                    "label": row.label,
                    "kind": row.kind,
                    "run": row.run.folder,
                    "ece": details.ece,
                    "every": details.every,
                    "pixels": [int(n) for n in details.bins[:, 0]],
                    "confidence": _plain(details.confidence),
                    "right": _plain(details.right),
                }
            )
    return found


def details_of(row: Row) -> Details | None:
    """What the scoring of a row's model kept besides."""
    return read_details(row.run.path, row.scored_as)


def image_figures(run: Run, shown: int) -> dict[str, list[dict[str, Any]]] | None:
    """The run's `worst` and `best` test images and those that `lost` most; None where it kept no details.

    Each has its name, mIoU, pixel accuracy, and the source-only model's mIoU where that is known.
    """
    final, warmup = read_details(run.path, "final"), read_details(run.path, "warmup")
    if final is None:
        return None
    picked = pick(final, warmup, shown)
    known = warmup is not None and list(warmup.names) == list(final.names)

    def described(indices: Iterable[int]) -> list[dict[str, Any]]:
        return [
            {
                "name": final.names[i],
                "miou": final.miou[i],
                "accuracy": final.accuracy[i],
                "before": _number(warmup.miou[i]) if warmup is not None and known else None,
            }
            for i in indices
        ]

    return {"worst": described(picked.worst), "best": described(picked.best), "lost": described(picked.lost)}


def class_shares(run: Run, test: Scores | None) -> dict[str, Any] | None:
    """How often each class stands in the source's labels, in the predictions and pseudo-labels of each round, and
    (oracle) in the truth of the test images: lists over the classes, of shares. None for a run without rounds."""
    if not run.rounds:
        return None
    source = read_source_shares(run.path, run.space)
    truth = None
    if test is not None and test.space.classes == run.space.classes:
        truth = _shares(test.confusion.sum(1).tolist())
    return {
        "source": None if source is None else [source.shares[name] for name in run.space.classes],
        "source_labels": None if source is None else source.labels,
        "source_of": None if source is None else source.of,
        "rounds": [
            {
                "round": entry["round"],
                "predicted": None if entry["predicted"] is None else _shares(entry["predicted"]),
                "kept": _shares(entry["kept_per_class"]),
            }
            for entry in run.rounds
        ],
        "truth": truth,
    }


def _shares(counts: Sequence[int]) -> list[float | None]:
    total = sum(counts)
    return [n / total if total else None for n in counts]


def _plain(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
