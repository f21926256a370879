"""One process and two: a scan with CBST's selection, and training steps, replicated (DDP) and sharded (FSDP).

    python benchmarks/processes.py [--short]

Each side is a group of processes of its own, of one thread each, on the same images and the same global batch. The
efficiency of two is the time of one over twice theirs. Beside it: the bytes that a process sends in a step and in a
round, and what the same group takes to sum as many, which is the least that two processes can lose to each other.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

import measuring
from segshift.data.dataset import Unlabelled
from segshift.data.domains import Domains
from segshift.data.minicity import MiniCity
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.transforms import View
from segshift.engine import Engine
from segshift.launch import launch
from segshift.methods.cbst import CBSTConfig
from segshift.models.deeplab import DeepLabV2
from segshift.models.segmenter import Segmenter
from segshift.models.small import SmallNet
from segshift.parts.optimizers import Optimizer
from segshift.parts.processes import sum_over_processes
from segshift.phase import Phase
from segshift.progress import Bar, Reporter
from segshift.recipes import find
from segshift.run_log import RunLog
from segshift.scan import LogitScan
from segshift.snapshot import Position

Kind = Literal["ddp", "fsdp"]
WARM = 3
"""Steps that are not counted."""
BINS = 2**16
"""Of a class's histogram, counted in 64-bit integers."""


@dataclass(frozen=True)
class Options:
    images: int = 256
    """Target images of the scan."""
    size: tuple[int, int] = (96, 192)
    """Of an image, height and width."""
    steps: int = 12
    """Training steps; the first `WARM` are not counted."""
    backbone: str = "resnet101"
    """Of the DeepLab-v2 that is trained beside SmallNet; without weights."""
    crop: tuple[int, int] = (65, 65)
    """Of DeepLab's images. Of SmallNet's: whole images."""
    batch: int = 4
    """Images of each domain a step, over all processes."""
    repeats: int = 2
    """Groups of each kind, in turn."""
    short: bool = False
    """Few images and steps, a ResNet-18, one group of each kind: what `make bench` runs."""
    out: Path = measuring.RESULTS / "processes.jsonl"


