"""Images a second that a training step is fed: files decoded each time, kept in memory, kept decoded in a folder.

    python benchmarks/loading.py                    24 images of 1024x2048, crops of 512x1024
    python benchmarks/loading.py --images 8 --repeats 3
    python benchmarks/loading.py --short            what `make bench` runs

Three tables: one image and its label, from the file to a crop of bytes; whole batches of a round, with resizing and
conversion to floats, by how the view cuts them and by how many processes load; the check of all files before a run.
Beside them, what a plain data set of Pillow and torch does, and the limit: the bytes of a crop, read once and written
once as floats and class ids, over the measured bandwidth of memory.

The images are made here: eight octaves of smooth noise, so that a PNG has the 2 to 3 MB of a photograph's. "Cold" means
that the system was told to forget the files' pages; a disk that is a file of another machine may still have them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from torch import Tensor

import measuring
from segshift import recipes
from segshift.data.cache import Cached, Kept, Memory
from segshift.data.dataset import LabelledDataset, Unlabelled
from segshift.data.decoded import Decoded
from segshift.data.doctor import validate
from segshift.data.domains import Domains
from segshift.data.filling import Filling
from segshift.data.folder import Folder
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.resizing import cut_image, cut_label
from segshift.data.transforms import View
from segshift.feeding import batches
from segshift.models.small import SmallNet
from segshift.phase import Settings
from segshift.snapshot import Position
from segshift.types import Geometry

SIZE, CROP, BATCH, CLASSES = (1024, 2048), (512, 1024), 2, 19
Number = Iterator[int]


@dataclass(frozen=True)
class Options:
    images: int = 24
    repeats: int = 9
    """Passes over each side, in turn with the others."""
    workers: tuple[int, ...] = (0, 1, 2)
    short: bool = False
    """Four images, three passes, no loading processes."""
    out: Path = measuring.RESULTS / "loading.jsonl"


@dataclass(frozen=True)
class Way:
    """One way for images to come: at their own size, and at the working size where they lie ready so."""

    own: LabelledDataset
    ready: LabelledDataset | None = None


# --- images ----------------------------------------------------------------------------------------------------------


def make(root: Path, images: int) -> None:
    """Folders `png` and `jpg` of the same images and labels."""
    for place in (root / kind / part for kind in ("png", "jpg") for part in ("images", "labels")):
        place.mkdir(parents=True)
    for i in range(images):
        rng = np.random.default_rng(i)
        picture, label = Image.fromarray(_texture(rng)), Image.fromarray(_regions(rng))
        picture.save(root / "png" / "images" / f"{i:04d}.png")
        picture.save(root / "jpg" / "images" / f"{i:04d}.jpg", quality=92)
        for kind in ("png", "jpg"):
            label.save(root / kind / "labels" / f"{i:04d}.png")


def _texture(rng: np.random.Generator) -> np.ndarray:
    total = np.full((*SIZE, 3), 127, np.float32)
    for octave in range(8):
        grid = rng.standard_normal((2 << octave, 4 << octave, 3), np.float32)
        total += cv2.resize(grid, SIZE[::-1], interpolation=cv2.INTER_LINEAR) * np.float32(60 / 1.7**octave)
    noise = rng.standard_normal((*SIZE, 3), np.float32)
    return (total + 1.5 * noise).clip(0, 255).astype(np.uint8)


def _regions(rng: np.random.Generator) -> np.ndarray:
    best = np.full(SIZE, -np.inf, np.float32)
    label = np.zeros(SIZE, np.uint8)
    for c in range(CLASSES):
        score = cv2.resize(rng.standard_normal((12, 24), np.float32), SIZE[::-1], interpolation=cv2.INTER_LINEAR)
        label[score > best] = c
        np.maximum(best, score, out=best)
    return label


# --- ways ------------------------------------------------------------------------------------------------------------


def plain(path: Path) -> Tensor:
    """As a data set of one's own decodes a file."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def silent(_: str) -> Callable[[Iterator[int], int], Iterator[int]]:
    """A track that shows nothing."""
    return lambda items, _: items


def ways(root: Path, side: int) -> tuple[dict[str, Way], dict[str, float]]:
    """Where images can come from, and the seconds that each check of them took."""
    png, jpg = Folder(root / "png"), Folder(root / "jpg")
    decoded = Decoded(root / "cache", print)
    checks = {"decoding": _seconds(lambda: validate(png))}
    for name in ("filling the cache", "from the cache"):
        filling = Filling(decoded, {"source": side}, 10**8, [].append, silent)
        checks[name] = _seconds(partial(check, filling, png))
    entries, memory = filling.entries("source", png.names), Memory(1 << 40)
    assert entries is not None
    kept = Cached(png, memory)
    for i in range(len(png.names)):
        kept.image(i)
        kept.label(i)
    on_disk = Way(Kept(png, memory, decoded, entries), Kept(png, memory, decoded, entries, side))
    return {"PNG": Way(png), "JPEG": Way(jpg), "memory": Way(kept), "cache": on_disk}, checks


