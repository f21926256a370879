"""Decoding: every mode and orientation becomes upright RGB; labels that would be misread are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from segshift.data.files import image_size, list_files, read_image, read_label
from segshift.errors import DataError


def png(array, mode=None) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, "png")
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def grey_rgb() -> np.ndarray:
    return np.repeat(GREY[..., None], 3, axis=2)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "a.png"
    path.write_bytes(png(GREY.astype(np.uint16) * 257) if mode == "I;16" else png(GREY, mode))
    with Image.open(path) as stored:
        assert stored.mode == mode
    assert torch.equal(read_image(path), torch.from_numpy(grey_rgb()).permute(2, 0, 1))


def test_other_formats(tmp_path):
    Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE).save(tmp_path / "a.png")
    assert set(read_image(tmp_path / "a.png").unique().tolist()) == {0, 255}
    Image.fromarray(grey_rgb()).convert("CMYK").save(tmp_path / "b.tif")
    assert torch.equal(read_image(tmp_path / "b.tif"), torch.from_numpy(grey_rgb()).permute(2, 0, 1))
    transparent = Image.fromarray(GREY).convert("P")
    transparent.save(tmp_path / "c.png", transparency=bytes([0, 128] * 128))
    assert torch.equal(read_image(tmp_path / "c.png"), torch.from_numpy(grey_rgb()).permute(2, 0, 1))
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "d.tif")
    with pytest.raises(DataError, match="floating-point"):
        read_image(tmp_path / "d.tif")
    Image.fromarray(GREY.astype(np.int32) * 100_000).save(tmp_path / "e.tif")
    with pytest.raises(DataError, match="values are 0 to 22000000; expected 0 to 65535"):
        read_image(tmp_path / "e.tif")
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1])]
    frames[0].save(tmp_path / "f.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="holds 2 frames"):
        read_image(tmp_path / "f.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, suffix, orientation):
    """EXIF says where the stored row 0 and column 0 belong; the upright picture is white at its top left alone."""
    upright = np.zeros((24, 40), np.uint8)
    upright[:8, :8] = 255
    # The stored picture of each orientation, as the EXIF standard defines them.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    image = read_image(path)
    assert image.shape == (3, 24, 40)
    assert image_size(path) == (24, 40)
    assert image[:, 2:6, 2:6].min() > 200
    assert image[:, 10:, 10:].max() < 50


def test_palette_labels_are_their_indices(tmp_path):
    label = np.array([[0, 1], [2, 255]], np.uint8)
    image = Image.fromarray(label)
    image.putpalette([200, 10, 10] * 256)
    image.save(tmp_path / "a.png")
    assert torch.equal(read_label(tmp_path / "a.png"), torch.from_numpy(label))


def test_labels_that_would_be_misread_are_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "jpeg.png", format="jpeg")
    with pytest.raises(DataError, match="is a JPEG, which changes ids"):
        read_label(tmp_path / "jpeg.png")
    raw = b"".join(b"\x00" + bytes([0x03]) for _ in range(2))  # two rows of two 4-bit pixels: 0, 3

    header = struct.pack(">IIBBBBB", 2, 2, 4, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (tmp_path / "four.png").write_bytes(content)
    with pytest.raises(DataError, match="greyscale of 4 bits"):
        read_label(tmp_path / "four.png")


def test_a_link_in_a_circle_is_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "back").symlink_to(tmp_path, target_is_directory=True)
    assert list(list_files(tmp_path, (".png",))) == ["a/x"]
