"""Damaged image and label files through the readers: a tensor of a sane size, or an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.faults.bad_files import colours, encoded, frames, ids, png, profile_bomb, small_grey, text_bomb, tiff
from tests.faults.fuzzing import CHANGES, budget, changed, only_own_errors, with_checksums
from torch import Tensor

from segshift.data.files import image_size, read_first_channel, read_image, read_label
from segshift.errors import DataError

PIXELS = 2**16
RGB, GREY, IDS = colours(24, 20), colours(24, 20)[:, :, 0], ids(24, 20)


def interlaced() -> bytes:
    """A palette PNG with transparency, a comment and an orientation."""
    picture = Image.fromarray(IDS).convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture.save(file, "png", transparency=bytes([0, 128, 255]), exif=exif)
    return file.getvalue()


FILES = {
    "png": [
        encoded(IDS, "png"), encoded(RGB, "png"), encoded(RGB, "png", "RGBA"), interlaced(), small_grey(2),
        encoded(GREY.astype(np.uint16) * 256, "png"), frames("png"), png(20, 24, (b"\4" + bytes(20)) * 24),
        text_bomb(1), profile_bomb(1),
    ],
    "jpeg": [
        encoded(RGB, "jpeg"), encoded(RGB, "jpeg", progressive=True), encoded(RGB, "jpeg", "CMYK"),
        encoded(GREY, "jpeg"),
    ],
    "tiff": [
        encoded(RGB, "tiff"), encoded(IDS, "tiff"), encoded(RGB, "tiff", compression="tiff_lzw"),
        encoded(RGB, "tiff", compression="tiff_adobe_deflate"), encoded(RGB, "tiff", compression="jpeg"),
        encoded(GREY.astype(np.uint16), "tiff"), encoded(GREY.astype(np.float32), "tiff"), frames("tiff"), tiff(),
        encoded(IDS > 2, "tiff", compression="group4"), encoded(RGB, "tiff", compression="packbits"),
    ],
    "bmp": [encoded(RGB, "bmp"), encoded(IDS, "bmp"), encoded(IDS, "bmp", "1"), encoded(RGB, "bmp", "RGBA")],
    "ppm": [
        encoded(RGB, "ppm"), encoded(IDS, "ppm"), b"P5 20 24 65535\n" + bytes(960), b"P2 3 2 9\n1 2 3 4 5 6\n",
        b"P1 3 2\n0 1 0 1 0 1\n", b"Pf\n2 2\n-1\n" + bytes(16), encoded(IDS, "ppm", "1"),
    ],
    "webp": [encoded(RGB, "webp"), encoded(RGB, "webp", lossless=True), encoded(RGB, "webp", "RGBA"), frames("webp")],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def look(path: Path) -> None:
    """Through every reader: each gives pixels of the stated kind and of an allowed number, or a DataError."""
    readers = (read_image, read_label, read_first_channel, image_size)
    for reader in readers:
        with only_own_errors(f"files: {reader.__name__}"):
            try:
                found = reader(path, PIXELS)
            except DataError as error:
                assert str(path) in str(error)
                raise
            shape = tuple(found.shape)[-2:] if isinstance(found, Tensor) else found
            assert 0 < shape[0] * shape[1] <= PIXELS


@pytest.mark.parametrize("kind", FILES)
@budget(25)
@given(data=st.data())
def test_damaged(kind: str, folder: Path, data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(FILES[kind]))
    content = changed(content, data.draw(CHANGES), data.draw(st.sampled_from((None, 200))))
    path = folder / f"a.{kind}"
    path.write_bytes(with_checksums(content) if kind == "png" and data.draw(st.booleans()) else content)
    look(path)


@budget(25)
@given(start=st.sampled_from([files[0][:16] for files in FILES.values()]), rest=st.binary(max_size=300))
def test_made_up(folder: Path, start: bytes, rest: bytes) -> None:
    path = folder / "made-up.png"
    path.write_bytes(start + rest)
    look(path)


@budget(25)
@given(data=st.data())
def test_two_files_in_one(folder: Path, data: st.DataObject) -> None:
    """The beginning of one file and the end of another, of any format."""
    every = [content for files in FILES.values() for content in files]
    first, second = data.draw(st.sampled_from(every)), data.draw(st.sampled_from(every))
    path = folder / "joined.png"
    path.write_bytes(first[: data.draw(st.integers(8, len(first)))] + second[data.draw(st.integers(0, len(second))) :])
    look(path)
