"""Category-adaptive thresholds and self-training: phase 2 of category-adaptive adaptation. Phase 1 is in `style_gap`.

Wang, Luo, Huang, Ge, Lu: Category-Adaptive Domain Adaptation for Semantic Segmentation (2021; no released code).
Eq. 1 to 3 and 6. Beside them, the fixed threshold that it compares with: Li, Yuan, Vasconcelos: Bidirectional
Learning for Domain Adaptation of Semantic Segmentation (BDL), CVPR 2019.

How the print is read. Eq. 1 sums to one number where a vector is meant: f^l is the weighted mean of the probability
vectors of the pixels predicted as l, the weight being their confidence; the sums run over the whole target, once a
round. Δ is never given. The rule compares a class with its own mean: where all pixels of a class are alike, however
certain, none of them passes at Δ >= 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError
from segshift.methods.cbst import CBSTConfig, class_thresholds
from segshift.methods.iast_selector import Selected, labels_above
from segshift.parts.augment import ColourAugmentation
from segshift.parts.batch_norm import Policy
from segshift.parts.confidence import Banded, banded, confidences
from segshift.parts.exact_sums import ExactSum
from segshift.parts.losses import ALL_ROWS, PixelMean, cross_entropy_mean, share_of_mean
from segshift.parts.optimizers import Optimizer
from segshift.parts.self_training import SelfTraining, SelfTrainingConfig, check_choice, check_self_training
from segshift.parts.threads import one_thread
from segshift.types import IGNORE, Images, LabelStore, Losses, MethodConfig, Prediction, Predictions, Scan

Weighting = Literal["confidence", "mean"]
"""What a pixel counts for in its class's centroid: its confidence max_c p_c, or 1."""

Entropy = Literal["nats", "normalised"]
"""nats: as printed. normalised: divided by log C, from 0 to 1, so that Δ is a share of the largest entropy."""

SSLNormalisation = Literal["image", "labelled"]
"""image: Eq. 6 as printed divides by all H·W pixels. labelled: by those that have a label."""

Selector = Literal["category_adaptive", "bdl", "constant"]
"""category_adaptive: Eq. 1 to 3. bdl: min(a class's median confidence, .9). constant: one threshold for all."""

Scope = Literal["dataset", "image"]
"""dataset: centroids over the whole target. image: each image has its own."""


# --- Eq. 1 to 3 ------------------------------------------------------------------------------------------------------


def centroids(scan: Predictions, num_classes: int, weighting: Weighting = "confidence") -> Float64[Tensor, "k k"]:
    """f^l of Eq. 1, one a row: the weighted mean of the probabilities (k, h, w) of all pixels whose argmax is l.

    A row sums to 1, or is 0 for a class that is never predicted. Each image's sums are float64; images, and the
    processes of a scan that has `merge`, are added exactly, so their order and split change no bit. Memory: k (k + 1)
    numbers beside the image at hand.
    Raises DataError naming the image where a probability is NaN, ConfigError where it has not `num_classes` classes.
    """
    check_choice("weighting", weighting, get_args(Weighting))
    return _centroids(banded(scan), num_classes, weighting, getattr(scan, "merge", None))


def _centroids(
    images: Iterable[Banded], num_classes: int, weighting: Weighting, merge: Callable[[Tensor], Tensor] | None = None
) -> Float64[Tensor, "k k"]:
    total = ExactSum(num_classes, num_classes + 1)
    for image in images:
        total.add(_sums(image, num_classes, weighting))
    sums = total.total(merge)
    weight = sums[:, -1:]
    return sums[:, :-1] / weight.where(weight > 0, 1.0)


def entropy_thresholds(
    centroids: Float64[Tensor, "k k"], delta: float, entropy: Entropy = "nats"
) -> Float64[Tensor, " k"]:
    """E(f^l) - Δ of Eq. 2 and 3; 0, which nothing is below, for a class without centroid (a row of zeros)."""
    check_choice("entropy", entropy, get_args(Entropy))
    _check_delta(delta)
    thresholds = _entropy(centroids.T, entropy) - delta
    return thresholds.where(centroids.any(1), 0.0)


def select(
    prob: Float[Tensor, "k h w"], thresholds: Float[Tensor, " k"], entropy: Entropy = "nats"
) -> Int64[Tensor, "h w"]:
    """Eq. 3: argmax_c p_c where the pixel's entropy E(P) is below that class's threshold, IGNORE elsewhere.

    p log p is 0 at p = 0. `entropy` as for the thresholds. A pixel whose probabilities are NaN has no label.
    """
    check_choice("entropy", entropy, get_args(Entropy))
    (image,) = banded([Prediction("", prob)])
    return _selected(image, thresholds, entropy).label.long()


