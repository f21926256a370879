"""The accuracy tables of the README: `segshift table` with the results kept in the repository, and one control.

    python benchmarks/accuracy.py minicity
    python benchmarks/accuracy.py cares --seeds 0
    python benchmarks/accuracy.py camvid-dusk --source CAMVID/day --target CAMVID/dusk --weights FILE \\
        --mean .5 .5 .5 --std .5 .5 .5
    python benchmarks/accuracy.py nuclei --source NUCLEI/fluorescence --target NUCLEI/histology --weights FILE --seeds 0

All options of `segshift table` may follow. On nuclei, source-only is scored on inverted test images too: a control.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro
from torch import Tensor

from segshift import tables
from segshift.data.dataset import LabelledDataset
from segshift.data.open_data import open_test
from segshift.models.network import load_model
from segshift.options import TableOptions
from segshift.predict import score
from segshift.tables.plan import plan
from segshift.tables.results import Results
from segshift.tables.run import run_table

RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"
TABLES = {
    "minicity": ("cbst/rows", "minicity"),
    "camvid-dusk": ("cbst/rows", "camvid-dusk"),
    "nuclei": ("cbst/rows", "nuclei"),
    "cares": ("cbst/cares", "minicity"),
}
INVERTED = "inverted"


class Inverted:
    """A labelled set with white and black exchanged: the simplest remedy for an inverted polarity."""

    def __init__(self, dataset: LabelledDataset) -> None:
        self.names, self.space, self.label = dataset.names, dataset.space, dataset.label
        self.fingerprint, self._image = dataset.fingerprint, dataset.image

    def image(self, index: int) -> Tensor:
        return 255 - self._image(index)


def inverted(options: TableOptions, results: Results) -> None:
    """Score source-only on inverted test images, for each seed, and print its mean IoU."""
    for job in plan(tables.find(options.table), options):
        if job.row.key != "source-only":
            continue
        key = job.key._replace(row=INVERTED)
        entry = results.find(key, job.data)
        if entry is None:
            model = load_model(job.training.folder)
            test = open_test(job.recipe.data, model.space)
            assert test is not None, "the table has looked for labelled images"
            scores = score(model.network, Inverted(test), model.short_side, job.recipe.test)
            entry = results.append(
                key, {"data": job.data, "scores": scores.to_dict(), "command": "python benchmarks/accuracy.py nuclei"}
            )
        iou = ", ".join(f"{name} {100 * value:.1f}" for name, value in entry.content["scores"]["iou"].items())
        print(f"source-only on inverted images, seed {key.seed}: mIoU {100 * entry.scores.mean_iou():.1f} ({iou})")


def main(words: list[str]) -> None:
    if not words or words[0] not in TABLES:
        sys.exit(f"expected one of {', '.join(TABLES)}, then options of `segshift table`\n\n{__doc__}")
    name, group = TABLES[words[0]]
    fixed = [name, "--data", group, "--out", "runs/accuracy", "--results", str(RESULTS)]
    options = tyro.cli(TableOptions, args=[*fixed, *words[1:]], config=(tyro.conf.FlagCreatePairsOff,))
    run_table(options)
    if group == "nuclei" and not options.dry_run:
        inverted(options, Results(RESULTS))


if __name__ == "__main__":
    main(sys.argv[1:])
