"""Label files that cannot be used or do not pair up, each refused in its own words; odd ones that are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.faults.bad_files import HEIC, LFS, bad_checksum, chunk, colours, cut, encoded, frames, ids, png, small_grey
from tests.faults.bad_inputs import Place, Row, assert_refused, fresh, run

from segshift.data.folder import Folder

IDS = ids()
LABEL = "{day}/train/labels/day_000.png"
IMAGE = "{day}/train/images/day_000.jpg"
NO_IDS = "; expected class ids as 8-bit greyscale or palette indices. Convert its values to ids"


def with_ids(*foreign: int) -> bytes:
    label = IDS.copy()
    label[0, : len(foreign)] = foreign
    return encoded(label, "png")


def label(content: bytes, name: str = "day_000.png") -> Callable[[Place], object]:
    return lambda place: place.label(content, name)


def pixels(name: str, content: bytes, kind: str) -> Row:
    return Row(name, label(content), f"{LABEL}: pixels are {kind}{NO_IDS}")


def of_size(name: str, height: int, width: int) -> Row:
    said = f"{LABEL}: is {height}x{width} pixels (height x width), but {IMAGE} is 64x64; expected the same size"
    return Row(name, label(encoded(ids(height, width), "png")), said)


CONTENTS = (
    Row("foreign ids", label(with_ids(17, 200)), f"{LABEL}: holds ids [17, 200]; expected 0 to 4 (day), or 255 for"),
    Row("one pixel with the id after the last", label(with_ids(5)), f"{LABEL}: holds ids [5]; expected 0 to 4 (day)"),
    pixels("colours", encoded(colours(), "png"), "RGB colours"),
    pixels("colours with transparency", encoded(colours(), "png", "RGBA"), "RGB colours with transparency"),
    pixels("16 bits", encoded(IDS.astype(np.uint16), "png"), "I;16"),
    pixels("black and white", encoded(IDS, "png", "1"), "1-bit"),
    pixels("grey of 2 bits", small_grey(2), "greyscale of 2 bits"),
    pixels("grey of 4 bits", small_grey(4), "greyscale of 4 bits"),
    pixels("grey with transparency", encoded(IDS, "png", "LA"), "LA"),
    pixels("floating-point TIFF", encoded(IDS.astype(np.float32), "tiff"), "F"),
    pixels("WebP", encoded(IDS, "webp"), "RGB colours"),
    Row("JPEG", label(encoded(IDS, "jpeg")), f"{LABEL}: is a JPEG, which changes ids; expected a PNG. Save it from"),
    Row("GIF", label(encoded(IDS, "gif")), f"{LABEL}: is a GIF; expected BMP, JPEG, PNG, PPM, TIFF, WEBP"),
    Row("HEIC", label(HEIC), f"{LABEL}: is a HEIC or AVIF image, or a film; expected BMP, JPEG, PNG"),
    Row("pointer of Git LFS", label(LFS), f"{LABEL}: is a pointer of Git LFS, not the file itself; expected BMP"),
    Row("animation", label(frames("png")), f"{LABEL}: holds 3 frames; expected one. Store one a file"),
    Row("no bytes", label(b""), f"{LABEL}: the file is empty (0 bytes); expected"),
    Row(
        "cut in the middle", label(cut(encoded(IDS, "png", compress_level=0), 0.5)), f"{LABEL}: cannot be read as a la"
    ),
    Row("one bit flipped", label(bad_checksum()), f"{LABEL}: cannot be read as a label (broken PNG file (bad header"),
    of_size("half as high", 32, 64),
    of_size("one row more", 65, 64),
    of_size("of one pixel", 1, 1),
)
PAIRS = (
    Row(
        "missing",
        lambda place: (place.day / "train" / "labels" / "day_000.png").unlink(),
        f"{IMAGE}: has no label; expected {LABEL}",
    ),
    Row(
        "without an image",
        lambda place: place.put("day/train/labels/extra.png", encoded(IDS, "png")),
        "{day}/train/labels/extra.png: is a label without an image; expected one named extra in images/",
    ),
    Row(
        "named in upper case",
        label(encoded(IDS, "png"), "DAY_000.png"),
        f"{IMAGE}: has no label; expected {LABEL}; DAY_000.png differs by case",
    ),
    Row(
        "named .jpg",
        label(encoded(IDS, "jpeg"), "day_000.jpg"),
        f"{IMAGE}: has no label; expected {LABEL}; day_000.jpg is not read, for labels are PNG",
    ),
    Row(
        "one folder deeper",
        label(encoded(IDS, "png"), "deeper/day_000.png"),
        "{day}/train/labels/deeper/day_000.png: is a label without an image; expected one named deeper/day_000",
    ),
)


@pytest.mark.parametrize("row", (*CONTENTS, *PAIRS), ids=[row.name for row in (*CONTENTS, *PAIRS)])
def test_refused(row: Row, pair: Path, tmp_path: Path) -> None:
    place = fresh(pair, tmp_path)
    row.make(place)
    assert_refused(run("check", place.day, "--sheet", "none"), f"problem: {place.fill(row.expected)}")


@pytest.mark.usefixtures("tiny_recipes")
@pytest.mark.parametrize("row", CONTENTS[::7], ids=[row.name for row in CONTENTS[::7]])
def test_a_run_says_the_same(row: Row, pair: Path, tmp_path: Path) -> None:
    place = fresh(pair, tmp_path)
    row.make(place)
    out = tmp_path / "run"
    said = run("adapt", "own/source-only", "--source", place.day, "--target", place.dusk, "--out", out)
    assert_refused(said, place.fill(row.expected))
    assert not out.exists()


TWO_BITS = png(64, 64, (b"\0" + bytes([0b00011011] * 16)) * 64, 2, 3, chunk(b"PLTE", bytes(12)))
FINE = (
    ("palette indices", encoded(IDS, "png", "P"), IDS),
    ("palette of 2 bits", TWO_BITS, np.tile([0, 1, 2, 3], (64, 16))),
    ("all ignored", encoded(np.full((64, 64), 255, np.uint8), "png"), np.full((64, 64), 255)),
    ("BMP named .png", encoded(IDS, "bmp"), IDS),
    ("TIFF named .png", encoded(IDS, "tiff"), IDS),
)


@pytest.mark.parametrize(("content", "expected"), [row[1:] for row in FINE], ids=[row[0] for row in FINE])
def test_odd_but_fine(content: bytes, expected: np.ndarray, pair: Path, tmp_path: Path) -> None:
    place = fresh(pair, tmp_path)
    place.label(content)
    np.testing.assert_array_equal(Folder(place.day, "train").label(0).numpy(), expected)
    assert run("check", place.day, "--sheet", "none").code == 0
