"""The scores of a run's candidates over its steps, beside the oracle where there is one, as a curve for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segshift.draw import curves
from segshift.label_free import NAMES, WORDS, preference

ORACLE = "test mIoU (oracle)"


def candidate_series(lines: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> (steps, scores) of lines of candidates.jsonl, each score turned so that more is better, from 0 to 1.

    Only where it has a value; a score that is the same everywhere is left out, for it chooses nothing. The oracle is
    last.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    for name in NAMES:
        there = [line for line in lines if line["scores"].get(name) is not None]
        values = [preference(name, line["scores"][name]) for line in there]
        _add(found, WORDS[name], [line["step"] for line in there], values)
    there = [line for line in lines if line["oracle"] is not None]
    _add(found, ORACLE, [line["step"] for line in there], [line["oracle"]["miou"] for line in there])
    return found


def draw_candidates(lines: Sequence[Mapping[str, Any]], chosen: int | None = None) -> str:
    """The curves as one `<svg>`, in the order of `candidate_series`, which gives the legend; `chosen`: the step marked.

    Empty where there are fewer than two candidates to compare.
    """
    series = candidate_series(lines)
    if not series:
        return ""
    marks = () if chosen is None else (chosen,)
    return curves(series, "step", "score, least to most", marks)


def _add(found: dict[str, tuple[list[float], list[float]]], name: str, steps: list[float], values: list[float]) -> None:
    if len(values) < 2 or min(values) == max(values):
        return
    low, high = min(values), max(values)
    found[name] = steps, [(value - low) / (high - low) for value in values]
