"""AdaBN over a data set: BatchNorm statistics from its images, each seen once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segshift.data.dataset import ImageDataset
from segshift.data.resizing import resize_image
from segshift.data.sampling import Stream, generator
from segshift.data.transforms import to_float, working_size
from segshift.models.segmenter import Segmenter
from segshift.parts.batch_norm import re_estimate
from segshift.parts.processes import sum_over_processes, world_size
from segshift.scan import Track


def batches_of_one_size(
    dataset: ImageDataset, short_side: int | None, seed: int, batch: int, track: Track | None = None
) -> Iterator[Tensor]:
    """All images at their working size, (b, 3, h, w) in [0, 1], b <= batch; only images of one size share a batch.

    In a shuffled order that depends on the seed alone: neighbouring frames of a video, all alike, would make
    poor batches.
    """
    waiting: dict[tuple[int, int], list[Tensor]] = {}
    order = generator(seed, Stream.ENGINE, 4).permutation(len(dataset.names)).tolist()
    for index in track(iter(order), len(order)) if track else order:
        image = dataset.image(index)
        size = working_size((image.shape[1], image.shape[2]), short_side)
        group = waiting.setdefault(size, [])
        group.append(to_float(resize_image(image, size)))
        if len(group) == batch:
            yield torch.stack(waiting.pop(size))
    for group in waiting.values():
        yield torch.stack(group)


def estimate_batch_norm(
    model: Segmenter,
    dataset: ImageDataset,
    short_side: int | None,
    seed: int,
    batch: int,
    rank: int = 0,
    track: Track | None = None,
) -> None:
    """AdaBN (Li et al. 2016): the model's BatchNorm statistics become those of the data set's images.

    Process r of w takes batches r, r + w, ...; the sums are merged, so that all end with the same statistics.
    """
    device = next(model.parameters()).device
    batches = batches_of_one_size(dataset, short_side, seed, batch, track)
    mine = (image.to(device) for i, image in enumerate(batches) if i % world_size() == rank)
    re_estimate(model, mine, sum_over_processes)
