"""Pseudo-label selection of four papers, against the way of their forks and good numpy, in the same run.

    python benchmarks/selection.py                              20 images of 512x1024, then of 1024x2048
    python benchmarks/selection.py --methods cbst --sizes 512x1024 --threads 1
    python benchmarks/selection.py --device cuda --methods cbst iast
    python benchmarks/selection.py --short                      what `make bench` runs

From a network's float16 logits to a threshold a class and a label file an image, by the sides of `selection_sides.py`.
Each side runs in a process of its own, so that its peak memory is its own. Beside them: upsampling and softmax of every
image once, the exponentials that our passes cannot do without at the rate the machine reaches, and the forward of
DeepLab-v2 with ResNet-101, on the image size in question.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import measuring
from segshift.models.deeplab import DeepLabV2
from selection_sides import CLASSES, SIDES, ours, softmax_once, synthetic_logits

PASSES = {"st": 3, "cbst": 3, "iast": 1, "category-adaptive": 2}
"""How often ours upsamples an image and takes its exponentials."""
READY = (
    *("torch._dynamo", "tyro", "segshift.scan"),  # every optimiser imports torch's compiler
    *("segshift.methods.iast", "segshift.methods.category_adaptive", "segshift.models.deeplab"),
)
COLUMNS = ("seconds", "memory_mb", "disk_mb")


@dataclass(frozen=True)
class Options:
    methods: tuple[str, ...] = tuple(SIDES)
    sizes: tuple[str, ...] = ("512x1024", "1024x2048")
    images: int = 20
    device: str = "cpu"
    """Of ours, of the softmax and of the network; the others are numpy."""
    threads: int = min(2, os.cpu_count() or 1)
    repeats: int = 3
    textbook_repeats: int = 1
    """It takes minutes, and is known to be slow."""
    forward: bool = True
    """Time the network as well."""
    short: bool = False
    """Four images of 256x512, three repeats, no network."""
    out: Path = measuring.RESULTS / "selection.jsonl"


def measured(method: str, side: str, size: tuple[int, int], folder: Path, options: Options) -> dict[str, Any]:
    """One side of one method, in this process."""
    torch.set_num_threads(options.threads)
    inputs = sorted(folder.glob("inputs/*.npy"))
    work, labels = folder / "work", folder / f"labels-{side}"
    work.mkdir()
    labels.mkdir(exist_ok=True)
    # Libraries load what they need at its first use.
    softmax_once(inputs[:1], (64, 64), options.device)
    with tempfile.TemporaryDirectory() as aside:
        ours(method, inputs[:1], (64, 64), Path(aside) / "work", Path(aside), options.device, lambda: None)
    before, disk, thresholds = measuring.megabytes_at_peak(), Largest(work), np.empty(0)
    started = time.perf_counter()
    if side == "softmax":
        softmax_once(inputs, size, options.device)
    elif side == "ours":
        thresholds = ours(method, inputs, size, work, labels, options.device, disk.look)
    else:
        thresholds = SIDES[method][side](inputs, size, work, labels, options.device)
        disk.look()
    seconds = time.perf_counter() - started
    shutil.rmtree(work, ignore_errors=True)
    peak = measuring.megabytes_at_peak() - before
    return {"seconds": seconds, "memory_mb": peak, "disk_mb": disk.megabytes, "thresholds": thresholds.tolist()}


class Largest:
    """The most that a folder has held when looked at."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.megabytes = folder, 0.0

    def look(self) -> None:
        held = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 2**20
        self.megabytes = max(self.megabytes, held)


