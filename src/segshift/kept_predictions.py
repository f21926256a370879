"""What is asked for again and again of predictions over a data set, on disk: confidences, classes, entropies, truth.

Memory does not grow with the number of images but for their names. The folders are the caller's to remove.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from segshift.data.dataset import OracleTarget
from segshift.data.resizing import resize_label
from segshift.errors import DataError, RunError
from segshift.parts.confidence import confidences
from segshift.types import Prediction, Predictions
from segshift.whole_files import refused

Label = UInt8[Tensor, "h w"]


class Kept:
    """Predictions of which confidence, class and entropy of each pixel lie on disk: 9 bytes a pixel.

    What ranks pixels reads these files; softmax maps are made anew where a selector asks for them. A
    `iast_selector.SharedScan` of one process.
    """

    rank, world = 0, 1

    def __init__(self, predictions: Predictions, num_classes: int, folder: Path) -> None:
        """Goes through the predictions once.

        DataError where there is none, or a probability is NaN; RunError where the disk refuses.
        """
        self._predictions, self._folder = predictions, folder
        self.num_classes = num_classes
        self.names: list[str] = []
        counts = torch.zeros(num_classes, dtype=torch.int64)
        for prediction in predictions:
            image = next(confidences([prediction], num_classes))
            counts += torch.bincount(image.label.flatten().cpu().int(), minlength=num_classes)[:num_classes]
            entropy = torch.special.entr(prediction.prob.float()).sum(0)
            parts = {"confidence": image.confidence, "label": image.label, "entropy": entropy}
            for part, values in parts.items():
                _save(self._file(part, len(self.names)), values)
            self.names.append(prediction.name)
        if not self.names:
            raise DataError("predictions: there is none; expected at least 1")
        self.predicted: tuple[int, ...] = tuple(counts.tolist())
        """Pixels of each class, labelled or not."""
        self._order: Sequence[int] = range(len(self.names))

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._predictions)

    @property
    def total(self) -> int:
        """Images."""
        return len(self.names)

    def confidences(self) -> Iterator[tuple[str, Float32[Tensor, "h w"], Label]]:
        """(name, largest probability, its class) of each image."""
        for index in self._order:
            yield self.names[index], self.read("confidence", index), self.read("label", index)

    def read(self, part: Literal["confidence", "label", "entropy"], index: int) -> Tensor:
        """A map (h, w) of an image: confidence and entropy (nats) are float32, label is uint8."""
        return _load(self._file(part, index))

    def reordered(self, order: Sequence[int], unit: int = 1) -> Kept:
        """The same files in another order."""
        del unit  # all of them are here
        other = copy.copy(self)
        other._order = order
        return other

    def merge(self, partial: Tensor) -> Tensor:
        """As it is: one process has all."""
        return partial

    def _file(self, part: str, index: int) -> Path:
        return self._folder / f"{index:08d}-{part}.npy"


class Truth:
    """The target's withheld labels at the size of the predictions (nearest pixel), each read once and kept on disk."""

    def __init__(self, target: OracleTarget, folder: Path) -> None:
        self._target, self._folder = target, folder

    def label(self, index: int, size: tuple[int, int]) -> Label:
        """Of image `index`, at `size` (h, w). RunError where the disk refuses."""
        file = self._folder / f"{index:08d}-truth.npy"
        if not file.exists():
            _save(file, resize_label(self._target.label(index), size))
        return _load(file)


def _load(file: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise RunError(
            f"{file}: was written a while ago and cannot be read ({error}); run the command again"
        ) from error


def _save(file: Path, values: Tensor) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, values.cpu().numpy())
    except OSError as error:
        raise refused(file, "written", error) from error
