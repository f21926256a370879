"""Adversarial training in the output space: what AdaptSegNet, AdvEnt and the warm-up of IAST share.

Tsai, Hung, Schulter, Sohn, Yang, Chandraker: Learning to Adapt Structured Output Space for Semantic Segmentation,
CVPR 2018. Vu, Jain, Bucher, Cord, Pérez: ADVENT, CVPR 2019. Mei, Zhu, Zou, Zhang: IAST, ECCV 2020, Eq. 2.

A discriminator learns to tell the two domains' maps apart; the network learns the source's labels, and to make the
target's maps pass for the source's. Here source = 0 and target = 1, as in the releases. IAST's Eq. 2 and the text of
the papers have it the other way round (source = 1), which only changes the sign of what the discriminator learns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from segshift.data.sampling import Stream, generator
from segshift.errors import ConfigError
from segshift.models.discriminators import Discriminator, Stride, check_stride
from segshift.models.segmenter import upsample
from segshift.parts.batch_norm import Policy, check_policy, set_batch_norm
from segshift.parts.losses import share_of_mean, upsampled_cross_entropy
from segshift.parts.optimizers import Optimizer
from segshift.parts.single_network import SingleNetwork
from segshift.types import Batch, Domain, Images, Losses, MethodConfig, OptimizerAndSchedule, Output

GANLoss = Literal["vanilla", "least_squares"]
"""How far a score is from a domain's label: cross-entropy with logits, or the squared difference (LSGAN)."""

SOURCE, TARGET = 0.0, 1.0
"""The domains' labels."""
LABELS: Mapping[Domain, float] = {"source": SOURCE, "target": TARGET}


def generator_loss(target: Float[Tensor, "..."], kind: GANLoss) -> Float[Tensor, ""]:
    """How far the target is from passing for the source: AdaptSegNet Eq. 4, or the second term of IAST Eq. 2.

    `target`: a discriminator's raw scores of target maps. Mean over all scores of all processes; float32 or better.
    Raises ConfigError for an unknown kind.
    """
    return domain_loss(target, SOURCE, kind)


def discriminator_loss(source: Float[Tensor, "..."], target: Float[Tensor, "..."], kind: GANLoss) -> Float[Tensor, ""]:
    """Half the sum of both domains' losses of the discriminator: AdaptSegNet Eq. 2, halved as in its release.

    `source`, `target`: its raw scores of maps of each domain. Means as in `generator_loss`.
    """
    return (domain_loss(source, SOURCE, kind) + domain_loss(target, TARGET, kind)) / 2


def domain_loss(scores: Float[Tensor, "..."], label: float, kind: GANLoss) -> Float[Tensor, ""]:
    """How far a discriminator's raw scores are from a domain's label: the mean over all scores of all processes."""
    check_kind(kind)
    scores = at_least_float32(scores)
    labels = torch.full_like(scores, label)
    if kind == "vanilla":
        total = functional.binary_cross_entropy_with_logits(scores, labels, reduction="sum")
    else:
        total = functional.mse_loss(scores, labels, reduction="sum")
    return share_of_mean(total, torch.full((), scores.numel(), dtype=torch.int64, device=scores.device))


def check_kind(kind: str) -> None:
    """Raise ConfigError where `kind` is none of `GANLoss`."""
    if kind not in get_args(GANLoss):
        raise ConfigError(f"loss = {kind!r}; expected {' or '.join(get_args(GANLoss))}")


def check_weights(**weights: float) -> None:
    """Raise ConfigError where a weight of a loss is negative or not finite."""
    for name, value in weights.items():
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name} = {value}; expected a number of at least 0")


