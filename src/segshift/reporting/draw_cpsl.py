"""Pictures of a CPSL run: who is right where, self-training or self-labelling, and the class distributions.

As in Fig. 5 and 6 of the CPSL paper. With target labels both are oracle diagnoses; nothing is chosen by them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter
from PIL import Image

from segshift.checkpoint import atomic_write
from segshift.data.dataset import ImageDataset, OracleTarget
from segshift.data.resizing import resize_image
from segshift.label_views import (
    OUTCOMES,
    LabelViews,
    count_views,
    last_views,
    outcome_map,
    true_label,
    write_counts,
)
from segshift.methods.cpsl import RECTIFIED, SL, ST
from segshift.painting import colorize
from segshift.reporting import draw
from segshift.taxonomy import IGNORE, LabelSpace

WHO_IS_RIGHT, DISTRIBUTIONS = "who-is-right.png", "class-distributions.png"
"""Beside the rounds of the run."""
PICTURES = 5
"""Images shown, evenly spread over the target and not picked by score."""
COLORS = ((216, 222, 219), (47, 116, 200), (226, 136, 42), (58, 34, 52))
"""Of label_views.OUTCOMES: pale where both are right, dark where neither is."""
APART = ((216, 222, 219), (178, 58, 120))
"""Without target labels: where the two agree, and where not."""
SERIES = {
    "truth": ("truth (oracle)", "#3f3f46"), ST: (ST, "#2f74c8"), SL: (SL, "#e2882a"), RECTIFIED: (RECTIFIED, "#2a9d78"),
    "delta_pseudo": ("delta_pseudo (Eq. 11)", "#8b5fd0"), "delta_0": ("delta_pseudo at first (Eq. 10)", "#c9b3ee"),
}  # fmt: skip
"""Distribution -> name and colour, in the order of the bars."""


def draw_cpsl(run: Path, space: LabelSpace, images: ImageDataset, truth: OracleTarget | None) -> tuple[Path, ...]:
    """Write RUN/class-distributions.png, RUN/who-is-right.png and their figures; nothing where there are no label maps.

    `images` are those adapted to, `truth` their withheld labels where there are any. A run without self-labelling, or
    without self-training, has no picture of who is right. Raises RunError where a map is damaged.
    """
    views = last_views(run, space)
    if views is None:
        return ()
    counts = count_views(views, truth)
    bars = distribution_sheet(counts.shares(), space, f"labels of {counts.images} target images, round {counts.round}")
    atomic_write(run / DISTRIBUTIONS, bars)
    written = [run / DISTRIBUTIONS]
    if views.compares:
        buffer = io.BytesIO()
        who_is_right(views, space, images, truth).save(buffer, "PNG", optimize=True)
        atomic_write(run / WHO_IS_RIGHT, buffer.getvalue())
        written.append(run / WHO_IS_RIGHT)
    return (*written, write_counts(run, counts, space))


def who_is_right(
    views: LabelViews, space: LabelSpace, images: ImageDataset, truth: OracleTarget | None, limit: int = PICTURES
) -> Image.Image:
    """A row for each of a few images: image, truth, the three label maps, and which of the two is right (Fig. 5).

    Without `truth`: where the two agree.
    """
    columns: dict[str, list[UInt8[np.ndarray, "h w 3"]]] = {}
    shown: list[UInt8[np.ndarray, "h w"]] = []
    for name in _spread(views.names, limit):
        maps = views.read(name)
        size = (maps[ST].shape[0], maps[ST].shape[1])
        image = resize_image(images.image(list(images.names).index(name)), size)
        columns.setdefault("image", []).append(image.permute(1, 2, 0).numpy())
        labels = {kind: label.numpy() for kind, label in maps.items()}
        true = None if truth is None else true_label(truth, name, maps[ST])
        if true is None:
            last = "where they agree", _painted((labels[ST] != labels[SL]).astype(np.uint8), APART)
        else:
            labels = {"truth": true.numpy(), **labels}
            last = "who is right (oracle)", _painted(outcome_map(maps[ST], maps[SL], true).numpy(), COLORS)
        for title, label in labels.items():
            columns.setdefault(title, []).append(colorize(label, space))
            shown.append(label)
        columns.setdefault(last[0], []).append(last[1])
    meanings = ("both agree", "self-training and self-labelling differ") if truth is None else OUTCOMES
    colors = APART if truth is None else COLORS
    entries = [*draw.legend(shown, space), *zip(meanings, colors, strict=True)]
    return draw.panel(list(columns.items()), entries)


def _spread(names: Sequence[str], limit: int) -> list[str]:
    count = min(limit, len(names))
    return [names[round(i * (len(names) - 1) / max(count - 1, 1))] for i in range(count)]


def _painted(outcome: UInt8[np.ndarray, "h w"], colors: Sequence[tuple[int, int, int]]) -> UInt8[np.ndarray, "h w 3"]:
    """Colours by outcome; black where there is none."""
    palette = np.zeros((IGNORE + 1, 3), np.uint8)
    palette[: len(colors)] = colors
    return palette[outcome]


def distribution_sheet(shares: Mapping[str, Sequence[float]], space: LabelSpace, title: str) -> bytes:
    """A PNG of bars: the share of each class in each distribution of SERIES that there is (Fig. 6); logarithmic axis.

    Classes stand by their share in the first of them, the most frequent first; one that is in none is left out.
    """
    series = [name for name in SERIES if name in shares]
    values = 100 * np.asarray([shares[name] for name in series])
    order = [int(c) for c in np.argsort(-values[0], kind="stable") if values[:, c].any()]
    smallest = values[values > 0].min(initial=100.0)
    # Below the smallest share, so that it has a bar; what is rarer than a pixel in 100,000 has none.
    floor = 10.0 ** (np.ceil(np.log10(max(smallest, 1e-3))) - 1)
    figure = Figure(figsize=(max(6.0, 1.4 + 0.62 * len(order)), 3.9), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots()
    width = 0.84 / len(series)
    places = np.arange(len(order))
    for i, name in enumerate(series):
        label, color = SERIES[name]
        heights = np.maximum(values[i][order] - floor, 0.0)
        axes.bar(places - 0.42 + (i + 0.5) * width, heights, width * 0.9, bottom=floor, color=color, label=label)
    axes.set_yscale("log")
    axes.set_ylim(floor, 100)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    # The usual one writes formulas, and here text is what it says.
    axes.yaxis.set_minor_formatter(LogFormatter())
    axes.set_ylabel("share of pixels in %, logarithmic", fontsize=9)
    axes.set_xticks(
        places, [draw.class_name(space.classes[c]) for c in order], rotation=35, ha="right", rotation_mode="anchor"
    )
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_title(draw.one_line(title), fontsize=10, loc="left")
    axes.tick_params(labelsize=8.5, length=0, which="both")
    axes.grid(axis="y", color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color("#aaaaaa")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    return draw.saved(figure, "png")
