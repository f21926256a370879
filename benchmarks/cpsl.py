"""CPSL's optimal transport and memory bank against the plain way, in the same run.

    python benchmarks/cpsl.py                       Sinkhorn, the bank, self-labelling, a whole step
    python benchmarks/cpsl.py --parts sinkhorn      67,584 samples of 19 classes, three iterations
    python benchmarks/cpsl.py --parts bank          2,048 features into banks of several sizes
    python benchmarks/cpsl.py --parts labelling     of a step, what samples pixels, transports and fills the bank
    python benchmarks/cpsl.py --parts step --crop 512 896 --device cuda

The plain way takes exp(scores / ε) and normalises classes and samples in turn, in place; its bank moves all rows to
make room for new ones, and its step joins bank and batch before the head. Both sides get the same tensors. Times: the
sides in turn, `--repeats` times, in one process; the median, and the fastest, which other work on the machine disturbs
less. Peak memory: on a CPU each side in a process of its own, so that its peak is its own, beyond what its inputs take;
on a GPU what torch allocates beyond them.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

import segshift
from segshift.methods.cpsl import CPSL, CPSLConfig
from segshift.methods.cpsl_bank import FeatureBank
from segshift.methods.cpsl_clusters import PixelClusters
from segshift.methods.cpsl_head import embedding_width, normalise
from segshift.methods.cpsl_transport import sinkhorn
from segshift.models.deeplab import DeepLabV2
from segshift.models.segmenter import Segmenter
from segshift.models.small import SmallNet
from segshift.types import IGNORE, Batch, Geometry, Images

CLASSES, WIDTH, NEW = 19, 256, 2048
CAPACITY = 65_536
CAPACITIES = (CAPACITY // 4, CAPACITY, 2 * CAPACITY)
RESULTS = Path(__file__).parent / "results" / "cpsl.jsonl"
Part = Literal["sinkhorn", "bank", "labelling", "step"]
Side = Literal["plain", "ours"]
SIDES: tuple[Side, Side] = ("plain", "ours")
Work = Callable[[], object]
"""What is measured; it can be called any number of times."""


@dataclass(frozen=True)
class Options:
    parts: tuple[Part, ...] = ("sinkhorn", "bank", "labelling", "step")
    samples: int = 67_584
    """Of Sinkhorn: a bank and the samples of four images."""
    network: Literal["small", "deeplab"] = "deeplab"
    """Of the step and its labelling: SmallNet, with features of 48 channels, or DeepLab v2 on a ResNet-50, of 2048;
    without weights."""
    crop: tuple[int, int] = (128, 256)
    """Height and width of the step's crops: two images of each domain."""
    device: str = "cpu"
    threads: int = min(2, os.cpu_count() or 1)
    """Of torch, on both sides."""
    repeats: int = 15
    """Runs of each side; a fifth as many of the step."""


# --- the plain way ---------------------------------------------------------------------------------------------------


