"""Entropy maps and MinEnt: the released code's numbers, the bounds of an entropy, finite gradients everywhere."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from segshift.errors import ConfigError, DataError
from segshift.methods.advent import MinEntConfig, entropy_map, minent_loss
from segshift.models.small import SmallNet
from segshift.parts.optimizers import Optimizer
from segshift.types import Batch, Images

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "adversarial.npz"


@pytest.mark.skipif(not GOLDEN.exists(), reason="no reference vectors")
def test_the_releases_numbers() -> None:
    with np.load(GOLDEN) as file:
        golden = {name: torch.from_numpy(file[name]) for name in file}
    size = tuple(golden["out_hw"].tolist())
    low = golden["logits_trg_low"].float()
    logits = functional.interpolate(low, size, mode="bilinear", align_corners=True).requires_grad_()
    torch.testing.assert_close(entropy_map(logits.softmax(1)), golden["entropy_map_trg"], rtol=0, atol=1e-6)
    loss = minent_loss(logits)
    assert loss.item() == pytest.approx(golden["minent_loss"].item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = golden["minent_grad_logits_up"]
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@st.composite
def predictions(draw: st.DrawFn) -> Tensor:
    """Class scores from flat to so sharp that most probabilities are 0 in float32."""
    classes, scale = draw(st.integers(2, 20)), draw(st.sampled_from([0.0, 1.0, 30.0, 1e4]))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return scale * torch.randn(2, classes, 3, 4, generator=rng)


@settings(max_examples=60)
@given(predictions())
def test_an_entropy_map_is_an_entropy(logits: Tensor) -> None:
    classes = logits.shape[1]
    values = entropy_map(logits.softmax(1))
    assert values.min() >= 0
    assert values.max() <= 1 / (math.e * math.log(classes)) + 1e-6
    assert values.sum(1).max() <= 1 + 1e-5
    torch.testing.assert_close(values.sum(1).mean(), minent_loss(logits))
    exact = torch.distributions.Categorical(logits=logits.double().movedim(1, -1)).entropy() / math.log(classes)
    torch.testing.assert_close(values.sum(1).double(), exact, rtol=1e-4, atol=1e-5)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(entropy_map(logits.softmax(1)[:, order]), values[:, order], rtol=0, atol=0)


@settings(max_examples=60)
@given(predictions())
def test_the_gradient_is_finite_and_only_moves_along_differences(logits: Tensor) -> None:
    """Adding a number to all classes changes no prediction: each pixel's gradient sums to 0."""
    logits = logits.requires_grad_()
    (gradient,) = torch.autograd.grad(minent_loss(logits), logits)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient.sum(1), torch.zeros_like(gradient[:, 0]), rtol=0, atol=1e-6)


def test_certain_and_uniform_predictions() -> None:
    certain = functional.one_hot(torch.arange(5).expand(1, 2, 5), 5).movedim(-1, 1).float().requires_grad_()
    values = entropy_map(certain)
    assert not values.any()
    (gradient,) = torch.autograd.grad(values.sum(), certain)
    assert gradient.isfinite().all()
    for classes in (2, 5, 19):
        uniform = torch.full((1, classes, 2, 2), 1 / classes)
        torch.testing.assert_close(entropy_map(uniform), uniform)
        logits = torch.zeros(1, classes, 2, 2, requires_grad=True)
        assert minent_loss(logits).item() == pytest.approx(1)
        (gradient,) = torch.autograd.grad(minent_loss(logits), logits)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)  # the entropy's maximum


def test_the_gradient_is_the_losss_own() -> None:
    logits = torch.randn(1, 4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(minent_loss, logits.requires_grad_())
    assert torch.autograd.gradcheck(entropy_map, logits.detach().softmax(1).requires_grad_())


def test_half_precision_makes_float32() -> None:
    logits = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert minent_loss(logits).dtype == entropy_map(logits.softmax(1)).dtype == torch.float32
    torch.testing.assert_close(minent_loss(logits), minent_loss(logits.float()))


def test_an_image_without_its_batch() -> None:
    prob = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).softmax(0)
    assert torch.equal(entropy_map(prob), entropy_map(prob[None])[0])


def test_one_class_has_no_entropy() -> None:
    with pytest.raises(DataError, match=r"\(1, 1, 2, 2\): 1 class; expected at least 2"):
        entropy_map(torch.ones(1, 1, 2, 2))


def test_minent_makes_the_target_more_certain() -> None:
    torch.manual_seed(0)
    config = MinEntConfig(Optimizer("adamw", lr=1e-2, head_multiplier=1), weight=1.0)
    method = config.build(SmallNet(width=4, dilations=(1,)).build(4), 100, 0)
    rng = torch.Generator().manual_seed(0)
    batch = Batch(
        *(Images(torch.rand(2, 3, 16, 16, generator=rng), torch.full((2, 16, 16), 255), ("a", "b")) for _ in "st")
    )
    found = []
    for t in range(20):
        optimizer, schedule = method.optimizers()["model"]
        optimizer.zero_grad()
        for losses in method.step(batch, t):
            torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        schedule.step()
        found.append(losses["entropy"].item())
    assert found[-1] < 0.5 * found[0]


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_wrong_options_are_errors(weight: float) -> None:
    with pytest.raises(ConfigError, match=f"weight = {weight}; expected a number of at least 0"):
        MinEntConfig(weight=weight)
    with pytest.raises(ConfigError, match="batch_norm is 'none'; expected one of"):
        MinEntConfig(batch_norm="none")  # type: ignore[arg-type]