@one_thread()
def _selected(image: Banded, thresholds: Tensor, entropy: Entropy) -> Selected:
    """Eq. 3's label, and the predicted class of each pixel."""
    label = torch.empty(image.size, dtype=torch.uint8, device=thresholds.device)
    predicted = torch.empty_like(label)
    for band in image.bands():
        predicted[band.rows] = band.label
        theta = thresholds.to(band.prob.device).index_select(0, band.label.flatten().int()).view(band.label.shape)
        label[band.rows] = band.label.where(_entropy(band.prob, entropy) < theta, IGNORE)
    return Selected(image.name, label, predicted)


def _entropy(prob: Float[Tensor, "k *rest"], entropy: Entropy) -> Float[Tensor, "*rest"]:
    """-sum p log p over the first axis, never below 0; normalised: over log k."""
    prob = prob.to(torch.promote_types(prob.dtype, torch.float32))
    # log(0) is never taken, and 0 times the least float's logarithm is 0.
    total = -(prob.clamp_min(torch.finfo(prob.dtype).tiny).log_().mul_(prob)).sum(0)
    scale = math.log(len(prob)) if entropy == "normalised" and len(prob) > 1 else 1.0
    return total.clamp_min_(0) / scale


@one_thread()
def _sums(image: Banded, num_classes: int, weighting: Weighting) -> Float64[Tensor, "k k1"]:
    """Of one image: a row for each class l, the sum of w p over the pixels predicted as l; in the last column, of w."""
    if image.classes != num_classes:
        raise ConfigError(f"num_classes: {num_classes}; but the prediction of {image.name} has {image.classes}")
    sums = torch.zeros(num_classes, num_classes + 1, dtype=torch.float64)
    for band in image.bands():
        prob, label = band.prob.flatten(1).double(), band.label.flatten().long()
        confidence = band.confidence.flatten().double()
        weight = confidence if weighting == "confidence" else torch.ones_like(confidence)
        of_class = torch.zeros_like(prob).scatter_(0, label[None], weight[None])
        sums[:, :-1] += (of_class @ prob.T).cpu()
        sums[:, -1] += of_class.sum(1).cpu()
    if sums.isnan().any():
        raise DataError(
            f"prediction of {image.name}: a class probability is NaN; expected numbers from 0 to 1. "
            "The network's weights are likely NaN or infinite: go back to an earlier checkpoint"
        )
    return sums


# --- the threshold it is compared with -------------------------------------------------------------------------------


def bdl_thresholds(
    scan: Predictions, num_classes: int, limit: float = 0.9, portion: float = 0.5
) -> Float64[Tensor, " k"]:
    """BDL as released: the median confidence of a class, `limit` at most. A pixel at or above it is kept.

    The median is the floor(portion·N)-th largest of the N confidences of a class (`cbst.class_thresholds`). Where that
    is none, N = 0 or 1, the threshold is `limit`; the release keeps a class's only pixel whatever its confidence.
    """
    if not 0 <= limit <= 1:
        raise ConfigError(f"limit = {limit}; expected a confidence from 0 to 1 (the release: 0.9)")
    return class_thresholds(scan, portion, num_classes).double().clamp_max(limit)


# --- Eq. 6 -----------------------------------------------------------------------------------------------------------


def self_supervised_loss(
    logits: Float[Tensor, "b k h w"], labels: Int[Tensor, "b h w"], normalisation: SSLNormalisation = "image"
) -> Float[Tensor, ""]:
    """L_ssl of Eq. 6: -log p of the pseudo-label, summed over the pixels that have one (IGNORE is none).

    `logits` at the labels' size. Divided by the pixels of all processes: "image" by all, with or without a label (so
    few labels make small steps; the padding of a crop counts), "labelled" by those with one. 0 with gradient 0 where
    there is none.
    """
    check_choice("normalisation", normalisation, get_args(SSLNormalisation))
    mean = _self_supervised(labels, normalisation)
    return share_of_mean(mean.total(logits, ALL_ROWS), mean.pixels)


def _self_supervised(labels: Int[Tensor, "b h w"], normalisation: SSLNormalisation) -> PixelMean:
    everywhere = torch.full((), labels.numel(), device=labels.device)
    return cross_entropy_mean(labels, everywhere if normalisation == "image" else None)


