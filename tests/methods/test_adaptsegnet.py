"""AdaptSegNet and AdvEnt against the released code's numbers; without weight they are source-only; a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.fakes.tiny import STEPS, WARMUP_STEPS, Watched, tiny, watched, weights
from torch import Tensor, nn
from torch.nn import functional

from segshift import checkpoint
from segshift.methods.adaptsegnet import AdaptSegNetConfig
from segshift.methods.advent import AdvEntConfig, MinEntConfig
from segshift.methods.source_only import SourceOnlyConfig
from segshift.models.deeplab import DeepLabV2
from segshift.models.small import SmallNet
from segshift.parts.adversarial import AdversarialConfig, DiscriminatorConfig, generator_loss
from segshift.parts.optimizers import Optimizer
from segshift.run_log import RunLog
from segshift.runs import resume
from segshift.types import IGNORE, Batch, Images, MethodConfig, Output

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "adversarial.npz"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="no reference vectors")
RELEASED: dict[str, AdversarialConfig] = {
    "adaptseg": AdaptSegNetConfig(discriminator=DiscriminatorConfig(8)),
    "advent": AdvEntConfig(discriminator=DiscriminatorConfig(8)),
}
released = pytest.mark.parametrize("name", RELEASED)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file}
    return {name: x.float() if x.dtype == torch.float16 else x for name, x in tensors.items()}


class Given(nn.Module):
    """A network whose class scores are its weights: the first half of a batch's are the source's."""

    num_classes, align_corners = 19, True

    def __init__(self, source: Tensor, target: Tensor) -> None:
        super().__init__()
        self.scores = nn.ParameterList([source, target])
        self.calls = 0

    def forward(self, _: Tensor) -> Output:
        self.calls += 1
        return Output(self.scores[self.calls - 1])


def method_of(name: str, golden: dict[str, Tensor]) -> Any:
    """The method, around the reference's class scores and with its discriminator."""
    method = RELEASED[name].build(Given(golden["logits_src_low"], golden["logits_trg_low"]), 10, 0)
    judge = method.players()["discriminator"]
    layers = ("conv1", "conv2", "conv3", "conv4", "classifier")
    given = [golden[f"D_{layer}_{kind}"] for layer in layers for kind in ("weight", "bias")]
    for weight, value in zip(judge.parameters(), given, strict=True):
        weight.data.copy_(value)
    return method


@needs_golden
@released
def test_a_step_has_the_releases_losses(name: str, golden: dict[str, Tensor]) -> None:
    image = torch.zeros(1, 3, *golden["out_hw"].tolist())
    nothing = torch.full(image.shape[2:], IGNORE)[None]
    batch = Batch(Images(image, golden["label_src"].long()[None], ("source",)), Images(image, nothing, ("target",)))
    method = method_of(name, golden)
    found = {key: loss.item() for losses in method.step(batch, 0) for key, loss in losses.items()}
    expected = {
        "source": golden[f"ce_{name}"].item(),
        "generator": 0.001 * golden[f"{name}_vanilla_lossG"].item(),
        "discriminator source": golden[f"{name}_vanilla_lossD_src_half"].item(),
        "discriminator target": golden[f"{name}_vanilla_lossD_trg_half"].item(),
    }
    assert found == pytest.approx(expected, abs=1e-5)
    assert found["generator"] == pytest.approx(expected["generator"], abs=1e-8)


@needs_golden
@released
def test_scores_and_gradient_of_the_generator(name: str, golden: dict[str, Tensor]) -> None:
    method, size = method_of(name, golden), tuple(golden["out_hw"].tolist())
    for domain in ("src", "trg"):
        low = golden[f"logits_{domain}_low"]
        logits = functional.interpolate(low, size, mode="bilinear", align_corners=True).requires_grad_()
        scores = method.discriminator(method.shown(logits.softmax(1)))
        torch.testing.assert_close(scores, golden[f"{name}_D_{domain}"], rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(generator_loss(scores, "vanilla"), logits)
    # Gradients are of the order of 1e-5: compared by their own scale.
    mean = golden[f"{name}_vanilla_gradG_absmean"].item()
    assert gradient.abs().mean().item() == pytest.approx(mean, rel=1e-4)
    torch.testing.assert_close(gradient[0, 0], golden[f"{name}_vanilla_gradG_c0"], rtol=1e-4, atol=1e-3 * mean)


# --- what it becomes without its own part ------------------------------------------------------------------------


def images(seed: int, size: int = 32) -> Images:
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (2, size, size), generator=rng)
    return Images(torch.rand(2, 3, size, size, generator=rng), label, ("a", "b"))


