"""Instance-adaptive self-training (IAST).

Mei, Zhu, Zou, Zhang: Instance Adaptive Self-Training for Unsupervised Domain Adaptation, ECCV 2020. Eq. 3, 8 and 9;
Algorithm 1 and Eq. 5 to 7 are in `iast_selector`.

Two readings of the print. Eq. 8 and 9 sum over a region and divide by the number of images; here each is the mean over
the region's pixels, of all processes. And λ_i = 3, λ_c = .1 belong to the release, which divides both by the number of
classes once more: `normalisation="released"`, the default of training. With the printed scaling the weights are 19
times as large, and a probe on real images collapsed (docs/methods/iast.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.methods.cbst import CBSTConfig, class_thresholds
from segshift.methods.iast_selector import (
    InstanceAdaptiveSelector,
    Order,
    Selected,
    Variant,
    check_selector,
    labels_above,
    select_all,
)
from segshift.parts.augment import ColourAugmentation
from segshift.parts.batch_norm import Policy
from segshift.parts.confidence import confidences
from segshift.parts.losses import cross_entropy_mean, mean_over, region_mean
from segshift.parts.optimizers import Optimizer
from segshift.parts.self_training import SelfTraining, SelfTrainingConfig, check_choice, check_self_training
from segshift.types import IGNORE, Images, LabelStore, Losses, MethodConfig, Scan

Normalisation = Literal["paper", "released"]
"""paper: mean over the region's pixels. released: that over the number of classes."""

Value = TypeVar("Value")


def confident_region_kld(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b h w"], normalisation: Normalisation = "paper"
) -> Float[Tensor, ""]:
    """R_c of Eq. 8: -sum_c 1/C log p_c, the mean over the pixels with a label; the KLD from uniform plus log C.

    `logits` at the labels' size; IGNORE is no label. The mean is over the pixels of all processes. 0 with gradient 0
    where there is none.
    """
    return _scaled(region_mean(_uniform(logits), labels != IGNORE), logits.shape[1], normalisation)


def ignored_region_entropy(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b h w"], normalisation: Normalisation = "paper"
) -> Float[Tensor, ""]:
    """R_i of Eq. 9: -sum_c p_c log p_c, the mean over the pixels without a label (IGNORE).

    `logits` at the labels' size. The mean is over the pixels of all processes. 0 with gradient 0 where there is none.
    """
    return _scaled(region_mean(_entropy(logits), labels == IGNORE), logits.shape[1], normalisation)


