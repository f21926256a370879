"""The ways to select pseudo-labels that `selection.py` compares: as forks do it, in good numpy, and ours.

Every side starts from the same float16 logits (19 classes, stride 8) in files and ends with a label file an image:

- textbook: float32 softmax maps on disk, the confidences of each class in a Python list, sorted whole; what the
  released code of CBST and IAST does, without its multiprocessing.
- numpy: upsampling as two matrix products, confidences of each class in arrays, np.partition; softmax maps are made
  again where labels need them, so nothing is written.
- ours: `segshift.scan.LogitScan` and the functions that a run calls, the network replaced by the file's logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segshift.methods.category_adaptive import CategoryAdaptiveConfig
from segshift.methods.cbst import CBSTConfig
from segshift.methods.iast import IASTConfig
from segshift.models.segmenter import Segmenter
from segshift.scan import LogitScan
from segshift.types import MethodConfig, Output

CLASSES, STRIDE, PORTION, DELTA = 19, 8, 0.2, 0.1
Size = tuple[int, int]
Run = Callable[[Sequence[Path], Size, Path, Path, str], np.ndarray]
"""Logit files, size, a folder to work in, one for the labels, a device -> thresholds."""


def synthetic_logits(seed: int, height: int, width: int) -> Tensor:
    """(19, height / 8, width / 8) float16: regions as in an image, noise at their borders, rare classes."""
    generator = torch.Generator().manual_seed(seed)
    size = (height // STRIDE, width // STRIDE)
    regions = F.interpolate(torch.randn(1, CLASSES, 6, 12, generator=generator), size, mode="bicubic")[0]
    rarity = torch.linspace(1.5, -2.5, CLASSES)[:, None, None]
    return (4 * regions + rarity + 0.3 * torch.randn(CLASSES, *size, generator=generator)).half()


# --- textbook --------------------------------------------------------------------------------------------------------


def textbook_softmax(file: Path, size: Size) -> np.ndarray:
    logits = torch.from_numpy(np.load(file)).float()[None]
    return F.interpolate(logits, size, mode="bilinear")[0].softmax(0).numpy()


def dumped(inputs: Sequence[Path], size: Size, work: Path) -> Iterator[tuple[Path, np.ndarray]]:
    """Each image's softmax map, written for the second pass."""
    for file in inputs:
        prob = textbook_softmax(file, size)
        np.save(work / file.name, prob)
        yield work / file.name, prob


def textbook_cbst(inputs: Sequence[Path], size: Size, work: Path, labels: Path, by_class: bool = True) -> np.ndarray:
    pools: dict[int, list[float]] = defaultdict(list)
    files = []
    for file, prob in dumped(inputs, size, work):
        files.append(file)
        label, confidence = prob.argmax(0), prob.max(0)
        for c in range(CLASSES):
            pools[c if by_class else 0].extend(confidence[label == c])
    theta = np.ones(CLASSES, np.float32)
    for c, pool in pools.items():
        pool.sort(reverse=True)
        if n := int(len(pool) * PORTION):
            theta[c] = pool[n - 1]
    if not by_class:
        theta[:] = theta[0]
    for file in files:
        ratio = np.load(file) / theta[:, None, None]
        label = ratio.argmax(0).astype(np.uint8)
        label[ratio.max(0) < 1] = 255
        np.save(labels / file.name, label)
    return theta


def textbook_iast(inputs: Sequence[Path], size: Size, labels: Path) -> np.ndarray:
    theta = np.full(CLASSES, 0.9)
    for file in inputs:
        prob = textbook_softmax(file, size)
        label, confidence = prob.argmax(0), prob.max(0)
        local = theta.copy()
        for c in range(CLASSES):
            pool: list[float] = []
            pool.extend(confidence[label == c])
            pool.sort(reverse=True)
            if pool:
                local[c] = pool[min(int(PORTION * theta[c] ** 8 * len(pool)), len(pool) - 1)]
        theta = 0.9 * theta + 0.1 * local
        np.save(labels / file.name, np.where(confidence > theta[label], label, 255).astype(np.uint8))
    return theta


