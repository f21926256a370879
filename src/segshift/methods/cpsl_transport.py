"""Optimal transport of CPSL: which class each sampled pixel is assigned to, Eq. 5, 6 and 12. Pure functions.

Sinkhorn's iteration needs exp(scores / ε), which leaves the range of float32 at scores of 4.4 with ε = .05. The class
factors alpha are therefore kept as logarithms, and each sample's β is the normaliser of a softmax over classes, so that
nothing overflows and a class without mass is masked. Where all scores lie close together (cosines always do at ε = .05)
the exponential is taken once, which is the same iteration in less time.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from segshift.errors import ConfigError
from segshift.parts.losses import region_mean

_SAFE_SPREAD = 60.0
"""exp(-60) = 9e-27: products of such a number, a share and 1 / m are still far from float32's least, 1e-38."""

_BLOCK = 8192
"""Samples at a time, of each thread: what one operation writes is still in the cache for the next. 600 KB at 19
classes."""

_LARGEST = 1e30
"""Scores / ε beyond are cut: sums of a few of them must stay finite in float32."""


def class_marginal(distribution: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """r of Eq. 12, the share of the mass that each class is to get: δ_pseudo, made to sum to 1. (h is 1/M throughout.)

    `distribution`: numbers in its proportion; those below 0 count as 0. All classes get the same where there is nothing
    above 0. Finite for all finite numbers.
    """
    mass = distribution.clamp_min(0)
    largest = mass.amax()
    mass = (mass / largest).where(largest > 0, 1.0)
    return mass / mass.sum()


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "m k"], marginal: Float[Tensor, " k"], epsilon: float = 0.05, iterations: int = 3
) -> Float[Tensor, "m k"]:
    """M Q* of Eq. 6: the class probabilities of each sample, q_m, under the constraint of Eq. 5; without gradient.

    `scores`: f_SL of m >= 1 samples. `marginal`: r, see `class_marginal`. Each iteration gives every class its mass
    (alpha) and then every sample its own (β), so rows sum to 1, and the mean of the rows comes closer to r with more
    iterations. A class without mass gets exactly 0. At least float32; finite for all finite scores and marginals.
    A constant added to all scores, or to all those of a class, changes nothing.
    Raises ConfigError where `epsilon` is not above 0 or `iterations` below 1.
    """
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon = {epsilon}; expected a number above 0 (the paper: 0.05)")
    if iterations < 1:
        raise ConfigError(f"iterations = {iterations}; expected at least 1 (the release: 3)")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    mass = class_marginal(marginal.to(torch.promote_types(marginal.dtype, torch.float32)))
    mass = mass.to(scores)
    # To look at a number costs nothing on a CPU. A GPU would have to be waited for.
    if scores.device.type == "cpu":
        low, high = scores.aminmax()
        if high - low <= _SAFE_SPREAD * epsilon:
            return _by_scaling(scores, high, mass, epsilon, iterations)
    return _by_logarithms(scores, mass, epsilon, iterations)


def _by_logarithms(scores: Tensor, mass: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Any scores. Memory: three times theirs. Classes are the rows here: sums and maxima over few columns are slow."""
    scaled = (scores.T / epsilon).contiguous().clamp_(-_LARGEST, _LARGEST)
    log_mass = mass.log()[:, None]
    potential = log_mass - scaled.logsumexp(1, keepdim=True)  # log alpha, at β = 1
    for _ in range(iterations - 1):
        found = (scaled + potential).softmax(0).mean(1, keepdim=True)
        # A class that was given r keeps at least r / m once the samples are normalised; less is rounding.
        potential = potential + log_mass - found.clamp_min(torch.finfo(found.dtype).tiny).log()
    return (scaled + potential).softmax(0).T


def _by_scaling(scores: Tensor, high: Tensor, mass: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Scores that are at most `_SAFE_SPREAD` ε apart. Memory: that of the result."""
    kernel, block = torch.empty(scores.shape, dtype=scores.dtype), _BLOCK * torch.get_num_threads()
    for rows, given in zip(kernel.split(block), scores.split(block)):
        # In base 2, which is several times faster to exponentiate.
        torch.sub(given, high, out=rows).mul_(1 / (epsilon * math.log(2))).exp2_()
    alpha, beta = mass, kernel.new_ones(len(kernel))
    with torch.autocast(scores.device.type, enabled=False):
        for _ in range(iterations):
            alpha = mass * (len(kernel) / _class_sums(kernel, beta))
            beta = torch.mv(kernel, alpha).reciprocal_()
    for rows, weight in zip(kernel.split(block), beta[:, None].split(block)):
        rows.mul_(alpha).mul_(weight)
    return kernel


def _class_sums(kernel: Tensor, beta: Tensor) -> Tensor:
    """beta @ kernel, summed block by block: one running float32 sum over all samples would lose two digits."""
    width = 1024
    whole = len(kernel) // width * width
    blocks = torch.bmm(beta[:whole].view(-1, 1, width), kernel[:whole].view(-1, width, kernel.shape[1]))
    return blocks.sum((0, 1)) + beta[whole:] @ kernel[whole:]


def marginal_error(assignment: Float[Tensor, "m k"], marginal: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """How far Sinkhorn is from convergence: sum_c |mean of q^(c) over the samples - r^(c)|, from 0 to 2."""
    return (assignment.mean(0) - class_marginal(marginal).to(assignment)).abs().sum()


def self_labelling_loss(
    scores: Float[Tensor, "*n k"],
    assignment: Float[Tensor, "*n k"],
    temperature: float = 0.08,
    region: Bool[Tensor, "*n"] | None = None,
) -> Float[Tensor, ""]:
    """L_SL, Eq. 4 and 5: -sum_c q log p, the mean over the samples (of all processes). Gradients reach scores alone.

    `scores`: f_SL; `assignment`: their q (`sinkhorn`). p is the softmax of scores / `temperature` (τ). `region`: the
    samples that count, None for all; 0 with gradient 0 where there is none.
    """
    losses = -(assignment.detach() * (scores.float() / temperature).log_softmax(-1)).sum(-1)
    return region_mean(losses, torch.ones_like(losses, dtype=torch.bool) if region is None else region)
