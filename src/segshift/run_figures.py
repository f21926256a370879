"""What a run measures or draws for its report alone: withheld target labels are looked at here, and choose nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from segshift.data.domains import Domains
from segshift.data.open_data import DataConfig
from segshift.errors import DataError
from segshift.label_quality import measure_round, withheld
from segshift.label_views import last_views
from segshift.painting import overlay
from segshift.reporting.draw_cpsl import draw_cpsl
from segshift.taxonomy import LabelSpace


def measured_labels(folder: Path, n: int, config: DataConfig, space: LabelSpace) -> str:
    """Round n's pseudo-labels against the target's own, where there are any, as a sentence; empty where there are none.

    Target labels of which a few are wrong stop no run.
    """
    if not (folder / f"round-{n}" / "statistics.json").is_file():
        return ""
    try:
        target = withheld(config, space)
        if target is None:
            return ""
        found = measure_round(folder, n, target, space)
    except DataError as error:
        return f"round {n}: pseudo-labels not compared with target labels: {error}"
    return f"round {n}: {100 * found.proportion:.1f} % labelled, P-mIoU {100 * found.miou:.1f} (oracle diagnosis)"


def drawn_labels(folder: Path, config: DataConfig, domains: Domains) -> str:
    """Draw the label maps that the method left, beside withheld target labels where there are any; what fell short."""
    space, target = domains.space, domains.target
    if last_views(folder, space) is None:
        return ""
    try:
        truth = withheld(config, space)
        draw_cpsl(folder, space, target, truth)
    except DataError as error:
        draw_cpsl(folder, space, target, None)
        return f"label maps not compared with target labels: {error}"
    return ""


def panels(folder: Path, space: LabelSpace) -> Iterator[tuple[str, np.ndarray]]:
    """(IMAGE/MODEL, the model's label over the image (h, w, 3) uint8) of the panels that a run has written."""
    for place in sorted((folder / "evaluation" / "panels").glob("*/")):
        files = {file.stem: file for file in place.glob("*.png")}
        image = files.pop("image", None)
        if image is None:
            continue
        pixels = np.asarray(Image.open(image).convert("RGB"))
        for name, file in sorted(files.items()):
            yield f"{place.name}/{name}", overlay(pixels, np.asarray(Image.open(file)), space)
