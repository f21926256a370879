"""Self-training (ST) and class-balanced self-training (CBST).

Zou, Yu, Kumar, Wang: Unsupervised Domain Adaptation for Semantic Segmentation via Class-Balanced
Self-Training, ECCV 2018. Equations and algorithms are numbered as there.

Two readings of the print, each at most one order statistic from it: the rank is n = floor(p·N) where the
text says round(p·N), and a label is kept where p_c/θ_c >= 1 where Eq. 5 and 8 print > 1. So the n pixels
that a threshold was counted from pass it, the n-th among them (below θ = .5, another class may still win one).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Float64, Int64, Integer
from torch import Tensor, nn
from torch.nn import functional

from segshift.data.dataset import LabelledDataset
from segshift.data.resizing import resize_label
from segshift.errors import ConfigError, DataError
from segshift.parts.augment import ColourAugmentation
from segshift.parts.batch_norm import Policy, check_policy
from segshift.parts.confidence import confidences, of_prediction, strided, weighted
from segshift.parts.optimizers import Optimizer
from segshift.parts.order_statistics import nth_largest, portion_of
from segshift.parts.single_network import SingleNetwork
from segshift.parts.threads import one_thread
from segshift.types import IGNORE, Batch, LabelStore, Losses, MethodConfig, Predictions, Scan

NOTHING = 1.0
"""θ where no pixel is selected: only a probability of exactly 1 would pass."""

PRIOR_FILE = "spatial-prior"
"""The name a run keeps its spatial prior under: RUN/spatial-prior.safetensors, tensor `prior` (k, h, w)."""

Border = Literal["replicate", "reflect", "zero"]
"""What the smoothing of a prior sees beyond the image: the last pixel again, the image mirrored, or nothing."""

Normalise = Literal["class", "place"]
"""What of a prior sums to 1: each class over all pixels, or all classes at each pixel."""


def class_thresholds(scan: Predictions, portion: float, num_classes: int, stride: int = 1) -> Float[Tensor, " k"]:
    """Algorithm 2: θ_c = exp(-k_c), the floor(p·N_c)-th largest confidence of the N_c pixels predicted as c.

    1.0 for a class of which nothing is selected (floor(p·N_c) = 0: rare, or never predicted). With a stride,
    N_c counts every stride-th pixel of a class in each image, in raster order, from its first. float32.
    """
    _check(portion, stride)
    return _order_statistic(scan, portion, num_classes, stride, by_class=True)


def global_threshold(scan: Predictions, portion: float, stride: int = 1) -> float:
    """Algorithm 1: θ = exp(-k), the floor(p·N)-th largest confidence of all N pixels of the target set.

    1.0 where floor(p·N) = 0. The stride picks pixels per image and class, as for `class_thresholds`.
    """
    _check(portion, stride)
    return float(_order_statistic(scan, portion, None, stride, by_class=False))


def pseudo_labels(prob: Float[Tensor, "k h w"], thresholds: Float[Tensor, " k"]) -> Int64[Tensor, "h w"]:
    """Eq. 8: argmax_c p_c/θ_c where that ratio is at least 1, IGNORE elsewhere. int64.

    With equal thresholds this is Eq. 5. Raises ConfigError where a threshold is not above 0.
    """
    if thresholds.shape != prob.shape[:1]:
        raise ConfigError(f"thresholds: {tuple(thresholds.shape)} for probabilities of {prob.shape[0]} classes")
    if not bool((thresholds > 0).all()):
        raise ConfigError(f"thresholds: {thresholds.tolist()}; expected numbers above 0 (1.0 selects nothing)")
    ratio, label = (prob / thresholds.to(prob)[:, None, None]).max(0)
    return torch.where(ratio >= 1, label, IGNORE)


def spatial_prior(
    labels: Iterable[Integer[Tensor, "h w"]],
    num_classes: int,
    kernel: int = 70,
    sigma: float | None = None,
    border: Border = "replicate",
    normalise: Normalise = "class",
) -> Float32[Tensor, "k h w"]:
    """q_n(c) of Eq. 9: how often class c stands at pixel n of the source, smoothed, each class summing to 1 over n.

    `normalise="place"` is no reading of the paper: the classes sum to 1 at each pixel instead, q_n(c) = P(c | n).

    `labels`: class ids or IGNORE, all of one size, read one by one. The Gaussian has `kernel` x `kernel` taps (the
    paper: 70) and standard deviation `sigma` in pixels (kernel / 6 where None: the paper gives none), and looks
    beyond the `border` as said there. An even kernel has no middle pixel; its middle lies half a pixel down and to
    the right. A class that never occurs is 0 everywhere. Sums are integers, so their order does not matter.
    """
    if kernel < 1 or (sigma is not None and not sigma > 0):
        raise ConfigError(f"kernel = {kernel}, sigma = {sigma}; expected a kernel of at least 1 and a sigma above 0")
    counts = _class_counts(labels, num_classes).double()
    at = torch.arange(kernel, dtype=torch.float64) - (kernel - 1) / 2
    weight = torch.exp(-0.5 * (at / (sigma or kernel / 6)) ** 2)
    smooth = _convolved(counts, weight / weight.sum(), border)
    total = smooth.sum((1, 2) if normalise == "class" else 0, keepdim=True)
    return (smooth / total.where(total > 0, 1.0)).float()


def _class_counts(labels: Iterable[Tensor], num_classes: int) -> Int64[Tensor, "k h w"]:
    """In how many labels each pixel has each class."""
    counts = None
    for number, label in enumerate(labels, start=1):
        if counts is None:
            counts = torch.zeros(num_classes + 1, *label.shape, dtype=torch.int64)
        ids = label.long()
        wrong = ids[(ids != IGNORE) & ((ids < 0) | (ids >= num_classes))]
        if label.shape != counts.shape[1:] or wrong.numel():
            raise DataError(
                f"label {number} for the spatial prior: size {tuple(label.shape)}, wrong ids {wrong.unique().tolist()};"
                f" expected size {tuple(counts.shape[1:])} as of the first, and ids below {num_classes}, or {IGNORE}"
            )
        counts.scatter_add_(0, ids.clamp_max(num_classes)[None], torch.ones_like(ids)[None])
    if counts is None:
        raise DataError("labels for the spatial prior: there is none; expected at least 1")
    return counts[:num_classes]


def _convolved(maps: Float64[Tensor, "k h w"], weight: Float64[Tensor, " n"], border: Border) -> Tensor:
    """Each map convolved with the weights along both axes; beyond the border as `border` says."""
    before, after = (len(weight) - 1) // 2, len(weight) // 2
    if border == "reflect" and after >= min(maps.shape[1:]):
        raise ConfigError(
            f"border = reflect: a kernel of {len(weight)} on {tuple(maps.shape[1:])} pixels; take replicate"
        )
    mode = "constant" if border == "zero" else border
    tall = functional.pad(maps[:, None], (0, 0, before, after), mode=mode)
    rows = functional.conv2d(tall, weight[None, None, :, None])
    return functional.conv2d(functional.pad(rows, (before, after, 0, 0), mode=mode), weight[None, None, None])[:, 0]


def portion_schedule(n: int, initial: float = 0.2, step: float = 0.05, limit: float = 0.5) -> float:
    """§4.3: the portion p of round 1, 2, ...: 20 %, 5 % more each round, 50 % at most."""
    if n < 1:
        raise ConfigError(f"round: {n}; rounds are counted from 1")
    # Rounded to the decimal one reads: .2 + 2 · .05 is .30000000000000004.
    return round(min(limit, initial + step * (n - 1)), 10)


def _order_statistic(
    scan: Predictions, portion: float, num_classes: int | None, stride: int, by_class: bool
) -> Float32[Tensor, " groups"]:
    """The floor(p·N)-th largest confidence of each class, or of all pixels."""

    def read() -> Iterator[tuple[Tensor, Tensor]]:
        for entry in confidences(scan, num_classes):
            yield _ranked(entry.confidence, entry.label, stride, by_class)

    def again(least: Tensor, most: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        assert narrow is not None
        for confidence, label in narrow(least, most):
            yield _ranked(confidence, label, 1, by_class)

    # With a stride, which pixels count depends on all before them.
    narrow = getattr(scan, "confidences_within", None) if stride == 1 else None
    share, merge = partial(portion_of, portion), getattr(scan, "merge", None)
    return nth_largest(read, num_classes or 1, share, merge, NOTHING, None if narrow is None else again)


@one_thread()
def _ranked(confidence: Tensor, label: Tensor, stride: int, by_class: bool) -> tuple[Tensor, Tensor]:
    """Every stride-th pixel of a class: its confidence and its group, the class or 0."""
    values, group = confidence.flatten(), label.flatten()
    if stride > 1:
        at = strided(label, stride)
        values, group = values[at], group[at]
    nowhere = group == IGNORE  # under a prior, pixels where every potential is 0: they belong to no class
    if bool(nowhere.any()):
        values, group = values[~nowhere], group[~nowhere]
    return values, group if by_class else torch.zeros_like(group)


def _labelled(scan: Predictions, theta: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, Eq. 8, and the predicted class of each pixel, of each image; a scan that has a faster way is asked."""
    faster = getattr(scan, "balanced_labels", None)
    if faster is not None:
        yield from faster(theta)
        return
    for prediction in scan:
        yield prediction.name, pseudo_labels(prediction.prob, theta), of_prediction(prediction).label


