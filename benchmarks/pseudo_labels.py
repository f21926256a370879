"""How right the pseudo-labels of finished runs are, against target labels that the runs never saw.

    python benchmarks/pseudo_labels.py RUN [RUN ...] [--target DIR]

An oracle diagnosis: it reads the target's labels, and nothing is chosen by it. For each run and round: coverage, the
share of labels that are right, and of the rarer half of the classes (by their pixels in the truth) the share of all
labels they get, the mean of their precisions and of their recalls. A line a run goes to results/pseudo_labels.jsonl.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segshift import taxonomy
from segshift.adapt import recipe_of
from segshift.data.dataset import OracleTarget
from segshift.data.open_data import open_oracle
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.transforms import resize_label

RESULTS = Path(__file__).parent / "results" / "pseudo_labels.jsonl"


@dataclass(frozen=True)
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs with rounds of pseudo-labels."""
    target: str | None = None
    """Where the target's folder is now, if it has moved."""


def confusion_of(store: PseudoLabels, target: OracleTarget, classes: int) -> Tensor:
    """Pixels by (truth, pseudo-label), the last row and column for ignored truth and for pixels without a label."""
    total = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)
    for index, name in enumerate(target.names):
        label = store.read(name).long().clamp_max(classes)
        truth = resize_label(target.label(index), (label.shape[0], label.shape[1])).long().clamp_max(classes)
        pairs = torch.bincount((truth * (classes + 1) + label).flatten(), minlength=(classes + 1) ** 2)
        total += pairs.view(classes + 1, classes + 1)
    return total


def figures(confusion: Tensor) -> dict[str, float | None]:
    """Coverage, accuracy, and the rarer half's share, precision and recall, as fractions of 1 (or None)."""
    known = confusion[:-1]
    right, truth, labelled = known.diagonal().double(), known.sum(1), known[:, :-1].sum(0)
    occurs = [int(c) for c in truth.argsort() if truth[c] > 0]
    rare = occurs[: len(occurs) // 2]
    precision = (right / labelled)[rare]
    found = {
        "coverage": float(labelled.sum() / known.sum()),
        "accuracy": float(right.sum() / labelled.sum()),
        "rare share of truth": float(truth[rare].sum() / truth.sum()),
        "rare share of labels": float(labelled[rare].sum() / labelled.sum()),
        "rare precision": float(precision.nanmean()),  # classes that got no label have none
        "rare recall": float((right / truth)[rare].mean()),
    }
    return {name: None if math.isnan(value) else value for name, value in found.items()}


def rounds_of(run: Path, where: str | None) -> dict[int, dict[str, float | None]]:
    """The figures of each finished round of a run."""
    data = recipe_of(run).data
    info = json.loads((run / "run.json").read_text())
    space, _ = taxonomy.from_dict(info["space"], str(run / "run.json"))
    target = open_oracle(data if where is None else replace(data, target=where), space)
    stores = [PseudoLabels(folder, len(space)) for folder in run.glob("round-*")]
    found = {s.round: figures(confusion_of(s, target, len(space))) for s in stores if s.finished}
    return dict(sorted(found.items()))


def main(options: Options) -> None:
    table = Table("run", "round", "coverage", "accuracy", "rare: of truth", "of labels", "precision", "recall")
    for run in options.runs:
        info = json.loads((run / "run.json").read_text())
        rounds = rounds_of(run, options.target)
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
