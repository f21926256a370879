"""The pictures of a report: files of a run's folder, small enough for one page, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segshift.errors import RunError
from segshift.picked_images import picture_folder
from segshift.reporting import draw
from segshift.reporting.rows import Row
from segshift.run_folder import Run
from segshift.taxonomy import LabelSpace

PANELS = 6
"""Most images a report shows that are not picked by score."""
_WIDEST = 640
"""Pixels; wider pictures are scaled down in the page."""


class Pictures:
    """Pictures that are put into a page, and the classes that have been seen in them."""

    def __init__(self, space: LabelSpace, widest: int = _WIDEST) -> None:
        self._space, self._widest = space, widest
        self._palette = [int(v) for v in space.palette().reshape(-1)]
        self._seen: list[np.ndarray] = []

    def view(self, name: str, files: Sequence[tuple[str, Path]]) -> dict[str, Any]:
        """An image by its name, and its pictures: (title, file); `image` is a photograph, all others are labels."""
        pictures = []
        for title, file in files:
            pixels = read_pixels(file, color=title == "image")
            picture = Image.fromarray(pixels)
            if title != "image":
                self._seen.append(np.unique(pixels))
                picture.putpalette(self._palette)
            pictures.append({"title": title, "uri": data_uri(picture, self._widest)})
        return {"name": name, "pictures": pictures}

    @property
    def legend(self) -> list[dict[str, str]]:
        """Name and colour of the classes of all labels so far."""
        return [{"name": name, "color": css(color)} for name, color in draw.legend(self._seen, self._space)]


def panel_names(rows: Sequence[Row], limit: int = PANELS) -> list[str]:
    """The images that the first run keeps panels of."""
    found = rows[0].run.path.glob("evaluation/panels/*/image.png")
    return sorted(file.parent.name for file in found)[:limit]


def panel_files(rows: Sequence[Row], name: str) -> list[tuple[str, Path]]:
    """(title, file) of an image's pictures that exist: image, truth, and each row's prediction but the oracle's."""
    first = rows[0].run.path / "evaluation" / "panels" / name
    files = [("image", first / "image.png"), ("truth", first / "truth.png")]
    for row in rows:
        if row.kind != "oracle":
            files.append((row.label, row.run.path / "evaluation" / "panels" / name / row.picture))
    return [(title, file) for title, file in files if file.is_file()]


def picked_views(run: Run, pictures: Pictures, images: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Of the worst, the best and the images that lost most: `title`, `why`, and the images with their pictures.

    An image that has been shown is not shown again: it is said where it stands.
    """
    if images is None:
        return
    titles = {"worst": "Worst images", "best": "Best images", "lost": "Where adaptation lost most"}
    shown: set[str] = set()
    for kind, title in titles.items():
        views = []
        for entry in images[kind]:
            folder = picture_folder(run.path, entry["name"])
            titled = (("image", "image"), ("truth", "truth"), (run.warmup_label, "warmup"))
            files = [(said, folder / f"{stem}.png") for said, stem in (*titled, (str(run.info["label"]), "final"))]
            files = [] if entry["name"] in shown else [each for each in files if each[1].is_file()]
            views.append({**entry, **pictures.view(entry["name"], files), "again": entry["name"] in shown})
            shown.add(entry["name"])
        if views:
            yield {"kind": kind, "title": title, "views": views}


def read_pixels(path: Path, color: bool) -> np.ndarray:
    """uint8 (h, w, 3) of an image, uint8 (h, w) of a label. RunError where the file is neither."""
    try:
        with Image.open(path) as picture:
            if color:
                return np.asarray(picture.convert("RGB"))
            pixels = np.asarray(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(f"{path}: cannot be read as an image ({error}); score the run again") from error
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise RunError(f"{path}: shape {pixels.shape}, {pixels.dtype}; expected an 8-bit label of one channel")
    return pixels


def data_uri(picture: Image.Image, widest: int = _WIDEST) -> str:
    """A photograph as JPEG, a label as palette PNG (its colours must stay exact)."""
    photograph = picture.mode == "RGB"
    if picture.width > widest:
        size = (widest, max(1, round(picture.height * widest / picture.width)))
        picture = picture.resize(size, Image.Resampling.LANCZOS if photograph else Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    if photograph:
        picture.save(buffer, "JPEG", quality=85)
    else:
        picture.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if photograph else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def embedded(file: Path) -> str | None:
    """A PNG that the run keeps, as it is; None where it keeps none."""
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" if file.is_file() else None


def css(color: tuple[int, int, int]) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*color)