def _uniform(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b h w"]:
    """-sum_c 1/C log p_c."""
    return -logits.log_softmax(1).mean(1)


def _entropy(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b h w"]:
    """-sum_c p_c log p_c."""
    log_prob = logits.log_softmax(1)
    return -(log_prob.exp() * log_prob).sum(1)


def _scaled(mean: Tensor, classes: int, normalisation: Normalisation) -> Tensor:
    return mean / classes if normalisation == "released" else mean


def _adam() -> Optimizer:
    return Optimizer("adam", lr=2.5e-5, head_multiplier=1.0, weight_decay=0.0, power=0.0)


@dataclass(frozen=True)
class IASTConfig(SelfTrainingConfig):
    """Self-training on the target alone: which pixels become labels, and what is asked of the others."""

    selector: Literal["instance_adaptive", "constant", "class_balanced"] = "instance_adaptive"
    """instance_adaptive: Algorithm 1. constant: one threshold for all (Fig. 4 a). class_balanced: CBST's (Fig. 4 b)."""
    alpha: tuple[float, ...] = (0.2,)
    """Share of a class's pixels that an image's own threshold keeps (class_balanced: of the whole target), in round
    1, 2, ...; the last for all rounds after. The release: 0.2 0.25 0.3."""
    beta: float = 0.9
    """How much of the threshold before stays (Eq. 6)."""
    gamma: float = 8.0
    """How much harder it is for classes with low thresholds (HWD, Eq. 7)."""
    initial: float = 0.9
    """The threshold that each round starts from: Algorithm 1 is run anew."""
    constant: float = 0.9
    """The threshold of the constant selector."""
    variant: Variant = "paper"
    """released: percentiles of float16 confidences with the threshold before among them, instead of Eq. 7."""
    unit: int = 1
    """Images that share one move of the thresholds (released: 2)."""
    order: Literal["name", "random"] = "name"
    """In which the thresholds see the images: by name, or in an order drawn for each round."""
    ignored_weight: float = 3.0
    """λ_i: of the entropy where there is no label (Eq. 9)."""
    confident_weight: float = 0.1
    """λ_c: of the KLD from uniform where there is one (Eq. 8)."""
    normalisation: Normalisation = "released"
    """released: both divided by the number of classes, which λ_i = 3 and λ_c = .1 belong to. paper: as printed."""
    batch_norm: Policy = "frozen"
    """frozen: running statistics are used and kept, as the paper says (its release keeps only scale and shift)."""
    augment: ColourAugmentation | None = None
    """Strong colours on the target view. None: as published."""
    optimizer: Optimizer = field(default_factory=_adam)
    lr_factors: tuple[float, ...] = (1.0,)
    """Learning rate of round 1, 2, ... over the optimiser's; the last for all rounds after. The release: 1.2 1 0.8."""
    retain: MethodConfig | None = None
    """A warm-up whose losses are kept beside IAST's (§4). Its own optimiser of the network is not used."""

    def __post_init__(self) -> None:
        check_self_training(self, CBSTConfig)
        check_choice("selector", self.selector, ("instance_adaptive", "constant", "class_balanced"))
        check_choice("order", self.order, ("name", "random"))
        check_choice("normalisation", self.normalisation, get_args(Normalisation))
        if not self.alpha or not self.lr_factors or not all(0 < f < float("inf") for f in self.lr_factors):
            raise ConfigError(
                f"alpha = {self.alpha}, lr_factors = {self.lr_factors}; expected at least one number each (of round 1, "
                "2, ...), the factors above 0"
            )
        for alpha in self.alpha:
            check_selector(alpha, self.beta, self.gamma, self.initial, self.variant)
        if not 0 <= self.constant <= 1:
            raise ConfigError(f"constant = {self.constant}; expected a threshold from 0 to 1")
        if self.unit < 1 or (self.unit > 1 and self.variant == "paper"):
            raise ConfigError(
                f"unit = {self.unit}; expected at least 1, and 1 in variant paper: its thresholds move at each image "
                "(released: 2)"
            )
        for name in ("ignored_weight", "confident_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a number of at least 0")

    def build(self, model: nn.Module, steps: int, seed: int) -> IAST:
        return IAST(model, self, steps, seed)


class IAST(SelfTraining):
    """Alternates (b) pseudo-labels by the selector and (c) training on the target, Eq. 3; the warm-up (a) came before.

    With `retain`, that warm-up's steps follow each of (c).
    """

    def __init__(self, model: nn.Module, config: IASTConfig, steps: int, seed: int) -> None:
        super().__init__(model, config, steps, seed)
        self.config = config

    # --- (b) pseudo-labels -------------------------------------------------------------------------------------------

    def begin_round(self, n: int, scan: Scan, source: Any, store: LabelStore) -> None:
        """Labels of every target image by the selector, from the network as it is now (M copied into G)."""
        self._set_rate(n)
        config, alpha = self.config, _of_round(self.config.alpha, n)
        if config.selector == "instance_adaptive":
            selector = InstanceAdaptiveSelector(
                self.num_classes, alpha, config.beta, config.gamma, config.initial, config.variant
            )
            order: Order = range if config.order == "name" else partial(_drawn, self.seed, n)
            for image in select_all(scan, selector, config.unit, order):
                store.write(*image)
            theta = selector.thresholds
        else:
            balanced = config.selector == "class_balanced"
            theta = torch.full((self.num_classes,), config.constant, dtype=torch.float64)
            if balanced:
                theta = class_thresholds(scan, alpha, self.num_classes)
            for image in confidences(scan, self.num_classes):
                store.write(*Selected(image.name, labels_above(image, theta, inclusive=balanced), image.label))
        self.thresholds = theta.tolist()
        store.finish({"theta": self.thresholds})

    def _set_rate(self, n: int) -> None:
        """The learning rate of round n, on top of the schedule: what the optimiser has now times the round's factor.

        Each step of the schedule multiplies the rate at hand, so the factor stays until the next round replaces it.
        """
        optimizer, schedule = self._optimizer
        fresh = schedule.last_epoch == 0  # of a first round, or of one that starts with a new optimiser
        before = 1.0 if fresh else _of_round(self.config.lr_factors, n - 1)
        change = _of_round(self.config.lr_factors, n) / before
        for group in optimizer.param_groups:
            group["lr"] *= change
        schedule.load_state_dict({"_last_lr": [group["lr"] for group in optimizer.param_groups]})  # it is logged

    # --- (c) training ------------------------------------------------------------------------------------------------

    def target_losses(self, images: Images, t: int) -> Losses:
        """Eq. 3: cross-entropy with the pseudo-labels, and the regularisers."""
        config, label = self.config, images.label
        weights = {"ignored": config.ignored_weight, "confident": config.confident_weight}
        means = {
            "target": cross_entropy_mean(label),
            "ignored": mean_over(label == IGNORE, _entropy),  # Eq. 9
            "confident": mean_over(label != IGNORE, _uniform),  # Eq. 8
        }
        asked = {name: mean for name, mean in means.items() if weights.get(name, 1.0) > 0}
        found = self.target_means(images, t, asked)
        return {
            name: weights[name] * _scaled(mean, self.num_classes, config.normalisation) if name in weights else mean
            for name, mean in found.items()
        }


def _of_round(values: Sequence[Value], n: int) -> Value:
    """The n-th value, from 1; the last for all n beyond."""
    return values[min(n, len(values)) - 1]


def _drawn(seed: int, n: int, count: int) -> list[int]:
    """The order of `count` images in round n."""
    return generator(seed, Stream.TARGET, 6, n).permutation(count).tolist()
