"""Accuracy of every row of a table, several seeds, from one shared warm-up a seed; mean ± sd over the seeds.

    python benchmarks/accuracy.py minicity
    python benchmarks/accuracy.py camvid-dusk --source CAMVID/day --target CAMVID/dusk --weights FILE \\
        --mean .5 .5 .5 --std .5 .5 .5
    python benchmarks/accuracy.py camvid-dusk … --rows cares --seeds 0
    python benchmarks/accuracy.py nuclei --source NUCLEI/fluorescence --target NUCLEI/histology --weights FILE --seeds 0

Each finished run appends a line to benchmarks/results/accuracy.jsonl; runs that stand there are not repeated. Run
folders are kept under runs/accuracy, so a row cut short goes on where it was. Nothing is chosen by target labels:
every figure is that of the last step.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor

from segshift import recipes
from segshift.adapt import resume, start
from segshift.data.dataset import LabelledDataset
from segshift.data.open_data import open_test
from segshift.evaluate import Scores
from segshift.models.network import load_model
from segshift.parts.augment import ColourAugmentation
from segshift.phase import Phase
from segshift.predict import score
from segshift.recipe import Recipe, to_dict
from segshift.scan import Views

RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"
HEADLINE = ("source-only", "adabn", "st", "cbst", "oracle")
INVERTED = "inverted"
"""No training: what source-only scores on test images with white and black exchanged. A control for nuclei."""
CARES = ("cbst-naive", "+ BatchNorm frozen", "+ learning rate / 5", "+ flip-averaged labels", "+ strong augmentation")
CARES += ("+ AdaBN before", "cbst")
"""Each adds one care to the row before; the last adds AdaBN after, and is the default recipe."""


def cared(recipe: Recipe, count: int) -> Recipe:
    """Naive CBST with the first `count` cares of the table added, one upon another."""
    phase = recipe.adaptation
    assert phase is not None
    steps: list[Callable[[Phase], Phase]] = [
        lambda p: replace(p, method=replace(p.method, batch_norm="frozen")),
        lambda p: replace(p, method=replace(p.method, optimizer=_divided(p.method.optimizer, 5))),
        lambda p: replace(p, scan=Views(flip=True)),
        lambda p: replace(p, method=replace(p.method, augment=ColourAugmentation())),
        lambda p: replace(p, adabn_before="target"),
    ]
    for step in steps[:count]:
        phase = step(phase)
    return replace(recipe, label=CARES[count], adaptation=phase)


def _divided(optimizer, by: float):
    return replace(optimizer, lr=optimizer.lr / by)


def recipe_of(group: str, row: str) -> Recipe:
    """The recipe of a row: one of `segshift recipes`, or a step of the ladder of cares."""
    if row.startswith("+ "):
        return cared(recipes.find(f"{group}/cbst-naive"), CARES.index(row))
    return recipes.find(f"{group}/{'source-only' if row == INVERTED else row}")


@dataclass(frozen=True)
class Options:
    group: Annotated[str, tyro.conf.Positional]
    """minicity, camvid-dusk, nuclei."""
    source: str | None = None
    target: str | None = None
    weights: str | None = None
    """Backbone weights: a safetensors file with timm's names. Without it: timm's own pretrained ones."""
    mean: tuple[float, float, float] | None = None
    """Normalisation those weights expect; None: that of timm's own weights."""
    std: tuple[float, float, float] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: str = "headline"
    """headline, cares, or names with commas between."""
    threads: int = 2
    out: Path = Path("runs/accuracy")


def prepared(options: Options, row: str, seed: int) -> Recipe:
    """A row's recipe on the data that the options name."""
    recipe = recipe_of(options.group, row)
    data = recipe.data
    if options.source and options.target:
        data = replace(data, source=options.source, target=options.target)
    network = recipe.network
    if options.weights:
        network = replace(network, weights=options.weights, mean=options.mean, std=options.std)
    settings = replace(recipe.settings, seed=seed, threads=options.threads)
    return replace(recipe, data=data, network=network, settings=settings)


