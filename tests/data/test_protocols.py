"""Data sets as a protocol looks at them: folds, fewer classes, classes merged for scoring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.data.dataset import LabelledDataset, Unlabelled
from segshift.data.protocols import (
    Renumbered,
    ScoredAs,
    SomeImages,
    SomeLabelled,
    fold_indices,
    labelled_indices,
    merge_of,
    notes_of,
    scored_space,
)
from segshift.errors import ConfigError
from segshift.taxonomy import CAMVID, CITYSCAPES, IGNORE, LabelSpace, subset_space


class Numbers:
    """Images and labels that carry their own index."""

    def __init__(self, count: int, space: LabelSpace = CITYSCAPES, content: str = "a") -> None:
        self.names = tuple(f"{i:03d}" for i in range(count))
        self.space, self.content, self.notes = space, content, ["odd but handled"]

    def image(self, index: int) -> torch.Tensor:
        return torch.full((3, 2, 2), index, dtype=torch.uint8)

    def label(self, index: int) -> torch.Tensor:
        return torch.tensor([[index, IGNORE], [8, 9]], dtype=torch.uint8)

    def fingerprint(self) -> str:
        return self.content


@settings(max_examples=60)
@given(st.integers(2, 12), st.integers(0, 60))
def test_folds_share_out_all_images(folds: int, more: int) -> None:
    count = folds + more
    cut = [fold_indices(count, folds, fold) for fold in range(folds)]
    assert sorted(i for _, inside in cut for i in inside) == list(range(count))
    for rest, inside in cut:
        assert sorted(rest + inside) == list(range(count))
        assert rest == sorted(rest) and count // folds <= len(inside) <= count // folds + 1


def test_the_folds_of_the_paper() -> None:
    rest, inside = fold_indices(100, 10, 3)
    assert inside == [3, 13, 23, 33, 43, 53, 63, 73, 83, 93]
    assert len(rest) == 90


@settings(max_examples=100)
@given(st.integers(2, 200), st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.integers(0, 5))
def test_a_share_of_the_images_is_labelled(count: int, small: float, large: float, seed: int) -> None:
    small, large = sorted((small, large))
    labelled, rest = labelled_indices(count, small, seed)
    assert sorted(labelled + rest) == list(range(count))
    assert (labelled, rest) == (sorted(labelled), sorted(rest))
    assert 1 <= len(labelled) < count
    assert abs(len(labelled) - small * count) <= 0.5 or len(labelled) in (1, count - 1)
    assert set(labelled) <= set(labelled_indices(count, large, seed)[0])


def test_which_images_are_labelled_is_the_seeds() -> None:
    """The same on every machine: recorded once."""
    assert labelled_indices(16, 0.25, 0)[0] == [0, 2, 7, 11]
    assert len({tuple(labelled_indices(100, 0.25, seed)[0]) for seed in range(20)}) == 20
    counts = np.bincount([i for seed in range(400) for i in labelled_indices(20, 0.25, seed)[0]], minlength=20)
    assert counts.min() > 60 and counts.max() < 140  # 100 each on average


def test_some_images_have_no_labels_and_their_own_fingerprint() -> None:
    whole = Numbers(5)
    some = SomeImages(whole, [4, 1])
    assert some.names == ("004", "001")
    assert some.image(0).unique().tolist() == [4]
    assert not hasattr(some, "label") and not hasattr(Unlabelled(SomeLabelled(whole, [1])), "label")
    prints = {SomeLabelled(w, i).fingerprint() for w in (whole, Numbers(5, content="b")) for i in ([4, 1], [1, 4], [1])}
    assert len(prints) == 6
    assert some.fingerprint() == SomeLabelled(whole, [4, 1]).fingerprint()
    assert "2 of the images of" in repr(some)


def test_some_labelled_images_are_a_data_set() -> None:
    some = SomeLabelled(Numbers(5), [2, 3])
    assert isinstance(some, LabelledDataset)
    assert some.label(1)[0].tolist() == [3, IGNORE]
    assert (some.space, notes_of(some)) == (CITYSCAPES, ["odd but handled"])
    assert notes_of(SomeImages(Numbers(5), [2])) == []


def test_classes_of_a_subset_are_renumbered_and_others_ignored() -> None:
    space, table = subset_space(CITYSCAPES, "synthia13")
    whole = Numbers(19)
    fewer = Renumbered(whole, space, table)
    assert isinstance(fewer, LabelledDataset)
    for i, name in enumerate(CITYSCAPES.classes):
        expected = space.classes.index(name) if name in space.classes else IGNORE
        vegetation = space.classes.index("vegetation")  # id 8; terrain, id 9, is none of the 13
        assert fewer.label(i).tolist() == [[expected, IGNORE], [vegetation, IGNORE]]
    assert fewer.fingerprint() not in (
        whole.fingerprint(),
        Renumbered(whole, *subset_space(CITYSCAPES, "all")).fingerprint(),
    )
    assert (fewer.names, notes_of(fewer)) == (whole.names, whole.notes)


def test_merges_are_by_name_for_every_space_of_cityscapes_classes() -> None:
    whole, fewer = merge_of(CITYSCAPES, "nthu13"), merge_of(subset_space(CITYSCAPES, "synthia16")[0], "nthu13")
    for i, name in enumerate(subset_space(CITYSCAPES, "synthia16")[0].classes):
        assert fewer.table[i] == whole.table[CITYSCAPES.classes.index(name)]
    assert whole.space.classes[whole.table[CITYSCAPES.classes.index("pole")]] == "building"
    assert fewer.table[IGNORE] == IGNORE
    with pytest.raises(
        ConfigError, match="score_as = 'nthu13' merges classes of Cityscapes, but tree, sign, pedestrian"
    ):
        merge_of(CAMVID, "nthu13")
    with pytest.raises(ConfigError, match=r"score_as = 'nthu'; expected own .*nthu13"):
        merge_of(CITYSCAPES, "nthu")


def test_a_merged_test_set_keeps_the_labels_of_the_model() -> None:
    whole = Numbers(3)
    test = ScoredAs(whole, merge_of(CITYSCAPES, "nthu13"))
    assert isinstance(test, LabelledDataset)
    assert test.label(2).equal(whole.label(2))
    assert (test.space, scored_space(test).name, scored_space(whole)) == (CITYSCAPES, "nthu13", CITYSCAPES)
    assert (test.fingerprint(), notes_of(test)) == (whole.fingerprint(), whole.notes)
    assert np.array_equal(test.classes.table[test.label(2).numpy()], [[2, IGNORE], [5, 5]])
