"""CBST's selection (Algorithm 2 and Eq. 8), and IAST's (Algorithm 1), against the textbook way, in the same run.

    python benchmarks/selection.py                  time, peak memory and disk for 20 images of 512x1024
    python benchmarks/selection.py --method iast    the same of IAST's selector
    python benchmarks/selection.py --growth         memory from 10 to 1,000 images of 256x512

Both sides start from a network's float16 logits (19 classes, stride 8; synthetic smooth fields) and end with a
threshold for each class and a label map for each image. The textbook way writes each float32 softmax map to disk,
keeps each class's confidences in a numpy array, sorts them, and reads the maps again for the labels. Ours writes
the logits and upsamples them three times. Of IAST, whose labels need no second pass, the textbook way makes each
softmax map in memory and sorts each class's confidences; ours writes the logits and upsamples them once.

Each side runs in a process of its own, so its peak memory is its own; the network and the label files, alike on both
sides, are left out of time and disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

import segshift
from segshift.methods.cbst import class_thresholds
from segshift.methods.iast import InstanceAdaptiveSelector
from segshift.methods.iast_selector import select_all
from segshift.parts.confidence import balanced_labels, top1
from segshift.types import Prediction

CLASSES, STRIDE, PORTION = 19, 8, 0.2
RESULTS = Path(__file__).parent / "results" / "selection.jsonl"


def synthetic_logits(seed: int, height: int, width: int) -> torch.Tensor:
    """(19, height / 8, width / 8) float16: regions as in an image, noise at their borders, rare classes."""
    generator = torch.Generator().manual_seed(seed)
    size = (height // STRIDE, width // STRIDE)
    regions = interpolate(torch.randn(1, CLASSES, 6, 12, generator=generator), size, mode="bicubic")[0]
    rarity = torch.linspace(1.5, -2.5, CLASSES)[:, None, None]
    return (4 * regions + rarity + 0.3 * torch.randn(CLASSES, *size, generator=generator)).half()


class CachedLogits(list[Prediction]):
    """A scan over cached logits, as `segshift.scan` keeps them, on one process."""

    rank, world = 0, 1

    def __init__(self, files: list[Path], size: tuple[int, int]) -> None:
        super().__init__()
        self.files, self.size = files, size

    def confidences(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        for file in self.files:
            yield file.stem, *top1(torch.from_numpy(np.load(file)), self.size)

    @property
    def total(self) -> int:
        return len(self.files)

    def reordered(self, order: Sequence[int], unit: int = 1) -> CachedLogits:
        del unit
        return CachedLogits([self.files[i] for i in order], self.size)

    def merge(self, partial: torch.Tensor) -> torch.Tensor:
        return partial


def ours(inputs: list[Path], size: tuple[int, int], work: Path, labels: Path) -> np.ndarray:
    for file in inputs:
        np.save(work / file.name, np.load(file))
    cached = [work / file.name for file in inputs]
    thresholds = class_thresholds(CachedLogits(cached, size), PORTION, CLASSES)
    for file in cached:
        label = balanced_labels(torch.from_numpy(np.load(file)), thresholds, size)
        np.save(labels / file.name, label.numpy())
    return thresholds.numpy()


def textbook(inputs: list[Path], size: tuple[int, int], work: Path, labels: Path) -> np.ndarray:
    pools: list[list[np.ndarray]] = [[] for _ in range(CLASSES)]
    for file in inputs:
        logits = torch.from_numpy(np.load(file)).float()[None]
        prob = interpolate(logits, size, mode="bilinear")[0].softmax(0).numpy()
        np.save(work / file.name, prob)
        label, confidence = prob.argmax(0), prob.max(0)
        for c in range(CLASSES):
            pools[c].append(confidence[label == c])
    thresholds = np.ones(CLASSES, np.float32)
    for c, pool in enumerate(pools):
        ordered = np.sort(np.concatenate(pool))[::-1]
        n = int(len(ordered) * PORTION)
        if n:
            thresholds[c] = ordered[n - 1]
    for file in inputs:
        ratio = np.load(work / file.name) / thresholds[:, None, None]
        label = ratio.argmax(0).astype(np.uint8)
        label[ratio.max(0) < 1] = 255
        np.save(labels / file.name, label)
    return thresholds


def ours_iast(inputs: list[Path], size: tuple[int, int], work: Path, labels: Path) -> np.ndarray:
    for file in inputs:
        np.save(work / file.name, np.load(file))
    selector = InstanceAdaptiveSelector(CLASSES)
    for image in select_all(CachedLogits([work / file.name for file in inputs], size), selector):
        np.save(labels / f"{image.name}.npy", image.label.numpy())
    return selector.thresholds.numpy()


def textbook_iast(inputs: list[Path], size: tuple[int, int], work: Path, labels: Path) -> np.ndarray:
    del work  # nothing is written but the labels
    theta = np.full(CLASSES, 0.9)
    for file in inputs:
        logits = torch.from_numpy(np.load(file)).float()[None]
        prob = interpolate(logits, size, mode="bilinear")[0].softmax(0).numpy()
        label, confidence = prob.argmax(0), prob.max(0)
        local = theta.copy()
        for c in range(CLASSES):
            ordered = np.sort(confidence[label == c])[::-1]
            if len(ordered):
                local[c] = ordered[int(PORTION * theta[c] ** 8 * len(ordered))]
        theta = 0.9 * theta + 0.1 * local
        np.save(labels / file.name, np.where(confidence > theta[label], label, 255).astype(np.uint8))
    return theta


SIDES = {
    ("cbst", "ours"): ours,
    ("cbst", "textbook"): textbook,
    ("iast", "ours"): ours_iast,
    ("iast", "textbook"): textbook_iast,
}


def megabytes_at_peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def child(arguments: argparse.Namespace) -> None:
    """One side, measured: prints a JSON object."""
    torch.set_num_threads(arguments.threads)
    inputs = sorted(arguments.folder.glob("inputs/*.npy"))[: arguments.images]
    size = (arguments.height, arguments.width)
    work, labels = arguments.folder / "work", arguments.folder / f"labels-{arguments.side}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    labels.mkdir(exist_ok=True)
    top1(synthetic_logits(0, 64, 64), (64, 64))  # libraries load their kernels at the first use
    before, start, start_cpu = megabytes_at_peak(), time.perf_counter(), time.process_time()
    thresholds = SIDES[arguments.method, arguments.side](inputs, size, work, labels)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    report = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "memory_mb": megabytes_at_peak() - before,
        "disk_mb": sum(f.stat().st_size for f in work.iterdir()) / 2**20,
        "thresholds": thresholds.tolist(),
    }
    shutil.rmtree(work)
    print(json.dumps(report))


def measure(side: str, folder: Path, images: int, arguments: argparse.Namespace) -> dict:
    options = {"folder": folder, "images": images, "height": arguments.height, "width": arguments.width}
    command = [sys.executable, __file__, "--side", side, "--method", arguments.method]
    command += ["--threads", str(arguments.threads)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def write_inputs(folder: Path, arguments: argparse.Namespace) -> None:
    (folder / "inputs").mkdir()
    for i in range(arguments.images):
        logits = synthetic_logits(i, arguments.height, arguments.width)
        np.save(folder / "inputs" / f"{i:05}.npy", logits.numpy())


def compare(folder: Path, arguments: argparse.Namespace) -> dict:
    """The sides in turn, `repeats` times; medians."""
    sides: dict[str, list[dict]] = {"textbook": [], "ours": []}
    for _ in range(arguments.repeats):
        for side, runs in sides.items():
            runs.append(measure(side, folder, arguments.images, arguments))
    columns = ("seconds", "cpu_seconds", "memory_mb", "disk_mb")
    rows = {side: {c: statistics.median(run[c] for run in runs) for c in columns} for side, runs in sides.items()}
    ratios = {c: rows["textbook"][c] / max(rows["ours"][c], 1e-9) for c in columns}
    print(f"{'':10}{'seconds':>12}{'CPU seconds':>12}{'memory MB':>12}{'disk MB':>12}   ({arguments.images} images)")
    for title, row in {**rows, "ratio": ratios}.items():
        print(f"{title:10}" + "".join(f"{row[c]:12.2f}" for c in columns))
    pairs = [(file, folder / "labels-ours" / file.name) for file in (folder / "labels-textbook").iterdir()]
    differing = np.mean([np.mean(np.load(theirs) != np.load(found)) for theirs, found in pairs])
    theirs, found = (np.array(sides[side][0]["thresholds"]) for side in ("textbook", "ours"))
    agreement = {"thresholds_differ_by": float(np.abs(theirs - found).max()), "labels_differ_on": float(differing)}
    print(
        f"thresholds differ by {np.abs(theirs - found).max():.1e} at most, labels on {100 * differing:.5f} % of pixels"
    )
    return {**rows, "ratio": ratios, **agreement}


def growth(folder: Path, arguments: argparse.Namespace) -> dict:
    """Our peak memory for 10 images, and for all."""
    peaks = {n: measure("ours", folder, n, arguments) for n in (10, arguments.images)}
    print(f"{'images':>8}{'memory MB':>12}{'seconds':>10}")
    for n, run in peaks.items():
        print(f"{n:8}{run['memory_mb']:12.1f}{run['seconds']:10.2f}")
    difference = peaks[arguments.images]["memory_mb"] - peaks[10]["memory_mb"]
    print(f"growth: {difference:.1f} MB")
    return {"memory_mb": {str(n): run["memory_mb"] for n, run in peaks.items()}, "growth_mb": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", choices=["cbst", "iast"], default="cbst", help="whose selection")
    parser.add_argument("--growth", action="store_true", help="memory from 10 to --images images")
    parser.add_argument("--images", type=int, help="default 20; with --growth 1000")
    parser.add_argument("--height", type=int, help="default 512; with --growth 256")
    parser.add_argument("--width", type=int, help="default 1024; with --growth 512")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of torch, on both sides")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side; the median counts")
    parser.add_argument("--side", choices=["ours", "textbook"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    default = (1000, 256, 512) if arguments.growth else (20, 512, 1024)
    for name, value in zip(("images", "height", "width"), default):
        setattr(arguments, name, getattr(arguments, name) or value)
    if arguments.side:
        child(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments)
        result = (growth if arguments.growth else compare)(Path(folder), arguments)
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/selection.py", *sys.argv[1:]]),
        "versions": {
            "segshift": segshift.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": {"cores": os.cpu_count(), "threads": arguments.threads},
        "method": arguments.method,
        "images": [arguments.images, arguments.height, arguments.width, CLASSES],
        "result": result,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
