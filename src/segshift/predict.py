"""Using a trained model: scores on a labelled set, panel images for the report, labels for new images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segshift.checkpoint import atomic_write
from segshift.data.dataset import ImageDataset, LabelledDataset
from segshift.data.files import IMAGE_SUFFIXES, list_files, read_image
from segshift.data.folder import one_each
from segshift.data.open_data import OWN, open_for
from segshift.data.protocols import ScoredAs, scored_space
from segshift.draw import overlay
from segshift.errors import DataError
from segshift.evaluate import Scores, confusion
from segshift.models.network import TrainedModel, load_model
from segshift.scan import Track, Views, evaluating, predict_label
from segshift.taxonomy import LabelSpace

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
) -> Scores:
    """Scores over a labelled set, predicted at each label's own size.

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
            label = predict_label(model, test.image(index), size, short_side, views)
            yield (truth, label) if table is None else (table[truth.long()], table[label.long()])

    with evaluating(model):
        matrix = confusion(pairs(), len(space))
    return Scores(space, merge(matrix) if merge else matrix, len(test.names))


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


def predict_folder(
    trained: TrainedModel, images: ImageDataset, out: Path, views: Views, track: Track | None = None
) -> int:
    """Write `out`/labels/NAME.png (class ids, the image's own size) and `out`/overlays/NAME.png; how many images."""
    network, space, short_side = trained
    indices = iter(range(len(images.names)))
    with evaluating(network):
        for index in track(indices, len(images.names)) if track else indices:
            image = images.image(index)
            label = predict_label(network, image, (image.shape[1], image.shape[2]), short_side, views).numpy()
            pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
            atomic_write(out / "labels" / f"{images.names[index]}.png", png(label, space))
            atomic_write(out / "overlays" / f"{images.names[index]}.png", png(overlay(pixels, label, space)))
    return len(images.names)


def png(pixels: np.ndarray, space: LabelSpace | None = None) -> bytes:
    """A PNG of (h, w) ids or (h, w, 3) colours; with a label space, ids get its palette."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if space is not None:
        picture = picture.convert("P") if picture.mode != "L" else picture
        picture.putpalette(space.palette().flatten().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


class LooseImages:
    """Any images: one file, a folder of them, or a folder with `images/` in it. No labels, no classes."""

    def __init__(self, path: Path) -> None:
        root = path / "images" if (path / "images").is_dir() else path
        files = {path.stem: [path]} if path.is_file() else list_files(root, IMAGE_SUFFIXES)
        if not files:
            kinds = " ".join(IMAGE_SUFFIXES)
            raise DataError(f"{path}: holds no image; expected a file or a folder of files named {kinds}")
        self.names = tuple(files)
        self._paths = one_each(files)

    def image(self, index: int) -> Tensor:
        return read_image(self._paths[index])

    def fingerprint(self) -> str:
        return ""


def evaluate_folder(
    run: Path, data: Path | str, split: str | None, views: Views, track: Track | None = None, score_as: str = OWN
) -> Scores:
    """Score a trained model on labelled images: a folder, or LAYOUT:PATH, whose classes must be the model's."""
    trained = load_model(run)
    test = open_for(trained.space, str(data), split, score_as)
    return score(trained.network, test, trained.short_side, views, track=track)


def predict_path(run: Path, images: Path, out: Path, views: Views, track: Track | None = None) -> int:
    """Label an image file or a folder of images (`images/` in it, or the folder itself); how many images."""
    return predict_folder(load_model(run), LooseImages(images), out, views, track)
