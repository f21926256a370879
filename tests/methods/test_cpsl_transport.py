"""CPSL's optimal transport: Eq. 5, 6 and 12 against the reference and a direct computation; laws, and hard cases."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from segshift.errors import ConfigError
from segshift.methods.cpsl_transport import class_marginal, marginal_error, self_labelling_loss, sinkhorn

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "cpsl_sinkhorn.npz"
EPSILON = 0.05


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not GOLDEN.is_file():
        pytest.skip("reference vectors are not here")
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def case(seed: int, samples: int, classes: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scores in [0, spread] and a marginal without zeros."""
    rng = torch.Generator().manual_seed(seed)
    scores = spread * torch.rand(samples, classes, generator=rng)
    return scores, class_marginal(torch.rand(classes, generator=rng) + 0.02)


def directly(scores: Tensor, marginal: Tensor, iterations: int, epsilon: float = EPSILON) -> Tensor:
    """Eq. 6 as it stands, in float64: the two factors in turn."""
    kernel = (scores.double() / epsilon - scores.max() / epsilon).exp()
    alpha, beta = torch.ones_like(marginal).double(), torch.ones(len(scores)).double()
    for _ in range(iterations):
        alpha = marginal.double() / (beta @ kernel)
        beta = 1 / len(scores) / (kernel @ alpha)
    return len(scores) * alpha * kernel * beta[:, None]


# --- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 4.0])
@pytest.mark.parametrize(("iterations", "expected"), [(3, "Q_official"), (100, "Q_it100_fp64_as_f32")])
def test_sinkhorn_equals_the_reference(golden: dict[str, Tensor], iterations: int, expected: str, shift: float) -> None:
    """What is added to all scores of a class changes nothing, but takes them too far apart for one exponential."""
    scores = golden["scores"].float()
    scores[:, ::2] += shift
    found = sinkhorn(scores, golden["marginal_r"], float(golden["epsilon"]), iterations)
    torch.testing.assert_close(found, golden[expected], rtol=0, atol=1e-5)
    if iterations == 3:
        torch.testing.assert_close(found.mean(0).double(), golden["row_marginal_official"], rtol=0, atol=1e-6)


def test_the_loss_equals_the_reference(golden: dict[str, Tensor]) -> None:
    last = slice(-256, None)
    loss = self_labelling_loss(golden["scores"][last], golden["Q_official"][last], temperature=0.08)
    assert loss.item() == pytest.approx(float(golden["loss_SL_last256_tau0.08"]), abs=1e-5)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 8), st.sampled_from([0.3, 2.9, 3.5, 20.0]))
@settings(max_examples=40)
def test_sinkhorn_is_eq6_written_directly(seed: int, samples: int, classes: int, spread: float) -> None:
    """Scores that are close together and scores that are not, at each number of iterations."""
    scores, marginal = case(seed, samples, classes, spread)
    for iterations in (1, 2, 5):
        found = sinkhorn(scores, marginal, EPSILON, iterations)
        expected = directly(scores, marginal, iterations)
        # Rounding of scores / ε: 2^-24 of 400 at most.
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)


def test_many_samples_are_summed_well() -> None:
    scores, marginal = case(3, 67_584, 19)
    torch.testing.assert_close(sinkhorn(scores, marginal).double(), directly(scores, marginal, 3), rtol=0, atol=2e-6)


# --- hard cases ------------------------------------------------------------------------------------------------------


def matrices(bound: float) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 12), st.integers(1, 6))
    return arrays.arrays(np.float32, shapes, elements=st.floats(-bound, bound, width=32))


def masses(classes: int, largest: float) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float32, classes, elements=st.floats(0, largest, width=32))


def checked(scores: Tensor, marginal: Tensor, iterations: int) -> None:
    found = sinkhorn(scores, marginal, EPSILON, iterations)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(len(scores)), rtol=0, atol=1e-5)
    if marginal.any():
        assert not found[:, marginal == 0].any()
    assert marginal_error(found, marginal).isfinite()


