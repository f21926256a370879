"""A contact sheet of a data set: some of its images with their labels painted over them, names, and the classes.

One PNG, drawn with pillow. Names of files and classes are text, whatever they hold; what cannot be read is shown as
such, so that a sheet is drawn of a damaged data set too.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segshift.data.contents import spread
from segshift.data.doctor import Findings, Listed, Reading
from segshift.data.layouts import FOLDER, parse
from segshift.errors import ConfigError, SegshiftError
from segshift.painting import overlay
from segshift.paths import printable
from segshift.taxonomy import IGNORE, LabelSpace
from segshift.whole_files import atomic_write

MOST = 12
"""Images on a sheet."""
_WIDTH, _MARGIN, _GAP = 1600, 28, 20
_INK, _FAINT, _EMPTY, _BAD = (30, 33, 38), (110, 116, 124), (233, 235, 238), (176, 30, 30)
_TALLEST = 1.25
"""Height of a picture's frame, of its width, at most: taller images are shown smaller."""
_DIM = 0.35
"""What is left of an ignored pixel's brightness."""
_HATCH = 190
_NAME = 44
"""Height of what stands below a picture."""
Picture = Image.Image


@dataclass(frozen=True)
class Shown:
    """One image of a sheet."""

    name: str
    size: str
    pictures: tuple[Picture | str, ...]
    """The image, and it with its label; in place of one that cannot be shown, why."""


