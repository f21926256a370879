"""CPSL's labels and losses on tensors: Eq. 1 against the reference, Eq. 13 by torch's own divergence, edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.methods.cpsl_head import SelfLabellingHead, assignment, normalise, score_map
from segshift.methods.cpsl_losses import one_way_kl, rectify, symmetric_cross_entropy, symmetric_kl
from segshift.types import IGNORE

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden" / "cpsl_rectify.npz"
Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]
DIVERGENCES: dict[str, Divergence] = {"symmetric": symmetric_kl, "one-way": one_way_kl}
every_divergence = pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=DIVERGENCES)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    if not GOLDEN.is_file():
        pytest.skip("reference vectors are not here")
    with np.load(GOLDEN) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- Eq. 1 -----------------------------------------------------------------------------------------------------------


def test_rectification_equals_the_reference(golden: dict[str, Tensor]) -> None:
    """The features of the whole image at a quarter of its size, cut and mirrored as the image was."""
    height, width = (golden["resize_hw"] // 4).tolist()
    top, bottom, left, right = (golden["crop_y1y2x1x2"] // 4).tolist()
    whole = F.interpolate(golden["feat_full_quarter"].float(), (height, width), mode="bilinear", align_corners=True)
    features = normalise(whole[:, :, top:bottom, left:right].flip(3))
    head = SelfLabellingHead(256, 19, "cosine", seed=0)
    head.load_state_dict({"weight": golden["prototypes_ema"]})
    with torch.no_grad():
        p_sl = assignment(score_map(head, features), float(golden["temperature"]))
    torch.testing.assert_close(p_sl, golden["P_SL"], rtol=0, atol=1e-5)
    p_st = golden["P_ST_quarter"]
    assert torch.equal(rectify(p_sl, p_st), golden["y_hat"][:, 0].long())
    assert rectify(p_sl, p_st).unique().numel() > 5
    confident = golden["y_hat_thred0_5"][:, 0].long()
    expected = torch.where(confident == 250, IGNORE, confident)
    assert torch.equal(rectify(p_sl, p_st, confidence=0.5), expected)
    assert (expected == IGNORE).any()


@given(st.integers(0, 1000), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_rectified_labels_have_the_largest_product(seed: int, classes: int) -> None:
    p_sl, p_st = maps(seed, classes, 3, 4).softmax(0), maps(seed + 1, classes, 3, 4).softmax(0)
    label = rectify(p_sl, p_st)
    product = p_sl * p_st
    assert torch.equal(product.gather(0, label[None])[0], product.amax(0))
    assert torch.equal(rectify(torch.full_like(p_st, 1 / classes), p_st), p_st.argmax(0))


def test_padding_has_no_rectified_label() -> None:
    p_st = torch.zeros(2, 3, 2, 2)
    p_st[0, :, 0] = torch.tensor([0.2, 0.5, 0.3])[:, None]
    label = rectify(torch.full_like(p_st, 1 / 3), p_st)
    assert label[0, 0].tolist() == [1, 1]
    assert (label[0, 1] == IGNORE).all() and (label[1] == IGNORE).all()


# --- Eq. 13 and the release's losses ---------------------------------------------------------------------------------


def plain_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each pixel, from logits."""
    return F.kl_div(q.log_softmax(1), p.softmax(1), reduction="none").sum(1)


def test_the_divergences_written_plainly() -> None:
    weak, strong = maps(1, 2, 5, 3, 4), maps(2, 2, 5, 3, 4)
    region = maps(3, 2, 3, 4) > 0
    both = (plain_kl(weak, strong) + plain_kl(strong, weak))[region].mean()
    torch.testing.assert_close(symmetric_kl(weak, strong, region), both)
    torch.testing.assert_close(one_way_kl(weak, strong, region), plain_kl(weak, strong)[region].mean())


@every_divergence
def test_views_that_agree_cost_nothing_and_none_is_negative(divergence: Divergence) -> None:
    weak, region = maps(1, 2, 5, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)
    torch.testing.assert_close(divergence(weak, weak + 3, region), torch.zeros(()), atol=1e-6, rtol=0)
    assert divergence(weak, maps(9, 2, 5, 3, 4), region) > 0.1


@every_divergence
def test_an_empty_region_has_loss_and_gradient_zero(divergence: Divergence) -> None:
    strong = maps(2, 1, 5, 3, 4).requires_grad_()
    loss = divergence(maps(1, 1, 5, 3, 4), strong, torch.zeros(1, 3, 4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, strong)
    assert loss == 0 and not gradient.any()


@every_divergence
def test_extreme_logits_stay_finite(divergence: Divergence) -> None:
    weak, strong = 1e4 * maps(1, 1, 5, 3, 4), (1e4 * maps(2, 1, 5, 3, 4)).requires_grad_()
    loss = divergence(weak, strong, torch.ones(1, 3, 4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, strong)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_symmetric_cross_entropy_by_hand() -> None:
    prob = torch.tensor([0.7, 0.2, 0.1])
    logits = prob.log().view(1, 3, 1, 1).expand(1, 3, 1, 2)
    label = torch.tensor([[[0, IGNORE]]])
    expected = -0.1 * math.log(0.7) + (0.2 + 0.1) * -math.log(1e-4)
    assert symmetric_cross_entropy(logits, label).item() == pytest.approx(expected, rel=1e-5)


def test_symmetric_cross_entropy_without_labels_is_zero() -> None:
    logits = maps(1, 1, 3, 2, 2).requires_grad_()
    loss = symmetric_cross_entropy(logits, torch.full((1, 2, 2), IGNORE))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0 and not gradient.any()