def size_of(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def compare(method: str, size: str, folder: Path, options: Options) -> dict[str, Any]:
    """Medians of the sides, run in turn; how far their thresholds and labels are apart."""
    runs: dict[str, list[dict[str, Any]]] = {"textbook": [], "numpy": [], "ours": [], "softmax": []}
    for turn in range(options.repeats):
        for side, found in runs.items():
            if side != "textbook" or turn < options.textbook_repeats:
                arguments = method, side, size_of(size), folder, options
                found.append(measuring.in_own_process(measured, *arguments, ready=READY))
    rows = {
        side: {column: measuring.spread([run[column] for run in found])._asdict() for column in COLUMNS}
        for side, found in runs.items()
    }
    found = np.array(runs["ours"][0]["thresholds"])
    theirs = np.array(runs["numpy"][0]["thresholds"])
    pairs = [(file, folder / "labels-ours" / file.name) for file in (folder / "labels-textbook").iterdir()]
    differing = float(np.mean([np.mean(np.load(a) != np.load(b)) for a, b in pairs]))
    return {"sides": rows, "thresholds_apart": float(np.abs(theirs - found).max()), "labels_apart": differing}


def forward_seconds(size: str, options: Options) -> float:
    """The network that the figures are held against, on one image; the faster of two."""
    torch.set_num_threads(options.threads)
    network = DeepLabV2().build(CLASSES).eval().to(options.device)
    image = torch.rand(1, 3, *size_of(size), device=options.device)
    with torch.no_grad():
        network(image)
        return min(measuring.timed(lambda: network(image), options.device) for _ in range(2))


def report(
    method: str, size: str, found: dict[str, Any], limit: measuring.Limits, options: Options
) -> dict[str, float]:
    """Print a method's table; what of it is guarded."""
    height, width = size_of(size)
    sides = found["sides"]
    rows = [
        [side, *(f"{sides[side][c]['median']:.2f}" for c in COLUMNS),
         f"{sides[side]['seconds']['least']:.2f} to {sides[side]['seconds']['most']:.2f}"]
        for side in ("textbook", "numpy", "ours")
    ]  # fmt: skip
    print(f"\n{method}, {options.images} images of {size}, {options.threads} threads")
    print(measuring.table(["", "seconds", "memory MB", "disk MB", "spread of seconds"], rows))
    seconds = {side: sides[side]["seconds"]["median"] for side in sides}
    floor = PASSES[method] * options.images * CLASSES * height * width / limit.exponentials_per_second
    ratios = {f"{side}/ours": seconds[side] / seconds["ours"] for side in ("textbook", "numpy", "softmax")}
    ratios["disk"] = sides["textbook"]["disk_mb"]["median"] / max(sides["ours"]["disk_mb"]["median"], 1e-9)
    print(
        f"ours: {ratios['textbook/ours']:.1f} times the textbook's speed, {ratios['numpy/ours']:.1f} times numpy's; "
        f"{1 / ratios['softmax/ours']:.2f} of upsampling and softmax once ({seconds['softmax']:.2f} s)\n"
        f"limit: the exponentials of {PASSES[method]} passes, {floor:.2f} s on one thread; ours is "
        f"{seconds['ours'] / floor:.1f} times that. Thresholds differ from numpy's by {found['thresholds_apart']:.1e}, "
        f"labels from the textbook's on {100 * found['labels_apart']:.4f} % of pixels"
    )
    if found.get("forward"):
        share = seconds["ours"] / options.images / found["forward"]
        print(f"DeepLab-v2 ResNet-101: {found['forward']:.3f} s an image; selection is {100 * share:.2f} % of it")
    return {f"{method} {size} {name}": value for name, value in ratios.items()}


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").splitlines()[0])
    if options.short:
        options = Options(sizes=("256x512",), images=4, forward=False, threads=1, short=True, out=options.out)
    limit = measuring.limits("cpu", 1)
    results, ratios = {}, {}
    for size in options.sizes:
        forward = forward_seconds(size, options) if options.forward else None
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "inputs").mkdir()
            for i in range(options.images):
                np.save(folder / "inputs" / f"{i:05}.npy", synthetic_logits(i, *size_of(size)).numpy())
            for method in options.methods:
                found = compare(method, size, folder, options) | {"forward": forward}
                ratios |= report(method, size, found, limit, options)
                results[f"{method} {size}"] = found
                for labels in folder.glob("labels-*"):
                    shutil.rmtree(labels)
    machine = measuring.machine(options.device, options.threads, limit)
    measuring.save(options.out, machine, {"images": options.images} | results, ratios)


if __name__ == "__main__":
    main()
