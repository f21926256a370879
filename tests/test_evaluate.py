"""Scores against figures worked out by hand, and what must hold for any labels."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segshift import evaluate
from segshift.errors import ConfigError, DataError
from segshift.evaluate import Scores, compare, confusion, plain, summary
from segshift.taxonomy import LabelSpace, distinct_colors

SPACE = LabelSpace("abcd", ("a", "b", "c", "d"), distinct_colors(4), {"ab": (0, 1), "cd": (2, 3)})


def label(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def scores(truth: torch.Tensor, predicted: torch.Tensor, space: LabelSpace = SPACE) -> Scores:
    return Scores(space, confusion([(truth, predicted)], len(space)), 1)


# c is predicted but never true; d is neither; one pixel is ignored.
TRUTH = label([[0, 0, 0, 0], [1, 1, 1, 255]])
PREDICTED = label([[0, 0, 0, 1], [1, 1, 2, 3]])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, list[tuple[torch.Tensor, torch.Tensor]]]:
    """A number of classes, and one to three pairs of labels with ignored pixels."""
    k = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    made = []
    for _ in range(draw(st.integers(1, 3))):
        size = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
        truth = rng.integers(0, k, size).astype(np.uint8)
        truth[rng.random(size) < 0.2] = 255
        made.append((torch.from_numpy(truth), torch.from_numpy(rng.integers(0, k, size).astype(np.uint8))))
    return k, made


def space_of(k: int) -> LabelSpace:
    return LabelSpace("any", tuple(f"class {i}" for i in range(k)), distinct_colors(k))


def test_confusion_by_hand():
    assert confusion([(TRUTH, PREDICTED)], 4).tolist() == [[3, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_figures_by_hand():
    s = scores(TRUTH, PREDICTED)
    assert s.iou[:3].tolist() == pytest.approx([3 / 4, 2 / 4, 0.0])
    assert math.isnan(s.iou[3])
    assert s.pixel_accuracy == pytest.approx(5 / 7)
    assert s.class_accuracy[:2].tolist() == pytest.approx([3 / 4, 2 / 3])  # CPSL Eq. 15
    assert s.mean_pixel_accuracy == pytest.approx((3 / 4 + 2 / 3) / 2)  # CPSL Eq. 16
    assert s.frequency_weighted_iou == pytest.approx(4 / 7 * 3 / 4 + 3 / 7 * 2 / 4)


def test_a_mean_is_over_the_classes_of_the_truth():
    s = scores(TRUTH, PREDICTED)
    assert s.occurs == (True, True, False, False)
    assert s.mean_iou() == s.mean_iou("ab") == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert math.isnan(s.mean_iou("cd"))
    assert s.counted() == (0, 1)
    with pytest.raises(ConfigError, match=r"subset 'synthia16'.*expected one of all, ab, cd"):
        s.mean_iou("synthia16")


@settings(deadline=None, max_examples=50)
@given(pairs())
def test_confusion_is_a_bincount(case):
    k, made = case
    expected = np.zeros((k, k), np.int64)
    for truth, predicted in made:
        t, p = truth.numpy(), predicted.numpy()
        expected += np.bincount(t[t != 255].astype(int) * k + p[t != 255], minlength=k * k).reshape(k, k)
    found = confusion(made, k)
    assert found.dtype == torch.int64
    assert np.array_equal(found.numpy(), expected)


@settings(deadline=None, max_examples=30)
@given(pairs(), st.sampled_from([torch.uint8, torch.int32, torch.int64]))
def test_confusion_is_that_of_torchmetrics(case, dtype):
    k, made = case
    truth = torch.cat([t.flatten() for t, _ in made]).long()
    predicted = torch.cat([p.flatten() for _, p in made]).long()
    # It knows no single class: one that never comes is added.
    expected = multiclass_confusion_matrix(predicted, truth, k + 1, ignore_index=255, validate_args=False)
    assert torch.equal(confusion([(t.to(dtype), p.to(dtype)) for t, p in made], k), expected[:k, :k])


def test_an_image_of_several_chunks(monkeypatch):
    """Counted in parts, the last one shorter, an id that is unknown in it found."""
    monkeypatch.setattr(evaluate, "_CHUNK", 7)
    rng = np.random.default_rng(0)
    truth, predicted = (torch.from_numpy(rng.integers(0, 4, (9, 5)).astype(np.uint8)) for _ in range(2))
    expected = np.bincount(truth.numpy().ravel() * 4 + predicted.numpy().ravel(), minlength=16).reshape(4, 4)
    assert np.array_equal(confusion([(truth, predicted)], 4).numpy(), expected)
    predicted[8, 4] = 4
    with pytest.raises(DataError, match=r"image 1: prediction holds id 4 \(1 pixels"):
        confusion([(truth, predicted)], 4)


@settings(deadline=None, max_examples=50)
@given(pairs(), st.randoms(use_true_random=False))
def test_renaming_classes_renames_ious(case, random):
    k, made = case
    order = list(range(k))
    random.shuffle(order)
    table = torch.full((256,), 255, dtype=torch.uint8)
    table[:k] = torch.tensor(order, dtype=torch.uint8)
    before = Scores(space_of(k), confusion(made, k), 1)
    after = Scores(space_of(k), confusion([(table[t.long()], table[p.long()]) for t, p in made], k), 1)
    torch.testing.assert_close(after.iou[order], before.iou, equal_nan=True)
    for figure in ("pixel_accuracy", "mean_pixel_accuracy", "frequency_weighted_iou"):
        assert getattr(after, figure) == pytest.approx(getattr(before, figure), nan_ok=True)
    assert after.mean_iou() == pytest.approx(before.mean_iou(), nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(pairs())
def test_a_perfect_prediction_scores_one(case):
    k, made = case
    s = Scores(space_of(k), confusion([(t, torch.where(t == 255, 0, t)) for t, _ in made], k), len(made))
    ious = s.iou[list(s.counted())]
    assert ious.tolist() == [1.0] * len(ious)
    if s.counted():
        means = [s.mean_iou(), s.pixel_accuracy, s.mean_pixel_accuracy, s.frequency_weighted_iou]
        assert means == pytest.approx([1.0] * 4)


@settings(deadline=None, max_examples=50)
@given(pairs(), st.integers(0, 255))
def test_ignored_pixels_never_change_a_score(case, anything):
    k, made = case
    changed = [(t, torch.where(t == 255, anything, p.int()).to(torch.uint8)) for t, p in made]
    assert torch.equal(confusion(made, k), confusion(changed, k))


@settings(deadline=None, max_examples=30)
@given(pairs())
def test_scores_survive_json(case):
    k, made = case
    s = Scores(space_of(k), confusion(made, k), len(made))
    written = json.dumps(s.to_dict(), allow_nan=False)
    again = Scores.from_dict(json.loads(written), "final.json")
    assert again.space == s.space
    assert json.dumps(again.to_dict()) == written


def test_nan_is_null_in_json():
    content = scores(TRUTH, PREDICTED).to_dict()
    assert content["iou"]["d"] is None
    assert content["miou"] == {"all": pytest.approx(0.625), "ab": pytest.approx(0.625), "cd": None}


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (label([[0, 7]]), label([[0, 1]]), r"image 1: truth holds id 7 .*expected 0 to 3, or 255"),
        (label([[0, 1]]), label([[0, 255]]), r"image 1: prediction holds id 255 "),
        (label([[0, 1]]).long() - 300, label([[0, 1]]), r"image 1: truth holds id -300 \(2 pixels"),
        (label([[0, 1]]), label([[0, 1]]).long() + 255, r"image 1: prediction holds id 255 \(2 pixels"),
        (label([[0, 1]]), label([[0], [1]]), r"truth has size \(1, 2\), prediction \(2, 1\)"),
    ],
)
def test_labels_that_cannot_be_scored(truth, predicted, message):
    with pytest.raises(DataError, match=message):
        confusion([(truth, predicted)], 4)


def test_no_image_is_an_error():
    with pytest.raises(DataError, match="no image to score"):
        confusion([], 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confusion": [[1, 2]]}, r"final\.json: .*shape \(1, 2\) for 4 classes"),
        ({"confusion": "x"}, r"final\.json: confusion"),
        ({"space": {}}, r"final\.json: expected a mapping"),
    ],
)
@pytest.mark.usefixtures("wrong_shapes")
def test_damaged_scores_name_their_file(change, message):
    with pytest.raises(DataError, match=message):
        Scores.from_dict({**scores(TRUTH, PREDICTED).to_dict(), **change}, "final.json")
    with pytest.raises(DataError, match=r"final\.json: space, confusion, images missing"):
        Scores.from_dict({}, "final.json")


def test_table_in_plain_text():
    weak = scores(TRUTH, PREDICTED)
    perfect = scores(TRUTH, torch.where(TRUTH == 255, 0, TRUTH))
    text = plain(compare({"source-only": weak, "oracle": perfect}, SPACE))
    lines = [line.split() for line in text.replace("│", " ").replace("┃", " ").splitlines()]
    assert ["a", "75.0", "100.0"] in lines
    assert ["d", "-", "-"] in lines
    assert ["mIoU", "all", "(2", "of", "4", "classes)", "62.5", "100.0"] in lines
    assert ["mIoU", "ab", "(2", "classes)", "62.5", "100.0"] in lines
    assert ["mIoU", "cd", "(0", "of", "2", "classes)", "-", "-"] in lines
    assert "IoU in percent, 1 image, label space abcd" in " ".join(text.split())
    assert ["mean", "pixel", "accuracy,", "all", "70.8", "100.0"] in lines
    assert summary(weak) == "mIoU all (2 of 4 classes) 62.5, mIoU ab (2 classes) 62.5, mIoU cd (0 of 2 classes) -"
    assert "\x1b" not in text


def test_the_best_is_bold_and_the_oracle_does_not_compete():
    weak = scores(TRUTH, PREDICTED)
    strong = scores(TRUTH, torch.where(TRUTH == 255, 0, TRUTH))
    table = compare({"source-only": weak, "[b]cbst": strong, "oracle (target labels)": strong}, SPACE)
    first = [next(iter(column.cells)) for column in table.columns]
    assert [cell.style for cell in first[1:]] == ["", "bold", ""]
    assert "[b]cbst" in plain(table)


def test_tables_refuse_other_classes():
    with pytest.raises(ConfigError, match="scores 'x' are over abcd, the table over any"):
        compare({"x": scores(TRUTH, PREDICTED)}, space_of(4))
    with pytest.raises(ConfigError, match="rows is empty"):
        compare({}, SPACE)
