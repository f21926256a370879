"""The regression guard: the short form of each benchmark, its ratios held against the saved ones.

    python benchmarks/guard.py                  all; exit 1 where a ratio has lost more than 25 %
    python benchmarks/guard.py --only selection --save

A ratio (reference over ours, one half of a run over the other) hardly depends on the machine, seconds do. What is
compared with is the newest line of `results/NAME.jsonl` that a `--short` run saved. A loss is measured once more before
it counts, for other work on the machine disturbs short runs, and the better of the two counts. `--save` appends the new
lines to the results.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro

import measuring

GUARDED = ("selection", "growth", "step", "loading", "evaluation", "shards", "processes", "startup")
LOSS = 0.25
"""What a ratio may lose."""


@dataclass(frozen=True)
class Options:
    only: tuple[str, ...] = GUARDED
    save: bool = False
    """Keep what was measured as what later runs are compared with."""


class Lost(NamedTuple):
    """A ratio that has become worse by more than is allowed."""

    name: str
    before: float
    now: float


def short_lines(file: Path) -> list[dict[str, Any]]:
    """What `--short` runs saved, oldest first."""
    if not file.is_file():
        return []
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "--short" in line["command"].split()]


def losses(before: Mapping[str, float], now: Mapping[str, float], loss: float = LOSS) -> list[Lost]:
    """Ratios that stand in both and have lost more than that share, in the order of the earlier ones."""
    shared = [name for name in before if name in now]
    return [Lost(name, before[name], now[name]) for name in shared if now[name] < (1 - loss) * before[name]]


def measured(name: str, out: Path) -> dict[str, float]:
    """The ratios of one short run."""
    command = [sys.executable, str(Path(__file__).parent / f"{name}.py"), "--short", "--out", str(out)]
    subprocess.run(command, check=True)
    return short_lines(out)[-1]["ratios"]


def guard(name: str, options: Options, folder: Path) -> list[Lost]:
    """Run one benchmark and say what has been lost."""
    results, out = measuring.RESULTS / f"{name}.jsonl", folder / f"{name}.jsonl"
    saved = short_lines(results)
    now = measured(name, out)
    if saved and losses(saved[-1]["ratios"], now):
        again = measured(name, out)
        now = {key: max(value, again.get(key, value)) for key, value in now.items()}
    if options.save:
        with results.open("a", encoding="utf-8") as file:
            file.write(out.read_text(encoding="utf-8").splitlines()[-1] + "\n")
    if not saved:
        print(f"{name}: nothing saved to compare with; --save keeps what was measured now")
        return []
    return losses(saved[-1]["ratios"], now)


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").splitlines()[0])
    found: dict[str, list[Lost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            print(f"\n--- {name}", flush=True)
            found[name] = guard(name, options, Path(folder))
    rows = [[name, lost.name, f"{lost.before:.3g}", f"{lost.now:.3g}"] for name in found for lost in found[name]]
    if rows:
        print("\nlost more than 25 %:\n" + measuring.table(["benchmark", "ratio", "saved", "now"], rows))
        sys.exit(1)
    print("\nno ratio has lost more than 25 %")


if __name__ == "__main__":
    main()
