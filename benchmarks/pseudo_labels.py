"""How right the pseudo-labels of finished runs are, against target labels that the runs never saw.

    python benchmarks/pseudo_labels.py RUN [RUN ...] [--target DIR]

An oracle diagnosis: it reads the target's labels, and nothing is chosen by it. For each run and round: coverage, the
share of labels that are right, their mean IoU, and of the rarer half of the classes (by their pixels in the truth) the
share of all labels they get, the mean of their precisions and of their recalls. Measured by `segshift.label_quality`,
which also leaves RUN/evaluation/labels-N.json; a line a run goes to results/pseudo_labels.jsonl.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from segshift.errors import DataError
from segshift.label_quality import Quality, measure_run
from segshift.run_folder import read_run

RESULTS = Path(__file__).parent / "results" / "pseudo_labels.jsonl"


@dataclass(frozen=True)
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs with rounds of pseudo-labels."""
    target: str | None = None
    """Where the target's folder is now, if it has moved."""


def figures(quality: Quality) -> dict[str, float | None]:
    """Fractions of 1, or None; coverage is over the pixels whose truth is known."""
    rare = quality.rarer_half
    found = {
        "coverage": quality.proportion,
        "accuracy": quality.accuracy,
        "P-mIoU": quality.miou,
        "rare share of truth": rare.share_of_truth,
        "rare share of labels": rare.share_of_labels,
        "rare precision": rare.precision,
        "rare recall": rare.recall,
    }
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def main(options: Options) -> None:
    table = Table(
        "run", "round", "coverage", "accuracy", "P-mIoU", "rare: of truth", "of labels", "precision", "recall"
    )
    for run in options.runs:
        info = read_run(run).info
        rounds = {n: figures(quality) for n, quality in measure_run(run, options.target).items()}
        if not rounds:
            raise DataError(f"{run}: no round of pseudo-labels, or no labels of the target; expected both")
        for n, entry in rounds.items():
            cells = ("-" if v is None else f"{100 * v:.2f}" for v in entry.values())
            table.add_row(f"{info['name'].split('/')[0]}/{run.name}, seed {info['seed']}", str(n), *cells)
        line = {key: info[key] for key in ("name", "label", "seed", "data", "versions")} | {"rounds": rounds}
        date = datetime.now(UTC).date().isoformat()
        with RESULTS.open("a") as file:
            file.write(
                json.dumps({"date": date, "command": f"python benchmarks/pseudo_labels.py {run}", **line}) + "\n"
            )
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
