"""How well the scores without labels tell which of many finished runs is best, held against their test mIoU.

    python benchmarks/label_free.py runs/tables/runs/minicity/seed-*/* --threads 1 --minutes 20
    python benchmarks/label_free.py --table

A run's model is scored on target training images (`segshift.label_free`), its truth is read from evaluation/final.json.
Each run is one line of results/label_free.jsonl, and is not measured again where its line is there (group, run, seed).
Then a table of all lines: rank correlation of each score with the truth, and the regret of choosing by it, which is the
mIoU of the best run less that of the run with the best score. Intervals: 95 %, by drawing runs anew 1000 times. Oracle
runs, which are trained on target labels, are left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from measuring import RESULTS
from segshift import recipe as recipe_file
from segshift.data.held_out import open_held_out
from segshift.data.open_data import open_target
from segshift.errors import SegshiftError
from segshift.label_free import IMAGES, NAMES, SIGNS, WORDS, scores_of
from segshift.models.network import load_model
from segshift.run_folder import read_run

FILE = RESULTS / "label_free.jsonl"
DRAWS = 1000


@dataclass(frozen=True)
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    images: int = IMAGES
    """Target training images looked at, of each run."""
    threads: int = 1
    minutes: float = 1e9
    """No further run is begun after so long."""
    source: str | None = None
    """In place of the one that a run names."""
    target: str | None = None
    results: Path = FILE
    table: bool = False
    """Measure nothing, print the table."""


def measured(run: Path, options: Options) -> dict[str, Any]:
    """The line of a run."""
    read = read_run(run)
    assert read.final is not None, f"{run}: has no test scores"
    config = recipe_file.from_dict(read.info["recipe"], str(run)).data
    config = replace(config, source=options.source or config.source, target=options.target or config.target)
    model = load_model(run)
    started = time.perf_counter()
    found = scores_of(model.network, open_target(config), model.short_side, open_held_out(config), most=options.images)
    return {
        **key_of(run, read.info),
        "label": read.info["label"],
        "family": family(read.info["recipe"]),
        "scores": found.to_dict(),
        "truth": read.final.mean_iou(),
        "images": found.images,
        "seconds": round(time.perf_counter() - started, 2),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": read.info["versions"],
    }


def key_of(run: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    return {"group": info["name"].split("/")[0], "run": run.name, "seed": info["seed"]}


def family(recipe: Mapping[str, Any]) -> str:
    """The method of the recipe's last phase."""
    phases = [recipe[name] for name in ("distillation", "adaptation", "alignment", "warmup") if recipe.get(name)]
    return phases[0]["method"]["kind"].removesuffix("Config")


# --- rank correlation -----------------------------------------------------------------------------------------------


def ranks(values: np.ndarray) -> np.ndarray:
    """1, 2, ... from the smallest on; equal values share the mean of their ranks."""
    less = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return less + (equal + 1) / 2


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the ranks; nan where one side is constant."""
    a, b = ranks(x) - (len(x) + 1) / 2, ranks(y) - (len(y) + 1) / 2
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 0 else float("nan")


def kendall(x: np.ndarray, y: np.ndarray) -> float:
    """Tau-b: pairs in the same order less pairs in the other, ties taken out on each side."""
    a, b = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 0 else float("nan")


def regret(score: np.ndarray, truth: np.ndarray) -> float:
    """Truth of the best less truth of the one that the score picks, in points."""
    return 100 * float(truth.max() - truth[int(score.argmax())])


Figure = Callable[[np.ndarray, np.ndarray], float]


def interval(figure: Figure, score: np.ndarray, truth: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % of a figure over runs drawn anew with replacement."""
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(score), size=len(score)) for _ in range(DRAWS))
    found = [figure(score[index], truth[index]) for index in drawn]
    if not np.isfinite(found).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


# --- the table ------------------------------------------------------------------------------------------------------


def parts(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """All runs of a group, those of one seed, those of one family; parts of fewer than five say nothing."""
    # The oracle saw target labels; a semi-supervised run's source is its target, so that its scores mean another thing.
    lines = [line for line in lines if line["family"] != "Oracle" and not line["run"].startswith("iast-semi")]
    found: dict[str, list[Mapping[str, Any]]] = {}
    for group in dict.fromkeys(line["group"] for line in lines):
        own = [line for line in lines if line["group"] == group]
        found[f"{group}, all"] = own
        for seed in sorted({line["seed"] for line in own}):
            found[f"{group}, seed {seed}"] = [line for line in own if line["seed"] == seed]
        for name in sorted({line["family"] for line in own}):
            found[f"{group}, {name}"] = [line for line in own if line["family"] == name]
    return {name: part for name, part in found.items() if len(part) >= 5}


def rows(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    found = []
    for part, members in parts(lines).items():
        for name in NAMES:
            there = [line for line in members if line["scores"][name] is not None]
            if len(there) < 5:
                continue
            score = SIGNS[name] * np.array([line["scores"][name] for line in there])
            truth = np.array([line["truth"] for line in there])
            words = [part, str(len(there)), WORDS[name]]
            for figure, digits in ((spearman, 2), (kendall, 2), (regret, 1)):
                low, high = interval(figure, score, truth)
                words.append(f"{figure(score, truth):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
            found.append(words)
    return found


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    file, started = options.results, time.monotonic()
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known = {(line["group"], line["run"], line["seed"]) for line in lines}
    for run in () if options.table else options.runs:
        if time.monotonic() - started > 60 * options.minutes:
            print("the time is up: run the command again to go on")
            break
        if tuple(key_of(run, read_run(run).info).values()) in known:
            continue
        try:
            line = measured(run, options)
        except (SegshiftError, AssertionError) as error:
            print(f"{run}: left out ({error})")
            continue
        lines.append(line)
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        print(run.name, {name: value and round(value, 4) for name, value in line["scores"].items()}, line["truth"])
    head = ["runs", "n", "score", "Spearman", "Kendall", "regret, points of mIoU"]
    print("\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows(lines))))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
