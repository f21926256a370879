"""Headers alone decide what is decoded: sizes beyond a limit, other formats, and what is no file are refused unread."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from tests.data.test_files import chunk, png

from segshift.data.files import MAX_PIXELS, image_size, list_files, read_first_channel, read_image, read_label
from segshift.data.image_header import allowed_so_far
from segshift.data.intake import FileRules
from segshift.errors import ConfigError, DataError

SIDE = 30_000


def saved(kind: str, mode: str = "L", **options: Any) -> bytearray:
    file = io.BytesIO()
    Image.new(mode, (4, 6)).save(file, kind, **options)
    return bytearray(file.getvalue())


def png_of(side: int) -> bytes:
    """A whole PNG of zeros, of one bit a pixel: a file of kilobytes that unpacks to `side` x `side` pixels."""
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def large_tiff() -> bytes:
    content = saved("TIFF")
    entries = struct.unpack_from("<I", content, 4)[0] + 2
    for place in range(entries, entries + 24, 12):
        assert struct.unpack_from("<HH", content, place) in ((256, 4), (257, 4))
        struct.pack_into("<I", content, place + 8, SIDE)
    return bytes(content)


def large_jpeg() -> bytes:
    content = saved("JPEG")
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, SIDE, SIDE)
    return bytes(content)


def large_bmp() -> bytes:
    content = saved("BMP")
    struct.pack_into("<ii", content, 18, SIDE, SIDE)
    return bytes(content)


def large_webp() -> bytes:
    content = saved("WEBP", "RGB", lossless=True)
    place = content.index(b"VP8L") + 9
    flags = struct.unpack_from("<I", content, place)[0] >> 28 << 28
    struct.pack_into("<I", content, place, flags | 9_999 << 14 | 9_999)
    return bytes(content)


LARGE: dict[str, Callable[[], bytes]] = {
    "png": lambda: png_of(SIDE),
    "tif": large_tiff,
    "jpg": large_jpeg,
    "bmp": large_bmp,
    "webp": large_webp,
    "ppm": lambda: b"P6\n%d %d\n255\n" % (SIDE, SIDE),
}


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(image: Image.Image) -> None:
        raise AssertionError(f"{image} is decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr("cv2.imdecode", load)


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize("kind", LARGE)
def test_a_large_image_is_refused_by_its_header(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(LARGE[kind]())
    assert path.stat().st_size < 1 << 20
    side = 10_000 if kind == "webp" else SIDE
    for read in (read_image, read_label, image_size):
        start = time.monotonic()
        with pytest.raises(DataError) as caught:
            read(path)
        assert time.monotonic() - start < 0.5
        assert str(caught.value) == (
            f"{path}: too large, {side}x{side} (height x width) are {side**2} pixels; expected at most {MAX_PIXELS}. "
            f"Cut it into tiles, or raise the limit with --max-pixels {side**2} where you trust the file"
        )
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS


@pytest.mark.usefixtures("no_decoding")
def test_a_large_label_of_16_bits_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"too large, 10000x10000 .* raise the limit with --max-pixels 100000000"):
        read_first_channel(path)


def test_the_limit_can_be_raised_beyond_pillows_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of(9_600))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS)  # set back afterwards
    with pytest.raises(DataError, match="too large, 9600x9600"):
        read_label(path, 9_600**2 - 1)
    assert image_size(path, 9_600**2) == (9_600, 9_600)
    assert Image.MAX_IMAGE_PIXELS == allowed_so_far() == 9_600**2
    # What one data set allows is not allowed to another.
    with pytest.raises(DataError, match="too large"):
        image_size(path)


@pytest.mark.parametrize("read", [read_image, read_label, image_size, read_first_channel])
def test_the_limit_counts_pixels(read: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(np.zeros((6, 7), np.uint16 if read is read_first_channel else np.uint8)))
    read(path, 42)
    with pytest.raises(DataError, match=r"6x7 .* are 42 pixels; expected at most 41"):
        read(path, 41)


@pytest.mark.parametrize("rules", [{"max_pixels": 0}, {"on_bad_file": "never"}])
def test_rules_that_make_no_sense(rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected (at least 1|one of stop, skip)"):
        FileRules(**rules)


HTML = b"\n<!DOCTYPE html><html><body>404"
OTHERS = [
    (b"GIF89a" + bytes(20), "is a GIF"),
    (b"\xef\xbb\xbf <svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG"),
    (b"\0\0\0\x18ftypheic" + bytes(20), "is a HEIC"),
    (HTML, "is a web page, such as the answer of a download that failed"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "is a pointer of Git LFS"),
    (b"%PDF-1.7", "is a PDF"),
]


@pytest.mark.parametrize(("content", "message"), OTHERS)
def test_another_format_is_called_by_its_name(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, read_label, image_size):
        with pytest.raises(DataError, match=f"a.png: {message}.*; expected BMP, JPEG, .* Save it in one of these"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing known", "no known image format"),
        (png(np.zeros((4, 4), np.uint8))[:20], "Truncated File Read"),
        (b"\xff\xd8\xff\xff", "its header is damaged"),
        (b"\xff\xd8\xff", "cannot be read as an image"),
        (b"", r"empty \(0 bytes\)"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_text_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    whole = png(np.zeros((4, 4), np.uint8))
    bomb = zlib.compress(bytes(10_000_000), 9)
    for kind, body in ((b"zTXt", b"Comment\0\0" + bomb), (b"iCCP", b"profile\0\0" + bomb)):
        path = tmp_path / f"{kind.decode()}.png"
        path.write_bytes(whole[:33] + chunk(kind, body) + whole[33:])
        with pytest.raises(DataError, match=r"cannot be read as an image .*too large"):
            read_image(path)


def test_a_tiff_of_12_bits_keeps_its_brightness(tmp_path: Path) -> None:
    """Two pixels of 12 bits, 4095 (white) and 2048, packed into three bytes."""
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    pixels = b"\xff\xf8\x00\x00"
    content = b"II*\0" + struct.pack("<I", 12) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    assert read_image(tmp_path / "a.tif")[0].tolist() == [[255, 128]]


# --- what is no file, or may not be read ---------------------------------------------------------------------------


def make_nothing(path: Path) -> None:
    assert not path.exists()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "gone.png")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_pipe, "it is no regular file"),
        (Path.mkdir, "it is no regular file"),
        (link_to_nowhere, "is a symbolic link to .*gone.png, which does not exist; .* delete the link"),
        (link_to_itself, "leads back to itself; .* Delete the link"),
        (make_nothing, "does not exist; expected an image"),
    ],
)
def test_what_is_no_file_is_named(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make(path)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(np.zeros((4, 4), np.uint8)))

    def refuse(path: Path, _: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # root may read all
    with pytest.raises(DataError, match=r"a.png: may not be read \(Permission denied\); expected a label.*chmod"):
        read_label(tmp_path / "a.png")


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"x")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=f"{tmp_path / 'b'}: may not be read"):
        list_files(tmp_path, (".png",))
    assert list(list_files(tmp_path / "nowhere", (".png",))) == []


def test_links_to_nowhere_are_listed_and_names_may_be_any_bytes(tmp_path: Path) -> None:
    link_to_nowhere(tmp_path / "link.png")
    strange = os.fsdecode(b"na\xefve \xff\n.png")
    (tmp_path / strange).write_bytes(png(np.zeros((4, 4), np.uint8)))
    found = list_files(tmp_path, (".png",))
    assert list(found) == ["link", strange.removesuffix(".png")]
    assert read_image(found[strange.removesuffix(".png")][0]).shape == (3, 4, 4)
