"""A training step: what it is made of, what each way of executing it gains, and the step of released code beside it.

    python benchmarks/step.py                   the small network: minutes of a CPU
    python benchmarks/step.py --network deeplab-v2-resnet101 --crop 256 512 --batch 1 --parts losses split ways
    python benchmarks/step.py --device cuda     DeepLab-v2 on 512x1024, every method: 9 minutes
    python benchmarks/step.py --short           what `make bench` runs

Parts: `losses` (cross-entropy of upsampled scores, at once and in bands), `split` (data, forward, loss, backward,
optimiser), `ways` (each way of execution alone, and together, against the plain step: contiguous float32, scores at
full size, torch's default optimiser), `reference` (the step as released code has it, with its data, beside ours) and
`methods` (every method at several batches, in float32 and bf16). Split, ways and reference are of CBST's step: source
labels and pseudo-labels, a backward pass each. On a CPU each side runs in a process of its own, so that its peak memory
is its own, beyond what it held before its first step; on a GPU it is what torch has allocated. How many times as fast a
side is, the fastest runs say, which other work disturbs least. A batch of B is B images of each domain looked at.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

import measuring
from measuring import Limits, spread, table, timed
from step_sides import (
    METHODS,
    NETWORKS,
    TOGETHER,
    Case,
    Clock,
    Ours,
    Way,
    batches,
    fixed,
    loss_side,
    on_device,
    our_step,
    released_step,
    ways,
)

Part = Literal["losses", "split", "ways", "reference", "methods"]
METHOD_FILES = ("cpsl", "distillation", "iast", "style_gap", "category_adaptive")
READY = ("tyro", "lightning_fabric", "segshift.models.deeplab", *(f"segshift.methods.{name}" for name in METHOD_FILES))
GOAL_SPEED, GOAL_SHARE = 3.0, 0.35
MB = 2**20


@dataclass(frozen=True)
class Options:
    network: str | None = None
    """deeplab-v2-resnet101 or small. None: the first on a GPU, the second on a CPU."""
    crop: tuple[int, int] | None = None
    """Height and width. None: 512 1024 of the first, 96 192 of the second."""
    batch: int | None = None
    """Images of a domain. None: 2 of the first, 8 of the second."""
    batches: tuple[int, ...] | None = None
    """Of `methods`. None: 2 4 8 on a GPU, else `batch`."""
    method: tuple[str, ...] = ("all",)
    """Of `methods`."""
    precision: Literal["both", "32-true", "bf16-mixed"] = "both"
    """Of `methods`. On a CPU float32 alone unless asked for."""
    parts: tuple[Part, ...] = ("losses", "split", "ways", "reference", "methods")
    device: str = "cpu"
    compile: bool | None = None
    """Measure torch.compile too. None: on a GPU, and for the small network."""
    threads: int = min(2, os.cpu_count() or 1)
    workers: int | None = None
    """Loading processes of `reference`, on both sides. None: 4 for a GPU, else none."""
    repeats: int = 6
    seconds: float = 480.0
    """After which no further case of `methods` is begun."""
    short: bool = False
    """The losses on 2 images of 512x1024, and the small network's step beside the reference's."""
    out: Path = measuring.RESULTS / "step.jsonl"


# --- one side --------------------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Steps of one side."""

    seconds: list[float]
    first: float
    """Seconds of the steps before those."""
    memory_mb: float


def measured(case: Case, way: Way | None, workers: int | None, repeats: int) -> Measured:
    """Steps of ours in a way of execution; without one, those of released code."""
    torch.set_num_threads(case.threads)
    side = released_step(case, workers or 0) if way is None else our_step(case, way, workers)
    return _run(side, case.device, repeats)


def measured_loss(case: Case, banded: bool, repeats: int) -> Measured:
    torch.set_num_threads(case.threads)
    loss_side(replace(case, crop=(64, 64), batch=1), banded)()
    return _run(loss_side(case, banded), case.device, repeats)


def _run(side: Callable[[], object], device: str, repeats: int) -> Measured:
    before = measuring.megabytes_at_peak()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    first = sum(timed(side, device) for _ in range(1 if device == "cpu" else 3))
    seconds = [timed(side, device) for _ in range(repeats)]
    held = measuring.megabytes_at_peak() - before if device == "cpu" else torch.cuda.max_memory_allocated() / MB
    return Measured(seconds, first, held)