# --- the method ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CategoryAdaptiveConfig(SelfTrainingConfig):
    """Self-training on the target alone: which pixels become labels each round, and how their loss is scaled."""

    selector: Selector = "category_adaptive"
    delta: float = 0.1
    """Δ of Eq. 3; larger: fewer labels. Below 0 even pixels more uncertain than their class's centroid are kept."""
    weighting: Weighting = "confidence"
    scope: Scope = "dataset"
    """image: labels by each image's own centroids; the thresholds recorded are their means over the images that show
    the class."""
    entropy: Entropy = "nats"
    constant: float = 0.9
    """The threshold of the constant selector; a pixel above it is kept."""
    normalisation: SSLNormalisation = "image"
    batch_norm: Policy = "frozen"
    augment: ColourAugmentation | None = None
    """Strong colours on the target view. None: as published."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    retain: MethodConfig | None = None
    """A warm-up whose losses are kept beside Eq. 6 (the adversarial terms of phase 1). Its own optimiser of the network
    is not used."""

    def __post_init__(self) -> None:
        check_self_training(self, CBSTConfig)
        choices = {
            "selector": Selector, "weighting": Weighting, "scope": Scope, "entropy": Entropy,
            "normalisation": SSLNormalisation,
        }  # fmt: skip
        for name, expected in choices.items():
            check_choice(name, getattr(self, name), get_args(expected))
        _check_delta(self.delta)
        if not 0 <= self.constant <= 1:
            raise ConfigError(f"constant = {self.constant}; expected a threshold from 0 to 1")

    def build(self, model: nn.Module, steps: int, seed: int) -> CategoryAdaptive:
        return CategoryAdaptive(model, self, steps, seed)


class CategoryAdaptive(SelfTraining):
    """Alternates pseudo-labels by thresholds, made once a round, and training on them, Eq. 6.

    With `retain`, that warm-up's steps follow each of Eq. 6.
    """

    def __init__(self, model: nn.Module, config: CategoryAdaptiveConfig, steps: int, seed: int) -> None:
        super().__init__(model, config, steps, seed)
        self.config = config

    def begin_round(self, n: int, scan: Scan, source: Any, store: LabelStore) -> None:
        """Thresholds from the network as it is now, then a label for each target image by them."""
        config = self.config
        if config.selector != "category_adaptive":
            theta = self._label_by_confidence(scan, store)
        elif config.scope == "image":
            theta = self._label_by_image(scan, store)
        else:
            theta = self._thresholds(centroids(scan, self.num_classes, config.weighting))
            for image in banded(scan):
                self._write(image, theta, store)
        self.thresholds = theta.tolist()
        # Under the name of what is compared with them, which a report prints.
        store.finish({"entropy" if config.selector == "category_adaptive" else "theta": self.thresholds})

    def _thresholds(self, centroids: Tensor) -> Tensor:
        return entropy_thresholds(centroids, self.config.delta, self.config.entropy)

    def _write(self, image: Banded, theta: Tensor, store: LabelStore) -> None:
        """Eq. 3 for one image."""
        store.write(*_selected(image, theta, self.config.entropy))

    def _label_by_image(self, scan: Scan, store: LabelStore) -> Tensor:
        """Labels by each image's own thresholds; the mean of these over the images that show the class, else 0."""
        total = ExactSum(2, self.num_classes)
        for image in banded(scan):
            own = _centroids([image], self.num_classes, self.config.weighting)
            theta = self._thresholds(own)
            self._write(image, theta, store)
            total.add(torch.stack((theta, own.any(1).double())))
        theta, images = total.total(getattr(scan, "merge", None))
        return theta / images.clamp_min(1)

    def _label_by_confidence(self, scan: Scan, store: LabelStore) -> Tensor:
        """Labels by the thresholds of another rule, on confidences."""
        bdl = self.config.selector == "bdl"
        if bdl:
            theta = bdl_thresholds(scan, self.num_classes)
        else:
            theta = torch.full((self.num_classes,), self.config.constant, dtype=torch.float64)
        for image in confidences(scan, self.num_classes):
            store.write(*Selected(image.name, labels_above(image, theta, inclusive=bdl), image.label))
        return theta

    def target_losses(self, images: Images, t: int) -> Losses:
        """Eq. 6."""
        return self.target_means(images, t, {"target": _self_supervised(images.label, self.config.normalisation)})


def _check_delta(delta: float) -> None:
    if not math.isfinite(delta):
        raise ConfigError(f"delta = {delta}; expected a finite number (0.1 keeps about half of the pixels)")
