"""The models of a report, each once, in the order that its tables have them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from segshift.evaluate import Scores
from segshift.run_folder import Run

ORACLE = "oracle (target labels)"


@dataclass(frozen=True)
class Row:
    """A model in the tables: its name, where it comes from, and the row its differences refer to."""

    label: str
    kind: Literal["warmup", "alignment", "adaptation", "adapted", "oracle"]
    run: Run
    scores: Scores | None
    base: int | None

    @property
    def name(self) -> str:
        """The label without what tells it from others of its name: alike for runs that differ in their seed."""
        run = self.run
        names = {"warmup": run.warmup_label, "alignment": run.alignment_label, "adaptation": run.adaptation_label}
        return ORACLE if self.kind == "oracle" else names.get(self.kind, str(run.info["label"]))

    @property
    def scored_as(self) -> str:
        """Its file in RUN/evaluation, without the suffix."""
        return "final" if self.kind in ("adapted", "oracle") else self.kind

    @property
    def picture(self) -> str:
        return f"{self.scored_as}.png"


def rows_of(runs: Sequence[Run], oracle: Run | None) -> list[Row]:
    """Source-only (once, where all runs share it), second warm-ups, adapted models, the oracle; labels are distinct.

    A second warm-up, or the teacher of a student, stands before the first run that starts from it, and nowhere where it
    is one of the runs itself.
    """
    rows: list[Row] = []
    warmups: dict[str, int] = {}
    shared = len({_model_key(run.warmup_label, run.warmup, run) for run in runs}) == 1
    shown = {_model_key(str(run.info["label"]), run.final, run) for run in runs}
    for run in runs:
        # A run that is a warm-up and nothing else has one model, its last.
        is_warmup = run.warmup is None and run.info["label"] == run.warmup_label
        warmup = _model_key(run.warmup_label, run.warmup, run)
        if not is_warmup and warmup not in warmups:
            warmups[warmup] = len(rows)
            rows.append(Row(run.warmup_label, "warmup", run, run.warmup, None))
        base = warmups.get(warmup)
        between = (
            Row(run.alignment_label, "alignment", run, run.alignment, base),
            Row(run.adaptation_label, "adaptation", run, run.adaptation, base),
        )
        for row in between:
            key = _model_key(row.label, row.scores, run)
            if row.scores is not None and key not in shown:
                rows.append(row)
                shown.add(key)
        rows.append(Row(str(run.info["label"]), "adapted", run, run.final, base))
    if oracle:
        rows.append(Row(ORACLE, "oracle", oracle, oracle.final, 0 if shared else None))
    for detail in (lambda row: f"seed {row.run.info.get('seed')}", lambda row: row.run.folder):
        count = Counter(row.label for row in rows)
        rows = [replace(row, label=f"{row.label}, {detail(row)}") if count[row.label] > 1 else row for row in rows]
    return rows


def _model_key(label: str, scores: Scores | None, run: Run) -> str:
    """Equal for what is the same model: of one name, and of one confusion matrix (or one seed, where not scored)."""
    return json.dumps([label, scores.confusion.tolist() if scores else run.info.get("seed")])
