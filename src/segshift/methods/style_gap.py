"""Adversarial style-gap bridging: phase 1 of category-adaptive adaptation.

Wang, Luo, Huang, Ge, Lu: Category-Adaptive Domain Adaptation for Semantic Segmentation (2021; no released code). §2.1,
§2.3 with Eq. 4 and 5, and the MSE constraints of Table 3. Phase 2 is in `category_adaptive`; the alternation with the
discriminator D_c of the output space is AdaptSegNet's (`parts.adversarial`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from segshift.errors import ConfigError
from segshift.models.discriminators import StyleDiscriminator, StyleKind, check_style_discriminator
from segshift.parts.adversarial import (
    LABELS,
    Adversarial,
    AdversarialConfig,
    DiscriminatorConfig,
    check_weights,
    domain_loss,
    drawn_weights,
    scores_by_constant,
)
from segshift.parts.optimizers import Optimizer
from segshift.parts.style import channel_deviations, channel_means, gram_matrix, mean_squared_error
from segshift.types import Batch, Domain, Images, Losses, Output

StyleModel = Literal["adversarial", "gram", "mean_std", "none"]
"""Table 3: adversarial learning on channel means; MSE of Gram matrices; MSE of means and standard deviations. none: the
output space alone ("original" in Table 2)."""
Style = tuple[Tensor, ...]
"""The statistics of a stage, (b, ...) each: one for means or Gram matrices, two for means and deviations."""

PROBE_SIZE = 64
"""Side in pixels of the image by which a network's stages are known; a network that needs more gets more."""
FIRST_NUMBER = 16
"""Style discriminators are numbered from here, by their stage; D_c and that of auxiliary scores are 0 and 1."""


def _decaying() -> Optimizer:
    """§3.2: Adam (.9, .99), 1e-4, exponential decay with decay_rate .1 and decay_steps 50000."""
    return Optimizer("adam", 1e-4, head_multiplier=1.0, weight_decay=0.0, beta2=0.99, decay=(0.1, 50_000))


def _output_space() -> DiscriminatorConfig:
    return DiscriminatorConfig(optimizer=_decaying(), stride=16)


@dataclass(frozen=True)
class StyleDiscriminatorConfig:
    """D_f, and how it is trained."""

    kind: StyleKind = "mlp"
    """mlp: four linear layers. conv1d: as printed, four 1-D convolutions over channels, whose order is arbitrary."""
    width: int = 64
    """Units of a hidden layer (mlp), or channels of the first (conv1d). The paper gives none."""
    optimizer: Optimizer = field(default_factory=_decaying)

    def __post_init__(self) -> None:
        check_style_discriminator(self.kind, self.width)

    def build(self, in_channels: int, seed: int, stage: int) -> StyleDiscriminator:
        """That of a stage. Its weights are a function of (seed, stage). ConfigError where it has too few channels."""
        with drawn_weights(seed, FIRST_NUMBER + stage):
            return StyleDiscriminator(in_channels, self.kind, self.width)


