"""How good a model may be on the target, told without a target label: four scores, each with its source.

None of them is the truth: docs/choosing.md says how well each has predicted it. The three that look at the target need
nothing but predictions on unlabelled training images; the fourth needs labelled source images held out from training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segshift.data.dataset import ImageDataset, LabelledDataset
from segshift.data.protocols import SomeLabelled
from segshift.errors import ConfigError
from segshift.predict import score
from segshift.scan import Track, Views, evaluating, view_logits

Name = Literal["entropy", "information", "snd", "source"]
NAMES: tuple[Name, ...] = get_args(Name)
WORDS: dict[Name, str] = {
    "entropy": "mean entropy",
    "information": "information maximisation",
    "snd": "soft neighbourhood density",
    "source": "source validation",
}
"""What each is called in a sentence."""
SIGNS: dict[Name, int] = {"entropy": -1, "information": 1, "snd": 1, "source": 1}
"""-1 where a smaller score promises a better model. `preference` turns it round."""
IMAGES = 40
"""Target images looked at, unless another number is given."""
PIXELS = 4096
"""Pixels over all images that `soft_neighbourhood_density` compares: every one with every other."""
TEMPERATURE = 0.05
"""Of soft neighbourhood density: that of the paper."""
_ROWS = 512
"""Rows of the similarity matrix held at a time: 8 MB of 4096 pixels."""


@dataclass(frozen=True)
class LabelFree:
    """The scores of one model. `source` is None where no labelled source image was held out."""

    entropy: float
    """Mean entropy of a pixel's prediction as a share of the largest, in [0, 1]. Less is better."""
    information: float
    """Entropy of the mean prediction less the mean entropy, in nats, in [0, log k]. More is better."""
    snd: float
    """Soft neighbourhood density in nats, in [0, log(n - 1)] for n pixels. More is better."""
    source: float | None
    """mIoU on held-out source images, in [0, 1]. More is better."""
    images: int
    """Target images looked at."""

    def to_dict(self) -> dict[str, float | None]:
        """The scores by their names."""
        return {name: getattr(self, name) for name in NAMES}


def preference(name: Name, value: float) -> float:
    """A score turned so that larger promises a better model, whatever it is called."""
    return SIGNS[name] * value


def pixel_entropy(prob: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Entropy in nats of each pixel's class probabilities, in [0, log k]."""
    return torch.special.entr(prob).sum(1)


def mean_entropy(prob: Float[Tensor, "n k"]) -> float:
    """Mean entropy over pixels, divided by log k: 0 where each is certain, 1 where none knows anything.

    Morerio, Cavazza & Murino, 'Minimal-entropy correlation alignment' (ICLR 2018), choose hyper-parameters by it.
    """
    return _of_sums(prob.double().sum(0), float(pixel_entropy(prob.double()).sum()), len(prob))[0]


def information(prob: Float[Tensor, "n k"]) -> float:
    """H(mean p) - mean H(p) in nats: large where pixels are certain, and of many classes.

    The mutual information of pixel and class: Shi & Sha, 'Information-theoretical learning of discriminative clusters'
    (ICML 2012); as a validator, Musgrave, Belongie & Lim, 'Unsupervised domain adaptation: a reality check' (2021).
    Unlike the entropy, it is 0 for a model that calls all pixels one class.
    """
    return _of_sums(prob.double().sum(0), float(pixel_entropy(prob.double()).sum()), len(prob))[1]


def soft_neighbourhood_density(prob: Float[Tensor, "n k"], temperature: float = TEMPERATURE) -> float:
    """Mean entropy in nats of each pixel's similarity to the others: how many neighbours it has, softly counted.

    Saito et al., 'Tune it the right way' (ICCV 2021): softmax vectors of length 1, their cosines, without that of a
    pixel with itself, through a softmax over the others at `temperature`; the mean entropy of these rows. Between 0
    and log(n - 1), which it has where all pixels are alike: also where a model has collapsed to one class.
    Raises ConfigError for fewer than two pixels.
    """
    n = len(prob)
    if n < 2:
        raise ConfigError(f"{n} pixels; expected at least 2, each with a neighbour")
    # In float64: rounded to float32, equal pixels would differ by more than the temperature forgives at 4096 of them.
    unit = nn.functional.normalize(prob.double(), dim=1)
    total = 0.0
    for start in range(0, n, _ROWS):
        similar = unit[start : start + _ROWS] @ unit.T
        rows = torch.arange(len(similar), device=prob.device)
        similar[rows, rows + start] = -math.inf
        total += float(pixel_entropy(similar.div_(temperature).softmax(1)).sum())
    return min(max(total / n, 0.0), math.log(n - 1))


def evenly(count: int, most: int) -> list[int]:
    """Up to `most` of `count` indices, evenly spread, the first and the last among them: always the same ones."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})


def scores_of(
    network: nn.Module,
    target: ImageDataset,
    short_side: int | None = None,
    source: LabelledDataset | None = None,
    most: int = IMAGES,
    track: Track | None = None,
) -> LabelFree:
    """The scores of a network, on at most `most` images of `target` (3, h, w), evenly spread by index.

    Predictions are those of one view at the working size `short_side`, at the network's own stride: no map is as large
    as an image, and memory holds one image's besides the sample for soft neighbourhood density, up to 4096 pixels
    over all images, an even grid of each. `source`: labelled images that were not trained on; of these too, at most
    `most` are scored. The same answer whatever process asks; the network is left as it was.
    """
    indices = evenly(len(target.names), most)
    share = max(2, PIXELS // len(indices))
    mass: Tensor | None = None
    entropy, pixels, sample = 0.0, 0, []
    with evaluating(network):
        for prob in _predictions(network, target, indices, short_side, track):
            mass = prob.sum(0) if mass is None else mass + prob.sum(0)
            entropy += float(pixel_entropy(prob).sum())
            pixels += len(prob)
            sample.append(prob[evenly(len(prob), share)])
    assert mass is not None
    low, gained = _of_sums(mass, entropy, pixels)
    held_out = None
    if source is not None:
        part = SomeLabelled(source, evenly(len(source.names), most))
        held_out = score(network, part, short_side, Views()).mean_iou()
    return LabelFree(low, gained, soft_neighbourhood_density(torch.cat(sample)), held_out, len(indices))


def _predictions(
    network: nn.Module, target: ImageDataset, indices: list[int], short_side: int | None, track: Track | None
) -> Iterator[Float[Tensor, "n k"]]:
    """Class probabilities (float64) of the pixels of each image, at the network's own stride."""
    for index in track(iter(indices), len(indices)) if track else indices:
        (logits,) = view_logits(network, target.image(index), short_side, Views())
        yield logits.double().softmax(0).flatten(1).T


def _of_sums(mass: Tensor, entropy: float, pixels: int) -> tuple[float, float]:
    """(entropy as a share, information) from the sums over pixels of probabilities and entropies."""
    mean = entropy / pixels
    whole = float(torch.special.entr(mass / pixels).sum())
    most = math.log(len(mass)) if len(mass) > 1 else 1.0
    # Rounding may take either a hair's breadth out of its bounds.
    return min(max(mean / most, 0.0), 1.0), min(max(whole - mean, 0.0), most)
