"""Image files that cannot be used, each refused in its own words; odd ones that can, read as docs/data.md says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from tests.faults.bad_files import (
    EPS,
    HEIC,
    HTML,
    LFS,
    PDF,
    SVG,
    bad_checksum,
    chunk,
    colours,
    cut,
    encoded,
    frames,
    ids,
    png,
    profile_bomb,
    promised,
    resized_header,
    small_grey,
    text_bomb,
    tiff,
    zeros,
)
from tests.faults.bad_inputs import Place, Row, assert_refused, fresh, run

from segshift.data.files import read_image

RGB = colours()
GREY = RGB[:, :, 0]
JPEG, BMP = encoded(RGB, "jpeg"), encoded(RGB, "bmp")
SIZE_OF_JPEG = JPEG.index(b"\xff\xc0") + 5
NO_PIXELS = png(64, 64, b"").replace(chunk(b"IDAT", b"x\xda\x03\x00\x00\x00\x00\x01"), b"")
ONE_OF = "expected BMP, JPEG, PNG, PPM, TIFF, WEBP"


def bad(content: bytes | Callable[[], bytes], suffix: str = "png") -> Callable[[Place], object]:
    """Put the file in the place of the first training image."""
    return lambda place: place.image(content if isinstance(content, bytes) else content(), f"day_000.{suffix}")


def file(suffix: str = "png") -> str:
    return f"{{day}}/train/images/day_000.{suffix}"


def unreadable(name: str, content: bytes | Callable[[], bytes], reason: str, suffix: str = "png") -> Row:
    said = f"{file(suffix)}: cannot be read as an image ({reason}). Restore it, or delete it"
    return Row(name, bad(content, suffix), said)


def foreign(name: str, content: bytes, kind: str, suffix: str = "png") -> Row:
    return Row(name, bad(content, suffix), f"{file(suffix)}: is {kind}; {ONE_OF}")


def large(name: str, content: bytes | Callable[[], bytes], size: str, suffix: str = "png") -> Row:
    return Row(
        name, bad(content, suffix), f"{file(suffix)}: too large, {size} (height x width) are … expected at most "
    )


TRUNCATED = tuple(
    unreadable(f"{kind} cut at {share:.0%}", cut(encoded(RGB, kind), share), "…", kind)
    for kind in ("png", "jpeg", "tiff", "webp", "bmp", "ppm")
    for share in (0.02, 0.5, 0.99)
)
REFUSED = (
    Row("no bytes", bad(b""), f"{file()}: the file is empty (0 bytes); expected an image. Restore it, or delete it"),
    unreadable("one byte", b"\x89", "no known image format"),
    unreadable("zeros", bytes(5000), "no known image format"),
    unreadable("text", b"nothing to see here", "no known image format", "jpg"),
    unreadable("PostScript, which asks for a program", EPS, "no known image format"),
    unreadable("ICO", encoded(RGB, "ico"), "no known image format", "jpg"),
    unreadable("TGA", encoded(RGB, "tga"), "no known image format"),
    foreign("GIF", encoded(RGB, "gif"), "a GIF", "jpg"),
    foreign("SVG", SVG, "an SVG or other XML"),
    foreign("HEIC", HEIC, "a HEIC or AVIF image, or a film", "jpg"),
    foreign("AVIF", encoded(RGB, "avif"), "a HEIC or AVIF image, or a film"),
    foreign("JPEG 2000", encoded(RGB, "jpeg2000"), "a JPEG 2000", "jpg"),
    foreign("PDF", PDF, "a PDF"),
    foreign("web page", HTML, "a web page, such as the answer of a download that failed", "jpg"),
    foreign("pointer of Git LFS", LFS, "a pointer of Git LFS, not the file itself"),
    *TRUNCATED,
    unreadable("JPEG less its last byte", JPEG[:-1], "image file is truncated…", "jpg"),
    unreadable("wrong checksum", bad_checksum, "broken PNG file (bad header checksum in b'IDAT')"),
    unreadable("comment that unpacks to 16 MB", text_bomb, "Decompressed data too large…"),
    unreadable("profile that unpacks to 16 MB", profile_bomb, "Decompressed data too large…"),
    unreadable("3 bits a pixel", png(64, 64, bytes(65 * 64), 3), "…"),
    unreadable("unknown kind of colour", png(64, 64, bytes(65 * 64), 8, 9), "…"),
    unreadable("no pixels", NO_PIXELS, "…"),
    unreadable("size of 0", png(0, 0, b""), "…"),
    unreadable("negative width", b"P6 -1 5 255\n" + bytes(15), "…", "ppm"),
    unreadable("grey of 99999 steps", b"P5 64 64 99999\n" + bytes(8192), "…", "pgm"),
    unreadable("TIFF whose pixels lie past its end", tiff(offset=10**6), "image file is truncated…", "tif"),
    unreadable("TIFF of fewer pixels than it says", tiff(bytes(100), count=4096), "image file is truncated…", "tif"),
    unreadable("TIFF of 7 bits", tiff(bits=7), "…", "tif"),
    large("900 million pixels, all of them there", lambda: zeros(30000), "30000x30000"),
    large("900 million pixels, promised", promised(30000, 30000), "30000x30000"),
    large("more pixels than 64 bits count", png(2**32 - 1, 2**32 - 1, b""), "4294967295x4294967295"),
    large("JPEG that promises", resized_header(JPEG, SIZE_OF_JPEG, ">HH", 60000, 50000), "60000x50000", "jpg"),
    large("BMP that promises", resized_header(BMP, 18, "<ii", 30000, 20000), "30000x20000", "bmp"),
    large("PPM that promises", b"P6 20000 30000 255\n", "30000x20000", "ppm"),
    large("TIFF that promises", tiff(width=10**6, height=10**6), "1000000x1000000", "tif"),
    Row("animated PNG", bad(frames("png")), f"{file()}: holds 3 frames; expected one. Store one a file"),
    Row("animated WebP", bad(frames("webp"), "webp"), f"{file('webp')}: holds 3 frames; expected one"),
    Row("TIFF of three pages", bad(frames("tiff"), "tif"), f"{file('tif')}: holds 3 frames; expected one"),
    Row(
        "floating-point TIFF",
        bad(encoded(GREY.astype(np.float32), "tiff"), "tif"),
        f"{file('tif')}: pixels are floating-point numbers; expected 8 or 16 bits. Save it as 8-bit RGB",
    ),
    Row(
        "32-bit numbers",
        bad(encoded(GREY.astype(np.int32) * 100_000, "tiff"), "tif"),
        f"{file('tif')}: values are … expected 0 to 65535. Save it as 8-bit RGB",
    ),
    Row(
        "another size than its label",
        bad(encoded(colours(32, 64), "png")),
        "{day}/train/labels/day_000.png: is 64x64 pixels (height x width), but {day}/train/images/day_000.png is 32x64",
    ),
    Row(
        "turned, the label is not",
        bad(encoded(colours(64, 48), "png")),
        "{day}/train/labels/day_000.png: is 64x64 pixels (height x width), but {day}/train/images/day_000.png is 64x48",
    ),
)


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_refused(row: Row, pair: Path, tmp_path: Path) -> None:
    place = fresh(pair, tmp_path)
    row.make(place)
    assert_refused(run("check", place.day, "--sheet", "none"), f"problem: {place.fill(row.expected)}")


@pytest.mark.usefixtures("tiny_recipes")
def test_all_at_once_stop_a_run_or_are_left_out(pair: Path, tmp_path: Path) -> None:
    """The whole table in one target: a run names the first twenty, and with `skip` ends well without any of them."""
    place = fresh(pair, tmp_path)
    rows = [row for row in REFUSED if "is 64x64" not in row.expected]
    for number, row in enumerate(rows):
        row.make(fresh(pair, tmp_path / str(number)))
        (found,) = (tmp_path / str(number) / "day" / "train" / "images").glob("day_000.*")
        found.rename(place.dusk / "train" / "images" / f"bad_{number:03d}{found.suffix}")
    words = ("adapt", "own/source-only", "--source", place.day, "--target", place.dusk, "--out", tmp_path / "run")
    stopped = run(*words)
    assert_refused(stopped, f"{len(rows)} of the data set's files cannot be used; expected images")
    assert stopped.text.count(f"  {place.dusk}/train/images/bad_") == 20
    assert f"and {len(rows) - 20} more" in stopped.text
    skipped = run(*words, "--on-bad-file", "skip")
    assert skipped.code == 0, skipped.text
    left_out = json.loads((tmp_path / "run" / "run.json").read_text())["left_out"]
    assert [text.partition(": ")[0] for text in left_out["target"]] == sorted(
        str(path) for path in (place.dusk / "train" / "images").glob("bad_*")
    )


class Odd(NamedTuple):
    """A file that is fine: what it is read as, and how far each value may lie from that."""

    name: str
    suffix: str
    content: bytes
    pixels: np.ndarray
    tolerance: int = 0


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(np.ascontiguousarray(np.rot90(RGB, {6: 1, 8: -1, 3: 2}[orientation])), "png", exif=exif)


WIDE = colours(1, 5000)
FINE = (
    Odd("CMYK JPEG", "jpg", encoded(RGB, "jpeg", "CMYK", quality=100, subsampling=0), RGB, 8),
    Odd("CMYK TIFF", "tif", encoded(RGB, "tiff", "CMYK"), RGB, 1),
    Odd("16-bit PNG", "png", encoded(GREY.astype(np.uint16) * 256 + 77, "png"), repeated(GREY)),
    Odd("16-bit PGM", "pgm", b"P5 64 64 65535\n" + (GREY * np.uint16(256)).astype(">u2").tobytes(), repeated(GREY)),
    Odd("RGBA", "png", encoded(np.dstack([RGB, GREY]), "png"), RGB),
    Odd("grey with transparency", "png", encoded(GREY, "png", "LA"), repeated(GREY)),
    Odd("palette", "png", encoded(GREY, "png", "P"), repeated(GREY)),
    Odd("1-bit", "png", encoded(GREY // 128 * 255, "png", "1"), repeated(GREY // 128 * 255)),
    Odd("2-bit", "png", small_grey(2), np.zeros((64, 64, 3), np.uint8)),
    Odd("turned left by its EXIF", "png", turned(6), RGB),
    Odd("turned right by its EXIF", "png", turned(8), RGB),
    Odd("upside down by its EXIF", "png", turned(3), RGB),
    Odd("one pixel", "png", encoded(RGB[:1, :1], "png"), RGB[:1, :1]),
    Odd("one row", "png", encoded(WIDE, "png"), WIDE),
    Odd("WebP", "webp", encoded(RGB, "webp", lossless=True), RGB),
    Odd("PNG named .jpg", "jpg", encoded(RGB, "png"), RGB),
    Odd("PNG named .tif", "tif", encoded(RGB, "png"), RGB),
    Odd("with something behind it", "png", encoded(RGB, "png") + b"trailing" * 50, RGB),
    Odd("suffix in upper case", "PNG", encoded(RGB, "png"), RGB),
    Odd("32-bit numbers that fit into 16", "tif", encoded(GREY.astype(np.int32) * 256, "tiff"), repeated(GREY)),
    Odd("TIFF whose list of pages is a circle", "tif", tiff(GREY.tobytes(), next=8), repeated(GREY)),
)


@pytest.mark.parametrize("odd", FINE, ids=[odd.name for odd in FINE])
def test_odd_but_fine(odd: Odd, pair: Path, tmp_path: Path) -> None:
    place = fresh(pair, tmp_path)
    path = place.image(odd.content, f"day_000.{odd.suffix}")
    place.label(encoded(ids(*odd.pixels.shape[:2]), "png"))
    found = read_image(path).permute(1, 2, 0).numpy()
    assert found.shape == odd.pixels.shape
    assert np.abs(found.astype(int) - odd.pixels.astype(int)).max() <= odd.tolerance
    said = run("check", place.day, "--sheet", "none")
    assert said.code == 0, said.text
    assert "no problems" in said.text


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_recipes")
def test_odd_images_go_through_a_run_and_are_predicted(pair: Path, tmp_path: Path) -> None:
    """All of them as targets of one run; then its model labels each at its own size."""
    place = fresh(pair, tmp_path)
    odds = [odd for odd in FINE if odd.name != "one row"]
    for number, odd in enumerate(odds):
        place.put(f"dusk/train/images/odd_{number:02d}.{odd.suffix}", odd.content)
    run_folder, out = tmp_path / "run", tmp_path / "out"
    said = run("adapt", "own/cbst", "--source", place.day, "--target", place.dusk, "--out", run_folder)
    assert said.code == 0, said.text
    said = run("predict", run_folder, place.dusk / "train", "--out", out)
    assert said.code == 0, said.text
    for number, odd in enumerate(odds):
        with Image.open(out / "labels" / f"odd_{number:02d}.png") as label:
            assert (label.height, label.width) == odd.pixels.shape[:2]
