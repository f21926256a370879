"""Prediction over a data set: the network runs once over each image, its low-resolution logits are kept.

What is kept is the network's own output in float16 (1.2 MB for 19 classes at 1024x2048 and stride 8, where the
softmax at full size would be 159 MB), one map per flip or scale; it is upsampled when asked. Statistics called
exact elsewhere are exact on these cached logits.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Integer, UInt8
from torch import Tensor, nn

from segshift.background import ahead
from segshift.data.dataset import ImageDataset
from segshift.data.resizing import resize_image
from segshift.data.soft_labels import to_half
from segshift.data.transforms import to_float, working_size
from segshift.errors import ConfigError
from segshift.models.segmenter import upsample
from segshift.parts import logit_columns
from segshift.parts.confidence import Banded, banded
from segshift.parts.logit_bands import balanced_labels, most_probable, probability_bands, top1
from segshift.parts.processes import sum_over_processes
from segshift.types import Features, Prediction
from segshift.whole_files import refused

Track = Callable[[Iterator[int], int], Iterator[int]]
"""Wraps an iterator of known length to show progress."""


@dataclass(frozen=True)
class Views:
    """Over which versions of an image a prediction is averaged (test-time augmentation)."""

    flip: bool = False
    """Also look at the mirrored image."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes to look at, relative to the working size; CBST's multi-scale test is 0.5 0.75 1."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What is averaged at full size: softmaxes, or (released CBST, multi-scale test) logits."""

    def __post_init__(self) -> None:
        if not self.scales or any(not 0 < s <= 8 for s in self.scales):
            raise ConfigError(f"scales = {self.scales}; expected numbers above 0 and at most 8, such as 0.5 0.75 1")
        if self.average not in ("probabilities", "logits"):
            raise ConfigError(f"average = {self.average!r}; expected probabilities or logits")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without gradients and with every layer in its evaluation mode; each layer's own mode is restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def unwrapped(model: nn.Module) -> nn.Module:
    """A network without the wrapper of distributed or mixed-precision training: what scans predict with.

    A distributed module makes processes meet in its forward, and one that has no image to predict would be waited
    for. Nor is the network autocast: predictions are float32, as when scored.
    """
    return getattr(model, "module", model)


def view_logits(
    model: nn.Module, image: UInt8[Tensor, "3 h w"], short_side: int | None, views: Views
) -> list[Float[Tensor, "k _ _"]]:
    """The network's low-resolution logits of one image, one map per scale and flip (flips undone)."""
    return [logits for logits, _ in _view_outputs(model, image, short_side, views)]


def _view_outputs(
    model: nn.Module, image: UInt8[Tensor, "3 h w"], short_side: int | None, views: Views
) -> Iterator[tuple[Float[Tensor, "k _ _"], Tensor | None]]:
    """(logits, embedding) of each view, scale by scale; of the logits, flips are undone."""
    device = next(model.parameters()).device
    height, width = working_size((image.shape[1], image.shape[2]), short_side)
    for scale in views.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = to_float(resize_image(image, size))[None].to(device)
        output = model(pixels)
        yield output.logits[0], output.embedding
        if views.flip:
            output = model(pixels.flip(3))
            yield output.logits[0].flip(2), output.embedding


def average_views(
    maps: list[Float[Tensor, "k _ _"]], size: tuple[int, int], align_corners: bool, average: str
) -> Float[Tensor, "k h w"]:
    """Class probabilities at `size` (h, w): the mean over the maps of softmaxes, or the softmax of mean logits."""
    total = None
    for logits in maps:
        full = upsample(logits[None].float(), size, align_corners)[0]
        full = full.softmax(0) if average == "probabilities" else full
        total = full if total is None else total.add_(full)
    assert total is not None
    if len(maps) > 1:
        total.div_(len(maps))
    return total if average == "probabilities" else total.softmax(0)