def apart(function: Callable[..., Measured], case: Case, *arguments: object) -> Measured:
    """A side by itself: in a process of its own, or on an empty GPU. NaN where it did not fit."""
    if case.device == "cpu":
        return measuring.in_own_process(function, case, *arguments, ready=READY)
    try:
        return function(case, *arguments)
    except torch.OutOfMemoryError:
        return Measured([math.nan], math.nan, math.nan)
    finally:
        gc.collect()
        torch.compiler.reset()
        torch.cuda.empty_cache()


def in_turn(sides: dict[str, tuple[Any, ...]], turns: int, once: Sequence[str] = ()) -> dict[str, Measured]:
    """(function, case, arguments, …, repeats) of each side, all sides in turn; some in the first turn alone."""
    runs: dict[str, list[Measured]] = {name: [] for name in sides}
    for turn in range(turns):
        for name, (function, case, *arguments) in sides.items():
            if turn == 0 or name not in once:
                runs[name].append(apart(function, case, *arguments))
    return {
        name: Measured([s for run in found for s in run.seconds], found[0].first, max(run.memory_mb for run in found))
        for name, found in runs.items()
    }


def flops(case: Case) -> int:
    """Floating-point operations of a step: convolutions and matrix products, forward and backward."""
    ours = Ours(case.network, case.method, case.device, Way())
    batch = fixed(case.crop, case.batch, case.device, ours.soft)
    with FlopCounterMode(display=False) as counter:
        ours.step(batch)
    return counter.get_total_flops()


def row(name: str, found: Measured, base: Measured) -> list[str]:
    """Name, median ms, their spread, speed over the base's, peak memory, how much less than the base's."""
    seconds = spread(found.seconds)
    return [
        name,
        f"{1e3 * seconds.median:.1f}",
        f"{1e3 * seconds.least:.1f} to {1e3 * seconds.most:.1f}",
        f"{min(base.seconds) / seconds.least:.2f}",
        f"{found.memory_mb:.0f}",
        f"{base.memory_mb / max(found.memory_mb, 1.0):.2f}",
    ]


HEADER = ["", "ms", "spread", "times as fast", "peak MB", "times less"]


def as_result(found: dict[str, Measured]) -> dict[str, Any]:
    return {
        name: {"seconds": spread(one.seconds)._asdict(), "first": one.first, "memory_mb": one.memory_mb}
        for name, one in found.items()
    }


def quicker(found: dict[str, Measured], base: str, name: str) -> float:
    return min(found[base].seconds) / min(found[name].seconds)


# --- parts -----------------------------------------------------------------------------------------------------------