def _check(portion: Any, stride: Any) -> None:
    """The ranges of Algorithm 1 and 2's arguments."""
    if not 0 < portion <= 1:
        raise ConfigError(f"portion: {portion}; expected a share of the pixels above 0, at most 1 (the paper: 0.2)")
    if not isinstance(stride, int) or stride < 1:
        raise ConfigError(f"stride: {stride!r}; expected a whole number from 1 (every stride-th pixel of a class)")


@dataclass(frozen=True)
class SpatialPrior:
    """How the spatial prior of Eq. 9 is made from the source's labels."""

    kernel: float = 70.0
    """Width of the Gaussian, in pixels of a source image `height` pixels high."""
    height: int = 1052
    """Those of GTA5, whose priors the paper shows; the kernel shrinks and grows with the images."""
    sigma: float | None = None
    """Standard deviation, in the same pixels; None: kernel / 6."""
    border: Border = "replicate"
    normalise: Normalise = "class"
    """class: each class sums to 1 over pixels, as printed, which favours rare classes. place: classes sum to 1 at each
    pixel, which favours frequent ones (docs/methods/cbst.md compares them)."""
    rows: int = 512
    """Height of the reference grid, at most: labels are resized (nearest pixel) to it, in the shape of the first."""

    def __post_init__(self) -> None:
        if not self.kernel > 0 or (self.sigma is not None and not self.sigma > 0) or min(self.height, self.rows) < 1:
            raise ConfigError(
                f"prior: kernel = {self.kernel}, sigma = {self.sigma}, height = {self.height}, rows = {self.rows}; "
                "expected numbers above 0 (the paper: a kernel of 70)"
            )
        if self.border not in ("replicate", "reflect", "zero"):
            raise ConfigError(f"prior: border = {self.border!r}; expected replicate, reflect or zero")
        if self.normalise not in ("class", "place"):
            raise ConfigError(f"prior: normalise = {self.normalise!r}; expected class (as printed) or place")

    def of(self, source: LabelledDataset) -> Float32[Tensor, "k h w"]:
        """The prior of a labelled source, on the reference grid."""
        first = source.label(0)
        height, width = first.shape
        rows = min(self.rows, height)
        size = rows, max(1, round(width * rows / height))
        labels = (resize_label(source.label(i), size) for i in range(len(source.names)))
        scale = rows / self.height
        sigma = None if self.sigma is None else self.sigma * scale
        kernel = max(1, round(self.kernel * scale))
        return spatial_prior(labels, len(source.space), kernel, sigma, self.border, self.normalise)


