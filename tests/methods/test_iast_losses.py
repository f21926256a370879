"""The regularisers of IAST, Eq. 8 and 9: against the reference, gradients included, and where a region is empty."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.methods.test_laws import CLASSES, images
from torch import Tensor

from segshift.methods.iast import Normalisation, confident_region_kld, ignored_region_entropy
from segshift.parts.losses import cross_entropy
from segshift.types import IGNORE

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
REGULARISERS = {"kld": confident_region_kld, "entropy": ignored_region_entropy}
NORMALISATIONS: tuple[Normalisation, ...] = ("paper", "released")
every_regulariser = pytest.mark.parametrize("name", REGULARISERS)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    path = GOLDEN / "iast_losses.npz"
    if not path.is_file():
        pytest.skip("reference vectors are not here")
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@every_regulariser
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_both_normalisations_equal_the_reference(
    golden: dict[str, Tensor], name: str, normalisation: Normalisation
) -> None:
    logits, labels = golden["logits"].requires_grad_(), golden["target_label"]
    loss = REGULARISERS[name](logits, labels, normalisation)
    (gradient,) = torch.autograd.grad(loss, logits)
    factor = 1 if normalisation == "released" else 19
    expected = golden[name] if normalisation == "released" else golden[f"paper_{name}_mean_over_region"]
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, factor * golden[f"{name}_grad"], rtol=0, atol=1e-6)
    assert gradient.abs().max() > 1e-5


def test_the_cross_entropy_is_the_reference(golden: dict[str, Tensor]) -> None:
    logits = golden["logits"].requires_grad_()
    loss = cross_entropy(logits, golden["target_label"].long())
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, golden["ce"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, golden["ce_grad"], rtol=0, atol=1e-6)


@every_regulariser
def test_the_equations_written_plainly(name: str) -> None:
    logits, labels = (
        torch.randn(2, CLASSES, 5, 6, generator=torch.Generator().manual_seed(0)),
        images(1).label[:, :5, :6],
    )
    prob = logits.double().softmax(1)
    region = (labels != IGNORE) if name == "kld" else (labels == IGNORE)
    found = []
    for at in region.nonzero().tolist():
        p = prob[at[0], :, at[1], at[2]]
        found.append(-(torch.log(p) / CLASSES).sum() if name == "kld" else -(p * torch.log(p)).sum())
    expected = torch.stack(found).mean().float()
    torch.testing.assert_close(REGULARISERS[name](logits, labels), expected)
    torch.testing.assert_close(REGULARISERS[name](logits, labels, "released"), expected / CLASSES)


@given(st.integers(0, 2**31), st.floats(0.1, 20), st.floats(-5, 5))
@settings(max_examples=30)
def test_bounds_and_shifts(seed: int, sharpness: float, shift: float) -> None:
    """0 <= R_i <= log C <= R_c; uniform predictions reach both; a constant on all logits changes nothing."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(1, CLASSES, 3, 4, generator=rng)
    everywhere, nowhere = torch.zeros(1, 3, 4, dtype=torch.long), torch.full((1, 3, 4), IGNORE)
    most = math.log(CLASSES)
    assert -1e-6 <= ignored_region_entropy(logits, nowhere) <= most + 1e-5
    assert confident_region_kld(logits, everywhere) >= most - 1e-5
    flat = torch.full_like(logits, shift)
    assert ignored_region_entropy(flat, nowhere).item() == pytest.approx(most, rel=1e-5)
    assert confident_region_kld(flat, everywhere).item() == pytest.approx(most, rel=1e-5)
    torch.testing.assert_close(ignored_region_entropy(logits + shift, nowhere), ignored_region_entropy(logits, nowhere))


@every_regulariser
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_an_empty_region_is_zero_with_gradient_zero(name: str, normalisation: Normalisation) -> None:
    logits = torch.randn(2, CLASSES, 3, 3, requires_grad=True)
    labels = torch.full((2, 3, 3), IGNORE if name == "kld" else 1)
    loss = REGULARISERS[name](logits, labels, normalisation)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


@every_regulariser
def test_pixels_outside_the_region_do_not_matter(name: str) -> None:
    logits = torch.randn(2, CLASSES, 3, 3, requires_grad=True)
    labels = torch.full((2, 3, 3), IGNORE)
    labels[0] = 2
    REGULARISERS[name](logits, labels).backward()
    assert logits.grad is not None
    inside = 0 if name == "kld" else 1
    assert logits.grad[inside].any() and not logits.grad[1 - inside].any()


@every_regulariser
def test_a_probability_that_underflows_has_a_finite_gradient(name: str) -> None:
    logits = torch.tensor([0.0, -200.0, 1e4, -1e4]).view(1, 4, 1, 1).requires_grad_()
    labels = torch.full((1, 1, 1), 2 if name == "kld" else IGNORE)
    loss = REGULARISERS[name](logits, labels)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()
