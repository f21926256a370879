"""Using a trained model: scores on a labelled set, panel images for the report, labels for new images."""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor, nn

from segshift.checkpoint import atomic_write
from segshift.data.data_config import OWN
from segshift.data.dataset import LabelledDataset, left_out
from segshift.data.files import IMAGE_SUFFIXES, is_folder, list_files
from segshift.data.folder import ImageFiles, one_each
from segshift.data.intake import FileRules, Intake, nothing_left
from segshift.data.open_data import open_for
from segshift.data.opening import without_faults
from segshift.data.protocols import ScoredAs, scored_space
from segshift.data.sizes import Sizes
from segshift.errors import ConfigError, DataError
from segshift.evaluate import Scores, confusion
from segshift.models.network import TrainedModel, load_model
from segshift.painting import overlay
from segshift.paths import inside
from segshift.scan import Track, Views, evaluating, predict_label
from segshift.taxonomy import LabelSpace
from segshift.tiles import Tiles, tiled_label

PANELS = 6
"""Test images that a report shows."""


def score(
    model: nn.Module,
    test: LabelledDataset,
    short_side: int | None,
    views: Views,
    rank: int = 0,
    world: int = 1,
    merge: Callable[[Tensor], Tensor] | None = None,
    track: Track | None = None,
    tiles: Tiles | None = None,
) -> Scores:
    """Scores over a labelled set, predicted at each label's own size; in tiles, where they are asked for.

    Of a `ScoredAs`, truth and prediction are merged into its classes before they are compared, and the scores are over
    those. Process `rank` of `world` takes every world-th image; `merge` sums the confusion matrices.
    """
    indices = range(rank, len(test.names), world)
    space = scored_space(test)
    table = torch.from_numpy(test.classes.table) if isinstance(test, ScoredAs) else None

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for index in track(iter(indices), len(indices)) if track else indices:
            truth = test.label(index)
            size = (truth.shape[0], truth.shape[1])
            try:
                label = _label(model, test.image(index), size, short_side, views, tiles)
            except DataError as error:
                raise DataError(f"image {test.names[index]}: {error}") from error
            yield (truth, label) if table is None else (table[truth.long()], table[label.long()])

    with evaluating(model):
        matrix = confusion(pairs(), len(space))
    return Scores(space, merge(matrix) if merge else matrix, len(test.names))


def _label(
    model: nn.Module,
    image: UInt8[Tensor, "3 h w"],
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    tiles: Tiles | None,
) -> UInt8[Tensor, "height width"]:
    if tiles is None:
        return predict_label(model, image, size, short_side, views)
    return tiled_label(model, image, size, short_side, views, tiles)


def panel_indices(count: int) -> list[int]:
    """Up to six indices, evenly spread over a set of `count` images."""
    return sorted({round(i * (count - 1) / max(PANELS - 1, 1)) for i in range(PANELS)})


def save_panels(
    folder: Path, model: nn.Module, test: LabelledDataset, short_side: int | None, views: Views, which: str
) -> None:
    """Write image, truth and the model's label (`which`.png) of a few test images under `folder`/NAME/.

    Both labels are over the model's classes, also where scores are over merged ones: pictures show what was predicted.
    """
    with evaluating(model):
        for index in panel_indices(len(test.names)):
            image, truth = test.image(index), test.label(index)
            label = predict_label(model, image, (truth.shape[0], truth.shape[1]), short_side, views)
            place = folder / test.names[index].replace("/", "__")
            pictures = {"image": image.permute(1, 2, 0).numpy(), "truth": truth.numpy(), which: label.numpy()}
            for name, pixels in pictures.items():
                atomic_write(place / f"{name}.png", png(pixels))


class LooseImages(ImageFiles):
    """Any images: one file, a folder of them, or a folder with `images/` in it. No labels, no classes."""

    def __init__(self, path: Path, rules: FileRules | None = None) -> None:
        root = path / "images" if is_folder(path / "images") else path
        files = list_files(root, IMAGE_SUFFIXES)
        if path.is_file() or (path.is_symlink() and not is_folder(path)):
            files = {path.stem: [path]}
        if not files:
            kinds = " ".join(IMAGE_SUFFIXES)
            raise DataError(f"{path}: holds no image; expected a file or a folder of files named {kinds}")
        intake = Intake(rules)
        intake.sees(files)
        super().__init__(intake.taken(one_each(files, intake)), intake)


class Labelled(NamedTuple):
    """What predicting a folder has come to."""

    images: int
    """Images that were labelled."""
    left_out: dict[str, str]
    """Images that cannot be used: name -> why, beginning with the file."""


