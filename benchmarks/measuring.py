"""What the benchmarks share: sides timed in turn, the machine's own limits, one line a result.

A result line holds date, command, versions, machine (with the limits measured in the same run), what was measured,
and `ratios`: figures that are better when larger and that hardly depend on the machine, such as the reference's time
over ours. `make bench` compares those, and those alone, with the newest saved line of the same command.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
T = TypeVar("T")
Side = Callable[[], object]
"""What is timed; it can be called any number of times."""


class Spread(NamedTuple):
    """Seconds (or any other figure) of several runs."""

    median: float
    least: float
    most: float
    runs: int

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.least:.4g} to {self.most:.4g})"


def spread(figures: Sequence[float]) -> Spread:
    return Spread(statistics.median(figures), min(figures), max(figures), len(figures))


def timed(side: Side, device: str = "cpu") -> float:
    """Seconds of one call; of a GPU's work, until it is done."""
    _wait(device)
    started = time.perf_counter()
    side()
    _wait(device)
    return time.perf_counter() - started


def in_turn(sides: Mapping[str, Side], repeats: int, device: str = "cpu") -> dict[str, Spread]:
    """Each side's seconds: one call each to warm up, then all sides in turn, `repeats` times."""
    for side in sides.values():
        side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            found[name].append(timed(side, device))
    return {name: spread(seconds) for name, seconds in found.items()}


def megabytes_at_peak() -> float:
    """The largest memory that this process has held; a side's own is measured in a process of its own."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def in_own_process(function: Callable[..., T], *arguments: object, ready: Sequence[str] = ()) -> T:
    """What a function of a module returns, called in a process of its own. `ready`: modules that it has imported before
    it starts, so that a process costs milliseconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(ready))  # of the first call; the same server forks all processes
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


# --- what the machine can do -----------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """Rates of this machine, measured: what no program on it can beat."""

    bytes_per_second: float
    """Memory read and written by a copy of a large array."""
    exponentials_per_second: float
    """exp of float32 values that lie in the cache."""
    flops_per_second: float
    """Of a float32 matrix product (2 n^3 operations)."""
    bf16_flops_per_second: float
    """Likewise of bfloat16."""


def limits(device: str = "cpu", threads: int = 1, repeats: int = 7) -> Limits:
    """The fastest of several tries each, for a limit is the best that can be had."""
    torch.set_num_threads(threads)
    large = torch.empty((256 if device != "cpu" else 64) << 20, dtype=torch.uint8, device=device)
    other = torch.empty_like(large)
    small = torch.rand(1 << (14 if device == "cpu" else 24), device=device)
    out = torch.empty_like(small)
    n = 1024 if device == "cpu" else 8192
    a, b = torch.rand(n, n, device=device), torch.rand(n, n, device=device)
    half = a.bfloat16(), b.bfloat16()
    calls = 256 if device == "cpu" else 1

    def exponentials() -> None:
        for _ in range(calls):
            torch.exp(small, out=out)

    def best(side: Side) -> float:
        side()
        return min(timed(side, device) for _ in range(repeats))

    return Limits(
        2 * large.nbytes / best(lambda: other.copy_(large)),
        calls * small.numel() / best(exponentials),
        2 * n**3 / best(lambda: a @ b),
        2 * n**3 / best(lambda: half[0] @ half[1]),
    )


def machine(device: str, threads: int, found: Limits | None = None) -> dict[str, Any]:
    """What a figure depends on, as a result line says it."""
    said: dict[str, Any] = {"cores": os.cpu_count(), "threads": threads, "device": device}
    if device.startswith("cuda"):
        said["gpu"] = torch.cuda.get_device_name(device)
    return said | ({} if found is None else {"limits": {k: float(f"{v:.4g}") for k, v in found._asdict().items()}})


# --- what is kept ----------------------------------------------------------------------------------------------------


def save(
    file: Path, machine: Mapping[str, Any], result: Mapping[str, Any], ratios: Mapping[str, float] | None = None
) -> None:
    """Append a line to a results file. `ratios`: what `make bench` guards, better when larger."""
    packages = ("segshift", "torch", "torchvision", "timm", "numpy")
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "machine": dict(machine),
        "result": dict(result),
        "ratios": {name: round(value, 4) for name, value in (ratios or {}).items()},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what stands in them; the first to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths)))
        for line in lines
    )


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