def main(options: Options) -> None:
    if options.short:
        options = replace(options, images=32, steps=6, backbone="resnet18", repeats=1)
    sides: dict[str, tuple[int, Kind]] = {"one": (1, "ddp"), "two, ddp": (2, "ddp"), "two, fsdp": (2, "fsdp")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, (world, kind) in sides.items():
            found[name].append(group(options, world, kind))
    figures = {name: {key: least(key, runs) for key in runs[0]} for name, runs in found.items()}
    if not options.short:
        # Else freed weights of less than 32 MB stay with the process, and the peak says nothing.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
        for name, (world, kind) in list(sides.items())[1:]:
            figures[name] |= group(options, world, kind, memory=True)
    report(options, figures)
    ratios = {f"{work} efficiency": efficiency(figures, work, "two, ddp") for work in ("scan", "small", "deeplab")}
    ratios["deeplab, fsdp over ddp in time"] = figures["two, ddp"]["deeplab"] / figures["two, fsdp"]["deeplab"]
    if not options.short:
        ratios["deeplab, ddp over fsdp in memory"] = figures["two, ddp"]["memory"] / figures["two, fsdp"]["memory"]
    limits = measuring.limits(threads=1)
    measuring.save(options.out, measuring.machine("cpu", 1, limits), {"figures": figures}, ratios)


def least(key: str, runs: list[dict[str, Any]]) -> float:
    """The fastest of several groups, and the least memory: what others do on the machine only adds."""
    return float(f"{min(run[key] for run in runs):.5g}")


def efficiency(figures: dict[str, dict[str, float]], work: str, side: str) -> float:
    return figures["one"][work] / (2 * figures[side][work])


def report(options: Options, figures: dict[str, dict[str, float]]) -> None:
    works = {
        "scan": f"scan and CBST, {options.images} images",
        "small": "step, SmallNet",
        "deeplab": "step, DeepLab-v2",
    }
    header = ("", "one process", "two, ddp", "efficiency", "two, fsdp", "efficiency")
    rows = []
    for work, title in works.items():
        row = [title, f"{figures['one'][work]:.3g} s"]
        for side in ("two, ddp", "two, fsdp"):
            row += [f"{figures[side][work]:.3g} s", f"{efficiency(figures, work, side):.2f}"]
        rows.append(row)
    if not options.short:
        held = [f"{figures[side]['memory']:.0f} MB" for side in ("two, ddp", "two, fsdp")]
        rows.append(["memory of DeepLab's training", "", held[0], "", held[1], ""])
    print(measuring.table(header, rows))
    two, sharded = figures["two, ddp"], figures["two, fsdp"]
    exchanged = [
        ("histograms of a pass", two["histogram bytes"], two["histogram seconds"]),
        ("gradients, SmallNet", two["small bytes"], two["small seconds"]),
        ("gradients, DeepLab-v2", two["deeplab bytes"], two["deeplab seconds"]),
        ("FSDP's, DeepLab-v2", sharded["deeplab bytes"], sharded["deeplab seconds"]),
    ]
    print()
    print(
        measuring.table(
            ("sent by each of two", "MB", "alone", "MB/s"),
            [(name, f"{b / 1e6:.3g}", f"{s:.3g} s", f"{b / s / 1e6:.3g}") for name, b, s in exchanged],
        )
    )
    print("\nA scan has four such passes at most (two a histogram, two histograms); a step of CBST two such exchanges.")


# --- a group of processes --------------------------------------------------------------------------------------------


def group(options: Options, world: int, kind: Kind, memory: bool = False) -> dict[str, Any]:
    """What the slowest process of a new group says; with `memory`, of its memory alone."""
    with tempfile.TemporaryDirectory() as folder:
        given = (options, world, kind, folder, memory)
        mp.start_processes(_process, given, nprocs=world, start_method="spawn")
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
    return {key: max(one[key] for one in found) for key in found[0]}


def _process(rank: int, options: Options, world: int, kind: Kind, folder: str, memory: bool) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    if world > 1:
        wait = timedelta(minutes=10)
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world, timeout=wait)
    own = _Own(options, world, kind, rank, Path(folder))
    found = own.memory() if memory else own.scanned() | own.trained()
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    if world > 1:
        dist.destroy_process_group()


class Held:
    """Images of MiniCity that are drawn before anything is measured."""

    def __init__(self, dataset: MiniCity) -> None:
        self.names, self.space = dataset.names, dataset.space
        self._images = [(dataset.image(i), dataset.label(i)) for i in range(dataset.count)]

    def image(self, index: int) -> Tensor:
        return self._images[index][0]

    def label(self, index: int) -> Tensor:
        return self._images[index][1]

    def fingerprint(self) -> str:
        return "held"


