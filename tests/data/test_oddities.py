"""What is odd, though it can be used: each oddity is found, and what is ordinary is passed over."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from segshift.data.oddities import DARK, SMALL, alias, clashes, notes, of_image, of_label


def image(height: int, width: int, low: int, high: int) -> torch.Tensor:
    return torch.randint(low, high, (3, height, width), dtype=torch.uint8)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 255))
def test_blank_whatever_size_and_colour(height: int, width: int, grey: int) -> None:
    blank = torch.full((3, height, width), grey, dtype=torch.uint8)
    blank[1] = 255 - grey
    assert any("is blank" in text for text in of_image(blank))
    if height * width > 1:
        blank[0, -1, -1] = (grey + 1) % 256
        assert not any("is blank" in text for text in of_image(blank))


def test_one_bright_pixel_that_a_first_look_misses() -> None:
    dark = torch.zeros(3, 64, 64, dtype=torch.uint8)
    dark[:, 5, 7] = 200
    assert of_image(dark) == []


def test_nearly_black() -> None:
    (text,) = of_image(image(40, 40, 0, DARK))
    assert text.startswith("is nearly black")
    assert of_image(image(40, 40, 0, DARK + 40)) == []
    # A foggy picture is as flat, and is none.
    assert of_image(image(40, 40, 180, 180 + DARK)) == []


def test_small() -> None:
    for height, width in ((SMALL - 1, 100), (100, SMALL - 1)):
        assert of_image(image(height, width, 0, 256)) == [f"is smaller than {SMALL} pixels on a side"]
    assert of_image(image(SMALL, SMALL, 0, 256)) == []
    assert len(of_image(torch.zeros(3, 1, 1, dtype=torch.uint8))) == 2


def test_a_label_that_ignores_everything() -> None:
    pixels = np.zeros(256, np.int64)
    pixels[255] = 12
    assert of_label(pixels) == ["is 255 (ignored) everywhere"]
    pixels[3] = 1
    assert of_label(pixels) == []


def test_names_that_a_file_system_may_take_for_one() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert alias(composed) == alias(decomposed)
    assert clashes(["a/Tree", composed, "b/tree", "a/tree", decomposed]) == [
        ("a/Tree", "a/tree"),
        (composed, decomposed),
    ]
    assert clashes(["tree", "tree_"]) == []


def test_a_note_names_the_first_files_and_counts_all() -> None:
    told = notes({"is blank": [f"{i}.png" for i in range(7)], "is small": ["x.png"]})
    assert told == [
        "0.png: is blank; 7 such file(s) in all, such as 1.png, 2.png, 3.png, 4.png",
        "x.png: is small; 1 such file(s) in all",
    ]
