"""Class-balanced pixel-level self-labelling (CPSL).

Li, Li, He, Zhang, Jia, Zhang: Class-Balanced Pixel-Level Self-Labeling for Domain Adaptive Semantic Segmentation, CVPR
2022. Algorithm 1 is `CPSL.step`. Eq. 1 and 13 are in `cpsl_losses`, Eq. 4 and 7 in `cpsl_head`, Eq. 5, 6 and 12 in
`cpsl_transport`, Eq. 8 to 11 in `cpsl_sampling`, the memory bank in `cpsl_bank`, what joins them in `cpsl_clusters`.

Where the print leaves a choice (docs/methods/cpsl.md): features come from the momentum network, as Fig. 1 draws it; one
combined step minimises Eq. 14, where Algorithm 1 lists two updates; P_SL is that of the head before the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.methods.cpsl_clusters import ClusterConfig, PixelClusters, check_share
from segshift.methods.cpsl_head import (
    Prototypes,
    SelfLabellingHead,
    Similarity,
    assignment,
    embedding_width,
    normalise,
    score_map,
)
from segshift.methods.cpsl_losses import both_cross_entropies, divergence_from, rectify, symmetric_divergence
from segshift.methods.cpsl_sampling import class_counts, initial_distribution
from segshift.methods.cpsl_transport import sinkhorn
from segshift.models.segmenter import upsample
from segshift.parts.batch_norm import Policy, check_policy, set_batch_norm
from segshift.parts.losses import PixelMean, cross_entropy_mean, mean_over, upsampled_means
from segshift.parts.optimizers import Optimizer
from segshift.parts.self_training import check_choice
from segshift.parts.single_network import SingleNetwork
from segshift.parts.strong_view import Strong, StrongView, strong_view
from segshift.parts.teacher import Teacher, check_momentum
from segshift.scan import unwrapped
from segshift.types import (
    IGNORE,
    Batch,
    FeatureScan,
    Images,
    LabelStore,
    Losses,
    MethodConfig,
    OptimizerAndSchedule,
    Output,
    Scan,
)

__all__ = ["CPSL", "CPSLConfig", "class_counts", "rectify", "sinkhorn"]

KEPT = "cpsl"
"""What is kept beside the rounds: the class distributions that the report draws."""
ST, SL, RECTIFIED = "self-training", "self-labelling", "rectified"
"""Label maps left for the report: of the warm-up (argmax P_ST), of the clusters (argmax P_SL), of both (Eq. 1)."""


Consistency = Literal["symmetric_kl", "prototype_kl"]
TargetLoss = Literal["cross_entropy", "symmetric"]
FeaturesOf = Literal["momentum", "student"]


def _sgd(lr: float) -> Optimizer:
    return Optimizer("sgd", lr=lr, head_multiplier=1.0, momentum=0.9, weight_decay=2e-4, power=0.9)


@dataclass(frozen=True)
class CPSLConfig(ClusterConfig, MethodConfig):
    """Online clustering of target pixels, which rectifies the pseudo-labels of the warm-up. §4.1 has the values."""

    initialise: bool = True
    """Start the head from prototypes, Eq. 7. False: at random (w/o Init)."""
    self_labelling: bool = True
    """False: pseudo-labels are the warm-up's, P_ST alone, and there is no head (w/o SL)."""
    self_training: bool = True
    """False: pseudo-labels are the clusters', P_SL alone (w/o ST)."""
    confidence: float = 0.0
    """Rectified labels below this share of P_SL · P_ST are left out (an option of the release). 0: none, as printed."""
    augment: StrongView | None = field(default_factory=StrongView)
    """The strong view. None: the student sees the weak one (w/o Aug)."""
    momentum: float = 0.999
    """Of the momentum networks. 0: they are the trained ones (w/o Mom)."""
    labelling_weight: float = 0.1
    """λ_1 of Eq. 14, of the self-labelling loss."""
    consistency_weight: float = 5.0
    """λ_2 of Eq. 14, of the consistency between views."""
    consistency: Consistency = "symmetric_kl"
    """symmetric_kl: Eq. 13. prototype_kl: one-way, between the head's probabilities (released)."""
    target_loss: TargetLoss = "cross_entropy"
    """cross_entropy: Eq. 2. symmetric: .1 of that, and reverse cross-entropy (released)."""
    head: Similarity = "linear"
    """linear: products with unnormalised prototypes. cosine: cosines (released)."""
    features: FeaturesOf = "momentum"
    """Whose features the head learns from. momentum: Fig. 1. student: the trained network's, of the strong view, which
    L_SL then trains too."""
    batch_norm: Policy = "frozen"
    optimizer: Optimizer = field(default_factory=lambda: _sgd(1e-4))
    head_optimizer: Optimizer = field(default_factory=lambda: _sgd(5e-4))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_policy(self.batch_norm)
        check_momentum(self.momentum)
        kinds = {"consistency": Consistency, "target_loss": TargetLoss, "head": Similarity, "features": FeaturesOf}
        for name, kind in kinds.items():
            check_choice(name, getattr(self, name), get_args(kind))
        for name in ("labelling_weight", "consistency_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} = {getattr(self, name)}; expected a number of at least 0")
        check_share("confidence", self.confidence)
        if not (self.self_labelling or self.self_training):
            raise ConfigError(
                "self_labelling = False, self_training = False: nothing is left to label pixels with; expected at "
                "least one of them True"
            )
        if self.consistency == "prototype_kl" and not self.self_labelling:
            raise ConfigError(
                "consistency = prototype_kl, self_labelling = False: there is no self-labelling head; expected "
                "symmetric_kl"
            )

    def build(self, model: nn.Module, steps: int, seed: int) -> CPSL:
        return CPSL(model, self, steps, seed)


