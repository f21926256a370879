"""The heat-map sheet of a spatial prior."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segshift import checkpoint
from segshift.reporting.draw_prior import draw_prior, prior_sheet
from segshift.taxonomy import unnamed


def picture(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def prior() -> np.ndarray:
    """Class 0 on the left, class 1 on the right, class 2 nowhere."""
    maps = np.zeros((3, 12, 24), np.float32)
    maps[0, :, :6] = maps[1, :, 18:] = 1 / 72
    return maps


def yellow(pixels: np.ndarray) -> np.ndarray:
    """Columns that hold the top colour of the scale."""
    return np.flatnonzero(((pixels[..., 0] > 240) & (pixels[..., 1] > 220) & (pixels[..., 2] < 60)).any(0))


def test_each_class_is_yellow_where_it_is_frequent() -> None:
    pixels = picture(prior_sheet(prior(), unnamed(3)))
    height, width, _ = pixels.shape
    columns = yellow(pixels)
    middle = width / 5  # five columns of maps: the first two classes meet here
    left, right = columns[columns < middle], columns[columns >= middle]
    assert left.max() < middle * 0.5
    assert right.min() > middle * 1.5
    # The third class has no map at all: its frame is white.
    assert len(yellow(pixels[:, int(2 * middle) :])) == 0
    assert height < width


def test_only_a_run_with_priors_gets_a_sheet(tmp_path: Path) -> None:
    assert draw_prior(tmp_path, unnamed(3)) is None
    assert not list(tmp_path.iterdir())
    checkpoint.save(tmp_path / "spatial-prior.safetensors", {"prior": torch.from_numpy(prior())})
    sheet = draw_prior(tmp_path, unnamed(3))
    assert sheet == tmp_path / "spatial-prior.png"
    assert len(yellow(picture(sheet.read_bytes()))) > 0
