"""Labels for new images: of one in memory, of folders and files, and of videos; tiles where an image is large."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.files import MAX_PIXELS
from segshift.data.folder import ImageFiles
from segshift.data.intake import nothing_left
from segshift.data.sizes import Sizes
from segshift.errors import ConfigError, DataError
from segshift.models.network import TrainedModel
from segshift.prediction.class_maps import ClassMaps, Wanted, class_maps
from segshift.prediction.inputs import Inputs
from segshift.prediction.outputs import Outputs, Writer
from segshift.prediction.tile_size import BUDGET, Footprint, tiles_for
from segshift.prediction.tiles import Tiles, working_sizes
from segshift.prediction.video import predict_video, require_video
from segshift.scan import Track, Views, evaluating
from segshift.whole_files import atomic_write

ShortSide = int | Literal["trained", "native"]
"""The shorter side in pixels that images are worked on at: a number, the one the model was trained at, or their own."""


@dataclass(frozen=True)
class How:
    """How images are looked at."""

    views: Views = field(default_factory=Views)
    tiles: Tiles | None = None
    """None: the whole image, or tiles of a size that is found where it takes more than `memory`."""
    overlap: float = 0.25
    """Of tiles whose size is found."""
    memory: int = BUDGET
    """Bytes that predicting one image may take, beside the network's weights and the image itself, before it is cut
    into tiles."""
    short_side: ShortSide = "trained"

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ConfigError(f"memory = {self.memory / 2**30:.3g} GiB; expected more than 0")
        if self.short_side not in ("trained", "native") and (type(self.short_side) is not int or self.short_side < 1):
            raise ConfigError(f"short_side = {self.short_side!r}; expected trained, native or a number of pixels")


class Labelled(NamedTuple):
    """What predicting has come to."""

    images: int
    """Images that were labelled."""
    left_out: dict[str, str]
    """Images and videos that cannot be used: name -> why, beginning with the file."""
    tiled: Mapping[str, int]
    """Tiles (HEIGHTxWIDTH) that were chosen for large images -> how many images or videos."""
    videos: int = 0
    """Videos that were labelled."""
    frames: int = 0
    """Their frames."""


class Predictor:
    """A trained model, and how it is to look at images."""

    def __init__(self, trained: TrainedModel, how: How | None = None, max_pixels: int = MAX_PIXELS) -> None:
        """ConfigError where tiles are smaller than the network takes."""
        self.how = how or How()
        chosen = self.how.short_side
        self.short_side = trained.short_side if chosen == "trained" else None if chosen == "native" else chosen
        self.trained = trained
        needed = trained.network.minimum_size
        self.sizes = sizes_of(needed, self.short_side, self.how.views, max_pixels, self.how.tiles)
        self._known: Footprint | None = None
        self._tiles: dict[tuple[int, int], Tiles | None] = {}

    def tiles(self, size: tuple[int, int]) -> Tiles | None:
        """The tiles for an image of this height and width: those asked for, or what its size needs."""
        if self.how.tiles is not None:
            return self.how.tiles
        if size not in self._tiles:
            network, how = self.trained.network, self.how
            self._tiles[size], self._known = tiles_for(
                network, size, self.short_side, how.views, self._known, how.memory, how.overlap, network.minimum_size
            )
        return self._tiles[size]

    def maps(self, image: UInt8[Tensor, "3 h w"], wanted: Wanted | None = None) -> ClassMaps:
        """Predict an image; the network is in evaluation mode. DataError where the size cannot be worked on."""
        size = (image.shape[1], image.shape[2])
        if fault := self.sizes.fault(size):
            raise DataError(fault)
        return class_maps(self.trained.network, image, self.short_side, self.how.views, self.tiles(size), wanted)

    def cut(self, size: tuple[int, int]) -> str:
        """The tiles that were chosen for an image of this size, as HEIGHTxWIDTH; empty where none were."""
        tiles = None if self.how.tiles is not None else self.tiles(size)
        if tiles is None:
            return ""
        height, width = max(working_sizes(size, self.short_side, self.how.views))
        return f"{min(tiles.size[0], height)}x{min(tiles.size[1], width)}"


def predict_image(
    trained: TrainedModel, pixels: UInt8[np.ndarray, "h w 3"], how: How | None = None, wanted: Wanted | None = None
) -> ClassMaps:
    """Predict one RGB image of 8 bits: its label (h, w), and what else is wanted.

    Raises DataError where the network cannot take the size, ConfigError for another kind of array.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ConfigError(
            f"the image is an array of shape {pixels.shape} and type {pixels.dtype}; expected (height, width, 3), RGB, "
            "uint8"
        )
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()
    with evaluating(trained.network):
        return Predictor(trained, how).maps(image, wanted)


