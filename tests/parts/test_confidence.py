import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from segshift.errors import DataError
from segshift.methods.cbst import class_thresholds, pseudo_labels
from segshift.parts import confidence as module
from segshift.parts.confidence import balanced_labels, confidences, strided, top1
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
    label = balanced_labels(maps, thresholds, size, align_corners, average)
    expected = pseudo_labels(ratio * thresholds[:, None, None], thresholds)
    for y, x in (label != expected).nonzero().tolist():
        first, second = ratio[:, y, x].topk(2).values.tolist()
        assert abs(first - 1) < ROUNDING or first - second < ROUNDING * first


def test_of_equal_probabilities_the_first_class_is_taken():
    logits = torch.tensor([1.0, 3.0, 3.0, 2.0])[:, None, None].expand(4, 2, 2)
    assert (top1(logits, (5, 3))[1] == 1).all()
    assert (balanced_labels(logits, torch.full((4,), 0.3), (5, 3)) == 1).all()


def test_bands_leave_no_trace(monkeypatch):
    low = 3 * torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    thresholds = torch.tensor([0.3, 0.4, 0.5, 0.6, 0.7])
    whole = top1(low, (48, 56)), balanced_labels(low, thresholds, (48, 56))
    monkeypatch.setattr(module, "_BAND_BYTES", 1)
    rows = top1(low, (48, 56)), balanced_labels(low, thresholds, (48, 56))
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
        selected = balanced_labels(low, thresholds, (64, 64)) != IGNORE
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


def test_confidences_of_a_list_are_maximum_and_argmax():
    prob = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(2)).softmax(0)
    (entry,) = confidences([Prediction("a", prob)])
    assert entry.name == "a"
    assert torch.equal(entry.confidence, prob.amax(0))
    assert torch.equal(entry.label.long(), prob.argmax(0))


def test_nan_is_reported_by_the_name_of_its_image():
    low = torch.zeros(3, 2, 2)
    low[1, 0, 0] = torch.nan

    class Scan(list[Prediction]):
        def confidences(self):
            yield "b", *top1(low, (4, 4))

    with pytest.raises(DataError, match="prediction of b: a class probability is NaN"):
        list(confidences(Scan()))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 5))
@settings(deadline=None)
def test_strided_is_every_nth_pixel_of_a_class(label, stride):
    expected = [i for c in range(4) for i in [j for j, value in enumerate(label) if value == c][::stride]]
    assert strided(torch.tensor([label], dtype=torch.uint8), stride).tolist() == expected
