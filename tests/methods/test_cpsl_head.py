"""The self-labelling head of CPSL and the prototypes it starts from (Eq. 4 and 7)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.methods.cpsl_head import (
    Prototypes,
    SelfLabellingHead,
    assignment,
    embedding_width,
    normalise,
    score_map,
)
from segshift.models.small import SmallNet
from segshift.types import IGNORE


def features(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_prototypes_are_means_over_the_pixels_of_all_images() -> None:
    """Not means of images' means, as in the release: the second image has more pixels of class 1."""
    images = [
        (features(1, 2, 3, 4), torch.tensor([[0, 0, 1], [0, IGNORE, 0]])),
        (features(2, 1, 3, 4), torch.ones(1, 3)),
    ]
    prototypes = Prototypes(3, 4)
    for found, label in images:
        prototypes.add(found, label.long())
    mean = prototypes.mean(lambda partial: partial)
    flat = torch.cat([found.reshape(-1, 4) for found, _ in images])
    classes = torch.cat([label.reshape(-1) for _, label in images])
    for c in (0, 1):
        torch.testing.assert_close(mean[c], flat[classes == c].mean(0))
    assert not mean[2].any(), "a class without pixels starts at zero"


@given(st.integers(0, 500), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_prototypes_do_not_depend_on_order_or_shares(seed: int, count: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    images = [(features(seed + i, 3, 2, 5), torch.randint(0, 4, (3, 2), generator=rng)) for i in range(count)]
    alone, halves = Prototypes(4, 5), (Prototypes(4, 5), Prototypes(4, 5))
    for image in reversed(images):
        alone.add(*image)
    for i, image in enumerate(images):
        halves[i % 2].add(*image)
    parts: list[list[Tensor]] = [[], []]
    for half, seen in zip(halves, parts):
        half.mean(lambda partial, seen=seen: seen.append(partial) or partial)
    sums = iter([a + b for a, b in zip(*parts, strict=True)])
    assert torch.equal(halves[0].mean(lambda _: next(sums)), alone.mean(lambda partial: partial))


def test_linear_scores_are_products_and_cosines_are_normalised() -> None:
    z, weight = features(1, 2, 3, 4, 6), 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    linear, cosine = SelfLabellingHead(6, 5, "linear", 0), SelfLabellingHead(6, 5, "cosine", 0)
    for head in (linear, cosine):
        head.load_state_dict({"weight": weight})
    torch.testing.assert_close(linear(z), torch.einsum("bhwd,kd->bhwk", z, weight))
    torch.testing.assert_close(cosine(z)[0, 1, 2, 4], F.cosine_similarity(z[0, 1, 2], weight[4], dim=0))
    assert cosine(z).abs().max() <= 1 + 1e-6 < linear(z).abs().max()
    p = assignment(score_map(linear, z), 0.08)
    assert p.shape == (2, 5, 3, 4)
    torch.testing.assert_close(p.sum(1), torch.ones(2, 3, 4))


def test_a_head_at_random_is_decided_by_the_seed_alone() -> None:
    first = SelfLabellingHead(6, 5, "linear", 3).weight
    torch.rand(7)
    assert torch.equal(first, SelfLabellingHead(6, 5, "linear", 3).weight)
    assert not torch.equal(first, SelfLabellingHead(6, 5, "linear", 4).weight)


def test_features_are_normalised_over_channels() -> None:
    z = normalise(torch.randn(2, 6, 3, 4))
    assert z.shape == (2, 3, 4, 6)
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 3, 4))
    assert not normalise(torch.zeros(1, 6, 1, 1)).any(), "a pixel without features stays at zero"


@pytest.mark.parametrize("width", [4, 16])
def test_the_width_of_a_network_s_features(width: int) -> None:
    network = SmallNet(width=width, dilations=(1,)).build(3).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert embedding_width(network) == 2 * width
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