ADAM = Optimizer("adamw", lr=1e-2, head_multiplier=1)
WITHOUT: dict[str, MethodConfig] = {
    "adaptsegnet": AdaptSegNetConfig(ADAM, DiscriminatorConfig(4), weight=0.0),
    "adaptsegnet-ls": AdaptSegNetConfig(ADAM, DiscriminatorConfig(4), "least_squares", weight=0.0),
    "advent": AdvEntConfig(ADAM, DiscriminatorConfig(4), weight=0.0),
    "minent": MinEntConfig(ADAM, weight=0.0),
}


@pytest.mark.parametrize("config", WITHOUT.values(), ids=WITHOUT)
def test_of_no_weight_it_is_source_only(config: MethodConfig) -> None:
    states = []
    for each in (config, SourceOnlyConfig(ADAM, batch_norm="frozen")):
        torch.manual_seed(0)
        model = SmallNet(width=4, dilations=(1,)).build(4)
        method = each.build(model, 10, 0)
        for t in range(3):
            optimizer, schedule = method.optimizers()["model"]
            optimizer.zero_grad()
            for losses in method.step(Batch(images(1), images(2)), t):
                torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            schedule.step()
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


@pytest.mark.parametrize("policy", ["source", "target", "both", "frozen"])
@pytest.mark.parametrize("kind", [AdaptSegNetConfig, MinEntConfig])
def test_statistics_follow_the_policy(kind: Any, policy: str) -> None:
    model: Any = SmallNet(width=4, dilations=(1,)).build(4)
    seen = []
    for losses in kind(ADAM, batch_norm=policy).build(model, 10, 0).step(Batch(images(1), images(2)), 0):
        torch.stack(list(losses.values())).sum().backward()
        seen.append(int(model.reduce[1].num_batches_tracked))
    first, second = int(policy in ("source", "both")), int(policy in ("target", "both"))
    assert seen == [first, *[first + second] * (len(seen) - 1)]


def test_the_auxiliary_classifier_of_deeplab_is_aligned() -> None:
    """Its weights are in the head's group, ten times as fast, and learn from both domains as the classifier's do."""
    torch.manual_seed(0)
    model: Any = DeepLabV2("resnet18", auxiliary=True).build(4)
    method = AdaptSegNetConfig(discriminator=DiscriminatorConfig(4), multi_level=True).build(model, 10, 0)
    groups = {group["name"]: group for group in method.optimizers()["model"].optimizer.param_groups}
    head = {id(weight) for weight in groups["head"]["params"]}
    assert {id(weight) for weight in model.auxiliary.parameters()} < head
    assert groups["head"]["lr"] == pytest.approx(10 * groups["backbone"]["lr"])
    for number, losses in enumerate(method.step(Batch(images(1, 64), images(2, 64)), 0)):
        model.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        assert list(losses)[1].startswith("auxiliary ")
        reached = {p.grad is not None for p in model.parameters()}
        assert reached == {number < 2}
        if number < 2:
            assert all(p.grad.any() for p in (*model.classifier.parameters(), *model.auxiliary.parameters()))


# --- a run -------------------------------------------------------------------------------------------------------

FIRST = WARMUP_STEPS + 1
"""The checkpoint that closes the warm-up; after it: the round's start, each step, the phase's end."""


@pytest.fixture(scope="module")
def run(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return watched(tiny("adaptsegnet", *domains), tmp_path_factory.mktemp("runs") / "adaptsegnet")


def test_a_run_trains_both_players(run: Watched) -> None:
    entries = [entry for entry in RunLog(run.folder / "log.jsonl").read() if entry["phase"] == "adaptation"]
    assert entries
    for entry in entries:
        assert list(entry["losses"]) == ["source", "generator", "discriminator source", "discriminator target"]
        assert all(np.isfinite(value) for value in entry["losses"].values())
    begun, stepped = (
        checkpoint.load(next(iter(sorted((run.copies[n] / "checkpoints").iterdir(), reverse=True))))
        for n in (FIRST + 1, FIRST + 2)
    )
    for player in ("model", "discriminator"):
        before, after = begun["players"][player], stepped["players"][player]
        assert any(not torch.equal(before[key], after[key]) for key in before)
        assert set(stepped["optimizers"]) == {"model", "discriminator"}


@pytest.mark.parametrize("number", range(FIRST - 1, FIRST + 1 + STEPS + 2))
def test_resume_from_every_checkpoint(run: Watched, number: int, tmp_path: Path) -> None:
    assert len(run.copies) > number
    again = Path(shutil.copytree(run.copies[number], tmp_path / "run"))
    for path in sorted((again / "checkpoints").iterdir())[:-1]:  # older ones cannot help out
        path.unlink()
    assert weights(resume(again)) == weights(run.folder)
    losses = [[entry["losses"] for entry in RunLog(folder / "log.jsonl").read()] for folder in (again, run.folder)]
    assert losses[0] == losses[1]
