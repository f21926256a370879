"""Images read in any order from shards, against the same images as files; the index of a shard: its time, its memory.

    python benchmarks/shards.py             2,000 images of 256x512, a shard of 100,000 small members
    python benchmarks/shards.py --short     what `make bench` runs

Reading: all images in one random order, decoded and not (`bytes`), from files in a folder, from shards, and from the
same tar files by the standard library's `extractfile`, whose list of members is in memory and which keeps the shards
open. All lie in the system's file cache, so what is compared is the work of getting at an image; the limit of the bytes
is reading each shard whole.
Memory: what Python holds of a data set's images once it is open, for files and for shards, names asked for or not.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

import measuring
from segshift.data.folder import ImageFolder
from segshift.data.shard_index import SUFFIX, index_of
from segshift.data.shard_members import read_samples
from segshift.data.shards import ShardImages

SHARDS = 4


@dataclass(frozen=True)
class Options:
    images: int = 2000
    size: tuple[int, int] = (256, 512)
    members: int = 100_000
    """Of the shard that is indexed, and files of the folder whose memory is measured."""
    repeats: int = 5
    threads: int = 1
    short: bool = False
    """150 images, 10,000 members, three repeats."""
    out: Path = measuring.RESULTS / "shards.jsonl"


def main(options: Options) -> None:
    images, members, repeats = options.images, options.members, options.repeats
    if options.short:
        images, members, repeats = 150, 10_000, 3
    torch.set_num_threads(options.threads)
    limits = measuring.limits("cpu", options.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reading = _reading(root / "reading", images, options.size, repeats)
        index = _index(root / "index", members, repeats)
        memory = _memory(root / "memory", root / "index", members)
    machine = measuring.machine("cpu", options.threads, limits)
    # Of the fastest of each side: what disturbs a run only ever makes it slower.
    ratios = {
        "images shards/folder": reading["shards"]["most"] / reading["folder"]["most"],
        "bytes shards/folder": reading["shards, bytes"]["most"] / reading["folder, bytes"]["most"],
        "index getmembers/made": index["getmembers"]["least"] / index["made"]["least"],
        "memory folder/shards": memory["folder"] / memory["shards"],
    }
    found = {"images": images, "members": members, "reading": reading, "index": index, "bytes_an_image": memory}
    measuring.save(options.out, machine, found, ratios)
    print("\n" + "  ".join(f"{name}: {value:.2f}" for name, value in ratios.items()))


# --- reading ---------------------------------------------------------------------------------------------------------


def _jpeg(i: int, size: tuple[int, int]) -> bytes:
    """A picture of about the bytes that a photograph has: noise over smooth colours."""
    rng = np.random.default_rng(i)
    small = rng.integers(0, 256, (8, 16, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC)).astype(np.float32)
    noisy = smooth + rng.normal(0, 8, smooth.shape)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _pack(shard: Path, members: list[tuple[str, bytes]]) -> None:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _reading(root: Path, images: int, size: tuple[int, int], repeats: int) -> dict[str, dict[str, float]]:
    """Images a second of each side."""
    (root / "folder" / "images").mkdir(parents=True)
    content = {f"street_{i:06d}.jpg": _jpeg(i, size) for i in range(images)}
    for name, picture in content.items():
        (root / "folder" / "images" / name).write_bytes(picture)
    pictures = list(content.items())
    for shard in range(SHARDS):
        _pack(root / "shards" / f"street-{shard:06d}.tar", pictures[shard::SHARDS])
    folder, shards = ImageFolder(root / "folder"), ShardImages(root / "shards")
    order = np.random.default_rng(0).permutation(images).tolist()
    with ExitStack() as stack:
        tars = [stack.enter_context(tarfile.open(shard)) for shard in shards.shards]
        listed = [(tar, member) for tar in tars for member in tar.getmembers()]

        def extracted(i: int) -> bytes:
            tar, member = listed[i]
            file = tar.extractfile(member)
            assert file is not None
            return file.read()

        sides: dict[str, Callable[[int], object]] = {
            "folder": folder.image,
            "shards": shards.image,
            "folder, bytes": lambda i: folder.image_paths[i].read_bytes(),
            "shards, bytes": lambda i: shards.image_paths[i].read(),
            "tarfile, bytes": extracted,
        }
        timed = measuring.in_turn({name: _each(side, order) for name, side in sides.items()}, repeats)
    total = sum(map(len, content.values()))
    whole = measuring.in_turn({"whole": lambda: [shard.read_bytes() for shard in shards.shards]}, repeats)["whole"]
    limit = images / whole.least
    found = {
        name: {
            "images_per_s": images / spread.median,
            "least": images / spread.most,
            "most": images / spread.least,
            "mb_per_s": total / spread.median / 1e6,
        }
        for name, spread in timed.items()
    }
    rows = [
        [name, f"{f['images_per_s']:,.0f} ({f['least']:,.0f} to {f['most']:,.0f})", f"{f['mb_per_s']:,.0f}"]
        for name, f in found.items()
    ]
    rows.append(["shards read whole", f"{limit:,.0f}", f"{total / whole.least / 1e6:,.0f}"])
    print(f"{images} images of {size[0]}x{size[1]}, {total / images / 1e3:.0f} kB each, in one random order")
    print(measuring.table(["side", "images/s", "MB/s"], rows))
    return found | {"whole": {"images_per_s": limit}}


def _each(side: Callable[[int], object], order: list[int]) -> measuring.Side:
    def run() -> None:
        for i in order:
            side(i)

    return run


# --- the index -------------------------------------------------------------------------------------------------------


def _index(root: Path, members: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of making and of reading the index of a shard of small members, and of listing it otherwise."""
    shard = root / "small-000000.tar"
    _pack(shard, [(f"street_{i:08d}.jpg", b"x" * 100) for i in range(members)])
    place = shard.with_name(shard.name + SUFFIX)

    def made() -> None:
        place.unlink(missing_ok=True)
        index_of(shard)

    def listed() -> None:
        with tarfile.open(shard) as tar:
            tar.getmembers()

    sides = {"read whole": shard.read_bytes, "getmembers": listed, "headers": lambda: read_samples(shard), "made": made}
    timed = measuring.in_turn(sides | {"read": lambda: index_of(shard)}, repeats)
    rows = [[name, str(spread), f"{spread.median / members * 1e6:.3g}"] for name, spread in timed.items()]
    print(
        f"\nIndex of a shard of {members:,} members ({shard.stat().st_size / 1e6:.0f} MB), index file "
        f"{place.stat().st_size / members:.1f} bytes an image"
    )
    print(measuring.table(["step", "seconds", "us a member"], rows))
    return {name: {"seconds": spread.median, "least": spread.least} for name, spread in timed.items()}


def _memory(files: Path, shards: Path, members: int) -> dict[str, float]:
    """Bytes that are held for each image once a data set is open."""
    (files / "images").mkdir(parents=True)
    for i in range(members):
        (files / "images" / f"street_{i:08d}.jpg").touch()
    opened: dict[str, Callable[[], object]] = {
        "folder": lambda: ImageFolder(files),
        "shards": lambda: ShardImages(shards),
        "shards, names as a tuple": lambda: (found := ShardImages(shards), tuple(found.names)),
    }
    found = {name: _held(side) / members for name, side in opened.items()}
    print(f"\nMemory of {members:,} images, whose keys have 15 letters")
    rows = [[name, f"{value:.1f}", f"{value * 1e8 / 1e9:.1f}"] for name, value in found.items()]
    print(measuring.table(["data set", "bytes an image", "GB for 100 million"], rows))
    return found


def _held(side: Callable[[], object]) -> int:
    """Bytes that what a side gives holds."""
    side()
    tracemalloc.start()
    kept = side()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
