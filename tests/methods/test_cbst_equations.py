from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.errors import ConfigError, SegshiftError
from segshift.methods.cbst import class_thresholds, global_threshold, portion_schedule, pseudo_labels
from segshift.parts.confidence import confidences, strided
from segshift.parts.order_statistics import nth_largest, portion_of
from segshift.types import IGNORE, Prediction

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference vectors are not here")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "cbst.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden_scan():
    maps = []
    for part in range(4):
        with np.load(GOLDEN / f"probabilities_{part}.npz") as file:
            maps.extend(torch.from_numpy(file["prob"]))
    return [Prediction(f"{i:02}", prob) for i, prob in enumerate(maps)]


def labels_of(scan, thresholds):
    return torch.stack([pseudo_labels(p.prob, thresholds) for p in scan]).numpy()


@needs_golden
@pytest.mark.parametrize("stride", [1, 4])
def test_cbst_equals_the_reference(golden, golden_scan, stride):
    thresholds = class_thresholds(golden_scan, 0.2, 19, stride)
    np.testing.assert_allclose(thresholds.numpy(), golden[f"stride{stride}_p20_cls_thresh"], rtol=0, atol=1e-6)
    differing = labels_of(golden_scan, thresholds) != golden[f"stride{stride}_p20_pseudo"]
    assert differing.mean() <= 1e-4


@needs_golden
@pytest.mark.parametrize("stride", [1, 4])
def test_st_equals_the_reference_once_its_zeros_are_counted(golden, golden_scan, stride):
    def read():
        for _, confidence, label in confidences(golden_scan):
            values = confidence.flatten()[strided(label, stride)]
            yield values, torch.zeros(len(values), dtype=torch.uint8)

    def rank(counts):  # the reference's lists hold one extra 0 a class and one for the pool
        return portion_of(0.2, counts + 20)

    expected = golden[f"global_stride{stride}_p20_cls_thresh"]
    theirs = nth_largest(read, 1, rank)
    np.testing.assert_allclose(theirs.numpy(), expected[:1], rtol=0, atol=1e-6)
    differing = labels_of(golden_scan, theirs.expand(19)) != golden[f"global_stride{stride}_p20_pseudo"]
    assert differing.mean() <= 1e-4
    # Ours is the same value without the zeros: four ranks higher, so never below theirs.
    ours = global_threshold(golden_scan, 0.2, stride)
    assert ours == nth_largest(read, 1, partial(portion_of, 0.2)).item()
    assert expected[0] - 1e-6 <= ours <= expected[0] + 5e-4


@needs_golden
def test_eq5_in_the_reference_is_eq8_where_thresholds_exceed_one_half(golden, golden_scan):
    thresholds = class_thresholds(golden_scan, 0.2, 19)
    assert thresholds.min() > 0.5
    assert (labels_of(golden_scan, thresholds) != golden["stride1_p20_plain_pseudo"]).mean() <= 1e-4