def predict_folder(
    trained: TrainedModel,
    images: LooseImages,
    out: Path,
    views: Views,
    track: Track | None = None,
    tiles: Tiles | None = None,
) -> Labelled:
    """Write `out`/labels/NAME.png (class ids, the image's own size) and `out`/overlays/NAME.png.

    With `tiles`, an image is predicted in overlapping ones; ConfigError where they are smaller than the network takes.
    Where the images' rules say so, those that cannot be used are left out, and listed in `out`/left_out.json, which is
    written then whether there are any or not. Else the first is a DataError; so it is where none remains.
    """
    network, space, short_side = trained
    sizes = _sizes(trained, views, images.rules, tiles)
    left_out = dict(images.left_out)
    indices = iter(range(len(images.names)))
    with evaluating(network):
        for index in track(indices, len(images.names)) if track else indices:
            try:
                image = images.image(index)
                if fault := sizes.fault((image.shape[1], image.shape[2])):
                    raise DataError(f"{images.image_paths[index]}: {fault}")
            except DataError as error:
                if not images.rules.skips:
                    raise
                left_out[images.names[index]] = str(error)
                continue
            label = _label(network, image, (image.shape[1], image.shape[2]), short_side, views, tiles).numpy()
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            atomic_write(inside(out / "labels", images.names[index], ".png"), png(label, space))
            atomic_write(inside(out / "overlays", images.names[index], ".png"), png(overlay(pixels, label, space)))
    if images.rules.skips:
        found = [{"image": name, "why": left_out[name]} for name in sorted(left_out)]
        atomic_write(out / "left_out.json", json.dumps(found, indent=1).encode())
    if len(left_out) == len(images.listed):
        raise nothing_left(left_out)
    return Labelled(len(images.listed) - len(left_out), dict(sorted(left_out.items())))


def _sizes(trained: TrainedModel, views: Views, rules: FileRules, tiles: Tiles | None) -> Sizes:
    """What sizes of images a trained model can label. ConfigError where tiles are smaller."""
    needed = trained.network.minimum_size
    if tiles is not None and min(tiles.size) < needed:
        raise ConfigError(
            f"tile = {tiles.size}; expected sides of at least {needed} pixels, which this network needs, and better as "
            "large as what it was trained on"
        )
    return Sizes(trained.short_side, math.ceil(needed / min(1.0, *views.scales)), rules.max_pixels)


def png(pixels: np.ndarray, space: LabelSpace | None = None) -> bytes:
    """A PNG of (h, w) ids or (h, w, 3) colours; with a label space, ids get its palette.

    Of a photograph's filtered rows, zlib finds little but runs: looking for those alone takes a seventh of the time,
    for files that are no larger.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if space is not None:
        picture = picture.convert("P") if picture.mode != "L" else picture
        picture.putpalette(space.palette().flatten().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **({"compress_level": 1, "compress_type": zlib.Z_RLE} if picture.mode == "RGB" else {}))
    return buffer.getvalue()


class Evaluated(NamedTuple):
    """Scores on labelled images, and what is not in them."""

    scores: Scores
    left_out: dict[str, str]
    """Images that cannot be used: name -> why, beginning with the file."""


def evaluate_folder(
    run: Path,
    data: Path | str,
    split: str | None,
    views: Views,
    track: Track | None = None,
    score_as: str = OWN,
    rules: FileRules | None = None,
    tiles: Tiles | None = None,
    device: str = "auto",
) -> Evaluated:
    """Score a trained model on labelled images: a folder, or LAYOUT:PATH, whose classes must be the model's.

    Where `rules` say so, images that cannot be used are left out: all are read before any is scored. Else the first is
    a DataError.
    """
    trained, rules = load_model(run, device), rules or FileRules()

    def opened(without: Mapping[str, str]) -> LabelledDataset:
        return open_for(trained.space, str(data), split, score_as, replace(rules, without=without))

    sizes = _sizes(trained, views, rules, tiles)
    test = without_faults(opened, sizes=sizes) if rules.skips else opened({})
    scores = score(trained.network, test, trained.short_side, views, track=track, tiles=tiles)
    return Evaluated(scores, left_out(test))


def predict_path(
    run: Path,
    images: Path,
    out: Path,
    views: Views,
    track: Track | None = None,
    rules: FileRules | None = None,
    tiles: Tiles | None = None,
    device: str = "auto",
) -> Labelled:
    """Label an image file or a folder of images (`images/` in it, or the folder itself), as `predict_folder` does."""
    return predict_folder(load_model(run, device), LooseImages(images, rules), out, views, track, tiles)