@pytest.mark.parametrize("bound", [1.0, 50.0, 2.0**127])
@given(st.data())
@settings(max_examples=40)
def test_any_scores_and_any_marginal_give_rows_that_sum_to_one(bound: float, data: st.DataObject) -> None:
    """Zero-mass classes get exactly nothing; a marginal need not sum to 1."""
    scores = torch.from_numpy(data.draw(matrices(bound)))
    marginal = torch.from_numpy(data.draw(masses(scores.shape[1], data.draw(st.sampled_from([1.0, 2.0**127])))))
    checked(scores, marginal, data.draw(st.sampled_from([1, 3, 40])))


@pytest.mark.parametrize("spread", [1.0, 50.0])
@pytest.mark.parametrize("classes", [[3], [0, 4], []])
def test_classes_of_zero_mass(classes: list[int], spread: float) -> None:
    """All mass on one class, on two, and none at all, which is read as the same for every class."""
    scores, _ = case(0, 30, 5, spread)
    marginal = torch.zeros(5)
    marginal[classes] = 0.1 + torch.arange(len(classes))
    checked(scores, marginal, 3)
    if len(classes) == 1:
        torch.testing.assert_close(sinkhorn(scores, marginal)[:, 3], torch.ones(30))
    if not classes:
        assert torch.equal(sinkhorn(scores, marginal), sinkhorn(scores, torch.ones(5)))


@pytest.mark.parametrize("spread", [1.0, 50.0])
def test_one_sample_has_the_marginal_and_one_class_has_all(spread: float) -> None:
    scores, marginal = case(1, 1, 6, spread)
    torch.testing.assert_close(sinkhorn(scores, marginal)[0], marginal)
    assert torch.equal(sinkhorn(scores.T, torch.ones(1)), torch.ones(6, 1))


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_a_sample_that_scores_low_everywhere_is_not_lost(spread: float) -> None:
    """It carries 1/m like any other. In the linear domain of float32 its row is 0 / 0; float64 can still tell."""
    scores, marginal = case(2, 10, 4, spread)
    scores[7] -= 20
    assert not (scores / EPSILON - scores.max() / EPSILON).exp()[7].any()
    found = sinkhorn(scores, marginal).double()
    torch.testing.assert_close(found, directly(scores, marginal, 3), rtol=1e-3, atol=1e-6)


# --- laws ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.sampled_from([0.4, 10.0]))
@settings(max_examples=20)
def test_more_iterations_come_closer_to_the_marginal(seed: int, spread: float) -> None:
    scores, marginal = case(seed, 60, 5, spread)
    errors = [marginal_error(sinkhorn(scores, marginal, EPSILON, n), marginal).item() for n in (1, 2, 4, 16, 300)]
    assert all(later <= earlier + 1e-5 for earlier, later in pairwise(errors))
    if spread < 1:
        assert errors[-1] < 1e-4


@given(st.integers(0, 2**31), st.sampled_from([1.0, 10.0]))
@settings(max_examples=20)
def test_names_of_samples_and_classes_do_not_matter(seed: int, spread: float) -> None:
    scores, marginal = case(seed, 30, 6, spread)
    rng = torch.Generator().manual_seed(seed)
    samples, classes = torch.randperm(30, generator=rng), torch.randperm(6, generator=rng)
    found = sinkhorn(scores[samples][:, classes], marginal[classes])
    torch.testing.assert_close(found, sinkhorn(scores, marginal)[samples][:, classes], rtol=1e-4, atol=1e-6)


@given(st.integers(0, 2**31), st.sampled_from([0.5, 8.0]))
@settings(max_examples=20)
def test_what_is_added_to_all_scores_or_to_a_class_changes_nothing(seed: int, spread: float) -> None:
    scores, marginal = case(seed, 30, 6, spread)
    scores = scores.double()  # so that the sums are exact enough
    expected = sinkhorn(scores, marginal)
    torch.testing.assert_close(sinkhorn(scores + 3, marginal), expected)
    torch.testing.assert_close(sinkhorn(scores + torch.randn(6), marginal), expected)


