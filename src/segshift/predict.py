"""Using a trained model where there are labels: scores, and panel images for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segshift.checkpoint import atomic_write
from segshift.data.data_config import OWN
from segshift.data.dataset import LabelledDataset, left_out
from segshift.data.intake import FileRules
from segshift.data.open_data import open_for
from segshift.data.opening import without_faults
from segshift.data.protocols import ScoredAs, scored_space
from segshift.errors import DataError
from segshift.evaluate import Scores, confusion
from segshift.models.network import load_model
from segshift.painting import png
from segshift.parts.logit_bands import most_probable
from segshift.prediction.class_maps import label_of
from segshift.prediction.predicting import sizes_of
from segshift.prediction.tiles import Tiles
from segshift.scan import Track, Views, evaluating, predict_label, view_logits
from segshift.scored_details import Look

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
    look: Look | None = None,
) -> Scores:
    """Scores over a labelled set, predicted at each label's own size; in tiles, where they are asked for.

    Of a `ScoredAs`, truth and prediction are merged into its classes before they are compared, and the scores are over
    those. Process `rank` of `world` takes every world-th image; `merge` sums the confusion matrices. `look` sees each
    image as it is scored; in tiles, it is not asked.
    """
    indices = range(rank, len(test.names), world)
    space = scored_space(test)
    table = torch.from_numpy(test.classes.table) if isinstance(test, ScoredAs) else None

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for index in track(iter(indices), len(indices)) if track else indices:
            truth = test.label(index)
            size = (truth.shape[0], truth.shape[1])
            try:
                if look is None or tiles is not None:
                    label = label_of(model, test.image(index), size, short_side, views, tiles)
                else:
                    maps = view_logits(model, test.image(index), short_side, views)
                    label = most_probable(maps, size, bool(model.align_corners), views.average).cpu()
                    look.see(index, maps, truth, label)
            except DataError as error:
                raise DataError(f"image {test.names[index]}: {error}") from error
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
    class_map: Path | None = None,
    module: nn.Module | None = None,
) -> Evaluated:
    """Score a trained model on labelled images: a folder, or LAYOUT:PATH, whose classes must be the model's.

    `class_map` brings data of other classes to them. `module`: the user's own, where the run is of one.
    Where `rules` say so, images that cannot be used are left out: all are read before any is scored. Else the first is
    a DataError.
    """
    trained, rules = load_model(run, device, module), rules or FileRules()

    def opened(without: Mapping[str, str]) -> LabelledDataset:
        return open_for(trained.space, str(data), split, score_as, replace(rules, without=without), class_map)

    sizes = sizes_of(trained.network.minimum_size, trained.short_side, views, rules.max_pixels, tiles)
    test = without_faults(opened, sizes=sizes) if rules.skips else opened({})
    scores = score(trained.network, test, trained.short_side, views, track=track, tiles=tiles)
    return Evaluated(scores, left_out(test))