class Watching(Reporter):
    """Looks at the memory of this process after each step, and forgets what it held in the first ones."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.peak = 0.0

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        yield Ticking(self.console, title, total, done, self.look)

    def look(self, steps: int) -> None:
        if steps == WARM:
            Path("/proc/self/clear_refs").write_text("5")
        self.peak = resident("VmHWM")


class Ticking(Bar):
    def __init__(self, console: Console, title: str, total: int, done: int, then: Callable[[int], None]) -> None:
        super().__init__(console, title, total, done, None)
        self.steps, self.then = 0, then

    def advance(self, note: str = "") -> None:
        super().advance(note)
        self.steps += 1
        self.then(self.steps)


class _Own:
    """One process's part."""

    def __init__(self, options: Options, world: int, kind: Kind, rank: int, folder: Path) -> None:
        self.options, self.world, self.rank, self.folder = options, world, rank, folder
        recipe = find("minicity/cbst")
        settings = replace(
            recipe.settings, devices=world, threads=1, accelerator="cpu", strategy=kind, checkpoint_share=0.0
        )
        self.recipe = replace(recipe, settings=settings)
        self.fabric: Fabric = launch(self.recipe)
        self.target = Held(MiniCity("target", "train", options.images, options.size))
        few = MiniCity("source", "train", 2 * options.batch, options.size)
        self.few = Domains(Held(few), Unlabelled(Held(replace(few, domain="target"))), few.space)

    def scanned(self) -> dict[str, float]:
        """Seconds of a round's begin: the scan of all target images, thresholds, labels. Of a histogram, exchanged."""
        torch.manual_seed(0)
        classes = len(self.target.space)
        network = SmallNet().build(classes)
        method = CBSTConfig().build(network, 1, 0)

        def begin() -> None:
            scan = LogitScan(network, self.target, self.folder / "scan", None, rank=self.rank, world=self.world)
            method.begin_round(1, scan, None, PseudoLabels(self.folder / "round-1", classes, sum_over_processes))
            scan.close()

        begin()
        found = {"scan": self.timed(begin)}
        histogram = torch.zeros(classes, BINS, dtype=torch.int64)
        return found | self.exchanged("histogram", histogram, histogram.nbytes)

    def trained(self) -> dict[str, float]:
        """Seconds of a step of each network, and what its exchanges take alone."""
        found = {}
        for name in ("small", "deeplab"):
            network, view = self.network(name)
            parameters = sum(p.numel() for p in network.parameters())
            found[name], _ = self.step_seconds(name, network, view)
            sharded = self.recipe.settings.strategy == "fsdp"
            # DDP sums gradients: each is sent twice. FSDP gathers weights for both passes and shares out gradients.
            times = (3 if sharded else 2) * (self.world - 1) / self.world
            found |= self.exchanged(name, torch.zeros(parameters), times * 4 * parameters, sharded)
        return found

    def memory(self) -> dict[str, float]:
        """Megabytes that the training of the larger network takes: weights, gradients, momentum, features, buffers."""
        network, view = self.network("deeplab")
        before = resident("VmRSS") - 4 * sum(p.numel() for p in network.parameters()) / 2**20
        _, peak = self.step_seconds("deeplab", network, view)
        return {"memory": peak - before}

    def network(self, name: str) -> tuple[Segmenter, View]:
        torch.manual_seed(0)
        config = SmallNet() if name == "small" else DeepLabV2(self.options.backbone, weights="none")
        size = self.options.size if name == "small" else self.options.crop
        return config.build(len(self.target.space)), View(size)

    def step_seconds(self, name: str, network: Segmenter, view: View) -> tuple[float, float]:
        """Seconds of a step, and the most memory in megabytes that this process has held in the last ones."""
        options = self.options
        method = CBSTConfig(optimizer=Optimizer("sgd", lr=1e-4), batch_norm="frozen")
        phase = Phase(method, 1, options.steps, batch=options.batch, source_view=view, target_view=view)
        run = self.folder / name
        watching = Watching()
        engine = Engine(run, self.recipe.settings, self.fabric, watching)
        engine.train(phase, "adaptation", network, self.few, Position(), None)
        self.fabric.barrier()
        log = RunLog(run / "log.jsonl").read()
        return statistics.median(entry["seconds"] for entry in log[WARM:]), watching.peak

    def exchanged(self, name: str, tensor: Tensor, sent: float, sharded: bool = False) -> dict[str, float]:
        """Bytes that a process sends, and the seconds that the exchange takes when nothing else is done."""
        if self.world == 1:
            return {f"{name} bytes": 0.0, f"{name} seconds": 0.0}
        part = torch.zeros(-(-tensor.numel() // self.world), dtype=tensor.dtype)
        padded = torch.zeros(self.world * len(part), dtype=tensor.dtype)

        def once() -> None:
            if not sharded:
                dist.all_reduce(tensor)
                return
            dist.all_gather_into_tensor(padded, part)
            dist.all_gather_into_tensor(padded, part)
            dist.reduce_scatter_tensor(part, padded)

        once()
        return {f"{name} bytes": sent, f"{name} seconds": min(self.timed(once) for _ in range(5))}

    def timed(self, work: Callable[[], object]) -> float:
        self.fabric.barrier()
        started = time.perf_counter()
        work()
        self.fabric.barrier()
        return time.perf_counter() - started


def resident(what: str) -> float:
    """Megabytes that this process holds (VmRSS), or has held at most (VmHWM), as Linux says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) / 1024
    raise RuntimeError(f"/proc/self/status does not say {what}; expected Linux")


if __name__ == "__main__":
    main(tyro.cli(Options, config=(tyro.conf.FlagCreatePairsOff,)))
