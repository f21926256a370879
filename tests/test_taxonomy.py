"""Label spaces of the public data sets, smaller spaces made of subsets, and merges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from segshift.errors import ConfigError, DataError
from segshift.taxonomy import CITYSCAPES, IGNORE, LOVEDA, MERGES, NTHU13, LabelSpace, Merge, id_table, subset_space


def test_synthia_16_and_13_as_spaces_of_their_own():
    space, table = subset_space(CITYSCAPES, "synthia16")
    assert (space.name, len(space)) == ("synthia16", 16)
    gone = {"terrain", "truck", "train"}
    assert space.classes == tuple(name for name in CITYSCAPES.classes if name not in gone)
    for old, name in enumerate(CITYSCAPES.classes):
        new = int(table[old])
        assert new == IGNORE if name in gone else space.classes[new] == name
        assert name in gone or space.colors[new] == CITYSCAPES.colors[old]
    thirteen = [space.classes[i] for i in space.subsets["synthia13"]]
    assert thirteen == [CITYSCAPES.classes[i] for i in CITYSCAPES.subsets["synthia13"]]
    assert set(space.classes) - set(thirteen) == {"wall", "fence", "pole"}
    assert space.subsets["synthia16"] == space.subsets["all"]
    assert table[IGNORE] == IGNORE and (table[19:] == IGNORE).all()


def test_subset_within_a_subset():
    sixteen, first = subset_space(CITYSCAPES, "synthia16")
    direct, table = subset_space(CITYSCAPES, "synthia13")
    nested, second = subset_space(sixteen, "synthia13")
    assert nested.classes == direct.classes
    np.testing.assert_array_equal(second[first], table)
    assert "synthia16" not in direct.subsets


def test_all_is_the_space_itself():
    space, table = subset_space(CITYSCAPES, "all")
    assert space is CITYSCAPES
    np.testing.assert_array_equal(table, id_table({i: i for i in range(19)}))


def test_unknown_subset_names_those_there_are():
    with pytest.raises(
        ConfigError, match="'synthia15' are no subset of cityscapes; expected one of all, synthia16, sy"
    ):
        subset_space(CITYSCAPES, "synthia15")


@hypothesis_settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True))
def test_every_subset_keeps_its_classes_and_ignores_the_rest(ids):
    names = tuple(f"c{i}" for i in range(10))
    space = LabelSpace("ten", names, ((0, 0, 0),) * 10, {"some": tuple(ids)})
    small, table = subset_space(space, "some")
    assert [small.classes[new] for new in table[ids]] == [names[i] for i in ids]
    assert (np.delete(table, ids) == IGNORE).all()


def test_nthu13_merges_as_the_paper_says():
    merge = MERGES["nthu13"]
    expected = {name: name for name in NTHU13.classes}
    expected |= {"pole": "building", "fence": "building", "wall": "building", "truck": "car", "terrain": "vegetation"}
    expected["train"] = "none of the 13"
    assert {name: merge.space.classes[merge.table[i]] for i, name in enumerate(CITYSCAPES.classes)} == expected
    assert merge.table[IGNORE] == IGNORE and (merge.table[19:] == IGNORE).all()
    assert [merge.space.classes[i] for i in merge.space.subsets["nthu13"]] == list(NTHU13.classes)


def test_colours_of_the_shared_classes_are_those_of_cityscapes():
    colors = dict(zip(CITYSCAPES.classes, CITYSCAPES.colors))
    assert all(colors[name] == color for name, color in zip(NTHU13.classes, NTHU13.colors))
    assert len(LOVEDA) == len(set(LOVEDA.colors)) == 7


def test_merge_into_an_id_that_is_not_there():
    table = id_table({0: 13})
    with pytest.raises(DataError, match="merge odd: expected 256 ids of uint8 below 13"):
        Merge("odd", NTHU13, table)
