"""The spatial priors of a run as one sheet of heat maps, a class each, as in Fig. 2 of the CBST paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from segshift import checkpoint
from segshift.methods.cbst import PRIOR_FILE
from segshift.reporting.draw import class_name, saved
from segshift.taxonomy import LabelSpace

COLUMNS = 5
CELL = 2.2
"""Inches a map is wide."""


def prior_sheet(prior: Float[np.ndarray, "k h w"], space: LabelSpace) -> bytes:
    """A PNG with the prior of every class: yellow where it is most frequent, blue where it never is.

    Each map has a scale of its own, from 0 to its largest value, which stands over it as a multiple of the map's mean.
    A class the source never shows has an empty frame.
    """
    count, height, width = prior.shape
    rows = -(-count // COLUMNS)
    figure = Figure(figsize=(COLUMNS * CELL, rows * (CELL * height / width + 0.45)), dpi=110, layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for i, (axis, name) in enumerate(zip(axes, space.classes, strict=False)):
        largest = float(prior[i].max())
        if largest > 0:
            axis.imshow(prior[i], cmap="viridis", vmin=0, vmax=largest, interpolation="bilinear")
            title = f"{class_name(name)}  \N{MULTIPLICATION SIGN}{largest / prior[i].mean():.1f}"
        else:
            axis.text(0.5, 0.5, "not in the source", ha="center", va="center", color="0.4", fontsize=9)
            axis.set_xlim(0, 1)
            axis.set_box_aspect(height / width)
            title = class_name(name)
        axis.set_title(title, fontsize=9.5)
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[count:]:
        axis.set_axis_off()
    return saved(figure, "png")


def draw_prior(run: Path, space: LabelSpace) -> Path | None:
    """Write RUN/spatial-prior.png from the prior that the run keeps; None where it keeps none."""
    file = run / f"{PRIOR_FILE}.safetensors"
    if not file.exists():
        return None
    picture = file.with_suffix(".png")
    checkpoint.atomic_write(picture, prior_sheet(checkpoint.load(file)["prior"].numpy(), space))
    return picture
