"""Spatial priors (Eq. 9): the reference's numbers, their laws, and what a pixel where no class can be does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import ConfigError, DataError
from segshift.methods.cbst import (
    CBSTConfig,
    SpatialPrior,
    class_thresholds,
    global_threshold,
    pseudo_labels,
    spatial_prior,
)
from segshift.models.small import SmallNet
from segshift.parts.confidence import weighted
from segshift.parts.order_statistics import portion_of
from segshift.taxonomy import unnamed
from segshift.types import IGNORE, Prediction

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference vectors are not here")
K = 4
LABELS = st.lists(arrays(np.uint8, (6, 9), elements=st.sampled_from([0, 1, 2, 255])), min_size=1, max_size=4)


def tensors(labels: list[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(label) for label in labels]


# --- the reference -------------------------------------------------------------------------------------------------


@needs_golden
def test_prior_and_labels_equal_the_reference() -> None:
    with np.load(GOLDEN / "spatial_prior.npz") as file:
        golden = dict(file)
    prior = spatial_prior(torch.from_numpy(golden["src_labels"]), 19, kernel=15, sigma=2.5)
    np.testing.assert_allclose(prior.numpy(), golden["prior"], rtol=0, atol=1e-6)
    # Relatively too: these numbers are about 1e-4.
    np.testing.assert_allclose(prior.numpy(), golden["prior"], rtol=1e-5, atol=1e-12)
    maps = [np.load(GOLDEN / f"probabilities_{part}.npz")["prob"] for part in range(4)]
    scan = weighted([Prediction(f"{i}", torch.from_numpy(p)) for i, p in enumerate(np.concatenate(maps))], prior)
    theirs = torch.from_numpy(golden["sp_ds4_p20_cls_thresh"]).float()
    theirs[theirs == 0] = 1  # nothing selected
    labels = np.stack([pseudo_labels(p.prob, theirs).numpy() for p in scan])
    assert (labels != golden["sp_ds4_p20_pseudo"]).mean() <= 1e-4
    # Our own thresholds lack the reference's extra zero a list, so they are at most one order statistic higher.
    ours = class_thresholds(scan, 0.2, 19, stride=4)
    assert bool((ours >= theirs * (1 - 1e-6)).all())
    assert (np.stack([pseudo_labels(p.prob, ours).numpy() for p in scan]) != labels).mean() < 1e-3


# --- laws ----------------------------------------------------------------------------------------------------------


@given(LABELS, st.integers(1, 6), st.sampled_from(["replicate", "zero", "reflect"]))
@settings(max_examples=60)
def test_each_class_sums_to_one_or_is_nowhere(labels: list[np.ndarray], kernel: int, border: Any) -> None:
    prior = spatial_prior(tensors(labels), K, kernel, border=border)
    assert prior.shape == (K, 6, 9)
    assert bool((prior >= 0).all())
    occurs = [bool((np.stack(labels) == c).any()) for c in range(K)]
    torch.testing.assert_close(prior.sum((1, 2)), torch.tensor(occurs).float())
    assert torch.equal(prior, spatial_prior(tensors(labels[::-1]), K, kernel, border=border))


@given(LABELS, st.integers(1, 6))
def test_by_place_the_classes_share_each_pixel(labels: list[np.ndarray], kernel: int) -> None:
    by_class, by_place = (spatial_prior(tensors(labels), K, kernel, normalise=n) for n in ("class", "place"))  # type: ignore[arg-type]
    total = by_place.sum(0)
    seen = (by_class > 0).any(0)
    torch.testing.assert_close(total, seen.float())
    assert torch.equal(by_place > 0, by_class > 0)


@given(LABELS)
def test_without_smoothing_it_is_the_counted_frequency(labels: list[np.ndarray]) -> None:
    prior = spatial_prior(tensors(labels), K, kernel=1).numpy()
    for c in range(K):
        counts = (np.stack(labels) == c).sum(0)
        np.testing.assert_allclose(prior[c], counts / max(counts.sum(), 1), rtol=1e-6)


@pytest.mark.parametrize(("border", "mode"), [("replicate", "edge"), ("reflect", "reflect"), ("zero", "constant")])
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_smoothing_is_the_printed_gaussian(border: Any, mode: Any, kernel: int) -> None:
    label = torch.full((7, 8), IGNORE, dtype=torch.uint8)
    label[0, 6] = label[3, 2] = 0
    offsets = np.arange(kernel) - (kernel - 1) / 2
    plane = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.3**2))
    before, after = (kernel - 1) // 2, kernel // 2
    padded = np.pad((label == 0).numpy().astype(float), ((before, after), (before, after)), mode=mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel))
    expected = (windows * plane).sum((2, 3))
    found = spatial_prior([label], 1, kernel, 1.3, border)[0].numpy()
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-6, atol=1e-12)


@given(st.integers(0, 2**31), st.floats(0.05, 0.9))
@settings(max_examples=25)
def test_a_prior_without_preference_changes_no_label(seed: int, portion: float) -> None:
    """q the same everywhere for every class: potentials are probabilities times a constant."""
    rng = torch.Generator().manual_seed(seed)
    scan = [Prediction(str(i), (2 * torch.randn(K, 8, 8, generator=rng)).softmax(0)) for i in range(2)]
    # A power of two, so that the product is exact.
    even = weighted(scan, torch.full((K, 4, 4), 2.0**-6))
    theta, plain = class_thresholds(even, portion, K), class_thresholds(scan, portion, K)
    assert torch.equal(theta.where(theta < 1, plain), torch.where(plain < 1, plain * 2.0**-6, plain))
    for weighed, prediction in zip(even, scan):
        assert torch.equal(pseudo_labels(weighed.prob, theta), pseudo_labels(prediction.prob, plain))
    assert global_threshold(even, portion) == global_threshold(scan, portion) * 2.0**-6


@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=25)
def test_thresholds_rank_potentials(seed: int, portion: float, stride: int, hole: bool) -> None:
    rng = np.random.default_rng(seed)
    prior = rng.random((K, 6, 6)).astype(np.float32)
    prior[rng.random((K, 6, 6)) < 0.3] = 0
    if hole:
        prior[:, 2:4, 2:5] = 0
    probs = [torch.from_numpy(rng.dirichlet(np.ones(K), (6, 6)).transpose(2, 0, 1).astype(np.float32)) for _ in "ab"]
    scan = weighted([Prediction(str(i), p) for i, p in enumerate(probs)], torch.from_numpy(prior))
    pools: list[list[float]] = [[] for _ in range(K)]
    for p in probs:
        potential = p.numpy() * prior
        best, label = potential.max(0).ravel(), potential.argmax(0).ravel()
        for c in range(K):
            pools[c] += list(best[(label == c) & (best > 0)][::stride])
    theta = class_thresholds(scan, portion, K, stride)
    for c, pool in enumerate(pools):
        n = int(portion_of(portion, torch.tensor([len(pool)])))
        expected = sorted(pool, reverse=True)[n - 1] if n else 1.0
        assert theta[c].item() == pytest.approx(expected, rel=1e-6)
    for prediction in scan:
        label = pseudo_labels(prediction.prob, theta)
        assert bool((label[prediction.prob.amax(0) == 0] == IGNORE).all())
        top, label_of = prediction.prob.max(0)
        reached = (top > 0) & (top >= theta[label_of])
        assert bool((label[reached] != IGNORE).all())


# --- a class that is absent ----------------------------------------------------------------------------------------


def test_where_no_class_can_be_there_is_no_label() -> None:
    prior = torch.rand(K, 5, 5, generator=torch.Generator().manual_seed(0))
    prior[:, :2] = 0
    prior[3] = 0
    prob = torch.full((K, 5, 5), 0.05)
    prob[3] = 0.85
    scan = weighted([Prediction("a", prob)], prior)
    theta = class_thresholds(scan, 1.0, K)
    assert theta[3] == 1
    assert bool(theta.isfinite().all())
    label = pseudo_labels(next(iter(scan)).prob, theta)
    assert bool((label[:2] == IGNORE).all())
    assert set(label[2:].unique().tolist()) <= {0, 1, 2}


# --- over a data set -------------------------------------------------------------------------------------------------


class Source:
    """Labels of different sizes with one thing in common: class 1 is the lower half."""

    def __init__(self, sizes: tuple[tuple[int, int], ...]) -> None:
        self.sizes, self.space = sizes, unnamed(3)
        self.names = tuple(f"{i}" for i in range(len(sizes)))

    def label(self, index: int) -> Tensor:
        height, width = self.sizes[index]
        label = torch.zeros(height, width, dtype=torch.uint8)
        label[height // 2 :] = 1
        return label


def test_any_size_meets_on_the_reference_grid() -> None:
    prior = SpatialPrior(kernel=4, height=40, rows=20).of(Source(((40, 60), (80, 120), (44, 60))))  # type: ignore[arg-type]
    assert prior.shape == (3, 20, 30)
    torch.testing.assert_close(prior.sum((1, 2)), torch.tensor([1.0, 1, 0]))
    assert prior[0, 2, 3] > 100 * prior[0, 17, 3]
    assert prior[1, 17, 3] > 100 * prior[1, 2, 3]


def test_the_kernel_grows_with_the_image() -> None:
    small, large = (SpatialPrior(height=100).of(Source((size,))) for size in ((50, 60), (200, 240)))  # type: ignore[arg-type]
    again = torch.nn.functional.avg_pool2d(large[None], 4)[0] * 16
    assert (again - small).abs().max() < 0.1 * small.max()


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return SmallNet(width=4, dilations=(1,)).build(3)


@pytest.mark.parametrize("selection", ["class_balanced", "global"])
def test_a_round_makes_the_prior_once_and_labels_by_it(selection: Any, tmp_path: Path) -> None:
    config = CBSTConfig(selection, portion=0.4, prior=SpatialPrior(kernel=3, height=12))
    rng = torch.Generator().manual_seed(1)
    scan = [Prediction(str(i), torch.randn(3, 12, 16, generator=rng).softmax(0)) for i in range(3)]
    source = Source(((12, 16),))
    for n in (1, 2):
        store = PseudoLabels(tmp_path / f"round-{n}", 3)
        config.build(network(), 10, 0).begin_round(n, scan, source, store)  # type: ignore[arg-type]
        source = None  # the second round reads what the first has kept
        labels = torch.stack([store.read(p.name) for p in scan])
        assert store.statistics()["predicted"][2] == 0
        assert not bool((labels == 2).any())
        # Class 1 is never seen in the upper third of the source, nor class 0 in the lower.
        assert set(labels[:, :4].unique().tolist()) <= {0, IGNORE}
        assert set(labels[:, 8:].unique().tolist()) <= {1, IGNORE}
        assert 0.3 < store.statistics()["coverage"] < 0.6
    assert (tmp_path / "spatial-prior.safetensors").is_file()


# --- bad input -----------------------------------------------------------------------------------------------------


def test_bad_labels_and_options_are_named() -> None:
    good = torch.zeros(3, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"label 2 .*wrong ids \[7\]; expected .*ids below 4"):
        spatial_prior([good, good + 7], K)
    with pytest.raises(DataError, match=r"label 2 .*size \(3, 2\).*expected size \(3, 3\)"):
        spatial_prior([good, good[:, :2]], K)
    with pytest.raises(DataError, match="there is none; expected at least 1"):
        spatial_prior([], K)
    with pytest.raises(ConfigError, match="kernel = 0"):
        spatial_prior([good], K, kernel=0)
    with pytest.raises(ConfigError, match="sigma = -1"):
        spatial_prior([good], K, sigma=-1)
    with pytest.raises(ConfigError, match="border = reflect: a kernel of 9 on"):
        spatial_prior([good], K, kernel=9, border="reflect")


@pytest.mark.parametrize(
    "options", [{"kernel": 0}, {"sigma": 0.0}, {"rows": 0}, {"border": "wrap"}, {"normalise": "no"}]
)
def test_bad_options_of_a_prior_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} = .*expected"):
        SpatialPrior(**options)
