"""Details count what the confusion matrix counts, and confidences are those of the prediction."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segshift.errors import RunError
from segshift.evaluate import Scores, confusion
from segshift.models.segmenter import upsample
from segshift.parts.logit_bands import most_probable
from segshift.scored_details import BINS, EVERY, Details, DetailsCounter, details_file, read_details, write_details
from segshift.taxonomy import LabelSpace

K = 4
SPACE = LabelSpace("few", tuple("abcd"), tuple((i, i, i) for i in range(K)))
NAMES = ("a", "b", "c")


def images(count: int = 3, size: tuple[int, int] = (22, 30), views: int = 1, seed: int = 0):
    """(maps, truth, label) of random images."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        maps = [3 * torch.randn(K, 6, 8, generator=generator) for _ in range(views)]
        truth = torch.randint(0, K + 1, size, generator=generator).to(torch.uint8)
        truth[truth == K] = 255
        found.append((maps, truth, most_probable(maps, size)))
    return found


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_confidences_are_those_of_the_full_softmax_where_it_looks(average, align_corners):
    [(maps, truth, _)] = images(1, views=2)
    size = (truth.shape[0], truth.shape[1])
    full = [upsample(low[None], size, align_corners)[0] for low in maps]
    if average == "logits":
        prob = torch.stack(full).mean(0).softmax(0)
    else:
        prob = torch.stack([f.softmax(0) for f in full]).mean(0)
    confidence, label = prob.max(0)
    counter = DetailsCounter(1, K, align_corners=align_corners, average=average)
    counter.see(0, maps, truth, label.to(torch.uint8))
    bins = counter.details(["a"]).bins
    at = (slice(EVERY // 2, None, EVERY),) * 2
    known = truth[at] != 255
    number = (confidence[at][known].double() * BINS).long().clamp_max(BINS - 1)
    assert bins[:, 0].tolist() == torch.bincount(number, minlength=BINS).tolist()
    assert float(bins[:, 1].sum()) == pytest.approx(float(confidence[at][known].sum()), rel=1e-5)
    assert int(bins[:, 2].sum()) == int((label[at] == truth[at])[known].sum())


def test_images_add_up_to_the_scores():
    found = images()
    counter = DetailsCounter(3, K)
    for i, (maps, truth, label) in enumerate(found):
        counter.see(i, maps, truth, label)
    details = counter.details(NAMES)
    scores = Scores(SPACE, confusion([(truth, label) for _, truth, label in found], K), 3)
    assert float(details.images[:, 1].sum() / details.images[:, 0].sum()) == scores.pixel_accuracy
    for i, (_, truth, label) in enumerate(found):
        alone = Scores(SPACE, confusion([(truth, label)], K), 1)
        assert details.miou[i] == pytest.approx(alone.mean_iou())
        assert details.accuracy[i] == alone.pixel_accuracy


def test_shares_of_the_images_add_up_to_the_whole():
    found = images()
    whole = DetailsCounter(3, K)
    parts = [DetailsCounter(3, K) for _ in range(2)]
    for i, image in enumerate(found):
        whole.see(i, *image)
        parts[i % 2].see(i, *image)
    a, b = (part.details(NAMES) for part in parts)
    joined, expected = Details(NAMES, a.images + b.images, a.bins + b.bins), whole.details(NAMES)
    assert torch.equal(joined.images, expected.images)
    torch.testing.assert_close(joined.bins, expected.bins)


def test_a_merged_class_is_as_probable_as_what_it_is_made_of():
    table = torch.full((256,), 255, dtype=torch.uint8)
    table[:K] = torch.tensor([0, 0, 1, 1], dtype=torch.uint8)
    logits = torch.log(torch.tensor([0.3, 0.35, 0.25, 0.1])).view(K, 1, 1).expand(K, 2, 2)
    label = torch.zeros(8, 8, dtype=torch.uint8)
    counter = DetailsCounter(1, 2, table)
    counter.see(0, [logits], label, label)
    bins = counter.details(["a"]).bins
    assert bins[int(0.65 * BINS)].tolist() == pytest.approx([4, 4 * 0.65, 4])


def test_an_image_without_truth_has_no_figure(tmp_path: Path):
    counter = DetailsCounter(1, K)
    [(maps, truth, label)] = images(1)
    counter.see(0, maps, torch.full_like(truth, 255), label)
    write_details(tmp_path, "final", counter.details(["a"]))
    found = read_details(tmp_path, "final")
    assert found is not None and math.isnan(found.miou[0]) and float(found.bins.sum()) == 0


@given(st.lists(st.tuples(st.integers(0, 90), st.floats(0, 1), st.floats(0, 1)), min_size=BINS, max_size=BINS))
def test_the_error_is_a_mean_distance(rows):
    bins = torch.tensor([[n, n * confidence, round(n * right)] for n, confidence, right in rows], dtype=torch.float64)
    if bins[:, 0].sum() == 0:
        return
    ece = Details((), torch.zeros(0, 3, dtype=torch.float64), bins).ece
    assert 0 <= ece <= 1 + 1e-9
    perfect = bins.clone()
    perfect[:, 1] = perfect[:, 2]
    assert Details((), torch.zeros(0, 3, dtype=torch.float64), perfect).ece == 0


def test_they_are_read_as_they_were_written(tmp_path: Path):
    counter = DetailsCounter(3, K)
    for i, image in enumerate(images()):
        counter.see(i, *image)
    details = counter.details(("x/1", "x/2", "\N{SNOWMAN}"))
    write_details(tmp_path, "warmup", details)
    found = read_details(tmp_path, "warmup")
    assert found is not None and tuple(found.names) == tuple(details.names)
    assert torch.equal(found.images, details.images) and torch.equal(found.bins, details.bins)
    assert read_details(tmp_path, "final") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: "[]", "expected"),
        (lambda _: "{", "cannot be read"),
        (lambda c: json.dumps({**c, "images": [{"name": 3}]}), "images"),
        (lambda c: json.dumps({**c, "calibration": {**c["calibration"], "right": [1]}}), "bins; expected as many"),
    ],
)
def test_damaged_details_are_named(tmp_path: Path, change, said):
    counter = DetailsCounter(3, K)
    for i, image in enumerate(images()):
        counter.see(i, *image)
    write_details(tmp_path, "final", counter.details(NAMES))
    file = details_file(tmp_path, "final")
    file.write_text(change(json.loads(file.read_text())))
    with pytest.raises(RunError, match=said) as caught:
        read_details(tmp_path, "final")
    assert str(file) in str(caught.value)
