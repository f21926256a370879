"""Shards made of folders in the generic layout, and of any bytes, for tests."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from segshift.data.folder import Folder


def write_shard(
    path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]], kind: int = tarfile.GNU_FORMAT
) -> Path:
    """A tar of members, name -> content, in this order; `kind`: the dialect that long names are written in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members if isinstance(members, list) else members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_entries(path: Path, entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    """A tar of any entries: links, devices, sizes that are not so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


def samples_of(folder: Path, split: str) -> dict[str, dict[str, bytes]]:
    """Image name -> its members by what stands behind the key: the image and `seg.png`."""
    found = Folder(folder, split)
    return {
        name: {image.suffix[1:]: image.read_bytes(), "seg.png": label.read_bytes()}
        for name, image, label in zip(found.names, found.image_paths, found.label_paths)
    }


def pack(root: Path, samples: Mapping[str, Mapping[str, bytes]], sizes: Iterable[int], stem: str = "part") -> None:
    """ROOT/part-000000.tar, ... with so many samples each; the last shard takes what is left."""
    names, number = list(samples), 0
    for size in [*sizes, len(names)]:
        inside, names = names[:size], names[size:]
        if inside:
            members = [(f"{key}.{ending}", content) for key in inside for ending, content in samples[key].items()]
            write_shard(root / f"{stem}-{number:06d}.tar", members)
            number += 1


def make_shards(domain: Path, out: Path, per_shard: int = 2) -> Path:
    """A domain of the generic layout as shards: OUT/SPLIT/part-NNNNNN.tar, OUT/classes.yaml."""
    for split in ("train", "test"):
        samples = samples_of(domain, split)
        pack(out / split, samples, [per_shard] * (len(samples) // per_shard))
    shutil.copy(domain / "classes.yaml", out / "classes.yaml")
    return out


def unpack(shards: Path, out: Path) -> Path:
    """A domain of shards as a folder of the same names: OUT/SPLIT/images/SHARD/KEY.jpg and labels/SHARD/KEY.png."""
    for shard in sorted(shards.glob("*/*.tar")):
        with tarfile.open(shard) as tar:
            for info in tar:
                key, _, ending = info.name.partition(".")
                label = ending == "seg.png"
                file = out / shard.parent.name / ("labels" if label else "images") / shard.stem / key
                file.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(info)
                assert content is not None
                file.with_suffix(".png" if label else f".{ending}").write_bytes(content.read())
    shutil.copy(shards / "classes.yaml", out / "classes.yaml")
    return out


def png(pixels: np.ndarray) -> bytes:
    """A PNG of (h, w) values or (h, w, 3) colours."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def image(value: int, size: tuple[int, int] = (4, 6)) -> bytes:
    """A PNG of random colours that this value decides."""
    return png(np.random.default_rng(value).integers(0, 256, (*size, 3), np.uint8))


def label(value: int, size: tuple[int, int] = (4, 6), ids: int = 2) -> bytes:
    """A PNG of random ids, likewise."""
    return png(np.random.default_rng(value).integers(0, ids, size, np.uint8))


CLASSES = "classes:\n  - {id: 0, name: ground}\n  - {id: 1, name: thing}\n"
