"""The demo: every row of the table on the embedded street, from one shared warm-up, in minutes, without a GPU."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from segshift import recipes
from segshift.errors import ConfigError
from segshift.progress import Reporter
from segshift.reporting.figures import score_table
from segshift.reporting.report import write_report
from segshift.run_data import Data, open_all
from segshift.runs import recipe_of, resume, start

ROWS = ("adabn", "st", "cbst")


def demo(out: Path, seed: int, threads: int) -> Path:
    """Train source-only, then AdaBN, ST, CBST and the oracle from its weights; print the table, write the report.

    Rows that an earlier demo finished in the same folder are kept; one that it left unfinished is resumed.
    Returns the report.
    """
    started = time.monotonic()
    data = open_all(recipes.find("minicity/cbst"))  # drawn once for all rows but the oracle, which sees labels
    warmup = _run("source-only", out, seed, threads, None, data)
    rows = [_run(row, out, seed, threads, warmup, data) for row in ROWS]
    oracle = _run("oracle", out, seed, threads, warmup, None)
    report = write_report(rows, out / "report.html", oracle, title="Segshift demo: an embedded street, day to dusk")
    reporter = Reporter()
    reporter.console.print(score_table(rows, oracle))
    reporter.say(f"{time.monotonic() - started:.0f} s. Report: {report}  The same figures: {out / 'results.json'}")
    return report


def _run(row: str, out: Path, seed: int, threads: int, warmup: Path | None, data: Data | None) -> Path:
    folder = out / row
    Reporter().say(f"--- {recipes.LABELS[row]}: {recipes.ROWS[row]}")
    recipe = recipes.find(f"minicity/{row}")
    recipe = replace(recipe, settings=replace(recipe.settings, seed=seed, threads=threads))
    if not (folder / "run.json").exists():
        return start(recipe, folder, warmup, data=data)
    if recipe_of(folder) != recipe:
        raise ConfigError(
            f"{folder}: holds a demo of another seed, number of threads or version; choose another --out, or delete it"
        )
    return resume(folder)
