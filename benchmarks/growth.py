"""How a round's selection grows with the number of target images: time, peak memory and disk from 10 to 10,000.

    python benchmarks/growth.py                     MiniCity images of 32x64, a small network, CBST
    python benchmarks/growth.py --short             10, 100 and 400 images

What a round of CBST does before its first step: every image through the network, its logits cached, thresholds from
all of them, a label file an image. Each number of images runs in a process of its own. Goal: seconds an image and peak
memory do not depend on the number; `results/growth.png` shows both.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from matplotlib.figure import Figure

import measuring
from segshift.data.dataset import Unlabelled
from segshift.data.minicity import MiniCity
from segshift.data.pseudo_labels import PseudoLabels
from segshift.methods.cbst import CBSTConfig
from segshift.models.small import SmallNet
from segshift.scan import LogitScan

CLASSES = 19
READY = ("segshift.scan", "segshift.methods.cbst", "segshift.data.pseudo_labels", "matplotlib.figure", "tyro")


@dataclass(frozen=True)
class Options:
    images: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10_000)
    size: tuple[int, int] = (32, 64)
    threads: int = 1
    short: bool = False
    """10, 100 and 400 images, no picture."""
    out: Path = measuring.RESULTS / "growth.jsonl"


def grown(images: int, options: Options) -> dict[str, Any]:
    """One round's selection over so many images, in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    network = SmallNet().build(CLASSES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _select(network, 4, options.size, folder / "aside")  # libraries load what they need at its first use
        before, started = measuring.megabytes_at_peak(), time.perf_counter()
        disk = _select(network, images, options.size, folder / "round")
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "memory_mb": measuring.megabytes_at_peak() - before, "disk_mb": disk}


def _select(network: torch.nn.Module, images: int, size: tuple[int, int], folder: Path) -> float:
    """Megabytes on disk at the end."""
    target = Unlabelled(MiniCity("target", "train", images, size))
    store = PseudoLabels(folder / "round-1", CLASSES)
    scan = LogitScan(network, target, folder / "scan", None)
    CBSTConfig().build(network, 1, 0).begin_round(1, scan, None, store)
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    scan.close()
    return held


def draw(found: dict[int, dict[str, Any]], file: Path) -> None:
    """Seconds and memory over the number of images, each beside its goal."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = list(found)
    left.loglog(counts, [found[n]["seconds"] for n in counts], "o-", label="measured")
    per_image = found[counts[-1]]["seconds"] / counts[-1]
    left.loglog(counts, [n * per_image for n in counts], "--", color="gray", label="linear")
    left.set(xlabel="target images", ylabel="seconds")
    left.legend()
    right.semilogx(counts, [found[n]["memory_mb"] for n in counts], "o-")
    right.set(xlabel="target images", ylabel="peak memory beyond the start, MB")
    right.set_ylim(bottom=0)
    figure.savefig(file, dpi=110)


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").splitlines()[0])
    counts = (10, 100, 400) if options.short else options.images
    found = {n: measuring.in_own_process(grown, n, options, ready=READY) for n in counts}
    rows = [
        [f"{n:,}", f"{run['seconds']:.2f}", f"{1e3 * run['seconds'] / n:.2f}", f"{run['memory_mb']:.1f}",
         f"{1e3 * run['disk_mb'] / n:.2f}"]
        for n, run in found.items()
    ]  # fmt: skip
    print(measuring.table(["images", "seconds", "ms an image", "memory MB", "disk kB an image"], rows))
    last, middle = counts[-1], counts[len(counts) // 2]
    linear = (found[middle]["seconds"] / middle) / (found[last]["seconds"] / last)
    print(f"ms an image, of {middle:,} over those of {last:,}: {linear:.2f}")
    ratios = {"seconds an image do not grow": linear}
    machine = measuring.machine("cpu", options.threads) | {"cores": os.cpu_count()}
    measuring.save(options.out, machine, {str(n): run for n, run in found.items()} | {"size": options.size}, ratios)
    if not options.short:
        draw(found, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
