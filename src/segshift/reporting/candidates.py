"""The models a run could have ended with, each with its label-free scores, beside what the test labels say (oracle)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypedDict

from segshift.errors import RunError
from segshift.json_shape import require
from segshift.label_free import NAMES, SIGNS, WORDS, Name
from segshift.reporting import draw
from segshift.run_folder import Run

FILE = "candidates.jsonl"
_CURE = "delete the file, and the report goes without it"


class _Oracle(TypedDict):
    miou: float | None


class _Line(TypedDict):
    step: int
    phase: str
    round: int
    scores: dict[str, float | None]
    oracle: _Oracle | None


def read_candidates(run: Run) -> list[dict[str, Any]]:
    """The candidates of a run in order: step, phase, round, scores, oracle (mIoU or None). Empty where it has none.

    RunError where a line is damaged, but for a last one that a kill has cut short.
    """
    path = run.path / FILE
    if not path.is_file():
        return []
    found = []
    try:
        written = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); {_CURE}") from error
    for number, text in enumerate(written, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number < len(written):
                raise RunError(f"{path}, line {number}: cannot be read ({error}); {_CURE}") from error
            continue
        require(line, _Line, f"{path}, line {number}", _CURE)
        oracle = None if line["oracle"] is None else line["oracle"]["miou"]
        found.append({**{key: line[key] for key in ("step", "phase", "round", "scores")}, "oracle": oracle})
    return found


def candidate_view(run: Run, candidates: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The charts of a run's candidates, one for each score and one for the oracle; None for fewer than two of them.

    A chart is `drawn` as an SVG, and `said` in words.
    """
    if len(candidates) < 2:
        return None
    names: list[Name] = [name for name in NAMES if any(line["scores"].get(name) is not None for line in candidates)]
    charts = [
        _chart(WORDS[name], f"{'less' if SIGNS[name] < 0 else 'more'} is better", candidates, name) for name in names
    ]
    if any(line["oracle"] is not None for line in candidates):
        charts.append(_chart("mIoU on test labels (oracle)", "chose nothing", candidates, None))
    recipe = run.info.get("recipe")
    settings = recipe.get("settings") if isinstance(recipe, dict) else None
    select = settings.get("select") if isinstance(settings, dict) else None
    return {"names": {name: WORDS[name] for name in names}, "charts": charts, "lines": candidates, "select": select}


def _chart(title: str, better: str, candidates: Sequence[dict[str, Any]], name: Name | None) -> dict[str, Any]:
    values = [line["oracle"] if name is None else line["scores"].get(name) for line in candidates]
    steps = [float(line["step"]) for line in candidates]
    known = [math.nan if value is None else value for value in values]
    svg = draw.curves({title: (steps, known)}, "step", "", size=(4.2, 2.1))
    color = "var(--oracle)" if name is None else "var(--adapted)"
    there = [value for value in values if value is not None]
    said = f"{title} over steps, from {there[0]:.3g} to {there[-1]:.3g}"
    return {
        "title": title,
        "better": better,
        "said": said,
        "drawn": svg.replace(draw.CURVE_COLORS[0], color),
    }
