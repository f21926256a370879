"""A tiny pair of domains in the Folder layout: `python tests/fakes/folder.py OUT [--images 6] [--size 64] [--seed 0]`.

Scenes of sky, hill, ground, block and ball. Each class has a colour, so a small network learns the source in seconds;
the target is darker, warmer, noisier and lower in contrast, so that there is something to adapt to. Nothing but
(images, size, seed) decides the pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {
    "sky": (120, 170, 235),
    "hill": (40, 130, 60),
    "ground": (150, 120, 90),
    "block": (200, 50, 60),
    "ball": (240, 215, 70),
}
IGNORE = 255
SPLITS = ("train", "test")


def make_folder_pair(root: Path, images: int = 6, size: int = 64, seed: int = 0) -> tuple[Path, Path]:
    """Write ROOT/day and ROOT/dusk, each with classes.yaml and `images` pairs in train and in test."""
    root = Path(root)
    for domain, name in enumerate(("day", "dusk")):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.yaml").write_text(_classes_yaml(), encoding="utf-8")
        for part, split in enumerate(SPLITS):
            for i in range(images):
                rng = np.random.default_rng((seed, domain, part, i))
                label = _scene(rng, size)
                image = _day(rng, label) if domain == 0 else _dusk(rng, label)
                _save(folder / split, f"{name}_{i:03d}", image, label)
    return root / "day", root / "dusk"


def _classes_yaml() -> str:
    rows = "".join(f"  - {{id: {i}, name: {n}, color: {list(c)}}}\n" for i, (n, c) in enumerate(CLASSES.items()))
    return f"ignore: {IGNORE}\nclasses:\n{rows}"


def _scene(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) uint8 ids."""
    y, x = np.mgrid[:size, :size] / size
    ridge = rng.uniform(0.3, 0.45) + 0.06 * np.sin(2 * np.pi * (x * rng.uniform(1, 2) + rng.uniform()))
    label = np.where(y < ridge, 0, 1)
    label[y > rng.uniform(0.6, 0.75)] = 2
    for _ in range(2):
        left, top, side = rng.uniform(0, 0.8), rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.3)
        label[(x >= left) & (x < left + side) & (y >= top) & (y < top + side)] = 3
    centre_x, centre_y, radius = rng.uniform(0.1, 0.9), rng.uniform(0.6, 0.9), rng.uniform(0.08, 0.15)
    label[(x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2] = 4
    # A band that nobody annotated, as real labels have one.
    label[-max(size // 32, 1) :] = IGNORE
    return label.astype(np.uint8)


def _colours(label: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3))
    table[: len(CLASSES)] = list(CLASSES.values())
    return table[label]


def _day(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    return _colours(label) + rng.normal(0, 6, (*label.shape, 3))


def _dusk(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    pale = 0.65 * _colours(label) + 0.35 * 110
    return pale * (0.75, 0.6, 0.5) + rng.normal(0, 14, (*label.shape, 3))


def _save(folder: Path, name: str, image: np.ndarray, label: np.ndarray) -> None:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image.clip(0, 255).round().astype(np.uint8))
    picture.save(folder / "images" / f"{name}.jpg", quality=95)
    Image.fromarray(label).save(folder / "labels" / f"{name}.png")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny source and target in the Folder layout.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=6, help="in each split")
    parser.add_argument("--size", type=int, default=64, help="in pixels, of the square images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source, target = make_folder_pair(arguments.root, arguments.images, arguments.size, arguments.seed)
    print(f"source {source}\ntarget {target}")


if __name__ == "__main__":
    _main()