def test_what_is_added_to_a_sample_is_forgotten_with_iterations() -> None:
    """Eq. 6 has a factor for each sample, so that the optimum does not know it; the first iterations do."""
    scores, marginal = case(5, 40, 4, 0.4)
    shifted = scores + torch.linspace(-0.3, 0.3, 40)[:, None]
    first, last = ((sinkhorn(shifted, marginal, EPSILON, n) - sinkhorn(scores, marginal, EPSILON, n)) for n in (1, 300))
    assert first.abs().max() > 1e-2
    assert last.abs().max() < 1e-4


@pytest.mark.parametrize("offset", [0.0, 7.0])
def test_scores_that_say_nothing_give_the_marginal(offset: float) -> None:
    _, marginal = case(6, 1, 5)
    found = sinkhorn(torch.full((9, 5), offset), 3 * marginal, iterations=1)
    torch.testing.assert_close(found, marginal.expand(9, 5))


@pytest.mark.parametrize("spread", [1.0, 50.0])
def test_precision_and_gradient(spread: float) -> None:
    """Half-precision scores and an autocast region give float32; the assignment is held fixed in Eq. 5."""
    scores, marginal = case(7, 300, 5, spread)
    half = scores.half().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = sinkhorn(half, marginal.double())
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, sinkhorn(half.detach().float(), marginal))
    assert sinkhorn(scores.double(), marginal).dtype == torch.float64
    columns_apart = scores.T.contiguous().T
    torch.testing.assert_close(sinkhorn(columns_apart, marginal), sinkhorn(scores, marginal))


def test_scores_are_left_as_they_are() -> None:
    for spread in (1.0, 50.0):
        scores, marginal = case(8, 20, 5, spread)
        before = scores.clone(), marginal.clone()
        sinkhorn(scores, marginal)
        assert torch.equal(scores, before[0])
        assert torch.equal(marginal, before[1])


def test_eq12_is_the_distribution_made_to_sum_to_one() -> None:
    torch.testing.assert_close(class_marginal(torch.tensor([1.0, 0.0, 3.0])), torch.tensor([0.25, 0.0, 0.75]))
    torch.testing.assert_close(class_marginal(torch.tensor([3e38, -1.0, 3e38])), torch.tensor([0.5, 0.0, 0.5]))
    assert torch.equal(class_marginal(torch.zeros(4)), torch.full((4,), 0.25))


def test_the_marginal_error_by_hand() -> None:
    assignment = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert marginal_error(assignment, torch.tensor([1.0, 1.0])).item() == pytest.approx(0.5)
    assert marginal_error(assignment, torch.tensor([3.0, 1.0])).item() == 0


# --- Eq. 5 -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.floats(0.02, 2))
@settings(max_examples=20)
def test_the_loss_and_its_gradient_written_plainly(seed: int, temperature: float) -> None:
    scores, marginal = case(seed, 9, 4)
    assignment = sinkhorn(scores, marginal).requires_grad_()
    scores.requires_grad_()
    p = (scores / temperature).exp() / (scores / temperature).exp().sum(1, keepdim=True)
    loss = self_labelling_loss(scores, assignment, temperature)
    expected = -(assignment * p.log()).sum(1).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    torch.testing.assert_close(scores.grad, (p - assignment).detach() / (9 * temperature), rtol=1e-3, atol=1e-5)
    assert assignment.grad is None


def test_samples_outside_the_region_do_not_count() -> None:
    scores, marginal = case(9, 8, 4)
    assignment, region = sinkhorn(scores, marginal), torch.arange(8) % 3 == 0
    scores.requires_grad_()
    loss = self_labelling_loss(scores.view(2, 4, 4), assignment.view(2, 4, 4), region=region.view(2, 4))
    torch.testing.assert_close(loss, self_labelling_loss(scores[region], assignment[region]))
    loss.backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad.any(1), region)
    scores.grad = None
    nothing = self_labelling_loss(scores, assignment, region=torch.zeros(8, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert scores.grad is not None and not scores.grad.any()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"epsilon": 0.0}, "epsilon = 0.0; expected"),
        ({"epsilon": math.nan}, "epsilon = nan; expected"),
        ({"iterations": 0}, "iterations = 0; expected"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], found: str) -> None:
    scores, marginal = case(0, 3, 2)
    with pytest.raises(ConfigError, match=found):
        sinkhorn(scores, marginal, **options)
