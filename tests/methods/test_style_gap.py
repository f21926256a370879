"""Phase 1 of category-adaptive adaptation: whose gradient goes where, the terms of Eq. 5, limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fakes.steps import CLASSES, backward, batch, images, step
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError
from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.style_gap import StyleDiscriminatorConfig, StyleGap, StyleGapConfig, StyleModel, style_of
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.fcn8s import FCN8s
from segshift.models.resnet38 import ResNet38
from segshift.models.segmenter import Segmenter
from segshift.models.small import SmallNet
from segshift.parts.adversarial import DiscriminatorConfig, discriminator_loss, domain_loss
from segshift.parts.optimizers import Optimizer
from segshift.types import Batch, Domain, Output

OPTIMIZER = Optimizer("adamw", lr=1e-3, head_multiplier=1)
JUDGE = DiscriminatorConfig(width=4)
STYLE_JUDGE = StyleDiscriminatorConfig(width=4)
PLAIN = StyleGapConfig(OPTIMIZER, JUDGE, style_discriminator=STYLE_JUDGE)
CONFIGS: dict[str, StyleGapConfig] = {
    "adversarial": PLAIN,
    "adversarial, the target moved": replace(PLAIN, moved="target"),
    "conv1d": replace(PLAIN, style_discriminator=replace(STYLE_JUDGE, kind="conv1d")),
    "least squares": replace(PLAIN, loss="least_squares", stages=(1,)),
    "gram": replace(PLAIN, style="gram"),
    "gram, the target moved": replace(PLAIN, style="gram", moved="target"),
    "mean & std": replace(PLAIN, style="mean_std"),
    "none": replace(PLAIN, style="none"),
    "multi-level": replace(PLAIN, multi_level=True),
}
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
STYLED = {name: config for name, config in CONFIGS.items() if config.style != "none"}
styled = pytest.mark.parametrize("config", STYLED.values(), ids=STYLED)
STYLES: tuple[StyleModel, ...] = ("adversarial", "gram", "mean_std")


class Stages(Segmenter):
    """Three stages at stride 2, a classifier on the third and an auxiliary one on the second."""

    def __init__(self) -> None:
        super().__init__(CLASSES, 2, align_corners=True)
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, 16, 3, stride, 1), nn.BatchNorm2d(16), nn.ReLU())
            for inputs, stride in ((3, 2), (16, 1), (16, 1))
        )
        self.classifier = nn.Conv2d(16, CLASSES, 1)
        self.auxiliary = nn.Conv2d(16, CLASSES, 1)

    def backbone(self) -> nn.Module:
        return self.encoder

    def encode_decode(self, image: Tensor) -> Output:
        stages = []
        for stage in self.encoder:
            image = stage(image)
            stages.append(image)
        return Output(self.classifier(image), tuple(stages), image, self.auxiliary(stages[1]))


def network() -> Stages:
    torch.manual_seed(0)
    return Stages()


def build(config: StyleGapConfig, steps: int = 10) -> StyleGap:
    return config.build(network(), steps, 0)


# --- the options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"style": "histogram"}, "style = 'histogram'; expected one of adversarial, gram, mean_std, none"),
        ({"moved": "both"}, "moved = 'both'; expected one of source, target"),
        ({"style_weight": -1.0}, "style_weight = -1.0; expected"),
        ({"stages": ()}, r"stages = \(\); expected one or more"),
        ({"stages": (0, 0)}, r"stages = \(0, 0\); expected one or more different"),
        ({"stages": (-1,)}, r"stages = \(-1,\); expected"),
        ({"weight": -1.0}, "weight = -1.0; expected"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        StyleGapConfig(**options)


def test_wrong_options_of_discriminators_are_errors() -> None:
    kind: Any = "cnn"
    stride: Any = 8
    with pytest.raises(ConfigError, match=r"style discriminator: kind = 'cnn'; expected mlp or conv1d"):
        StyleDiscriminatorConfig(kind)
    with pytest.raises(ConfigError, match=r"style discriminator: width = 0; expected at least 1"):
        StyleDiscriminatorConfig(width=0)
    with pytest.raises(ConfigError, match=r"discriminator: stride = 8; expected 32 .*or 16"):
        DiscriminatorConfig(stride=stride)


def test_the_defaults_are_the_papers() -> None:
    config = StyleGapConfig()
    assert (config.weight, config.style_weight, config.loss, config.stages) == (1e-3, 1e-3, "vanilla", (0, 1))
    assert (config.style, config.moved, config.discriminator.stride) == ("adversarial", "source", 16)
    assert AdaptSegNetConfig().discriminator.optimizer.decay is None
    method = config.build(network(), 250_000, 0)
    assert list(method.players()) == ["model", "discriminator", "style_discriminator_0", "style_discriminator_1"]
    assert list(method.optimizers()) == list(method.players())
    rates = {"model": 2.5e-4, "discriminator": 1e-4, "style_discriminator_0": 1e-4, "style_discriminator_1": 1e-4}
    for t in range(3):
        for name, entry in method.optimizers().items():
            factor = (1 - t / 250_000) ** 0.9 if name == "model" else 0.1 ** (t / 50_000)
            assert entry.schedule.get_last_lr()[0] == pytest.approx(rates[name] * factor, rel=1e-9)
        step(method, batch(), t)
    for name in list(method.players())[1:]:
        (group,) = method.optimizers()[name].optimizer.param_groups
        assert (group["betas"], group["weight_decay"]) == ((0.9, 0.99), 0)


def test_the_output_discriminator_scores_16_pixels() -> None:
    """The option reaches the discriminator, whose weights stay the same ones."""
    fine, coarse = (DiscriminatorConfig(2, stride=stride).build(CLASSES, 0, 0) for stride in (16, 32))
    maps = torch.rand(1, CLASSES, 64, 96)
    assert (fine(maps).shape, coarse(maps).shape) == ((1, 1, 3, 5), (1, 1, 2, 3))
    assert all(torch.equal(a, b) for a, b in zip(fine.parameters(), coarse.parameters(), strict=True))


@pytest.mark.parametrize("style", ["gram", "mean_std", "none"])
def test_only_the_adversarial_style_has_discriminators(style: StyleModel) -> None:
    assert list(build(replace(PLAIN, style=style)).players()) == ["model", "discriminator"]


def test_weights_of_style_discriminators_come_from_the_seed_and_the_stage() -> None:
    config = StyleDiscriminatorConfig(width=2)
    before = torch.get_rng_state()
    keys = ((0, 0), (0, 0), (0, 1), (1, 0))
    first, again, deeper, seeded = (next(config.build(16, *key).parameters()) for key in keys)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, deeper)
    assert not torch.equal(first, seeded)
    reversed_stages = build(replace(PLAIN, stages=(1, 0)))
    for name, player in build(PLAIN).players().items():
        for mine, other in zip(player.parameters(), reversed_stages.players()[name].parameters(), strict=True):
            assert torch.equal(mine, other)


def test_a_network_must_have_the_stages() -> None:
    for style in STYLES:
        with pytest.raises(ConfigError, match=r"stages = \(0, 3\): the network shows 3 encoder stages; .* below 3"):
            build(replace(PLAIN, style=style, stages=(0, 3)))
    build(replace(PLAIN, style="none", stages=(0, 3)))
    narrow = SmallNet(width=4, dilations=(1,)).build(CLASSES)
    with pytest.raises(ConfigError, match=r"conv1d: a stage of 4 channels; expected at least 16"):
        CONFIGS["conv1d"].build(narrow, 10, 0)


NETWORKS: dict[str, Any] = {
    "SmallNet": SmallNet(),
    "DeepLabV3Plus": DeepLabV3Plus(aspp_channels=16, low_level_channels=8),
    "DeepLabV2": DeepLabV2("resnet18"),
    "FCN8s": FCN8s(width=0.125),
    "ResNet38": ResNet38(width=0.0625),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_styles(name: str) -> None:
    """Their stages are shown, and not changed in place afterwards; learning their channels leaves no trace."""
    torch.manual_seed(0)
    model = NETWORKS[name].build(CLASSES)
    before, drawn = {key: tensor.clone() for key, tensor in model.state_dict().items()}, torch.get_rng_state()
    method: StyleGap = replace(PLAIN, batch_norm="both").build(model, 10, 0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    given = Batch(images(1, 2, 64), images(2, 2, 64))
    channels = [stage.shape[1] for stage in model(given.source.image).stages]
    for stage in PLAIN.stages:
        assert method.players()[f"style_discriminator_{stage}"].in_channels == channels[stage]
    _, moved, *_ = list(method.step(given, 0))
    moved["style"].backward()
    assert next(model.parameters()).grad.any()


# --- whose gradient goes where ---------------------------------------------------------------------------------------


@every
def test_each_pass_trains_its_own_player(config: StyleGapConfig) -> None:
    """The network in the first two yields, the discriminators in the last two, and nothing else."""
    method = build(config)
    judges = set(method.players()) - {"model"}
    for expected, losses in zip([{"model"}, {"model"}, judges, judges], method.step(batch(), 0), strict=True):
        for player in method.players().values():
            player.zero_grad()
        backward(losses)
        touched = {name for name, p in method.players().items() if any(w.grad is not None for w in p.parameters())}
        assert touched == expected
        for name in expected - {"model"}:
            assert all(w.grad is not None and w.grad.any() for w in method.players()[name].parameters())


@styled
def test_the_style_loss_reaches_the_first_stages_alone(config: StyleGapConfig) -> None:
    """The deepest of them and all below it; nothing of deeper stages and of the heads, no discriminator."""
    method = build(config)
    _, moved, *_ = list(method.step(batch(), 0))
    moved["style"].backward()
    reached = {name for name, w in method.model.named_parameters() if w.grad is not None}
    assert reached == {
        name for name, _ in method.model.named_parameters() if name.startswith(("encoder.0", "encoder.1"))
    }
    for name, weight in method.model.named_parameters():
        assert name not in reached or (weight.grad is not None and weight.grad.any()), name
    assert all(w.grad is None for name, p in method.players().items() if name != "model" for w in p.parameters())


@styled
def test_one_domain_is_moved_and_the_other_is_a_constant(config: StyleGapConfig) -> None:
    given = batch()
    for domain in given:
        domain.image.requires_grad_()
    _, moved, *_ = list(build(config).step(given, 0))
    moved["style"].backward()
    moving, still = (given.source, given.target) if config.moved == "source" else (given.target, given.source)
    assert moving.image.grad is not None
    assert moving.image.grad.any()
    assert still.image.grad is None


# --- the terms of Eq. 5 ----------------------------------------------------------------------------------------------


@every
def test_the_losses_are_those_of_the_equations(config: StyleGapConfig) -> None:
    """From the networks themselves: the statistics are frozen, so nothing moves within a step before the optimisers."""
    method: Any = build(replace(config, style_weight=0.5))
    found = {name: loss.item() for losses in method.step(batch(), 0) for name, loss in losses.items()}
    expected: dict[str, float] = {}
    with torch.no_grad():
        outputs = {"source": method.model(batch().source.image), "target": method.model(batch().target.image)}
        styles = {
            domain: [style_of(output.stages[stage], config.style) for stage in config.stages]
            for domain, output in outputs.items()
        }
        if config.style == "adversarial":
            scores = {
                domain: [
                    method.players()[f"style_discriminator_{n}"](means) for n, (means,) in zip(config.stages, style)
                ]
                for domain, style in styles.items()
            }
            # The moved domain's styles shall be taken for the other's: source = 0, target = 1.
            label = 1.0 if config.moved == "source" else 0.0
            expected["style"] = 0.5 * sum(domain_loss(s, label, config.loss).item() for s in scores[config.moved])
            halves = [found[f"style discriminator {domain}"] for domain in ("source", "target")]
            pairs = zip(scores["source"], scores["target"], strict=True)
            judged = [discriminator_loss(source, target, config.loss).item() for source, target in pairs]
            assert sum(halves) == pytest.approx(sum(judged), rel=1e-5)
        elif config.style != "none":
            pairs = [pair for stages in zip(*styles.values()) for pair in zip(*stages)]
            expected["style"] = 0.5 * sum((s - t).square().mean().item() for s, t in pairs)
    # What D_c sees and says is AdaptSegNet's.
    plain = AdaptSegNetConfig(OPTIMIZER, JUDGE, config.loss, multi_level=config.multi_level).build(network(), 10, 0)
    expected |= {name: loss.item() for losses in plain.step(batch(), 0) for name, loss in losses.items()}
    expected |= {name: loss for name, loss in found.items() if name.startswith("style discriminator")}
    assert found == pytest.approx(expected, rel=1e-5)
    assert ("style" in found) is (config.style != "none")


@every
def test_the_moved_domain_comes_second(config: StyleGapConfig) -> None:
    names = [set(losses) for losses in build(config).step(batch(), 0)]
    source, target = (0, 1) if config.moved == "target" else (1, 0)
    assert "source" in names[source]
    assert "generator" in names[target]
    assert ("style" in names[1]) is (config.style != "none")
    assert "style" not in names[0]


@pytest.mark.parametrize("moved", ["source", "target"])
@pytest.mark.parametrize("options", [{"style": "none"}, {"style_weight": 0.0}, {"style": "gram", "style_weight": 0.0}])
def test_without_a_style_term_it_is_adaptsegnet(options: dict[str, Any], moved: Domain) -> None:
    config = replace(PLAIN, moved=moved, multi_level=True, **options)
    ours, theirs = build(config), AdaptSegNetConfig(OPTIMIZER, JUDGE, multi_level=True).build(network(), 10, 0)
    for t in range(3):
        step(ours, batch(), t)
        step(theirs, batch(), t)
        for name, player in theirs.players().items():
            for key, weight in player.named_parameters():
                mine = ours.players()[name].get_parameter(key)
                assert weight.grad is not None
                assert mine.grad is not None
                torch.testing.assert_close(mine.grad, weight.grad, rtol=0, atol=0)
                torch.testing.assert_close(mine, weight, rtol=0, atol=0)


@pytest.mark.parametrize("style", ["gram", "mean_std"])
def test_equal_images_have_the_same_style(style: StyleModel) -> None:
    given = Batch(images(1), images(1))
    _, losses, *_ = step(build(replace(PLAIN, style=style)), given)
    assert losses["style"] == 0
    with pytest.raises(DataError, match=r"styles of 3 and 2 images|styles of 2 and 3 images"):
        step(build(replace(PLAIN, style=style)), Batch(images(1), images(2, 2)))


def test_crops_may_differ_in_size() -> None:
    for style in STYLES:
        found = step(build(replace(PLAIN, style=style)), Batch(images(1), images(2, 3, 48)))
        assert all(math.isfinite(value) for losses in found for value in losses.values())