def plain_sinkhorn(scores: Tensor, marginal: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Eq. 6 in the linear domain: classes and samples are normalised in turn."""
    assignment = (scores / epsilon).exp().T
    assignment /= assignment.sum()
    samples = assignment.shape[1]
    for _ in range(iterations):
        assignment /= assignment.sum(1, keepdim=True)
        assignment *= marginal[:, None]
        assignment /= assignment.sum(0, keepdim=True)
        assignment /= samples
    assignment *= samples
    return assignment.T


class ShiftingBank:
    """A full bank whose rows move to make room."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def add(self, features: Tensor) -> None:
        self.rows[len(features) :] = self.rows[: -len(features)].clone()
        self.rows[: len(features)] = features


class PlainClusters(PixelClusters):
    """Self-labelling on both."""

    shifting: ShiftingBank

    @torch.no_grad()
    def _transport(self, head: nn.Module, current: Tensor) -> Tensor:
        scores = head(torch.cat((self.shifting.rows, current)))
        assigned = plain_sinkhorn(scores, self.delta, self.config.epsilon, self.config.iterations)
        self.shifting.add(current)
        return assigned[-len(current) :]


# --- what is measured ------------------------------------------------------------------------------------------------


def scores_and_marginal(samples: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cosines as they come from a trained head, and classes as unequal as those of a street."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.rand(samples, CLASSES, generator=rng).mul_(0.5).sub_(0.25)
    marginal = torch.logspace(0, -2.5, CLASSES)
    marginal /= marginal.sum()
    drawn = torch.multinomial(marginal, samples, replacement=True, generator=rng)
    scores[torch.arange(samples), drawn] += 0.4
    return scores.to(device), marginal.to(device)


def sinkhorn_work(options: Options, side: Side) -> Work:
    scores, marginal = scores_and_marginal(options.samples, options.device)
    call = sinkhorn if side == "ours" else plain_sinkhorn
    return lambda: call(scores, marginal)


def filled(bank: FeatureBank, device: str) -> FeatureBank:
    """A bank full of features, made piece by piece: the memory that takes must not count."""
    rng = torch.Generator().manual_seed(1)
    while not bank.full:
        bank.add(F.normalize(torch.randn(min(NEW, bank.capacity), bank.width, generator=rng).to(device), dim=1))
    return bank


def bank_work(options: Options, side: Side, capacity: int) -> Work:
    ring = filled(FeatureBank(capacity, WIDTH), options.device)
    bank = ring if side == "ours" else ShiftingBank(ring.features())
    new = torch.randn(NEW, WIDTH, generator=torch.Generator().manual_seed(2)).to(options.device)
    return lambda: bank.add(new)


def network(options: Options) -> Segmenter:
    torch.manual_seed(0)
    config = SmallNet() if options.network == "small" else DeepLabV2("resnet50")
    return config.build(CLASSES).to(options.device)


def batch(size: tuple[int, int], device: str) -> Batch:
    """Two images of each domain: noise, labels in blocks, soft pseudo-labels of one class each."""
    rng = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, CLASSES, (2, 8, 8), generator=rng)
    label = F.interpolate(blocks[:, None].float(), size)[:, 0].long().to(device)
    image = torch.rand(2, 3, *size, generator=rng).to(device)
    geometry = tuple(Geometry(size, 0, 0, size, False, slot) for slot in range(2))
    source = Images(image, label, ("a", "b"), geometry)
    soft = F.one_hot(label, CLASSES).movedim(-1, 1).float() * 0.9 + 0.1 / CLASSES
    return Batch(source, source._replace(label=torch.full_like(label, IGNORE), soft=soft))


def method_with_bank(options: Options, side: Side) -> CPSL:
    """CPSL with a full bank."""
    model = network(options)
    method = CPSLConfig().build(model, 10_000, seed=0)
    config = method.clusters.config
    bank = filled(FeatureBank(config.bank, embedding_width(model)), options.device)
    if side == "ours":
        method.clusters.bank = bank
    else:
        method.clusters = PlainClusters(config, CLASSES, seed=0)
        method.clusters.shifting = ShiftingBank(bank.features())
    return method


def labelling_work(options: Options, side: Side) -> Work:
    """L_SL of two images, whose features are given."""
    method = method_with_bank(options, side)
    label = batch(options.crop, options.device).source.label
    with torch.no_grad():
        shown = method.model(batch(options.crop, options.device).source.image)
    features = normalise(shown.embedding)
    return lambda: method.clusters.loss(method.head, features, label, [0, 1], 0)


def step_work(options: Options, side: Side) -> Work:
    """A training step as the engine takes it."""
    method = method_with_bank(options, side)
    given = batch(options.crop, options.device)
    return lambda: one_step(method, given)


def one_step(method: CPSL, given: Batch) -> None:
    for entry in method.optimizers().values():
        entry.optimizer.zero_grad()
    for losses in method.step(given, 0):
        torch.stack(list(losses.values())).sum().backward()
    for entry in method.optimizers().values():
        entry.optimizer.step()
    method.end_step(0)


def work(part: Part, options: Options, side: Side) -> Work:
    if part == "sinkhorn":
        return sinkhorn_work(options, side)
    if part == "bank":
        return bank_work(options, side, CAPACITY)
    return labelling_work(options, side) if part == "labelling" else step_work(options, side)


# --- time and memory -------------------------------------------------------------------------------------------------


def milliseconds(call: Work, device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after)


class Times(NamedTuple):
    """Milliseconds of one side."""

    median: float
    fastest: float


def in_turn(calls: dict[Side, Work], repeats: int, device: str) -> dict[Side, Times]:
    """Times of each side, after one call that does not count."""
    found: dict[Side, list[float]] = {side: [] for side in calls}
    for turn in range(repeats + 1):
        for side, call in calls.items():
            taken = milliseconds(call, device)
            if turn:
                found[side].append(taken)
    return {side: Times(statistics.median(taken), min(taken)) for side, taken in found.items()}


def megabytes_at_peak() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would begin with what the parent process held
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def memory(part: Part, options: Options, side: Side) -> float:
    """Peak megabytes of one call, beyond those of its inputs."""
    if options.device == "cpu":
        with ProcessPoolExecutor(1, get_context("spawn")) as child:
            return child.submit(memory_here, part, options, side).result()
    call = work(part, options, side)
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def memory_here(part: Part, options: Options, side: Side) -> float:
    """Likewise, of a process that has done nothing else."""
    torch.set_num_threads(options.threads)
    small = scores_and_marginal(64, "cpu")
    (sinkhorn if side == "ours" else plain_sinkhorn)(*small)  # libraries load their kernels at the first use
    call = work(part, options, side)
    before = megabytes_at_peak()
    call()
    return megabytes_at_peak() - before


# --- the parts -------------------------------------------------------------------------------------------------------


def compare(part: Part, options: Options, repeats: int) -> dict:
    peaks = {side: memory(part, options, side) for side in SIDES}
    times = in_turn({side: work(part, options, side) for side in SIDES}, repeats, options.device)
    for side in SIDES:
        show(f"{part}, {side}", times[side], peaks[side])
    ratio = Times(*(plain / ours for plain, ours in zip(times["plain"], times["ours"])))
    show("  ratio", ratio, peaks["plain"] / max(peaks["ours"], 1e-9))
    return {side: {**written(times[side]), "memory_mb": peaks[side]} for side in SIDES}


def compare_sinkhorn(options: Options) -> dict:
    """Time and memory, how far apart the two sides are, and which is finite where it is hard."""
    result = compare("sinkhorn", options, options.repeats)
    scores, marginal = scores_and_marginal(options.samples, options.device)
    exact = plain_sinkhorn(scores.double(), marginal.double())
    without = marginal * (torch.arange(CLASSES, device=options.device) != 3)
    hard = {"a class of zero mass": (scores, without), "scores of ±50": (100 * scores, marginal)}
    for side, call in (("plain", plain_sinkhorn), ("ours", sinkhorn)):
        found = result[side]
        found["error"] = float((call(scores, marginal) - exact).abs().max())
        found["finite"] = {name: bool(call(*given).isfinite().all()) for name, given in hard.items()}
        said = ", ".join(f"{name}: {'finite' if finite else 'NaN'}" for name, finite in found["finite"].items())
        print(f"  {side}: {found['error']:.1e} from float64; {said}")
    return result


def compare_banks(options: Options) -> dict:
    """Time of taking in features, by the size of the bank; memory at the size of the paper's."""
    peaks = {side: memory("bank", options, side) for side in SIDES}
    result = {}
    for capacity in CAPACITIES:
        calls: dict[Side, Work] = {side: bank_work(options, side, capacity) for side in SIDES}
        times = in_turn(calls, options.repeats, options.device)
        result[str(capacity)] = {side: written(times[side]) for side in SIDES}
        for side in SIDES:
            show(f"{NEW} into {capacity}, {side}", times[side], peaks[side] if capacity == CAPACITY else None)
    return result | {"memory_mb": peaks}


def written(times: Times) -> dict[str, float]:
    return {"ms": times.median, "fastest_ms": times.fastest}


def show(title: str, times: Times, megabytes: float | None = None) -> None:
    last = "" if megabytes is None else f"{megabytes:12.1f}"
    print(f"{title:32}{times.median:12.2f}{times.fastest:12.2f}{last}", flush=True)


def measured(options: Options) -> dict:
    print(
        f"{'':32}{'ms':>12}{'fastest':>12}{'memory MB':>12}   ({options.device}, {options.threads} threads)", flush=True
    )
    result = {}
    for part in options.parts:
        if part == "sinkhorn":
            result[part] = compare_sinkhorn(options)
        elif part == "bank":
            result[part] = compare_banks(options)
        else:
            result[part] = {"network": options.network, "crop": options.crop}
            repeats = options.repeats if part == "labelling" else max(3, options.repeats // 5)
            result[part] |= compare(part, options, repeats)
    return result


def main(options: Options, command: Sequence[str]) -> None:
    torch.set_num_threads(options.threads)
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/cpsl.py", *command]),
        "versions": {
            "segshift": segshift.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "machine": {"cores": os.cpu_count(), "threads": options.threads, "device": options.device},
        "samples": [options.samples, CLASSES],
        "result": measured(options),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__), sys.argv[1:])
