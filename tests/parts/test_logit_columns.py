import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.parts import logit_bands, logit_columns
from segshift.parts.logit_bands import top1
from segshift.parts.logit_columns import Columns, confidences_within


@st.composite
def images(draw):
    """Float16 logits, many of them equal or nearly so, a size at or above theirs, and align_corners."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    k, height, width = draw(st.integers(1, 6)), draw(st.integers(1, 7)), draw(st.integers(1, 7))
    low = torch.randn(k, height, width, generator=generator) * draw(st.sampled_from([0.01, 1.0, 8.0, 3000.0]))
    if draw(st.booleans()):
        low = low.round()
    size = height * draw(st.integers(1, 9)) + draw(st.integers(0, 5)), width + draw(st.integers(0, 20))
    return low.half(), size, draw(st.booleans())


@given(images())
@settings(deadline=None, max_examples=100)
def test_bounds_hold_for_every_pixel(case):
    low, size, align_corners = case
    columns = Columns(low, size, align_corners)
    confidence, label = top1(low, size, align_corners)
    ends = columns.ends()
    sure = ends.sure[columns.above]
    assert (ends.label[columns.above] == label)[sure].all()
    assert (ends.least[columns.above] <= confidence)[sure].all()
    assert (ends.most[columns.above] >= confidence)[sure].all()


@given(images(), st.floats(0.05, 1.0), st.floats(0.0, 0.9))
@settings(deadline=None, max_examples=100)
def test_labels_are_those_of_all_pixels_computed(case, theta, spread):
    low, size, align_corners = case
    thresholds = torch.linspace(theta * (1 - spread), theta, len(low)).clamp_min(1e-3)
    found = logit_columns.balanced_labels(low, thresholds, size, align_corners)
    expected = logit_bands.balanced_labels(low, thresholds, size, align_corners)
    assert torch.equal(found.label, expected.label)
    assert torch.equal(found.predicted, expected.predicted)


@given(images(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=100)
def test_no_confidence_within_the_range_is_missed(case, seed):
    low, size, align_corners = case
    generator = torch.Generator().manual_seed(seed)
    confidence, label = top1(low, size, align_corners)
    # Ranges that begin or end at a confidence that occurs.
    least = confidence.flatten()[torch.randint(confidence.numel(), (len(low),), generator=generator)]
    most = least + torch.rand(len(low), generator=generator) * 0.3
    least[0] = torch.inf  # nothing is asked of a class
    found, labels = confidences_within(low, least, most, size, align_corners)

    def inside(values, classes):
        at = classes.long()
        kept = (values >= least[at]) & (values <= most[at])
        return sorted(zip(classes[kept].tolist(), values[kept].tolist()))

    assert inside(found, labels) == inside(confidence.flatten(), label.flatten())


def test_smooth_images_are_mostly_settled_by_their_ends():
    low = torch.zeros(3, 8, 8)
    low[0, :, :4], low[1, :, 4:] = 9.0, 9.0
    columns = Columns(low, (64, 64), align_corners=False)
    settled = logit_columns.balanced_labels(low, torch.full((3,), 0.9), (64, 64), align_corners=False)
    assert columns.ends().sure.float().mean() > 0.9
    assert set(settled.label.unique().tolist()) == {0, 1, 255}


def test_it_works_on_one_thread_and_leaves_the_number_as_it_was(monkeypatch):
    """Operations of microseconds: with a second thread they wait for it at each of them."""
    seen = []
    whole = Columns.ends

    def ends(columns):
        seen.append(torch.get_num_threads())
        return whole(columns)

    monkeypatch.setattr(Columns, "ends", ends)
    before, low = torch.get_num_threads(), torch.randn(3, 4, 4)
    torch.set_num_threads(2)
    try:
        logit_columns.balanced_labels(low, torch.full((3,), 0.9), (32, 32), align_corners=False)
        confidences_within(low, torch.zeros(3), torch.ones(3), (32, 32), align_corners=False)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]