@dataclass(frozen=True)
class CBSTConfig(MethodConfig):
    """Self-training: which pixels become labels each round, and how the network learns from them."""

    selection: Literal["class_balanced", "global"] = "class_balanced"
    """class_balanced: CBST, a threshold a class (Algorithm 2). global: ST, one for all (Algorithm 1)."""
    portion: float = 0.2
    """Share of the pixels that become labels in round 1."""
    portion_step: float = 0.05
    portion_limit: float = 0.5
    stride: int = 1
    """Rank every stride-th pixel of a class; the released code ranks every 4th."""
    prior: SpatialPrior | None = None
    """Multiply probabilities by the source's spatial priors when labels are selected (Eq. 9): ST-SP, CBST-SP."""
    batch_norm: Policy = "frozen"
    augment: ColourAugmentation | None = field(default_factory=ColourAugmentation)
    """Strong colours on the target view: keeps the network from confirming its own labels. None: as published."""
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        _check(self.portion, self.stride)
        check_policy(self.batch_norm)
        if self.selection not in ("class_balanced", "global"):
            raise ConfigError(f"selection = {self.selection!r}; expected class_balanced (CBST) or global (ST)")
        if self.portion_step < 0 or not self.portion <= self.portion_limit <= 1:
            raise ConfigError(
                f"portion = {self.portion}, portion_step = {self.portion_step}, portion_limit = {self.portion_limit}; "
                "expected a step of at least 0, and portion <= portion_limit <= 1"
            )

    def build(self, model: nn.Module, steps: int, seed: int) -> CBST:
        return CBST(model, self, steps, seed)