@dataclass(frozen=True)
class StyleGapConfig(AdversarialConfig):
    """Cross-entropy on the source, target maps that pass for the source's, and one style for both domains.

    The defaults are the published ones: D_c gives a score for 16 pixels, both kinds of discriminators decay, GAN losses
    are vanilla.
    """

    discriminator: DiscriminatorConfig = field(default_factory=_output_space)
    """D_c."""
    style: StyleModel = "adversarial"
    style_weight: float = 0.001
    """λ_style."""
    stages: tuple[int, ...] = (0, 1)
    """Which of the network's `Output.stages` have a style: "2 front sub-encoder modules" (§2.1)."""
    moved: Domain = "source"
    """Whose style is made to pass for the other's: the source's as printed (§2.3). The other is a constant."""
    style_discriminator: StyleDiscriminatorConfig = field(default_factory=StyleDiscriminatorConfig)
    """D_f, one a stage. Only with style = "adversarial"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(style_weight=self.style_weight)
        for name, value, expected in (
            ("style", self.style, get_args(StyleModel)),
            ("moved", self.moved, get_args(Domain)),
        ):
            if value not in expected:
                raise ConfigError(f"{name} = {value!r}; expected one of {', '.join(expected)}")
        if not self.stages or min(self.stages) < 0 or len(set(self.stages)) < len(self.stages):
            raise ConfigError(
                f"stages = {self.stages}; expected one or more different indices, 0 for the shallowest (the paper: 0 1)"
            )

    def build(self, model: nn.Module, steps: int, seed: int) -> StyleGap:
        return StyleGap(model, self, steps, seed)


class StyleGap(Adversarial):
    """Eq. 5: λ_seg L_seg + λ_adv_seg L_adv_seg + λ_style L_style, the discriminators trained against it.

    The style discriminators are the players `style_discriminator_N`, N their stage.
    """

    config: StyleGapConfig

    def __init__(self, model: nn.Module, config: StyleGapConfig, steps: int, seed: int) -> None:
        super().__init__(model, config, steps, seed)
        self._judges: dict[int, str] = {}
        """Stage -> its discriminator's name."""
        if config.style == "none":
            return
        channels = _stage_channels(model)
        if max(config.stages) >= len(channels):
            raise ConfigError(
                f"stages = {config.stages}: the network shows {len(channels)} encoder stages; expected indices below "
                f"{len(channels)}, or style = 'none'"
            )
        if config.style != "adversarial":
            return
        device = next(model.parameters()).device
        for stage in config.stages:
            player = config.style_discriminator.build(channels[stage], seed, stage).to(device)
            self._judges[stage] = name = f"style_discriminator_{stage}"
            setattr(self, name, player)
            self._optimizers[name] = config.style_discriminator.optimizer.build(player, steps)

    def shown(self, prob: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """D_c sees the probabilities themselves, as in AdaptSegNet and BDL."""
        return prob

    def step(self, batch: Batch, t: int) -> Iterator[Losses]:
        """Eq. 5, a domain at a time; then the discriminators on the source's maps and styles, and on the target's.

        Each of the four is a backward pass. The domain that is moved comes second: its style is compared with what the
        other's was in the first pass, which is a constant. The discriminators learn from the very maps and styles that
        the network was trained on in the same step, and are constants where it is trained.
        """
        del t  # nothing is drawn
        moved = self.config.moved
        still: Domain = "target" if moved == "source" else "source"
        scores: dict[Domain, list[Tensor]] = {}
        styles: dict[Domain, list[Style]] = {}
        for domain in (still, moved):
            output = self._output(_of(batch, domain), domain)
            scores[domain], styles[domain] = self._scores(output), self._styles(output)
            del output  # so that its deeper stages do not lie in memory during the other domain's pass
            losses = self._network_losses(scores[domain], _of(batch, domain), domain)
            if domain == moved:
                losses |= self._style_loss(styles[moved], styles[still])
            yield losses
            scores[domain] = [values.detach() for values in scores[domain]]
            styles[domain] = [tuple(values.detach() for values in style) for style in styles[domain]]
        for domain in get_args(Domain):
            maps = self._maps(scores[domain], _of(batch, domain))
            yield self._told_apart(maps, domain) | self._styles_told_apart(styles[domain], domain)

    def _network_losses(self, scores: Sequence[Tensor], images: Images, domain: Domain) -> Losses:
        """What Eq. 5 says of a domain's class scores: λ_seg L_seg (Eq. 4), or λ_adv_seg L_adv_seg."""
        if domain == "source":
            return self._segmentation(scores, images)
        return self._passing(self._maps(scores, images))

    def _styles(self, output: Output) -> list[Style]:
        """The style of each of the stages that have one."""
        if self.config.style == "none":
            return []
        return [style_of(output.stages[stage], self.config.style) for stage in self.config.stages]

    def _style_loss(self, moved: Sequence[Style], still: Sequence[Style]) -> Losses:
        """λ_style L_style, the sum over the stages: the generator's loss of §2.3, or an MSE of Table 3."""
        config = self.config
        if config.style == "none":
            return {}
        if config.style == "adversarial":
            wanted = LABELS["target" if config.moved == "source" else "source"]
            losses = [
                domain_loss(scores_by_constant(getattr(self, name), means), wanted, config.loss)
                for name, (means,) in zip(self._judges.values(), moved)
            ]
        else:
            losses = [mean_squared_error(ours, theirs) for ours, theirs in zip(moved, still)]
        return {"style": config.style_weight * torch.stack(losses).sum()}

    def _styles_told_apart(self, styles: Sequence[Style], domain: Domain) -> Losses:
        """One domain's half of the style discriminators' loss, the sum over the stages; source = 0, target = 1."""
        if not self._judges:
            return {}
        losses = [
            domain_loss(getattr(self, name)(means), LABELS[domain], self.config.loss) / 2
            for name, (means,) in zip(self._judges.values(), styles)
        ]
        return {f"style discriminator {domain}": torch.stack(losses).sum()}


def style_of(features: Float[Tensor, "b c h w"], model: StyleModel) -> Style:
    """The statistics that a style model (Table 3) compares: channel means; Gram matrices; means and deviations."""
    if model == "gram":
        return (gram_matrix(features),)
    if model == "mean_std":
        return channel_means(features), channel_deviations(features)
    return (channel_means(features),) if model == "adversarial" else ()


def _of(batch: Batch, domain: Domain) -> Images:
    return batch.source if domain == "source" else batch.target


def _stage_channels(model: Any) -> list[int]:
    """Channels of each of `Output.stages`, by a forward over shapes alone.

    On the meta device: nothing is computed or drawn, and no BatchNorm statistics move.
    """
    side = max(PROBE_SIZE, int(model.minimum_size))
    shapes: Mapping[str, Tensor] = {
        name: tensor.to("meta") for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }
    with torch.no_grad():
        output: Output = functional_call(model, dict(shapes), torch.zeros(1, 3, side, side, device="meta"))
    return [stage.shape[1] for stage in output.stages]