@st.composite
def scans(draw, classes=4):
    """A few small images of softmax probabilities; class `classes` - 1 is never predicted."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sharpness = draw(st.sampled_from([0.5, 2.0, 6.0]))
    scan = []
    for i in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        logits = sharpness * torch.randn(classes, *size, generator=generator)
        logits[-1] = -20.0
        logits = logits.round() if draw(st.booleans()) else logits  # rounded: ties
        scan.append(Prediction(str(i), logits.softmax(0)))
    return scan


PORTIONS = st.floats(0.01, 1)


@given(scans(), PORTIONS, PORTIONS, st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_thresholds_fall_as_the_portion_grows(scan, p, q, stride):
    low, high = sorted((p, q))
    assert (class_thresholds(scan, low, 4, stride) >= class_thresholds(scan, high, 4, stride)).all()
    assert global_threshold(scan, low, stride) >= global_threshold(scan, high, stride)


@given(scans(), st.floats(0.05, 1))
@settings(deadline=None, max_examples=60)
def test_eq8_with_equal_thresholds_is_eq5(scan, theta):
    for _, prob in ((p.name, p.prob) for p in scan):
        confidence, label = prob.max(0)
        eq5 = torch.where(confidence / theta >= 1, label, IGNORE)
        eq8 = pseudo_labels(prob, torch.full((4,), theta))
        # Two classes of equal probability may stand for one another.
        kept = eq8 != IGNORE
        assert torch.equal(kept, eq5 != IGNORE)
        assert torch.equal(prob.gather(0, eq8.where(kept, 0)[None])[0][kept], confidence[kept])


@given(scans(), PORTIONS)
@settings(deadline=None, max_examples=60)
def test_at_least_the_portion_of_each_class_is_kept(scan, portion):
    thresholds = class_thresholds(scan, portion, 4)
    predicted = torch.cat([p.prob.argmax(0).flatten() for p in scan])
    confidence = torch.cat([p.prob.amax(0).flatten() for p in scan])
    kept = torch.cat([pseudo_labels(p.prob, thresholds).flatten() for p in scan]) != IGNORE
    for c in range(4):
        n = int(portion_of(portion, (predicted == c).sum()[None])[0])
        assert (kept & (predicted == c)).sum() >= n
        strictly_above = (confidence[predicted == c] > thresholds[c]).sum()
        assert strictly_above < max(n, 1), "and no more than the portion lies above the threshold"


@given(scans(), PORTIONS, st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_stride_is_the_textbook_list(scan, portion, stride):
    pools = [[] for _ in range(4)]
    for p in scan:
        confidence, label = (t.flatten().tolist() for t in p.prob.max(0))
        for c in range(4):
            pools[c].extend([v for v, predicted in zip(confidence, label) if predicted == c][::stride])
    expected = []
    for pool in pools:
        n = int(portion_of(portion, torch.tensor([len(pool)]))[0])
        expected.append(sorted(pool, reverse=True)[n - 1] if n else 1.0)
    assert class_thresholds(scan, portion, 4, stride).tolist() == expected


def test_a_class_never_predicted_has_threshold_one():
    prob = torch.tensor([[[0.9, 0.8, 0.6, 0.7, 0.6]], [[0.1, 0.2, 0.4, 0.3, 0.4]]])
    scan = [Prediction("a", prob)]
    assert class_thresholds(scan, 0.2, 2).tolist() == [torch.tensor(0.9).item(), 1.0]
    assert class_thresholds(scan, 0.1, 2).tolist() == [1.0, 1.0], "floor(0.1 of 5) is 0: nothing selected"
    assert pseudo_labels(prob, class_thresholds(scan, 0.2, 2)).tolist() == [[0, 255, 255, 255, 255]]


def test_eq8_prefers_the_class_that_is_high_for_its_kind():
    prob = torch.tensor([[[0.6, 0.6]], [[0.4, 0.2]], [[0.0, 0.2]]])
    assert pseudo_labels(prob, torch.tensor([0.5, 0.25, 1.0])).tolist() == [[1, 0]]
    assert pseudo_labels(prob, torch.tensor([0.7, 0.5, 1.0])).tolist() == [[255, 255]]


def test_a_scan_may_offer_confidences_itself():
    class Fast:
        def __iter__(self):
            raise AssertionError("probabilities are not needed")

        def confidences(self):
            yield "a", torch.tensor([[0.5, 0.75]]), torch.tensor([[1, 1]])

        def merge(self, partial):
            return 2 * partial  # as if a second process held the same image

    assert class_thresholds(Fast(), 0.5, 2).tolist() == [1.0, 0.75]
    assert global_threshold(Fast(), 0.75) == 0.5


def test_the_schedule_is_the_papers():
    assert [portion_schedule(n) for n in range(1, 9)] == [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.5]
    with pytest.raises(ConfigError, match="counted from 1"):
        portion_schedule(0)


@pytest.mark.parametrize("portion", [0.0, -0.1, 1.01, float("nan")])
@pytest.mark.parametrize("call", [partial(class_thresholds, num_classes=2), global_threshold])
def test_a_bad_portion_is_named(call, portion):
    with pytest.raises(ConfigError, match=r"portion: .*expected a share"):
        call([], portion)


@pytest.mark.parametrize("stride", [0, -4])
def test_a_bad_stride_is_named(stride):
    with pytest.raises(ConfigError, match=r"stride: .*expected a whole number"):
        class_thresholds([], 0.2, 2, stride)


@pytest.mark.usefixtures("wrong_shapes")
def test_bad_predictions_are_named():
    broken = torch.full((2, 2, 2), 0.5)
    broken[1, 0, 1] = torch.nan
    with pytest.raises(SegshiftError, match="prediction of street7: a class probability is NaN"):
        class_thresholds([Prediction("street7", broken)], 0.2, 2)
    three = torch.tensor([0.1, 0.1, 0.8])[:, None, None]
    with pytest.raises(ConfigError, match="num_classes: 2; but the prediction of street8 has class 2"):
        class_thresholds([Prediction("street8", three)], 0.2, 2)
    with pytest.raises(ConfigError, match=r"thresholds: .*above 0"):
        pseudo_labels(three, torch.tensor([0.5, 0.0, 0.5]))
    with pytest.raises(ConfigError, match="3 classes"):
        pseudo_labels(three, torch.tensor([0.5, 0.5]))