class LogitScan:
    """A `types.Scan` over the images rank, rank + world, ... of a data set, in name order.

    The network runs at the first use, so a method that never looks costs nothing. The files are a cache of this
    object's life, shared with the scans made from it: they are removed by `close` and never read by another run.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: ImageDataset,
        folder: Path,
        short_side: int | None,
        views: Views | None = None,
        rank: int = 0,
        world: int = 1,
        track: Track | None = None,
    ) -> None:
        self.model, self.dataset, self.folder = model, dataset, folder / f"process-{rank}"
        self.short_side, self.views = short_side, views or Views()
        self.rank, self.world = rank, world
        self.indices: Sequence[int] = range(rank, len(dataset.names), world)
        self.track: Track = track or (lambda items, _: items)
        self._prior: Tensor | None = None
        self._others: list[LogitScan] = []
        """Scans of the same images through other networks."""
        self._sizes: dict[int, tuple[int, int]] = {}
        """Working size of each image whose logits are cached."""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def total(self) -> int:
        """Images of the data set, those of all processes."""
        return len(self.dataset.names)

    def __iter__(self) -> Iterator[Prediction]:
        for index, maps, size in self._maps():
            prob = average_views(maps, size, self._align_corners, self.views.average)
            yield Prediction(self.dataset.names[index], self._weighed(prob))

    def features(self) -> Iterator[Features]:
        """Logits and embedding (float32) of each image, on the network's device; the network runs anew each time.

        Nothing is cached: an embedding is a hundred times its logits. Raises ConfigError where the network shows none.
        """
        for index, image in self._images(self.indices):
            maps, embedding, size = self._look(index, image)
            if embedding is None:
                raise ConfigError(
                    f"{type(self.model).__name__}: shows no features under its classifier (Output.embedding); "
                    "expected a network that does, such as SmallNet, DeepLabV2 or DeepLabV3Plus"
                )
            name = self.dataset.names[index]
            yield Features(name, maps, embedding, size, self._align_corners, self.views.average)

    def probabilities(self, found: Features, size: tuple[int, int]) -> Float[Tensor, "k h w"]:
        """Class probabilities at `size`, the average over the views of what `features` gave, on its device."""
        return self._weighed(average_views(found.maps, size, found.align_corners, found.average))

    def _weighed(self, prob: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        if self._prior is None:
            return prob
        size = (prob.shape[1], prob.shape[2])
        return prob * upsample(self._prior[None].to(prob.device), size, align_corners=False)[0]

    def confidences(self) -> Iterator[tuple[str, Float[Tensor, "h w"], Integer[Tensor, "h w"]]]:
        """(name, largest probability, its class) of each image: what ranking needs, without the softmax map."""
        for index, maps, size in self._maps():
            confidence, label = top1(maps, size, self._align_corners, self.views.average, self._prior)
            yield self.dataset.names[index], confidence, label

    def confidences_within(
        self, least: Float32[Tensor, " groups"], most: Float32[Tensor, " groups"]
    ) -> Iterator[tuple[Float32[Tensor, " n"], UInt8[Tensor, " n"]]]:
        """Confidence and label of each image's pixels, from the same bits as `confidences`, in no order.

        Pixels whose confidence lies outside the bounds of their label (one number: of all labels) may be left out.
        """
        for _, maps, size in self._maps():
            if self._by_columns(maps, size):
                bounds = least.expand(len(maps[0])), most.expand(len(maps[0]))
                yield logit_columns.confidences_within(maps[0], *bounds, size, self._align_corners)
            else:
                confidence, label = top1(maps, size, self._align_corners, self.views.average, self._prior)
                yield confidence.flatten(), label.flatten()

    def _by_columns(self, maps: list[Tensor], size: tuple[int, int]) -> bool:
        return len(maps) == 1 and self._prior is None and logit_columns.pays(maps[0], size)

    def banded(self) -> Iterator[Banded]:
        """The class probabilities of each image in bands of rows, without the softmax map."""
        if self._prior is not None:
            for prediction in self:
                yield from banded([prediction])
            return
        for index, maps, size in self._maps():
            bands = partial(probability_bands, maps, size, self._align_corners, self.views.average)
            yield Banded(self.dataset.names[index], size, len(maps[0]), bands)

    def balanced_labels(
        self, thresholds: Float[Tensor, " k"]
    ) -> Iterator[tuple[str, UInt8[Tensor, "h w"], UInt8[Tensor, "h w"]]]:
        """(name, CBST's Eq. 8, the predicted class of each pixel) of each image, from the bits `confidences` ranked."""
        align, average = self._align_corners, self.views.average
        for index, maps, size in self._maps():
            if self._by_columns(maps, size):
                found = logit_columns.balanced_labels(maps[0], thresholds, size, align)
            else:
                found = balanced_labels(maps, thresholds, size, align, average, self._prior)
            yield self.dataset.names[index], found.label, found.predicted

    def weighted(self, prior: Float32[Tensor, "k h w"]) -> LogitScan:
        """The same predictions multiplied by a prior (CBST's Eq. 9); the cached logits are shared with this scan."""
        other = copy.copy(self)
        other._prior = prior
        return other

    def reordered(self, order: Sequence[int], unit: int = 1) -> LogitScan:
        """The same predictions in another order (of indices into the names), shared out by whole units.

        Every `unit` images of the order are a unit; this process has the units rank, rank + world, ... The cache is
        shared with this scan.
        """
        other = copy.copy(self)
        starts = range(self.rank * unit, len(order), self.world * unit)
        other.indices = [index for start in starts for index in order[start : start + unit]]
        return other

    def through(self, model: nn.Module) -> LogitScan:
        """The same images, in the same order, through another network (without its wrapper).

        Its logits are cached apart, until it or this scan is closed.
        """
        other = copy.copy(self)
        other.model = unwrapped(model)
        other.folder = self.folder.with_name(f"{self.folder.name}-{len(self._others)}")
        other._sizes, other._others = {}, []
        self._others.append(other)
        return other

    def merge(self, partial: Tensor) -> Tensor:
        """The sum over processes, in rank order."""
        return sum_over_processes(partial)

    def close(self) -> None:
        """Remove the cached logits, those of scans through other networks too."""
        for other in self._others:
            other.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another process's logits are still there
            self.folder.parent.rmdir()
        self._sizes.clear()

    @property
    def _align_corners(self) -> bool:
        return bool(self.model.align_corners)

    def _maps(self) -> Iterator[tuple[int, list[Tensor], tuple[int, int]]]:
        """(index, cached low-resolution logits on the network's device, working size) of each image."""
        self._record()
        device = next(self.model.parameters()).device
        count = len(self.views.scales) * (2 if self.views.flip else 1)
        for index in self.indices:
            files = [self.folder / f"{index:08d}-{view}.npy" for view in range(count)]
            maps = [torch.from_numpy(np.load(file, allow_pickle=False)).to(device) for file in files]
            yield index, maps, self._sizes[index]

    def _record(self) -> None:
        """Cache the logits of those images that are not cached yet."""
        if not self._sizes:  # what lies in the folder is of a run that was killed
            shutil.rmtree(self.folder, ignore_errors=True)
        missing = [index for index in self.indices if index not in self._sizes]
        if missing:
            for index, image in self._images(missing):
                maps, _, size = self._look(index, image)
                self._keep(index, maps, size)

    def _images(self, indices: Sequence[int]) -> Iterator[tuple[int, UInt8[Tensor, "3 h w"]]]:
        """Each image, the next one being decoded while the network looks at this one."""
        return ahead(self.track(iter(indices), len(indices)), self.dataset.image)

    def _look(self, index: int, image: UInt8[Tensor, "3 h w"]) -> tuple[list[Tensor], Tensor | None, tuple[int, int]]:
        """(logits of each view in float16, embedding of the first in float32, working size) of an image."""
        maps, embedding = [], None
        with evaluating(self.model):
            for logits, features in _view_outputs(self.model, image, self.short_side, self.views):
                if not maps and features is not None:
                    embedding = features[0].float()
                maps.append(to_half(logits, self.dataset.names[index]))
        return maps, embedding, working_size((image.shape[1], image.shape[2]), self.short_side)

    def _keep(self, index: int, maps: list[Tensor], size: tuple[int, int]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for view, logits in enumerate(maps):
                np.save(self.folder / f"{index:08d}-{view}.npy", logits.cpu().numpy())
        except OSError as error:
            raise refused(self.folder, "written", error) from error
        self._sizes[index] = size


def predict_label(
    model: nn.Module, image: UInt8[Tensor, "3 h w"], size: tuple[int, int], short_side: int | None, views: Views
) -> UInt8[Tensor, "height width"]:
    """The class of each pixel at `size` (height, width). The model is expected in evaluation mode."""
    maps = view_logits(model, image, short_side, views)
    return most_probable(maps, size, bool(model.align_corners), views.average).cpu()