def at_least_float32(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Half-precision values as float32, others as they are: losses and entropies are no matter for 8 bits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@contextmanager
def drawn_weights(seed: int, number: int) -> Iterator[None]:
    """What layers made inside draw is a function of (seed, number); torch's global generator is as before afterwards.

    Each discriminator of a method has a number of its own, 0 and 1 those of the output space.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(generator(seed, Stream.ENGINE, 6, number).integers(2**63)))
        yield


def _as_published() -> Optimizer:
    return Optimizer("adam", lr=1e-4, head_multiplier=1.0, momentum=0.9, beta2=0.99, weight_decay=0.0, power=0.9)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """A discriminator and how it is trained; the defaults are AdaptSegNet's."""

    width: int = 64
    """Channels of its first layer; the fourth has eight times as many."""
    optimizer: Optimizer = field(default_factory=_as_published)
    stride: Stride = 32
    """Image pixels per score: 32, or 16 as the category-adaptive paper prints it."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"discriminator: width = {self.width}; expected at least 1 (the paper: 64)")
        check_stride(self.stride)

    def build(self, in_channels: int, seed: int, number: int) -> Discriminator:
        """The `number`-th discriminator of a method. Its weights are a function of (seed, number)."""
        with drawn_weights(seed, number):
            return Discriminator(in_channels, self.width, self.stride)


@dataclass(frozen=True)
class AdversarialConfig(MethodConfig):
    """What AdaptSegNet and AdvEnt let one choose; the defaults are those of both papers, on one level."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: GANLoss = "vanilla"
    """vanilla: both papers. least_squares: IAST Eq. 2."""
    weight: float = 0.001
    """λ_adv: of the generator's loss beside the source's cross-entropy."""
    multi_level: bool = False
    """Align the scores of the network's auxiliary classifier too, by a discriminator of their own."""
    auxiliary_weight: float = 0.0002
    """λ_adv of the auxiliary scores."""
    auxiliary_segmentation: float = 0.1
    """λ_seg of the auxiliary scores' cross-entropy on the source."""
    batch_norm: Policy = "frozen"

    def __post_init__(self) -> None:
        check_kind(self.loss)
        check_weights(
            weight=self.weight,
            auxiliary_weight=self.auxiliary_weight,
            auxiliary_segmentation=self.auxiliary_segmentation,
        )
        check_policy(self.batch_norm)


class _Level(NamedTuple):
    """One of the network's classifiers, and the discriminator of its scores."""

    player: str
    prefix: str
    """What the names of its losses begin with."""
    segmentation: float
    """λ_seg."""
    adversarial: float
    """λ_adv."""


class Adversarial(SingleNetwork, ABC):
    """AdaptSegNet Eq. 1 and 5: the network and its discriminators, trained in turns within each step.

    A method says what a discriminator is shown (`shown`). Its players are always reached by name: whoever trains it
    may put wrapped ones in their place.
    """

    discriminator: nn.Module
    auxiliary_discriminator: nn.Module
    """Only with `multi_level`."""

    def __init__(self, model: nn.Module, config: AdversarialConfig, steps: int, seed: int) -> None:
        super().__init__(model, config.optimizer, steps, seed)
        self.config = config
        self._levels = [_Level("discriminator", "", 1.0, config.weight)]
        if config.multi_level:
            weights = config.auxiliary_segmentation, config.auxiliary_weight
            self._levels.append(_Level("auxiliary_discriminator", "auxiliary ", *weights))
        self._optimizers = {"model": self._optimizer}
        device = next(model.parameters()).device
        for number, level in enumerate(self._levels):
            player = config.discriminator.build(self.num_classes, seed, number).to(device)
            setattr(self, level.player, player)
            self._optimizers[level.player] = config.discriminator.optimizer.build(player, steps)

    @abstractmethod
    def shown(self, prob: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """What a discriminator is shown of class probabilities."""

    def players(self) -> Mapping[str, nn.Module]:
        return {name: getattr(self, name) for name in self._optimizers}

    def optimizers(self) -> Mapping[str, OptimizerAndSchedule]:
        return self._optimizers

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        """Source labels; the target against the discriminators; then these on the source's maps and the target's.

        Each of the four is a backward pass. The discriminators learn from the very maps that the network was trained
        on in the same step, and are constants where it is trained. Labels of the target are not looked at.
        """
        del t  # nothing is drawn
        source, target = batch.source, batch.target
        scores = self._scores(self._output(source, "source"))
        yield self._segmentation(scores, source)
        seen = [values.detach() for values in scores]
        maps = self._maps(self._scores(self._output(target, "target")), target)
        yield self._passing(maps)
        maps = [shown.detach() for shown in maps]
        yield self._told_apart(self._maps(seen, source), "source")
        yield self._told_apart(maps, "target")

    # --- what a step is made of: a forward, and the terms of the loss -------------------------------------------------

    def _output(self, images: Images, domain: Domain) -> Output:
        """The network on images of a domain, under the BatchNorm policy."""
        set_batch_norm(self.model, self.config.batch_norm, domain)
        return self.model(images.image)

    def _scores(self, output: Output) -> list[Tensor]:
        """The class scores of each level, at their own stride. ConfigError where the network has too few."""
        if not self.config.multi_level:
            return [output.logits]
        if output.auxiliary is None:
            raise ConfigError(
                "multi_level = True: the network has no auxiliary classifier; expected one that has (DeepLabV2 with "
                "--network.auxiliary True), or multi_level = False"
            )
        return [output.logits, output.auxiliary]

    def _segmentation(self, scores: Sequence[Tensor], source: Images) -> Losses:
        """λ_seg L_seg of every level: cross-entropy with the source's labels."""
        align = bool(self.model.align_corners)
        return {
            f"{level.prefix}source": level.segmentation * upsampled_cross_entropy(values, source.label, align)
            for level, values in zip(self._levels, scores)
        }

    def _passing(self, maps: Sequence[Tensor]) -> Losses:
        """λ_adv L_adv of every level: the target's maps against discriminators that are constants."""
        return {
            f"{level.prefix}generator": level.adversarial
            * generator_loss(scores_by_constant(getattr(self, level.player), shown), self.config.loss)
            for level, shown in zip(self._levels, maps)
        }

    def _told_apart(self, maps: Sequence[Tensor], domain: Domain) -> Losses:
        """One domain's half of `discriminator_loss`, on every level."""
        return {
            f"{level.prefix}discriminator {domain}": domain_loss(
                getattr(self, level.player)(shown), LABELS[domain], self.config.loss
            )
            / 2
            for level, shown in zip(self._levels, maps)
        }

    def _full(self, scores: Tensor, images: Images) -> Tensor:
        """Class scores at the images' size."""
        height, width = images.image.shape[2:]
        return upsample(scores, (height, width), bool(self.model.align_corners))

    def _maps(self, scores: Sequence[Tensor], images: Images) -> list[Tensor]:
        """What the discriminators are shown of the class scores of each level, at the images' size."""
        return [self.shown(at_least_float32(self._full(values, images)).softmax(1)) for values in scores]


def scores_by_constant(discriminator: Any, shown: Tensor) -> Tensor:
    """A discriminator's scores, its weights taken as constants: the gradient ends in what it is shown.

    The module without its wrapper: in a distributed one, a forward announces a backward pass that reaches its weights.
    """
    module = getattr(discriminator, "module", discriminator)
    return functional_call(module, {name: weight.detach() for name, weight in module.named_parameters()}, (shown,))