class Labels(NamedTuple):
    """The labels of one whole target image as they are now."""

    name: str
    self_training: Int[Tensor, "h w"]
    """argmax P_ST."""
    self_labelling: Int[Tensor, "h w"]
    """argmax P_SL."""
    rectified: Int[Tensor, "h w"]
    """Eq. 1."""


class _Weak(NamedTuple):
    """What the momentum networks say of the weak view."""

    logits: Float[Tensor, "b k h w"]
    """P_w before the softmax, at the crop's size."""
    features: Float[Tensor, "b fh fw d"]
    """Normalised, at the network's own resolution."""
    scores: Float[Tensor, "b k h w"]
    """f'_SL of them, at the crop's size; 0 where there is no head."""
    label: Int[Tensor, "b h w"]
    """Rectified pseudo-labels, Eq. 1."""


class CPSL(SingleNetwork):
    """Algorithm 1. Beside the network it trains the head f_SL, and keeps momentum networks of both."""

    def __init__(self, model: nn.Module, config: CPSLConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.config = config
        self.clusters = PixelClusters(config, self.num_classes, seed)
        self._optimizers = {"model": self._optimizer}
        self._teachers = {"model": Teacher(model, config.momentum)}
        self._width = embedding_width(model)
        self._delta_0 = self.clusters.delta
        self.head: nn.Module = nn.Identity()
        if config.self_labelling:
            head = SelfLabellingHead(self._width, self.num_classes, config.head, seed)
            self.head = head.to(next(model.parameters()).device)
            self._optimizers["head"] = config.head_optimizer.build(self.head, steps)
            self._teachers["head"] = Teacher(self.head, config.momentum)

    def players(self) -> Mapping[str, nn.Module]:
        return {name: getattr(self, name) for name in self._optimizers}

    def optimizers(self) -> Mapping[str, OptimizerAndSchedule]:
        return self._optimizers

    # --- rounds ------------------------------------------------------------------------------------------------------

    def begin_round(self, n: int, scan: Scan, source: Any, store: LabelStore) -> None:
        """Round 1: soft pseudo-labels P_ST, prototypes (Eq. 7) and δ_pseudo (Eq. 10) from the warmed-up network.

        Training goes through all rounds as one; each later one begins by writing what the labels have become.
        """
        assert isinstance(scan, FeatureScan), "CPSL clusters features: it needs a scan that shows them"
        if n == 1:
            self._warm_up(scan, store)
        else:
            for labels in self._labels(scan, store):
                store.write(labels.name, labels.rectified, labels.rectified)
        store.finish({"delta_pseudo": self.clusters.delta.tolist()})

    def end_round(self, n: int, scan: Scan, store: LabelStore) -> None:
        """For the report: the labels of the warm-up, of the clusters (where there are any), of both; and δ_pseudo."""
        assert isinstance(scan, FeatureScan), "CPSL clusters features: it needs a scan that shows them"
        for labels in self._labels(scan, store):
            store.write_view(ST, labels.name, labels.self_training)
            store.write_view(RECTIFIED, labels.name, labels.rectified)
            if self.config.self_labelling:
                store.write_view(SL, labels.name, labels.self_labelling)
        store.keep(KEPT, {"delta_pseudo": self.clusters.delta.cpu(), "delta_0": self._delta_0.cpu()})

    def _warm_up(self, scan: FeatureScan, store: LabelStore) -> None:
        counts = torch.zeros(self.num_classes, dtype=torch.int64)
        prototypes = Prototypes(self.num_classes, self._width)
        for found in scan.features():
            label = scan.probabilities(found, found.size).argmax(0)  # Y_ST
            store.write(found.name, label, label)
            store.write_soft(found)
            counts += torch.bincount(label.reshape(-1).cpu(), minlength=self.num_classes)
            features = normalise(found.embedding[None])[0]
            height, width = features.shape[:2]
            prototypes.add(features, scan.probabilities(found, (height, width)).argmax(0))
        self._delta_0 = self.clusters.delta = initial_distribution(scan.merge(counts))
        if self.config.self_labelling and self.config.initialise:
            head = unwrapped(self.head)
            head.load_state_dict({"weight": prototypes.mean(scan.merge)})
            self._teachers["head"].restart(head)

    def _labels(self, scan: FeatureScan, store: LabelStore) -> Iterator[Labels]:
        """The labels of each target image, by the momentum networks."""
        scan = scan.through(self._teachers["model"].network)
        for found in scan.features():
            features = normalise(found.embedding[None])
            p_st = store.read_soft(found.name, found.size, features.device)[None]
            p_sl = assignment(self._scores(features, found.size), self.config.temperature)
            rectified = self._rectified(p_sl, p_st)[0]
            yield Labels(found.name, p_st.argmax(1)[0], p_sl.argmax(1)[0], rectified)

    # --- a step ------------------------------------------------------------------------------------------------------

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        """Algorithm 1: the source (Eq. 3), then the target (Eq. 2), clusters (Eq. 5) and consistency (Eq. 13)."""
        config, images = self.config, batch.target
        yield {"source": self.segmentation_loss(batch.source, "source", t, config.batch_norm, None)}
        weak, view = self._weak(images), self._strong(images, t)
        set_batch_norm(self.model, config.batch_norm, "target")
        shown = self.model(view.image)
        label = view.mixed(weak.label).masked_fill(view.hidden, IGNORE)
        losses = self._full_size_losses(images, weak, view, shown, label)
        if config.self_labelling:
            features, seen = weak.features, weak.label
            if config.features == "student":
                features, seen = normalise(shown.embedding), label
            losses["self-labelling"] = config.labelling_weight * self._self_labelling(images, features, seen, t)
        yield losses

    def end_step(self, t: int) -> None:
        """The momentum networks follow the trained ones."""
        for name, teacher in self._teachers.items():
            teacher.follow(getattr(self, name))

    def measured(self) -> Mapping[str, Tensor]:
        """How far the last transport's class marginals are from those asked for (L1): whether it has converged."""
        return {"transport error": self.clusters.error} if self.config.self_labelling else {}

    def _strong(self, images: Images, t: int) -> Strong:
        """The strong view; without augmentation the weak one, of which nothing is pasted or hidden."""
        if self.config.augment is not None:
            return strong_view(images, t, self.seed, self.config.augment)
        nowhere = torch.zeros_like(images.label, dtype=torch.bool)
        return Strong(images.image, nowhere, torch.arange(len(images.label), device=nowhere.device), nowhere)

    def _weak(self, images: Images) -> _Weak:
        """The weak view through the momentum networks, and the labels that follow."""
        assert images.soft is not None, "CPSL trains on soft pseudo-labels, which its first round writes"
        shown, size = self._teachers["model"](images.image), _size(images)
        features = normalise(shown.embedding)
        scores = self._scores(features, size)
        label = self._rectified(assignment(scores, self.config.temperature), images.soft)
        return _Weak(self._full(shown.logits, size).float(), features, scores, label)

    def _scores(self, features: Float[Tensor, "b h w d"], size: tuple[int, int]) -> Float[Tensor, "b k height width"]:
        """f'_SL at every pixel of an image of `size`; without a head no class is likelier than another."""
        if not self.config.self_labelling:
            return features.new_zeros(len(features), self.num_classes, *size)
        return self._full(score_map(self._teachers["head"].network, features), size)

    def _rectified(self, p_sl: Float[Tensor, "b k h w"], p_st: Float[Tensor, "b k h w"]) -> Int[Tensor, "b h w"]:
        """Eq. 1; without self-training P_ST says no more than where the image is."""
        if not self.config.self_training:
            p_st = (p_st.sum(1, keepdim=True) > 0).to(p_sl.dtype).expand_as(p_sl)
        return rectify(p_sl, p_st, self.config.confidence)

    def _full_size_losses(self, images: Images, weak: _Weak, view: Strong, shown: Output, label: Tensor) -> Losses:
        """Eq. 2, and Eq. 13 (or the release's, in prototype space) wherever both views show the same place."""
        config = self.config
        symmetric = config.target_loss == "symmetric"
        target = mean_over(label != IGNORE, both_cross_entropies, label) if symmetric else cross_entropy_mean(label)
        means, weight = {"target": target}, config.consistency_weight
        if weight == 0:
            return self._means(shown.logits, images, means)
        region = view.mixed(_filled(images)) & ~view.hidden
        if config.consistency == "symmetric_kl":
            means["consistency"] = mean_over(region, symmetric_divergence, view.mixed(weak.logits))
            losses = self._means(shown.logits, images, means)
        else:
            losses = self._means(shown.logits, images, means)
            assert shown.embedding is not None
            scores, tau = score_map(self._teachers["head"].network, normalise(shown.embedding)), config.temperature
            before = view.mixed(weak.scores) / tau
            apart = mean_over(region, lambda after, before: divergence_from(after / tau, before), before)
            losses |= self._means(scores, images, {"consistency": apart})
        return losses | {"consistency": weight * losses["consistency"]}

    def _means(self, scores: Tensor, images: Images, means: Mapping[str, PixelMean]) -> Losses:
        return upsampled_means(scores, _size(images), bool(self.model.align_corners), means)

    def _self_labelling(self, images: Images, features: Tensor, label: Tensor, t: int) -> Tensor:
        """Eq. 5, on pixels that are drawn by their image's place in the batch."""
        assert images.geometry is not None, "pixels are sampled by an image's place in the batch"
        return self.clusters.loss(self.head, features, label, [g.slot for g in images.geometry], t)

    def _full(self, maps: Float[Tensor, "b k h w"], size: tuple[int, int]) -> Float[Tensor, "b k height width"]:
        return upsample(maps, size, bool(self.model.align_corners))

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        teachers = {name: teacher.state_dict() for name, teacher in self._teachers.items()}
        return {"teachers": teachers, "clusters": self.clusters.state_dict(), "delta_0": self._delta_0.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, teacher in self._teachers.items():
            teacher.load_state_dict(state["teachers"][name])
        self.clusters.load_state_dict(state["clusters"])
        self._delta_0 = state["delta_0"]


def _size(images: Images) -> tuple[int, int]:
    """(h, w) of a batch's crops."""
    return images.image.shape[2], images.image.shape[3]


def _filled(images: Images) -> Bool[Tensor, "b h w"]:
    """Where a crop shows the image: padding has no soft label."""
    assert images.soft is not None
    return images.soft.sum(1) > 0
