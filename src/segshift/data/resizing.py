"""Images and labels resized and cut by torch's own kernels, in less of their time: nothing of what a crop leaves out.

The kernel for 8-bit images works on colours that lie side by side, and brings them there more slowly than OpenCV does.
It resizes along the rows first, rounds to 8 bits, and then along the columns, so each can be done for a part of the
image. All functions give the bits that `torch.nn.functional.interpolate` gives of the whole.
"""

from __future__ import annotations

import platform

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from segshift.types import IGNORE, Geometry

_THIN = 2
"""Pixels a side below which torch does not see how colours lie."""
_GREY = 127


def kernel() -> str:
    """What resizes images here: another version or processor may round otherwise."""
    return f"torch {torch.__version__}, {'bytes' if _resizes_bytes() else 'floats'}"


def resize_image(image: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    """Bilinear with anti-aliasing, to (H, W)."""
    if tuple(image.shape[1:]) == size:
        return image
    if min(*image.shape[1:], *size) < _THIN or not _resizes_bytes():
        return _resized_whole(image, size)
    return _apart(_resized(_side_by_side(image), size))


def resize_label(label: UInt8[Tensor, "h w"], size: tuple[int, int]) -> UInt8[Tensor, "H W"]:
    """Nearest pixel, to (H, W): the one that each pixel's centre falls on."""
    return label if tuple(label.shape) == size else _nearest(label, size, slice(None), slice(None))


def cut_image(image: UInt8[Tensor, "3 h w"], geometry: Geometry) -> UInt8[Tensor, "3 ch cw"]:
    """The geometry's view of an image; padding is mid-grey."""
    rows, columns = _shown(geometry)
    size, shape = geometry.resized, (image.shape[1], image.shape[2])
    if shape == size:
        cut = image[:, rows, columns]
    elif min(*shape, rows.stop - rows.start, columns.stop - columns.start) < _THIN or not _resizes_bytes():
        cut = _resized_whole(image, size)[:, rows, columns]
    else:
        cut = _resized_part(image, size, rows, columns)
    return _finished(cut, geometry, _GREY)


def cut_label(label: UInt8[Tensor, "h w"], geometry: Geometry) -> UInt8[Tensor, "ch cw"]:
    """The geometry's view of a label (of any size: it is resized like the image); padding is IGNORE."""
    rows, columns = _shown(geometry)
    here = tuple(label.shape) == geometry.resized
    cut = label[rows, columns] if here else _nearest(label, geometry.resized, rows, columns)
    return _finished(cut, geometry, IGNORE)


def _shown(geometry: Geometry) -> tuple[slice, slice]:
    """Rows and columns of the resized image that a crop holds: what there is of them."""
    (height, width), (down, across) = geometry.resized, geometry.size
    top, left = geometry.top, geometry.left
    return slice(top, min(top + down, height)), slice(left, min(left + across, width))


def _finished(cut: UInt8[Tensor, "*c _ _"], geometry: Geometry, fill: int) -> UInt8[Tensor, "*c ch cw"]:
    """Padded to the crop's size, and mirrored where it is to be."""
    height, width = geometry.size
    below, beside = height - cut.shape[-2], width - cut.shape[-1]
    if below or beside:
        cut = F.pad(cut, (0, beside, 0, below), value=fill)
    return cut.flip(-1) if geometry.flip else cut


# --- images ----------------------------------------------------------------------------------------------------------


def _resizes_bytes() -> bool:
    """Whether torch has a kernel of its own for 8-bit images; it rounds otherwise than float32 arithmetic."""
    known = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return known or platform.machine() in ("aarch64", "arm64")


def _resized_whole(image: UInt8[Tensor, "3 h w"], size: tuple[int, int]) -> UInt8[Tensor, "3 H W"]:
    if _resizes_bytes():
        return _resized(image[None], size)[0]
    return _resized(image[None].float(), size)[0].round_().to(torch.uint8)


def _resized_part(
    image: UInt8[Tensor, "3 h w"], size: tuple[int, int], rows: slice, columns: slice
) -> UInt8[Tensor, "3 _ _"]:
    """These rows and columns of the image at `size`."""
    first, last = _needed(image.shape[1], size[0], rows)
    part = _resized(_side_by_side(image[:, first:last]), (last - first, size[1]))[..., columns]
    # The other rows are looked at for none of the crop's: whatever stands there will do.
    tall = torch.empty((1, image.shape[1], part.shape[3], 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    tall[:, :, first:last] = part
    return _apart(_resized(tall, (size[0], part.shape[3]))[:, :, rows])


def _needed(length: int, resized: int, shown: slice) -> tuple[int, int]:
    """The range of a line of `length` pixels that some of the resized line are made of, and two more on either side."""
    scale = length / resized
    reach = max(scale, 1.0) + 2
    return max(int((shown.start + 0.5) * scale - reach), 0), min(int((shown.stop - 0.5) * scale + reach) + 1, length)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image, size, mode="bilinear", antialias=True)


def _side_by_side(image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "1 3 h w"]:
    """The same pixels, with the three colours of each beside each other in memory."""
    merged = torch.from_numpy(cv2.merge([plane.numpy() for plane in image]))
    # The leading one first: by its stride torch knows how the others lie.
    return merged[None].permute(0, 3, 1, 2)


def _apart(image: UInt8[Tensor, "1 3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """The same pixels, colour by colour."""
    together = image[0].permute(1, 2, 0).numpy()
    planes = np.empty((3, *together.shape[:2]), np.uint8)
    cv2.split(together, [planes[0], planes[1], planes[2]])
    return torch.from_numpy(planes)


# --- labels ----------------------------------------------------------------------------------------------------------


def _nearest(label: UInt8[Tensor, "h w"], size: tuple[int, int], rows: slice, columns: slice) -> UInt8[Tensor, "_ _"]:
    """These rows and columns of the label at `size`."""
    down, across = _taken(label.shape[0], size[0])[rows], _taken(label.shape[1], size[1])[columns]
    return torch.from_numpy(label.numpy()[down].take(across, axis=1))


def _taken(length: int, resized: int) -> np.ndarray:
    """Which pixel of a line each of the resized line takes: where torch's kernel takes their numbers from."""
    # float32 counts to 2^24: no image has a longer side.
    numbers = torch.arange(length, dtype=torch.float32)[None, None]
    return F.interpolate(numbers, resized, mode="nearest-exact")[0, 0].numpy().astype(np.int64)