def textbook_adaptive(inputs: Sequence[Path], size: Size, work: Path, labels: Path) -> np.ndarray:
    sums, weights = np.zeros((CLASSES, CLASSES)), np.zeros(CLASSES)
    files = []
    for file, prob in dumped(inputs, size, work):
        files.append(file)
        label, confidence = prob.argmax(0), prob.max(0)
        for c in range(CLASSES):
            inside = label == c
            sums[c] += (prob[:, inside] * confidence[inside]).sum(1)
            weights[c] += confidence[inside].sum()
    theta = numpy_thresholds(sums, weights)
    for file in files:
        prob = np.load(file)
        entropy, label = -(prob * np.log(prob + 1e-30)).sum(0), prob.argmax(0)
        np.save(labels / file.name, np.where(entropy < theta[label], label, 255).astype(np.uint8))
    return theta


# --- numpy -----------------------------------------------------------------------------------------------------------


@cache
def bilinear(old: int, new: int) -> np.ndarray:
    """(new, old): upsampling along a line as a matrix."""
    at = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0)
    before = at.astype(int).clip(max=old - 1)
    matrix = np.zeros((new, old), np.float32)
    matrix[np.arange(new), before] += (1 - (at - before)).astype(np.float32)
    matrix[np.arange(new), (before + 1).clip(max=old - 1)] += (at - before).astype(np.float32)
    return matrix


