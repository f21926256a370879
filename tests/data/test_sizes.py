"""Images that no run could work on are named before the first step, by what they would become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segshift.data.sizes import Sizes
from segshift.data.transforms import working_size
from segshift.recipes import find


def test_a_thin_image_would_become_a_huge_one() -> None:
    assert Sizes(512).fault((100, 400)) == ""
    text = Sizes(512).fault((1, 5000))
    assert text.startswith("is 1x5000 pixels (height x width), and would be worked on at 512x2560000 with a shorter")
    assert "--data.short-side" in text and "--max-pixels" in text
    assert Sizes(None).fault((1, 5000)) == ""  # at its own size it is small
    assert Sizes(512, most=512 * 2_560_000).fault((1, 5000)) == ""


def test_a_tiny_image_is_named_with_the_side_it_needs() -> None:
    assert "needs a shorter side of 9" in Sizes(None, smallest=9).fault((8, 200))
    assert Sizes(None, smallest=9).fault((9, 9)) == ""
    assert Sizes(48, smallest=9).fault((1, 1)) == ""  # it is resized


@given(
    size=st.tuples(st.integers(1, 40_000), st.integers(1, 40_000)),
    short_side=st.none() | st.integers(16, 2048),
    smallest=st.integers(1, 40),
)
def test_what_passes_can_be_worked_on(size: tuple[int, int], short_side: int | None, smallest: int) -> None:
    sizes = Sizes(short_side, smallest, most=10**7)
    height, width = working_size(size, short_side)
    assert (sizes.fault(size) == "") == (height * width <= 10**7 and min(height, width) >= smallest)


@pytest.mark.parametrize("name", ["own/cbst", "own/iast", "gta5-cityscapes-resnet38/cbst"])
def test_a_recipe_says_what_its_network_needs(name: str) -> None:
    recipe = find(name)
    views = [recipe.test, *(phase.scan for _, phase in recipe.phases())]
    least = recipe.smallest_side
    for view in views:
        assert all(round(least * scale) >= recipe.network.minimum_size for scale in view.scales)