def identity(recipe: Recipe) -> str:
    """A short hash of all that decides a row's result: the recipe, without paths and what only names it."""
    content = to_dict(recipe)
    content["data"] = {key: value for key, value in content["data"].items() if key not in ("source", "target")}
    content["network"]["weights"] = Path(content["network"].get("weights", "none")).name
    kept = {key: content[key] for key in ("network", "data", "warmup", "adaptation", "test")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def finished() -> list[dict]:
    """All runs that stand in the results file."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


class Inverted:
    """A labelled set with white and black exchanged: the simplest remedy for an inverted polarity."""

    def __init__(self, dataset: LabelledDataset) -> None:
        self.names, self.space, self.label = dataset.names, dataset.space, dataset.label
        self.fingerprint, self._image = dataset.fingerprint, dataset.image

    def image(self, index: int) -> Tensor:
        return 255 - self._image(index)


def inverted_scores(source_only: Path, recipe: Recipe) -> Scores:
    """The source-only model on inverted test images."""
    model = load_model(source_only)
    test = open_test(recipe.data, model.space)
    assert test is not None, "a score needs labelled test images"
    return score(model.network, Inverted(test), model.short_side, recipe.test)


def run(options: Options, row: str, seed: int) -> None:
    """Train and score one row, and append it to the results."""
    recipe = prepared(options, row, seed)
    wanted = (options.group, row, seed, identity(recipe))
    if any((r["group"], r["row"], r["seed"], r.get("recipe")) == wanted for r in finished()):
        return
    place = options.out / options.group / f"seed-{seed}"
    folder = place / row.replace(" ", "-").replace("/", "by")
    warmup = None if recipe.adaptation is None else place / "source-only"
    started = time.monotonic()
    if row == INVERTED:
        folder = place / "source-only"
        scores = inverted_scores(folder, recipe).to_dict()
    else:
        resume(folder) if (folder / "run.json").exists() else start(recipe, folder, warmup)
        scores = json.loads((folder / "evaluation" / "final.json").read_text())
    info = json.loads((folder / "run.json").read_text())
    entry = {
        "date": datetime.now(UTC).date().isoformat(),
        "group": options.group,
        "row": row,
        "seed": seed,
        "recipe": identity(recipe),
        "threads": options.threads,
        "scores": scores,
        "seconds": round(time.monotonic() - started, 1),
        "command": command(options, row, seed),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": info["versions"],
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def command(options: Options, row: str, seed: int) -> str:
    """What repeats a row; data and weights by the last two parts of their paths."""
    words = ["python benchmarks/accuracy.py", options.group]
    for name in ("source", "target", "weights"):
        value = getattr(options, name)
        words += [f"--{name} …/{'/'.join(Path(value).parts[-2:])}"] if value else []
    for name in ("mean", "std"):
        value = getattr(options, name)
        words += [f"--{name} {' '.join(map(str, value))}"] if value else []
    return " ".join([*words, f"--rows {row!r} --seeds {seed} --threads {options.threads}"])


def table(options: Options, rows: tuple[str, ...]) -> str:
    """Per-class IoU and mIoU as Markdown, mean ± sd over the seeds, in percent."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        current = identity(prepared(options, row, 0))
        found[row] = [r for r in finished() if (r["group"], r["row"], r.get("recipe")) == (options.group, row, current)]
    columns = {row: [Scores.from_dict(r["scores"]) for r in entries] for row, entries in found.items() if entries}
    if not columns:
        return "no finished runs"
    first = next(iter(columns.values()))[0]
    head = [f"{recipes.LABELS.get(row, row)} (n={len(scores)})" for row, scores in columns.items()]
    lines = ["| class | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for index in first.counted():
        cells = [_spread([float(s.iou[index]) for s in scores]) for scores in columns.values()]
        lines.append(f"| {first.space.classes[index]} | " + " | ".join(cells) + " |")
    for subset in first.miou:
        cells = [_spread([s.mean_iou(subset) for s in scores], bold=True) for scores in columns.values()]
        lines.append(f"| **mIoU, {subset} ({len(first.counted(subset))} classes)** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], bold: bool = False) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    mean = f"**{mean}**" if bold else mean
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main(options: Options) -> None:
    named = {"headline": HEADLINE, "cares": ("source-only", *CARES)}
    rows = named.get(options.rows) or tuple(options.rows.split(","))
    RESULTS.parent.mkdir(exist_ok=True)
    for seed in options.seeds:
        for row in rows if "source-only" in rows else ("source-only", *rows):
            run(options, row, seed)
    print(table(options, rows))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