def draw_sheet(listing: Listed, most: int = MOST) -> bytes:
    """The sheet of a data set that was read, as the content of a PNG. Up to `most` images, evenly spread over it."""
    findings = listing.findings
    chosen = [listing.readings[i] for i in spread(len(listing.readings), most)]
    columns = 2 if findings.labels else 4
    width = (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) // columns
    each = (width - _GAP // 4) // 2 if findings.labels else width
    names = _short_names([item.image_file for item in chosen])
    items = [_shown(item, name, findings, each) for item, name in zip(chosen, names, strict=True)]
    rows = [items[i : i + columns] for i in range(0, len(items), columns)]
    frames = [_tallest(row, each // 2) for row in rows]
    legend = _legend_lines(findings)
    top = _MARGIN + 72 + 30 * len(legend) + (14 if legend else 0)
    sheet = Image.new("RGB", (_WIDTH, top + sum(frames) + _NAME * len(rows) + _MARGIN // 2), "white")
    draw = ImageDraw.Draw(sheet)
    _head(draw, findings, len(items))
    _draw_legend(draw, legend, _MARGIN + 76)
    for row, frame in zip(rows, frames, strict=True):
        for place, item in enumerate(row):
            _draw_item(sheet, draw, item, (_MARGIN + place * (width + _GAP), top), each, frame)
        top += frame + _NAME
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def sheet_paths(texts: Sequence[str], where: str | None) -> dict[str, Path | None]:
    """Where the sheet of each data set goes: `where` is a folder, a file .png, or none; None: the current folder.

    ConfigError for a file, where there are several data sets.
    """
    if where == "none":
        return dict.fromkeys(texts)
    if where is not None and where.lower().endswith(".png"):
        if len(texts) > 1:
            raise ConfigError(f"sheet = {where}: there are {len(texts)} data sets; expected a folder for their sheets")
        return {texts[0]: Path(where)}
    names = [_file_name(text, 1) for text in texts]
    if len(set(names)) < len(names):
        names = [_file_name(text, 2) for text in texts]
    taken: dict[str, int] = {}
    paths: dict[str, Path | None] = {}
    for text, name in zip(texts, names, strict=True):
        taken[name] = taken.get(name, 0) + 1
        number = f"-{taken[name]}" if taken[name] > 1 else ""
        paths[text] = Path(where or ".") / f"check-{name}{number}.png"
    return paths


def write_sheet(listing: Listed, path: Path | None, asked: bool) -> str:
    """Draw and write a sheet, and say where it is; nothing where none is wanted (`path` = None).

    RunError from a disk that refuses, where the place was `asked` for; else that is said.
    """
    if path is None:
        return ""
    try:
        atomic_write(path, draw_sheet(listing))
    except SegshiftError as error:
        if asked:
            raise
        return f"no contact sheet: {error}. Name a folder for it: --sheet DIR"
    return f"contact sheet: {path}"


def _file_name(text: str, parts: int) -> str:
    layout, path = parse(text)
    last = [part for part in Path(path.partition("?")[0]).parts if part not in ("/", ".", "..")][-parts:]
    words = [*([] if layout in (FOLDER, *last) else [layout]), *(last or Path(path).absolute().parts[-parts:])]
    return re.sub(r"[^\w.-]+", "_", "-".join(words))[:80].strip("._") or "data"


def _short_names(files: Sequence[str]) -> list[str]:
    """File names without the folders that all share."""
    shared = os.path.commonpath([str(Path(file).parent) for file in files]) if files else ""
    return [file[len(shared) :].lstrip(os.sep) for file in files]


def _shown(item: Reading, name: str, findings: Findings, width: int) -> Shown:
    pixels = None
    try:
        pixels = np.ascontiguousarray(item.image().permute(1, 2, 0).numpy())
    except SegshiftError:
        return Shown(name, "", ("this image cannot be read",) * (2 if findings.labels else 1))
    size = f"{pixels.shape[0]} x {pixels.shape[1]}"
    picture = _fitted(pixels, width)
    if not findings.labels:
        return Shown(name, size, (picture,))
    if item.label is None or findings.space is None:
        return Shown(name, size, (picture, "no label"))
    try:
        label = item.label().numpy()
    except SegshiftError:
        return Shown(name, size, (picture, "this label cannot be used"))
    return Shown(name, size, (picture, _painted(np.asarray(picture), label, findings.space)))


def _tallest(row: Sequence[Shown], least: int) -> int:
    """Height of the frames in a row."""
    return max((p.height for item in row for p in item.pictures if not isinstance(p, str)), default=least)


def _fitted(pixels: np.ndarray, width: int) -> Picture:
    """The image as large as its frame allows; small ones are enlarged with their pixels to be seen."""
    height = pixels.shape[0] * width / pixels.shape[1]
    scale = min(1.0, _TALLEST * width / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    way = Image.Resampling.NEAREST if size[0] > 4 * pixels.shape[1] else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize(size, way)


def _painted(picture: np.ndarray, label: np.ndarray, space: LabelSpace) -> Picture:
    """The label's colours over a picture of any size; ignored pixels are dimmed and hatched."""
    ids = np.asarray(Image.fromarray(label).resize(picture.shape[1::-1], Image.Resampling.NEAREST))
    painted = overlay(picture, ids, space, alpha=0.65)
    y, x = np.ogrid[: ids.shape[0], : ids.shape[1]]
    painted[ids == IGNORE] = (painted[ids == IGNORE] * _DIM).astype(np.uint8)
    painted[(ids == IGNORE) & ((x + y) % 9 < 2)] = _HATCH
    return Image.fromarray(painted)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along, which has most alphabets."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """One line that fits, its middle left out where it is too long: names differ at their ends."""
    text = printable(" ".join(text.split()))[:400]
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(f"{text[: kept // 2]}…{text[len(text) - kept // 2 :]}") > width:
        kept -= 2
    return f"{text[: kept // 2]}…{text[len(text) - kept // 2 :]}"


def _head(draw: ImageDraw.ImageDraw, findings: Findings, shown: int) -> None:
    font = _font(26, bold=True)
    draw.text((_MARGIN, _MARGIN - 4), _cut(findings.where, font, _WIDTH - 2 * _MARGIN), _INK, font)
    splits = ", ".join(f"{name} {count:,}" for name, count in findings.splits.items())
    counts = f"{findings.images:,} images" + (f" ({splits})" if splits else "")
    labels = f"{findings.labels:,} labels" if findings.labels else "no labels"
    faults = f"{len(findings.problems):,} problems" if findings.problems else "no problems"
    text = f"{counts} · {labels} · {faults} · {shown} shown, evenly spread"
    draw.text((_MARGIN, _MARGIN + 36), _cut(text, _font(16), _WIDTH - 2 * _MARGIN), _FAINT, _font(16))


Entry = tuple[int, str, tuple[int, int, int]]
"""Where a class stands in its line, its text, its colour."""


def _legend_lines(findings: Findings) -> list[list[Entry]]:
    """The classes and their shares, in as many lines as they need."""
    if not findings.labels or findings.space is None:
        return []
    total = max(int(findings.pixels[:IGNORE].sum()), 1)
    entries = [
        (f"{name} {findings.pixels[i] / total:.1%}", findings.space.colors[i])
        for i, name in enumerate(findings.space.classes)
    ]
    ignored = findings.pixels[IGNORE] / max(int(findings.pixels.sum()), 1)
    if ignored:
        entries.append((f"ignored {ignored:.1%} (hatched)", (90, 90, 90)))
    lines: list[list[Entry]] = [[]]
    left = 0.0
    for name, color in entries:
        text = _cut(name, _font(16), 360)
        needed = 26 + _font(16).getlength(text) + 22
        if left + needed > _WIDTH - 2 * _MARGIN and lines[-1]:
            lines.append([])
            left = 0.0
        lines[-1].append((int(left), text, color))
        left += needed
    return lines


def _draw_legend(draw: ImageDraw.ImageDraw, lines: Sequence[Sequence[Entry]], top: int) -> None:
    for number, line in enumerate(lines):
        for left, text, color in line:
            x, y = _MARGIN + left, top + 30 * number
            draw.rounded_rectangle((x, y + 2, x + 18, y + 20), 4, color, outline=_FAINT)
            draw.text((x + 26, y + 1), text, _INK, _font(16))


def _draw_item(
    sheet: Picture, draw: ImageDraw.ImageDraw, item: Shown, at: tuple[int, int], width: int, frame: int
) -> None:
    """The pictures of an image side by side, each in the middle of its frame, and its name and size below."""
    left, top = at
    for place, picture in enumerate(item.pictures):
        x = left + place * (width + _GAP // 4)
        if isinstance(picture, str):
            draw.rectangle((x, top, x + width - 1, top + frame - 1), _EMPTY)
            draw.text((x + width / 2, top + frame / 2), picture, _BAD, _font(16), anchor="mm")
        else:
            sheet.paste(picture, (x + (width - picture.width) // 2, top + frame - picture.height))
    whole = len(item.pictures) * (width + _GAP // 4) - _GAP // 4
    size = _font(14).getlength(item.size)
    draw.text((left, top + frame + 7), _cut(item.name, _font(14), whole - size - 16), _INK, _font(14))
    draw.text((left + whole - size, top + frame + 7), item.size, _FAINT, _font(14))