def numpy_softmax(file: Path, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Softmax map, confidence, label."""
    low = np.load(file).astype(np.float32)
    full = bilinear(low.shape[1], size[0]) @ low @ bilinear(low.shape[2], size[1]).T
    full -= full.max(0)
    np.exp(full, out=full)
    full *= 1 / full.sum(0)
    return full, full.max(0), full.argmax(0).astype(np.uint8)


def numpy_cbst(inputs: Sequence[Path], size: Size, labels: Path, by_class: bool = True) -> np.ndarray:
    pools: dict[int, list[np.ndarray]] = defaultdict(list)
    for file in inputs:
        _, confidence, label = numpy_softmax(file, size)
        for c in range(CLASSES) if by_class else [0]:
            pools[c].append(confidence[label == c] if by_class else confidence.ravel())
    theta = np.ones(CLASSES, np.float32)
    for c, parts in pools.items():
        pool = np.concatenate(parts)
        if n := int(len(pool) * PORTION):
            theta[c] = np.partition(pool, len(pool) - n)[len(pool) - n]
    if not by_class:
        theta[:] = theta[0]
    for file in inputs:
        prob, confidence, label = numpy_softmax(file, size)
        if theta.min() <= 0.5:
            prob /= theta[:, None, None]
            confidence, label = prob.max(0), prob.argmax(0).astype(np.uint8)
            kept = confidence >= 1
        else:  # a class that passes has more than half of the probability
            kept = confidence >= theta[label]
        np.save(labels / file.name, np.where(kept, label, np.uint8(255)))
    return theta


def numpy_iast(inputs: Sequence[Path], size: Size, labels: Path) -> np.ndarray:
    theta = np.full(CLASSES, 0.9)
    for file in inputs:
        _, confidence, label = numpy_softmax(file, size)
        local = theta.copy()
        for c in range(CLASSES):
            pool = confidence[label == c]
            if len(pool):
                n = min(int(PORTION * theta[c] ** 8 * len(pool)), len(pool) - 1)
                local[c] = np.partition(pool, len(pool) - 1 - n)[len(pool) - 1 - n]
        theta = 0.9 * theta + 0.1 * local
        np.save(labels / file.name, np.where(confidence > theta[label], label, np.uint8(255)))
    return theta


def numpy_adaptive(inputs: Sequence[Path], size: Size, labels: Path) -> np.ndarray:
    sums, weights = np.zeros((CLASSES, CLASSES)), np.zeros(CLASSES)
    for file in inputs:
        prob, confidence, label = (x.reshape(-1, size[0] * size[1]) for x in numpy_softmax(file, size))
        of_class = np.zeros_like(prob)
        of_class[label[0], np.arange(prob.shape[1])] = confidence[0]
        sums += of_class @ prob.T
        weights += of_class.sum(1)
    theta = numpy_thresholds(sums, weights)
    for file in inputs:
        prob, _, label = numpy_softmax(file, size)
        logarithm = np.log(np.maximum(prob, 1e-30))
        logarithm *= prob
        np.save(labels / file.name, np.where(-logarithm.sum(0) < theta[label], label, np.uint8(255)))
    return theta


def numpy_thresholds(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Eq. 1 to 3 of the category-adaptive paper, from the sums of each class."""
    mean = sums / np.maximum(weights, 1e-30)[:, None]
    return np.where(weights > 0, -(mean * np.log(np.maximum(mean, 1e-30))).sum(1) - DELTA, 0)


# --- ours ------------------------------------------------------------------------------------------------------------

CONFIGS: dict[str, MethodConfig] = {
    "st": CBSTConfig(selection="global", portion=PORTION),
    "cbst": CBSTConfig(portion=PORTION),
    "iast": IASTConfig(),
    "category-adaptive": CategoryAdaptiveConfig(delta=DELTA),
}


class FromFiles(Segmenter):
    """In a network's place: gives the logits of one file after another."""

    def __init__(self, files: Sequence[Path], device: str) -> None:
        super().__init__(CLASSES, STRIDE)
        self.weight = nn.Parameter(torch.zeros(1, device=device))
        self._files = iter(files)

    def forward(self, image: Tensor) -> Output:
        return Output(torch.from_numpy(np.load(next(self._files)))[None].to(image.device))

    encode_decode = forward

    def backbone(self) -> nn.Module:
        return nn.Identity()


class Blank:
    """Images without content, by the names of the files."""

    def __init__(self, files: Sequence[Path], size: Size) -> None:
        self.names = [file.name for file in files]
        self._image = torch.zeros(3, *size, dtype=torch.uint8)

    def image(self, index: int) -> Tensor:
        return self._image

    def fingerprint(self) -> str:
        return ""


class LabelFiles:
    """A label store that writes what every side writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.thresholds = np.empty(0)

    def write(self, name: str, label: Tensor, predicted: Tensor | None = None) -> None:
        np.save(self._folder / name, label.cpu().numpy())

    def kept(self, name: str) -> None:
        return None

    def finish(self, thresholds: dict[str, list[float]]) -> None:
        self.thresholds = np.array(next(iter(thresholds.values())))


def ours(
    method: str, inputs: Sequence[Path], size: Size, work: Path, labels: Path, device: str, look: Callable[[], None]
) -> np.ndarray:
    """`look` is called before the logits on disk are removed."""
    network = FromFiles(inputs, device)
    store = LabelFiles(labels)
    scan = LogitScan(network, Blank(inputs, size), work, None)
    CONFIGS[method].build(network, 1, 0).begin_round(1, scan, None, store)
    look()
    scan.close()
    return store.thresholds


def softmax_once(inputs: Sequence[Path], size: Size, device: str) -> None:
    """What no selection that looks at softmax maps can do without: upsampling and softmax, once an image."""
    for file in inputs:
        logits = torch.from_numpy(np.load(file)).to(device).float()[None]
        F.interpolate(logits, size, mode="bilinear")[0].softmax(0)
    if device != "cpu":
        torch.cuda.synchronize(device)


SIDES: dict[str, dict[str, Run]] = {
    "st": {
        "textbook": lambda inputs, size, work, labels, _: textbook_cbst(inputs, size, work, labels, by_class=False),
        "numpy": lambda inputs, size, _w, labels, _d: numpy_cbst(inputs, size, labels, by_class=False),
    },
    "cbst": {
        "textbook": lambda inputs, size, work, labels, _: textbook_cbst(inputs, size, work, labels),
        "numpy": lambda inputs, size, _w, labels, _d: numpy_cbst(inputs, size, labels),
    },
    "iast": {
        "textbook": lambda inputs, size, _w, labels, _d: textbook_iast(inputs, size, labels),
        "numpy": lambda inputs, size, _w, labels, _d: numpy_iast(inputs, size, labels),
    },
    "category-adaptive": {
        "textbook": lambda inputs, size, work, labels, _: textbook_adaptive(inputs, size, work, labels),
        "numpy": lambda inputs, size, _w, labels, _d: numpy_adaptive(inputs, size, labels),
    },
}