def check(filling: Filling, dataset: LabelledDataset) -> None:
    """Every file, as before a run."""
    validate(filling.through({"source": dataset})["source"])


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def forget(folder: Path) -> None:
    """Have the system drop the pages of all files below a folder, where it can."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*.*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- measurements ----------------------------------------------------------------------------------------------------


def read_once(dataset: LabelledDataset, numbers: Number) -> None:
    """One image and its label: a crop of their bytes, of another image each time."""
    i = next(numbers) % len(dataset.names)
    down, across = (i * 37) % (SIZE[0] - CROP[0]), (i * 53) % (SIZE[1] - CROP[1])
    geometry = Geometry(SIZE, down, across, CROP, False)
    cut_image(dataset.image(i), geometry).clone()
    cut_label(dataset.label(i), geometry).clone()


def reading(found: Mapping[str, Way], root: Path, repeats: int) -> dict[str, measuring.Spread]:
    """Seconds of one image and its label."""

    def pillow(numbers: Number) -> None:
        i = next(numbers) % len(found["PNG"].own.names)
        plain(root / "png" / "images" / f"{i:04d}.png")[:, :512, :1024].clone()
        plain(root / "png" / "labels" / f"{i:04d}.png")[0, :512, :1024].clone()

    sides = {"Pillow, PNG": partial(pillow, count())}
    sides |= {name: partial(read_once, way.own, count()) for name, way in found.items()}
    seconds = measuring.in_turn(sides, max(repeats, len(found["PNG"].own.names)))
    for name, folder in (("PNG", "png"), ("JPEG", "jpg"), ("cache", "cache")):
        cold = []
        for i in range(len(found[name].own.names)):
            forget(root / folder)
            cold.append(measuring.timed(partial(read_once, found[name].own, iter([i]))))
        seconds[f"{name}, cold"] = measuring.spread(cold)
    return seconds


def resizing(found: Mapping[str, Way], repeats: int) -> dict[str, measuring.Spread]:
    """Seconds of a crop of a resized image: the whole of it resized, and what the crop shows alone."""
    image = found["memory"].own.image(0)
    geometry = Geometry((900, 1800), 200, 400, CROP, True)

    def whole() -> Tensor:
        resized = F.interpolate(image[None], geometry.resized, mode="bilinear", antialias=True)[0]
        return resized[:, 200:712, 400:1424].flip(2)

    assert torch.equal(whole(), cut_image(image, geometry))
    return measuring.in_turn({"whole": whole, "cut": lambda: cut_image(image, geometry)}, 3 * repeats)


def fed(way: Way, view: View, side: int | None, workers: int, steps: int, folder: Path) -> float:
    """Seconds an image of a round's batches."""
    recipe = recipes.find("own/source-only")
    phase = replace(recipe.warmup, batch=BATCH, source_view=view)
    target = Unlabelled(way.own)
    domains = Domains(way.own, target, way.own.space, side)
    if way.ready is not None:
        domains = replace(domains, worked=Domains(way.ready, target, way.own.space, side))
    settings, store = Settings(workers=workers, accelerator="cpu"), PseudoLabels(folder / "round-1", CLASSES)
    loader = batches(phase, settings, domains, store, Position(0, 1, 0, 0), steps, 0, 1)
    next(loader)  # its processes are there
    started = time.perf_counter()
    for batch in loader:
        batch.source.image[0, 0, 0, 0].item()
    return (time.perf_counter() - started) / ((steps - 1) * BATCH)


