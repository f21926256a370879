"""A PNG that ends before its header says is told from a whole one, of any kind."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.faults.bad_files import chunk, promised

from segshift.data.files import read_image, read_label
from segshift.data.png_rows import is_whole
from segshift.errors import DataError


@given(
    mode=st.sampled_from(["1", "L", "P", "LA", "RGB", "RGBA", "I;16"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_what_a_library_writes_is_whole(mode: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    assert is_whole(file.getvalue())


@pytest.mark.parametrize("rows", [1, 4])
def test_a_label_with_rows_missing_is_refused(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(promised(6, 5, rows=rows))
    for read in (read_label, read_image):
        with pytest.raises(DataError, match=r"a\.png: .*fewer pixels than its header says"):
            read(path)
    path.write_bytes(promised(6, 5, rows=5))
    assert read_label(path).shape == (5, 6)


def test_an_interlaced_file_is_counted_by_its_passes() -> None:
    """Seven passes of a grey picture 5 wide and 3 high: 1x1, 1x1, none, 1x1, 1x3, 2x2, 1x5 (rows x columns)."""
    rows = [1, 1, 1, 3, 2, 2, 5]
    data = b"".join(b"\0" + bytes(columns) for columns in rows)
    for content, whole in ((data, True), (data[:-1], False)):
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 0, 0, 0, 1))
        png += chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
        assert is_whole(png) == whole
        if whole:
            assert np.asarray(Image.open(io.BytesIO(png))).shape == (3, 5)
