"""Cross-entropy against torch's own, and what ignored pixels may never do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.nn import functional as F

from segshift.models.segmenter import upsample
from segshift.parts import banded, losses
from segshift.parts.losses import (
    PixelMean,
    cross_entropy,
    mean_over,
    region_mean,
    share_of_mean,
    upsampled_cross_entropy,
    upsampled_means,
)
from segshift.types import IGNORE


def batch(seed: int, classes: int = 4, size: tuple[int, int] = (5, 6), scale: float = 3) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, classes, *size, generator=rng)
    return logits.requires_grad_(), torch.randint(0, classes, (2, *size), generator=rng)


def gradient(loss: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), classes=st.integers(1, 8), share=st.floats(0, 0.95), scale=st.floats(0, 50))
def test_the_mean_over_labelled_pixels(seed: int, classes: int, share: float, scale: float) -> None:
    logits, label = batch(seed, classes, scale=scale)
    ignored = torch.rand(label.shape, generator=torch.Generator().manual_seed(seed)) < share
    ignored[0, 0, 0] = False
    label = label.masked_fill(ignored, IGNORE)
    ours, theirs = cross_entropy(logits, label), F.cross_entropy(logits, label, ignore_index=IGNORE)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits))


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 1), junk=st.sampled_from((0.0, 30.0, -1e4, 1e30)))
def test_ignored_pixels_change_nothing(seed: int, share: float, junk: float) -> None:
    logits, label = batch(seed)
    ignored = torch.rand(label.shape, generator=torch.Generator().manual_seed(seed)) < share
    label = label.masked_fill(ignored, IGNORE)
    changed = torch.where(ignored[:, None], junk * torch.ones_like(logits), logits).detach().requires_grad_()
    first, second = cross_entropy(logits, label), cross_entropy(changed, label)
    assert torch.equal(first, second)
    ours, theirs = gradient(first, logits), gradient(second, changed)
    assert torch.equal(ours, theirs)
    assert not ours[ignored[:, None].expand_as(ours)].any()


def test_nothing_labelled_is_zero_with_gradient_zero() -> None:
    logits, label = batch(0)
    loss = cross_entropy(logits, torch.full_like(label, IGNORE))
    assert loss.item() == 0
    assert not gradient(loss, logits).any()
    values = torch.randn(3, 4, requires_grad=True)
    loss = region_mean(values, torch.zeros(3, 4, dtype=torch.bool))
    assert loss.item() == 0
    assert not gradient(loss, values).any()


def test_region_mean() -> None:
    values = torch.tensor([[1.0, 2.0], [4.0, 8.0]], requires_grad=True)
    region = torch.tensor([[True, False], [True, False]])
    assert region_mean(values, region).item() == 2.5
    assert gradient(region_mean(values, region), values).tolist() == [[0.5, 0], [0.5, 0]]


@pytest.mark.parametrize("counts", [(3, 5), (0, 8), (0, 0)])
def test_the_average_of_the_shares_is_the_global_mean(counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """DDP averages over processes: their shares must average to the mean over all pixels."""
    totals = [torch.tensor(2.0 * n) for n in counts]
    monkeypatch.setattr(losses, "world_size", lambda: 2)
    monkeypatch.setattr(losses, "sum_over_processes", lambda _: torch.tensor(sum(counts)))
    shares = [share_of_mean(total, torch.tensor(n)) for total, n in zip(totals, counts)]
    assert sum(shares).item() / 2 == (2.0 if sum(counts) else 0.0)


# --- of scores at another size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
def test_small_crops_keep_the_bits_of_scores_upsampled_at_once(align_corners: bool) -> None:
    logits, label = batch(1, size=(9, 11))
    label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
    ours = upsampled_cross_entropy(logits, label, align_corners)
    theirs = cross_entropy(upsample(logits, (72, 88), align_corners), label)
    assert torch.equal(ours, theirs) and torch.equal(gradient(ours, logits), gradient(theirs, logits))


def test_large_crops_never_have_their_scores_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size decides, and what was decided is told from what the terms are asked for."""
    seen: list[tuple[tuple[int, ...], slice]] = []

    def total(scores: Tensor, rows: slice) -> Tensor:
        seen.append((tuple(scores.shape), rows))
        return scores.square().sum()

    logits, _ = batch(2, size=(9, 11))
    means = {"squares": PixelMean(total, torch.tensor(7)), "sums": PixelMean(lambda x, _: x.sum(), torch.tensor(0))}
    at_once = upsampled_means(logits, (72, 88), False, means)
    assert seen == [((2, 4, 72, 88), slice(None))]
    monkeypatch.setattr(losses, "FULL_SIZE_BYTES", 4 * 2 * 4 * 72 * 88 - 1)
    monkeypatch.setattr(banded, "CACHE_BYTES", 4 * 2 * 4 * 50 * 88)
    in_bands = upsampled_means(logits, (72, 88), False, means)
    assert seen[1:] == [((2, 4, 50, 88), slice(0, 50)), ((2, 4, 22, 88), slice(50, 72))]
    for name, loss in in_bands.items():
        torch.testing.assert_close(loss, at_once[name], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_means_over_regions_with_maps_of_their_own(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map is cut to the rows of its band, and an empty region is 0 with gradient 0; half precision is float32."""
    monkeypatch.setattr(losses, "FULL_SIZE_BYTES", most)
    monkeypatch.setattr(banded, "CACHE_BYTES", 4 * 2 * 4 * 5 * 20)
    logits, _ = batch(3, size=(4, 5))
    rng = torch.Generator().manual_seed(0)
    region, weight = torch.rand(2, 17, 20, generator=rng) < 0.5, torch.rand(2, 4, 17, 20, generator=rng)
    means = {
        "all": mean_over(region, lambda scores, w: (w * scores.softmax(1)).sum(1), weight),
        "none": mean_over(region & ~region, lambda scores: scores[:, 0]),
    }
    found = upsampled_means(logits, (17, 20), True, means)
    expected = (weight * upsample(logits, (17, 20), True).softmax(1)).sum(1)[region].mean()
    torch.testing.assert_close(found["all"], expected)
    torch.testing.assert_close(gradient(found["all"], logits), gradient(expected, logits), rtol=1e-4, atol=1e-7)
    assert found["none"].item() == 0 and not gradient(found["none"], logits).any()
    half = upsampled_means(logits.detach().bfloat16().requires_grad_(), (17, 20), True, means)["all"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=1e-2, atol=0)


def test_shapes_are_checked_under_test() -> None:
    """The hook of tests/conftest.py: a label of another size than its logits is found by the annotation."""
    logits, label = batch(0)
    with pytest.raises(TypeCheckError, match="label"):
        cross_entropy(logits, label[:, :, 1:])