class CBST(SingleNetwork):
    """Alternates (a) pseudo-labels for fixed weights, Eq. 4 or 7, and (b) training on them, Eq. 3 or 6."""

    def __init__(self, model: nn.Module, config: CBSTConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.config = config
        self.thresholds: list[float] = []

    def begin_round(self, n: int, scan: Scan, source: Any, store: LabelStore) -> None:
        """Step (a): thresholds from the ranked confidences (Eq. 9: potentials), then a label for each that passes."""
        config = self.config
        ranked = scan if config.prior is None else weighted(scan, self._prior(config.prior, source, store))
        portion = portion_schedule(n, config.portion, config.portion_step, config.portion_limit)
        if config.selection == "class_balanced":
            theta = class_thresholds(ranked, portion, self.num_classes, config.stride)
        else:
            theta = torch.full((self.num_classes,), global_threshold(ranked, portion, config.stride))
        for name, label, predicted in _labelled(ranked, theta):
            store.write(name, label, predicted)
        self.thresholds = theta.tolist()
        store.finish({"theta": self.thresholds})

    def _prior(self, prior: SpatialPrior, source: LabelledDataset, store: LabelStore) -> Tensor:
        """The source's prior: made in the first round, then read."""
        kept = store.kept(PRIOR_FILE)
        if kept is None:
            kept = {"prior": prior.of(source)}
            store.keep(PRIOR_FILE, kept)
        return kept["prior"]

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        """Step (b): source labels and pseudo-labels, each term the mean over its labelled pixels."""
        policy = self.config.batch_norm
        yield {"source": self.segmentation_loss(batch.source, "source", t, policy, None)}
        yield {"target": self.segmentation_loss(batch.target, "target", t, policy, self.config.augment)}

    def state_dict(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.thresholds = list(state["thresholds"])
