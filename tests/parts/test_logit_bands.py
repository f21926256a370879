import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from segshift.methods.cbst import class_thresholds, pseudo_labels
from segshift.parts import logit_bands as module
from segshift.parts.logit_bands import balanced_labels, most_probable, probability_bands, top1
from segshift.types import IGNORE, Prediction

ROUNDING = 1e-5


def upsampled(low, size, align_corners):
    return interpolate(low.float()[None], size, mode="bilinear", align_corners=align_corners)[0]


def softmax_map(maps, size, align_corners, average="probabilities"):
    """The plain way: whole maps at full size."""
    full = [upsampled(low, size, align_corners) for low in maps]
    if average == "logits":
        return torch.stack(full).mean(0).softmax(0)
    return torch.stack([logits.softmax(0) for logits in full]).mean(0)


@st.composite
def cases(draw):
    """One or more float16 maps, a size, align_corners, and what to average."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    side = st.integers(1, 9)
    k = draw(st.integers(2, 6))
    sharpness = draw(st.sampled_from([0.1, 1.0, 7.0]))
    maps = [
        (sharpness * torch.randn(k, draw(side), draw(side), generator=generator)).half()
        for _ in range(draw(st.integers(1, 3)))
    ]
    size = (draw(st.integers(1, 33)), draw(st.integers(1, 33)))
    return maps, size, draw(st.booleans()), draw(st.sampled_from(["probabilities", "logits"]))


@given(cases())
@settings(deadline=None, max_examples=150)
def test_top1_is_the_maximum_of_the_softmax_map(case):
    maps, size, align_corners, average = case
    prob = softmax_map(maps, size, align_corners, average)
    confidence, label = top1(maps if len(maps) > 1 else maps[0], size, align_corners, average)
    assert confidence.dtype == torch.float32
    assert label.dtype == torch.uint8
    torch.testing.assert_close(confidence, prob.amax(0), rtol=ROUNDING, atol=0)
    # The label's own probability is the largest, to rounding.
    torch.testing.assert_close(prob.gather(0, label[None].long())[0], prob.amax(0), rtol=ROUNDING, atol=0)


@given(cases(), st.floats(0.02, 0.95), st.integers(0, 2**31))
@settings(deadline=None, max_examples=150)
def test_balanced_labels_are_eq8_on_the_softmax_map(case, floor, seed):
    maps, size, align_corners, average = case
    generator = torch.Generator().manual_seed(seed)
    thresholds = floor + (1 - floor) * torch.rand(len(maps[0]), generator=generator)
    ratio = softmax_map(maps, size, align_corners, average) / thresholds[:, None, None]
    label = balanced_labels(maps, thresholds, size, align_corners, average).label
    expected = pseudo_labels(ratio * thresholds[:, None, None], thresholds)
    for y, x in (label != expected).nonzero().tolist():
        first, second = ratio[:, y, x].topk(2).values.tolist()
        assert abs(first - 1) < ROUNDING or first - second < ROUNDING * first


@given(cases())
@settings(deadline=None, max_examples=150)
def test_the_most_probable_class_needs_no_probabilities(case):
    maps, size, align_corners, average = case
    prob = softmax_map(maps, size, align_corners, average)
    label = most_probable(maps, size, align_corners, average)
    torch.testing.assert_close(prob.gather(0, label[None].long())[0], prob.amax(0), rtol=ROUNDING, atol=0)


def test_of_equal_probabilities_the_first_class_is_taken():
    logits = torch.tensor([1.0, 3.0, 3.0, 2.0])[:, None, None].expand(4, 2, 2)
    assert (top1(logits, (5, 3))[1] == 1).all()
    assert (balanced_labels(logits, torch.full((4,), 0.3), (5, 3)).label == 1).all()


def test_bands_leave_no_trace(monkeypatch):
    low = 3 * torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    thresholds = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7])
    whole = top1(low, (48, 56)), balanced_labels(low, thresholds, (48, 56)).label
    monkeypatch.setattr(module, "BAND_BYTES", 1)
    rows = top1(low, (48, 56)), balanced_labels(low, thresholds, (48, 56)).label
    torch.testing.assert_close(whole[0][0], rows[0][0], rtol=1e-6, atol=0)
    assert torch.equal(whole[0][1], rows[0][1])
    assert torch.equal(whole[1], rows[1])
    assert (whole[1] != IGNORE).any()


@pytest.mark.parametrize("sharpness", [0.5, 5.0], ids=["thresholds below a half", "above"])
def test_thresholds_keep_the_very_pixels_they_were_counted_from(sharpness):
    generator = torch.Generator().manual_seed(1)
    maps = [(sharpness * torch.randn(3, 8, 8, generator=generator)).half() for _ in range(4)]

    class Scan(list[Prediction]):
        def confidences(self):
            return ((str(i), *top1(low, (64, 64))) for i, low in enumerate(maps))

    thresholds = class_thresholds(Scan(), 0.2, 3)
    kept = predicted = above = torch.zeros(3, dtype=torch.int64)
    for low in maps:
        confidence, label = top1(low, (64, 64))
        selected = balanced_labels(low, thresholds, (64, 64)).label != IGNORE
        predicted = predicted + torch.bincount(label.flatten(), minlength=3)
        kept = kept + torch.bincount(label[selected], minlength=3)
        above = above + torch.bincount(label[confidence >= thresholds[label.long()]], minlength=3)
    assert (above >= (predicted * 0.2).long()).all()
    # Below a half, a pixel may be kept as another class than the most probable; none that counted is lost.
    assert (kept >= above).all()
    assert torch.equal(kept, above) or thresholds.min() <= 0.5


def test_the_number_of_threads_changes_no_bit_and_stays_as_it_was():
    low = 3 * torch.randn(19, 16, 32, generator=torch.Generator().manual_seed(3))
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(top1(low, (128, 250))[0])
            assert torch.get_num_threads() == threads
        assert torch.equal(*found)
    finally:
        torch.set_num_threads(before)


@given(cases(), st.floats(0.02, 0.95))
@settings(deadline=None, max_examples=100)
def test_looking_at_contested_pixels_alone_changes_no_label(case, floor):
    maps, size, align_corners, average = case
    thresholds = torch.linspace(floor, 1, len(maps[0]))
    found = balanced_labels(maps, thresholds, size, align_corners, average)
    # A prior that is 1 everywhere changes no probability, and every pixel is looked at under one.
    everywhere = balanced_labels(maps, thresholds, size, align_corners, average, torch.ones(len(maps[0]), 2, 2))
    assert torch.equal(found.label, everywhere.label)
    assert torch.equal(found.predicted, everywhere.predicted)
    assert torch.equal(found.predicted, top1(maps, size, align_corners, average)[1])


@given(cases())
@settings(deadline=None, max_examples=50)
def test_rows_filled_at_once_as_on_a_gpu_are_the_same(case):
    maps, size, align_corners, _ = case
    by_rows = module.Upsampled(maps[0], size, align_corners)
    at_once = module.Upsampled(maps[0], size, align_corners, grouped=False)
    top = size[0] // 3
    out = torch.empty(2, len(maps[0]), size[0] - top, size[1])
    assert torch.equal(by_rows.fill(out[0], top), at_once.fill(out[1], top))


@given(cases())
@settings(deadline=None, max_examples=100)
def test_probability_bands_are_the_softmax_map(case):
    maps, size, align_corners, average = case
    found = torch.full((len(maps[0]), *size), torch.nan)
    for band in probability_bands(maps, size, align_corners, average):
        found[:, band.rows] = band.prob
        assert torch.equal(band.confidence, band.prob.amax(0))
        assert (band.prob.gather(0, band.label[None].long())[0] == band.confidence).all()
    torch.testing.assert_close(found, softmax_map(maps, size, align_corners, average), rtol=2e-5, atol=1e-30)
