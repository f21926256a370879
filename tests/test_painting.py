"""Colours land where the label says, alone and over an image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segshift.errors import ConfigError
from segshift.painting import colorize, overlay
from segshift.taxonomy import CAMVID

LABEL = np.array([[0, 3, 3], [8, 255, 0]], np.uint8)


def test_colorize_follows_the_palette():
    colored = colorize(LABEL, CAMVID)
    assert colored.shape == (2, 3, 3)
    assert colored.dtype == np.uint8
    assert tuple(colored[0, 1]) == CAMVID.colors[3]
    assert tuple(colored[1, 1]) == (0, 0, 0)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 1), st.integers(0, 2**32))
def test_overlay_lies_between_image_and_label(alpha, seed):
    image = np.random.default_rng(seed).integers(0, 256, (2, 3, 3)).astype(np.uint8)
    colored = colorize(LABEL, CAMVID)
    blended = overlay(image, LABEL, CAMVID, alpha)
    assert (blended >= np.minimum(image, colored))[LABEL != 255].all()
    assert (blended <= np.maximum(image, colored))[LABEL != 255].all()
    assert np.array_equal(blended[LABEL == 255], image[LABEL == 255])


def test_overlay_ends():
    image = np.full((2, 3, 3), 77, np.uint8)
    assert np.array_equal(overlay(image, LABEL, CAMVID, 0), image)
    full = overlay(image, LABEL, CAMVID, 1)
    assert np.array_equal(full[LABEL != 255], colorize(LABEL, CAMVID)[LABEL != 255])


@pytest.mark.usefixtures("wrong_shapes")
def test_overlay_says_what_does_not_fit():
    image = np.zeros((2, 3, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"label has size \(1, 3\), image \(2, 3\)"):
        overlay(image, LABEL[:1], CAMVID)
    with pytest.raises(ConfigError, match=r"alpha is 1\.5"):
        overlay(image, LABEL, CAMVID, 1.5)