def feeding(found: Mapping[str, Way], options: Options, side: int, folder: Path) -> dict[str, measuring.Spread]:
    """Seconds an image, by the view, the way and the number of loading processes."""
    names = ["PNG", "cache"] if options.short else list(found)
    views = {
        "own size": (View(CROP), None),
        f"{side}, scaled": (View(CROP, (0.7, 1.3)), side),
        f"{side}, fixed": (View(CROP), side),
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(max(3, options.repeats // 3)):
        for title, (view, short_side) in views.items():
            for name in names:
                for workers in options.workers if name in ("PNG", "cache") else (0,):
                    # Enough steps for a time that can be told, few enough where every file is decoded.
                    steps = (5 if name in ("PNG", "JPEG") else 21) * (1 if options.short else 3)
                    key = f"{title} | {name} | {workers}"
                    seconds.setdefault(key, []).append(fed(found[name], view, short_side, workers, steps, folder))
    return {key: measuring.spread(values) for key, values in seconds.items()}


def step_seconds() -> float:
    """A training step of the small network on this machine's processor: what the loader is to keep up with here."""
    network = SmallNet().build(CLASSES).train()
    image, label = torch.rand(BATCH, 3, *CROP), torch.zeros(BATCH, *CROP, dtype=torch.long)

    def step() -> None:
        logits = F.interpolate(network(image).logits, CROP, mode="bilinear")
        F.cross_entropy(logits, label).backward()

    step()
    return min(measuring.timed(step) for _ in range(2))


# --- report ----------------------------------------------------------------------------------------------------------


def limits_of(bandwidth: float) -> dict[str, float]:
    """Seconds that nothing beats, a table: of a crop and its ids, bytes read and written; of resizing, the image read
    and the crop written; of a batch, bytes read, floats and 8-byte ids written."""
    crop, image = CROP[0] * CROP[1], SIZE[0] * SIZE[1]
    moved = {"reading": 2 * 4 * crop, "resizing": 3 * image + 3 * crop, "feeding": (3 + 1 + 3 * 4 + 8) * crop}
    return {title: count_of / bandwidth for title, count_of in moved.items()}


def rows_of(seconds: Mapping[str, measuring.Spread], limit: float) -> list[list[str]]:
    return [
        [
            name,
            f"{1 / found.median:.1f}",
            f"{1 / found.most:.1f} to {1 / found.least:.1f}",
            f"{1000 * found.median:.2f}",
            f"{found.median / limit:.1f}",
        ]
        for name, found in seconds.items()
    ]


def report(
    tables: Mapping[str, Mapping[str, measuring.Spread]],
    checks: Mapping[str, float],
    images: int,
    limits: Mapping[str, float],
) -> None:
    for title, seconds in tables.items():
        limit = limits[title]
        print(f"\n{title} (limit: {1000 * limit:.2f} ms, {1 / limit:.0f} images/s)")
        print(measuring.table(["", "images/s", "least to most", "ms", "times the limit"], rows_of(seconds, limit)))
    said = ", ".join(f"{name} {1000 * seconds / images:.1f} ms" for name, seconds in checks.items())
    print(f"\nthe check of all files, an image and its label: {said}")


def ratios_of(tables: Mapping[str, Mapping[str, measuring.Spread]], side: int) -> dict[str, float]:
    """How many times as many images a second, by the faster passes: a busy machine disturbs those least."""
    cut, fed_by = tables["resizing"], tables["feeding"]
    found = {"cut/whole, resizing": cut["whole"].least / cut["cut"].least}
    for view in ("own size", f"{side}, scaled", f"{side}, fixed"):
        found[f"cache/PNG, {view}"] = fed_by[f"{view} | PNG | 0"].least / fed_by[f"{view} | cache | 0"].least
    return found


def main() -> None:
    options = tyro.cli(Options, description=(__doc__ or "").splitlines()[0])
    if options.short:
        options = Options(images=4, repeats=3, workers=(0,), short=True, out=options.out)
    limits = measuring.limits("cpu", 1)
    torch.set_num_threads(1)
    floors, side = limits_of(limits.bytes_per_second), CROP[0]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make(root, options.images)
        mean = statistics.mean(path.stat().st_size for path in (root / "png" / "images").iterdir())
        found, checks = ways(root, side)
        taken = sum(path.stat().st_size for path in (root / "cache").rglob("*.npy")) / options.images
        print(
            f"{options.images} images of {SIZE}, {mean / 1e6:.1f} MB a PNG, {taken / 1e6:.1f} MB an image in the cache"
        )
        tables = {
            "reading": reading(found, root, options.repeats),
            "resizing": resizing(found, options.repeats),
            "feeding": feeding(found, options, side, root),
        }
    report(tables, checks, options.images, floors)
    needed = None if options.short else BATCH / step_seconds()
    if needed:
        print(f"the small network trains on {needed:.2f} images/s of a domain on this processor, forward and backward")
    ratios = ratios_of(tables, side)
    print("\n" + "\n".join(f"{name}: {value:.1f}" for name, value in ratios.items()))
    result: dict[str, Any] = {title: {k: v._asdict() for k, v in rows.items()} for title, rows in tables.items()}
    result |= {"checks": checks, "images": options.images, "png_mb": mean / 1e6, "cache_mb": taken / 1e6}
    result |= {"limit_seconds": floors, "needed_images_per_second": needed}
    measuring.save(options.out, measuring.machine("cpu", 1, limits), result, ratios)


if __name__ == "__main__":
    main()