def predict_inputs(
    trained: TrainedModel,
    inputs: Inputs,
    out: Path,
    how: How | None = None,
    outputs: Outputs | None = None,
    track: Track | None = None,
) -> Labelled:
    """Predict images and videos, and write what `outputs` asks for below `out` (docs/predict.md).

    Where the rules of the inputs say so, those that cannot be used are left out, and listed in `out`/left_out.json,
    which is written then whether there are any or not. Else the first is a DataError; so it is where none remains.
    Raises ConfigError where of a video nothing would be written, or a library is missing.
    """
    images, outputs = inputs.images, outputs or Outputs()
    if inputs.videos:
        require_video(outputs)
    predictor = Predictor(trained, how, images.rules.max_pixels)
    writer = Writer(out, trained.space, outputs)
    left_out, tiled = dict(images.left_out), Counter[str]()
    count = videos = frames = 0
    with evaluating(trained.network):
        for name, work in _pieces(inputs, predictor, writer, track):
            try:
                size, shown = work()
            except DataError as error:
                if not images.rules.skips:
                    raise
                left_out[name] = str(error)
                continue
            count, videos, frames = count + (shown == 0), videos + (shown > 0), frames + shown
            if cut := predictor.cut(size):
                tiled[cut] += 1
    writer.finish()
    if images.rules.skips:
        found = [{"image": name, "why": left_out[name]} for name in sorted(left_out)]
        atomic_write(out / "left_out.json", json.dumps(found, indent=1).encode())
    if len(left_out) == len(images.listed):
        raise nothing_left(left_out)
    return Labelled(count, dict(sorted(left_out.items())), tiled, videos, frames)


Piece = Callable[[], tuple[tuple[int, int], int]]
"""Predicts and writes one image or video: its (height, width), and the frames of a video, 0 of an image."""


def _pieces(inputs: Inputs, predictor: Predictor, writer: Writer, track: Track | None) -> Iterator[tuple[str, Piece]]:
    """(name, what is to be done) of each image, then of each video."""
    images = inputs.images
    indices = iter(range(len(images.names)))
    for index in track(indices, len(images.names)) if track and images.names else indices:
        yield images.names[index], partial(_predict_file, images, index, predictor, writer)
    for name, path in inputs.videos.items():
        yield name + path.suffix, partial(predict_video, predictor.maps, writer, name, path, inputs.rules, track)


def _predict_file(images: ImageFiles, index: int, predictor: Predictor, writer: Writer) -> tuple[tuple[int, int], int]:
    path = images.image_paths[index]
    image, place = _read(images, index, "geotiff" in writer.outputs.keep)
    try:
        maps = predictor.maps(image, writer.outputs.wanted)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    writer.write(images.names[index], path, pixels, maps, place)
    return (image.shape[1], image.shape[2]), 0


def _read(images: ImageFiles, index: int, placed: bool) -> tuple[UInt8[Tensor, "3 h w"], Any]:
    """The image, and where on earth it is, if that is asked for."""
    if not placed:
        return images.image(index), None
    from segshift.prediction.geotiff import read

    return read(images.image_paths[index], images.rules.max_pixels)


def predict_folder(
    trained: TrainedModel,
    images: ImageFiles,
    out: Path,
    views: Views,
    track: Track | None = None,
    tiles: Tiles | None = None,
) -> Labelled:
    """Labels and overlays of a folder's images, as `predict_inputs` writes them."""
    return predict_inputs(trained, Inputs(images, {}), out, How(views, tiles), track=track)


def sizes_of(needed: int, short_side: int | None, views: Views, max_pixels: int, tiles: Tiles | None) -> Sizes:
    """What sizes of images can be labelled by a network that needs sides of `needed` pixels.

    ConfigError where tiles are smaller.
    """
    if tiles is not None and min(tiles.size) < needed:
        raise ConfigError(
            f"tile = {tiles.size}; expected sides of at least {needed} pixels, which this network needs, and better as "
            "large as what it was trained on"
        )
    return Sizes(short_side, math.ceil(needed / min(1.0, *views.scales)), max_pixels)