def part_losses(case: Case, options: Options, limit: Limits) -> tuple[dict[str, Any], dict[str, float]]:
    if options.short:
        case = replace(case, network="deeplab-v2-resnet101", crop=(512, 1024), batch=2)
    sides = {
        name: (measured_loss, case, name == "in bands", max(2, options.repeats // 2))
        for name in ("at once", "in bands")
    }
    found = in_turn(sides, 3)
    height, width = case.crop
    scores = 19 * case.batch * height * width
    print(f"\nlosses: cross-entropy with its gradient, {case.batch} x 19 x {height} x {width}")
    print(table(HEADER, [row(name, one, found["at once"]) for name, one in found.items()]))
    # Each score's exponential once, on as many threads as there are: the sum over classes needs it.
    floor = scores / limit.exponentials_per_second / (case.threads if case.device == "cpu" else 1)
    most = spread(found["in bands"].seconds).median / floor
    print(f"limit: {1e3 * floor:.1f} ms, each score's exponential once; in bands {most:.1f} times that")
    print(f"scores at full size: {4 * scores / MB:.0f} MB")
    ratios = {
        "losses, time": quicker(found, "at once", "in bands"),
        "losses, memory": found["at once"].memory_mb / max(found["in bands"].memory_mb, 1.0),
    }
    return as_result(found) | {"floor": floor}, ratios


def part_split(case: Case, options: Options, limit: Limits) -> tuple[dict[str, Any], dict[str, float]]:
    """Of the plain step, and of the one with all that pays; data as this process makes it."""
    del limit
    shown = {"plain": Way(), "together": TOGETHER if case.device != "cpu" else replace(TOGETHER, bf16=False)}
    found = {name: _split(case, way, options.repeats) for name, way in shown.items()}
    parts = list(found["plain"])
    print("\nsplit of a step, ms")
    print(table(["", *parts], [[name, *(f"{1e3 * one[part]:.1f}" for part in parts)] for name, one in found.items()]))
    return found, {}


def _split(case: Case, way: Way, repeats: int) -> dict[str, float]:
    """Medians over steps. The losses: what a method takes until they are there, less the network's forwards."""
    ours, given = Ours(case.network, case.method, case.device, way), batches(case.crop, case.batch, 0, pin=False)
    seen: list[dict[str, float]] = []
    for _ in range(max(3, repeats // 2) + 1):
        clock = Clock(case.device)
        with clock.part("data"):
            drawn = next(given)
        with clock.part("to device"):
            batch = on_device(drawn, case.device, ours.soft)
        with clock.forward_of(ours.method.model):
            ours.step(batch, clock)
        seen.append(clock.seconds)
    found = {part: spread([one[part] for one in seen[1:]]).median for part in seen[0]}
    found["loss"] = found.pop("forward and loss") - found["forward"]
    return {part: found[part] for part in ("data", "to device", "forward", "loss", "backward", "optimiser")}


def part_ways(case: Case, options: Options, limit: Limits) -> tuple[dict[str, Any], dict[str, float]]:
    chosen = ways(case.device, bool(options.compile))
    turns = 2 if case.device == "cpu" else 1
    repeats = max(2, options.repeats // turns)
    sides = {name: (measured, case, way, None, repeats) for name, way in chosen.items()}
    found = in_turn(sides, turns, once=[name for name, way in chosen.items() if way.compile])
    work = flops(case)
    print(f"\nways of a step: {work / 1e12:.3f} T operations, {case.images} images")
    rows = [
        [*row(name, one, found["plain"]), share(work, one, chosen[name].bf16, limit), f"{one.first:.1f}"]
        for name, one in found.items()
    ]
    print(table([*HEADER, "of the matmul rate", "first steps, s"], rows))
    ratios = {f"way, {name}": quicker(found, "plain", name) for name in found if name != "plain"}
    return as_result(found) | {"flops": work}, ratios


def share(work: int, found: Measured, bf16: bool, limit: Limits) -> str:
    rate = limit.bf16_flops_per_second if bf16 else limit.flops_per_second
    return f"{100 * work / spread(found.seconds).median / rate:.0f} %"


def part_reference(case: Case, options: Options, limit: Limits) -> tuple[dict[str, Any], dict[str, float]]:
    """Whole steps with their loading: released code's, ours in float32, and (on a GPU) with all that pays."""
    gpu, workers, turns = case.device != "cpu", options.workers or 0, 1 if case.device != "cpu" else 3
    large = 4 * 19 * case.batch * case.crop[0] * case.crop[1] > 32 * MB
    sides = {"released": None, "ours": Way(channels_last=True, fused=gpu, banded=large)}
    if gpu:
        sides |= {"ours, bf16": TOGETHER, "ours, bf16, compiled": replace(TOGETHER, compile=True)}
    repeats = max(2, 2 * options.repeats // turns)
    found = in_turn({name: (measured, case, way, workers, repeats) for name, way in sides.items()}, turns)
    print(f"\nreference: whole steps, {workers} loading processes")
    rows = [
        [*row(name, one, found["released"]), f"{case.images / spread(one.seconds).median:.2f}"]
        for name, one in found.items()
    ]
    print(table([*HEADER, "images/s"], rows))
    best = max(quicker(found, "released", name) for name in found)
    print(f"goal on an H200: {GOAL_SPEED:.0f} times as fast as released code; here {best:.2f}")
    if gpu:
        work = flops(case)
        reached = share(work, found["ours, bf16"], True, limit), share(work, found["ours, bf16, compiled"], True, limit)
        print(f"goal: {100 * GOAL_SHARE:.0f} % of the measured bf16 rate; here {reached[0]}, compiled {reached[1]}")
    return as_result(found), {f"reference, {name}": quicker(found, "released", name) for name in list(found)[1:]}


def part_methods(case: Case, options: Options, limit: Limits, started: float) -> dict[str, Any]:
    """Images a second and peak memory of every method; the rest is named where time is up."""
    names = tuple(METHODS) if options.method == ("all",) else options.method
    both = options.precision == "both" and case.device != "cpu"
    precisions = ("32-true", "bf16-mixed") if both else (options.precision.replace("both", "32-true"),)
    cases = [(b, p, n) for b in options.batches or () for p in precisions for n in names]
    rows, found, left = [], {}, []
    work: dict[str, int] = {}
    for batch, precision, name in cases:
        if time.perf_counter() - started > options.seconds:
            left.append(f"{name} {batch} {precision}")
            continue
        one = replace(case, method=name, batch=batch)
        way = replace(TOGETHER, bf16=precision != "32-true", fused=case.device != "cpu")
        took = apart(measured, one, way, None, 2 if case.device == "cpu" else 4)
        if name not in work and not math.isnan(took.seconds[0]):
            work[name] = flops(one) // batch
        seconds = spread(took.seconds)
        used = share(work.get(name, 0) * batch, took, way.bf16, limit)
        rows.append([f"{name}, {precision}", str(batch), f"{1e3 * seconds.median:.0f}",
                     f"{one.images / seconds.median:.2f}", f"{took.memory_mb:.0f}", used])  # fmt: skip
        found[f"{name} {batch} {precision}"] = {"seconds": seconds._asdict(), "memory_mb": took.memory_mb}
    print("\nmethods: batches of a domain, images a second of all domains")
    print(table(["", "batch", "ms a step", "images/s", "peak MB", "of the matmul rate"], rows))
    if left:
        print(f"left out after {options.seconds:.0f} s: {', '.join(left)}")
    return {"steps": found, "flops of an image of each domain": work, "left out": left}


# --- all of it -------------------------------------------------------------------------------------------------------


def completed(options: Options) -> Options:
    """Options with what follows from others."""
    network = options.network or ("small" if options.device == "cpu" else "deeplab-v2-resnet101")
    if network not in NETWORKS or not {*options.method} <= {*METHODS, "all"}:
        raise SystemExit(f"expected --network {' or '.join(NETWORKS)}, --method all or some of {', '.join(METHODS)}")
    small, gpu = network == "small", options.device != "cpu"
    batch = options.batch or (8 if small else 2)
    options = replace(
        options,
        network=network,
        crop=options.crop or ((96, 192) if small else (512, 1024)),
        batch=batch,
        batches=options.batches or ((2, 4, 8) if gpu else (batch,)),
        compile=(small or gpu) if options.compile is None else options.compile,
        workers=(4 if gpu else 0) if options.workers is None else options.workers,
    )
    if not options.short:
        return options
    # On one thread, which other work disturbs least.
    return replace(options, crop=(96, 192), batch=4, parts=("losses", "reference"), repeats=4, compile=False, threads=1)


def main(options: Options) -> None:
    started = time.perf_counter()
    options = completed(options)
    assert options.network and options.crop and options.batch
    limit = measuring.limits(options.device, options.threads)
    torch.set_num_threads(options.threads)
    case = Case(options.network, "cbst", options.crop, options.batch, options.device, options.threads)
    height, width = case.crop
    print(f"{case.network}, {case.batch} images of {height} x {width} a domain, {case.device}, {case.threads} threads")
    print(
        f"measured rates: {limit.flops_per_second / 1e12:.3f} T operations/s in float32, "
        f"{limit.bf16_flops_per_second / 1e12:.3f} in bf16, {limit.bytes_per_second / 1e9:.1f} GB/s"
    )
    results: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    for name, part in {
        "losses": part_losses, "split": part_split, "ways": part_ways, "reference": part_reference
    }.items():  # fmt: skip
        if name in options.parts:
            results[name], guarded = part(case, options, limit)
            ratios |= guarded
    if "methods" in options.parts:
        results["methods"] = part_methods(case, options, limit, started)
    told = {"network": case.network, "crop": case.crop, "batch": case.batch}
    measuring.save(options.out, measuring.machine(case.device, case.threads, limit), told | results, ratios)
    print(f"\n{time.perf_counter() - started:.0f} s; saved to {options.out}")


if __name__ == "__main__":
    main(tyro.cli(Options))
