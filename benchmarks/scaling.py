"""A model of what a round costs as target images and processes grow: time, memory, disk, network (docs/scaling.md).

    python benchmarks/scaling.py                            3 thousand, 1 million, 100 million images on 1, 8, 64 GPUs
    python benchmarks/scaling.py --forward 0.05 --step 0.4  with unit costs measured on your machine
    python benchmarks/scaling.py --check                    the model against the newest lines of growth and processes

The model is the arithmetic of what the program does, written down once: `Round` says which term is what. Its unit costs
are options; the defaults are assumptions about one data-centre GPU at 1024x2048 and say so where they are printed.
`--check` takes unit costs from small runs and predicts larger ones that were measured: a third of the
images, or fewer, predicts all of them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import tyro

import measuring

HISTOGRAM_BYTES = 65_536 * 8
"""A class's, of the order statistics; two are merged a round."""


@dataclass(frozen=True)
class Options:
    images: tuple[int, ...] = (3_000, 1_000_000, 100_000_000)
    processes: tuple[int, ...] = (1, 8, 64)
    classes: int = 19
    height: int = 1024
    width: int = 2048
    stride: int = 8
    """Image pixels a logit."""
    forward: float = 0.05
    """Seconds of the network's forward on one image. An assumption, as all seconds here."""
    decode: float = 0.03
    """Seconds of decoding an image: beside the forward of the one before it."""
    select: float = 0.004
    """Seconds of all passes of the selection over one image's logits."""
    write: float = 0.015
    """Seconds of writing a label file: beside the selection of the next image."""
    step: float = 0.4
    """Seconds of a training step on one process's share of the batch."""
    steps: int = 20_000
    """Of a round; the number of images does not change it unless a round is counted in epochs."""
    batch: int = 2
    """Images of each domain a process and step."""
    parameters: float = 44e6
    """Of the network, in float32."""
    image_bytes: float = 2.3e6
    label_bytes: float = 25e3
    """A pseudo-label as PNG."""
    name_bytes: float = 100
    """Memory of an image's name and what is kept beside it, in every process."""
    bandwidth: float = 25e9
    """Bytes a second that a process exchanges with others."""
    check: bool = False


@dataclass(frozen=True)
class Round:
    """One round of CBST over N images on G processes, in the units of `Options`."""

    options: Options
    images: int
    processes: int

    @property
    def share(self) -> int:
        """Images of one process: every G-th."""
        return math.ceil(self.images / self.processes)

    @property
    def scan(self) -> float:
        """Seconds: decoding hides behind the forward, or the other way round."""
        return self.share * max(self.options.forward, self.options.decode)

    @property
    def selection(self) -> float:
        """Seconds: label files are written while the next image is looked at."""
        return self.share * max(self.options.select, self.options.write) + self._all_reduced(self.merged)

    @property
    def merged(self) -> float:
        """Bytes that are summed over processes before the first step, whatever the number of images."""
        return 2 * HISTOGRAM_BYTES * self.options.classes

    @property
    def training(self) -> float:
        """Seconds of the steps, gradients exchanged after each (none of it hidden: an upper bound)."""
        return self.options.steps * (self.options.step + self._all_reduced(4 * self.options.parameters))

    @property
    def memory(self) -> float:
        """Bytes a process holds that grow with the images: their names and what stands beside them."""
        return self.images * self.options.name_bytes

    @property
    def cached(self) -> float:
        """Bytes on each process's disk while the round begins: float16 logits of its share."""
        o = self.options
        return self.share * o.classes * math.ceil(o.height / o.stride) * math.ceil(o.width / o.stride) * 2

    @property
    def labels(self) -> float:
        """Bytes of the run folder, on a disk that all processes see."""
        return self.images * self.options.label_bytes

    @property
    def read(self) -> float:
        """Bytes that all processes read from the images: the scan sees each once, the steps what they draw."""
        drawn = self.options.steps * 2 * self.options.batch * self.processes
        return (self.images + drawn) * self.options.image_bytes

    def _all_reduced(self, bytes_: float) -> float:
        """Seconds of a ring's sum over processes."""
        return 2 * (self.processes - 1) / self.processes * bytes_ / self.options.bandwidth


def said_time(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def said_bytes(number: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def predicted(options: Options) -> str:
    """The table of docs/scaling.md."""
    header = ["images", "GPUs", "scan", "selection", "training", "memory a process", "logits a process", "labels",
              "read by all", "merged"]  # fmt: skip
    rows = []
    for images in options.images:
        for processes in options.processes:
            r = Round(options, images, processes)
            times = [said_time(t) for t in (r.scan, r.selection, r.training)]
            sizes = [said_bytes(b) for b in (r.memory, r.cached, r.labels, r.read, r.merged)]
            rows.append([f"{images:,}", str(processes), *times, *sizes])
    return measuring.table(header, rows)


def newest(name: str) -> dict[str, Any]:
    """The last full (not short) line of a results file."""
    lines = map(json.loads, (measuring.RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "--short" not in line["command"]][-1]


def checked() -> str:
    """Predictions for the largest measured number of images, from unit costs of smaller ones, beside what was seen."""
    growth = {int(n): run for n, run in newest("growth")["result"].items() if n.isdigit()}
    last = max(growth)
    small = max(n for n in growth if n * 3 <= last)
    factor = last / small
    rows = []
    for what, key in (("seconds", "seconds"), ("disk, MB", "disk_mb")):
        rows.append([f"{what}, {last:,} images from {small:,}", factor * growth[small][key], growth[last][key]])
    memory = growth[small]["memory_mb"] + (last - small) * Options().name_bytes / 2**20
    rows.append([f"memory, MB, {last:,} images from {small:,}", memory, growth[last]["memory_mb"]])
    cells = [[what, f"{model:.1f}", f"{seen:.1f}", f"{100 * (model / seen - 1):+.0f} %"] for what, model, seen in rows]
    return measuring.table(["", "model", "measured", "off by"], cells)


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").splitlines()[0])
    print(checked() if options.check else predicted(options))


if __name__ == "__main__":
    main()
