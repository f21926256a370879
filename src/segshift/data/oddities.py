"""What is odd about an image, a label or a name, though it can be used: pure functions, in the words of a note."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from segshift.taxonomy import IGNORE

SMALL = 32
"""Pixels a side below which an image is too small for what networks see at once."""
DARK = 16
"""The value (of 0 to 255) that no pixel of a nearly black image reaches."""
_SHOWN = 5


def of_image(image: UInt8[Tensor, "3 h w"]) -> list[str]:
    """What is odd about an image, as read; mostly nothing."""
    height, width = image.shape[1], image.shape[2]
    odd = [f"is smaller than {SMALL} pixels on a side"] if min(height, width) < SMALL else []
    # Few pixels tell most images: no need to look at all of them.
    if _nearly_flat(image[:, ::16, ::16]) and _nearly_flat(image):
        flat = image.reshape(3, -1)
        if torch.equal(flat.amin(1), flat.amax(1)):
            odd.append("is blank, every pixel has the same colour")
        elif int(flat.amax()) < DARK:
            odd.append(f"is nearly black, all values are below {DARK} of 255 (10 or 12 bits stored as 16 look so)")
    return odd


def of_label(pixels: Int64[np.ndarray, "256"]) -> list[str]:
    """What is odd about a label, of which so many pixels have each id."""
    return [f"is {IGNORE} (ignored) everywhere"] if pixels[IGNORE] == pixels.sum() else []


def alias(name: str) -> str:
    """The same for names that a file system may take for one: they differ by case, or by how accents are coded."""
    return unicodedata.normalize("NFC", name).casefold()


def clashes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names with one alias."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(alias(name), []).append(name)
    return [tuple(same) for same in groups.values() if len(same) > 1]


def notes(odd: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each oddity and the files that have it: the first of them by name, and how many there are."""
    return [f"{files[0]}: {text}; {count(files)}" for text, files in odd.items()]


def count(files: Sequence[str]) -> str:
    """How many files there are, and a few after the first."""
    more = f", such as {', '.join(files[1:_SHOWN])}" if len(files) > 1 else ""
    return f"{len(files)} such file(s) in all{more}"


def _nearly_flat(image: UInt8[Tensor, "3 h w"]) -> bool:
    """Whether each channel's values lie within `DARK` of each other: what is blank or nearly black does."""
    flat = image.reshape(3, -1)
    return bool((flat.amax(1) - flat.amin(1) < DARK).all())
