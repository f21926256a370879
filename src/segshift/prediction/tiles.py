"""Prediction of an image in overlapping tiles, where it is larger than memory or than what the network was trained on.

The logits of neighbouring tiles are blended where both see a pixel. What is held is the network's low-resolution logits
of one row of tiles (two where rows overlap), and a few rows of class scores: never the scores of the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from segshift.data.resizing import resize_image
from segshift.data.transforms import to_float, working_size
from segshift.errors import ConfigError
from segshift.parts.logit_bands import ProbBand
from segshift.parts.threads import one_thread
from segshift.scan import Views, predict_label

_BAND_PIXELS = {"cpu": 1 << 15, "cuda": 1 << 22}
"""Whose class scores are made at a time, on a kind of device: on a processor, what its caches hold."""


@dataclass(frozen=True)
class Tiles:
    """What the network sees of an image at once."""

    size: tuple[int, int]
    """Height and width in pixels of the working size (times the scale, where views have several). An image that is
    smaller is one tile in that direction."""
    overlap: float = 0.25
    """Least share of a tile's side that it has in common with the next one, 0 to 0.9."""

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"tile = {self.size}; expected height and width in pixels, such as 512 1024")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"overlap = {self.overlap}; expected a share of a tile, 0 to 0.9")

    def along(self, axis: int, length: int) -> Line:
        """The tiles along one axis (0: down, 1: across) of an image of `length` pixels: as few as the overlap allows,
        evenly spread, the first and the last at its ends."""
        side = min(self.size[axis], length)
        stride = max(1, int(side * (1 - self.overlap)))
        steps = -(-(length - side) // stride)
        return Line(length, side, tuple(round(i * (length - side) / max(steps, 1)) for i in range(steps + 1)))

    def holds(self, size: tuple[int, int]) -> bool:
        """Whether one tile holds an image of this height and width."""
        return size[0] <= self.size[0] and size[1] <= self.size[1]


class Line(NamedTuple):
    """Tiles along one axis of an image."""

    length: int
    """Pixels of the image."""
    side: int
    """Pixels of a tile."""
    starts: tuple[int, ...]
    """First pixel of each tile."""


class Part(NamedTuple):
    """One tile along an axis, as the pixels of the output see it."""

    start: int
    """First pixel of the tile in the image."""
    span: slice
    """Pixels of the output that lie in the tile; there may be none where the output is much smaller."""
    centre: Float[Tensor, " n"]
    """Where each of them is in the tile: 0 is its first edge, `side` its last."""
    share: Float32[Tensor, " n"]
    """Its weight among this and all earlier tiles there: 1 where it is the first."""


def parts(line: Line, output: int, align_corners: bool) -> list[Part]:
    """Which of `output` pixels lie in each tile, and with what weight.

    A weight is the distance to the tile's nearer edge, so that one tile fades into the next, and its border, where the
    network sees least, counts least. Summed up as running means, equal scores of several tiles stay as they are, to
    the bit.
    """
    at = torch.arange(output, dtype=torch.float64)
    if align_corners:
        centre = at * ((line.length - 1) / max(output - 1, 1)) + 0.5
    else:
        centre = (at + 0.5) * (line.length / output)
    total, found = torch.zeros(output, dtype=torch.float64), []
    for start in line.starts:
        first, end = torch.searchsorted(centre, torch.tensor([start, start + line.side], dtype=torch.float64)).tolist()
        span = slice(first, end)
        inside = centre[span] - start
        weight = torch.minimum(inside, line.side - inside).clamp_min(1e-6)
        total[span] += weight
        found.append(Part(start, span, inside, (weight / total[span]).float()))
    return found


def tiled_label(
    model: nn.Module,
    image: UInt8[Tensor, "3 h w"],
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    tiles: Tiles,
) -> UInt8[Tensor, "height width"]:
    """The class of each pixel at `size` (height, width), as of `scan.predict_label`: and by it, where a tile holds all
    that the network is to see. The model is expected in evaluation mode.

    Logits of a view are blended over its tiles; over the views, what `Views.average` says is averaged.
    """
    sizes = working_sizes((image.shape[1], image.shape[2]), short_side, views)
    if all(tiles.holds(scaled) for scaled in sizes):
        return predict_label(model, image, size, short_side, views)
    label = torch.empty(size, dtype=torch.uint8)
    for rows, scores in _bands(model, image, size, sizes, views, tiles):
        with one_thread():
            label[rows] = _largest(scores).cpu()
    return label


def tiled_probabilities(
    model: nn.Module,
    image: UInt8[Tensor, "3 h w"],
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    tiles: Tiles,
) -> Iterator[ProbBand]:
    """Class probabilities at `size` (height, width), some rows at a time, on the network's device.

    For images that no tile holds: then the labels are those of `tiled_label`, to the bit. The model is expected in
    evaluation mode.
    """
    sizes = working_sizes((image.shape[1], image.shape[2]), short_side, views)
    count = len(sizes) * (2 if views.flip else 1)
    for rows, scores in _bands(model, image, size, sizes, views, tiles):
        label = _largest(scores)
        mean = scores.div_(count)
        prob = mean if count > 1 and views.average == "probabilities" else mean.softmax(0)
        yield ProbBand(rows, prob, prob.amax(0), label)


def working_sizes(size: tuple[int, int], short_side: int | None, views: Views) -> list[tuple[int, int]]:
    """Height and width that the network sees an image of `size` at, a scale each."""
    height, width = working_size(size, short_side)
    return [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in views.scales]


def _bands(
    model: nn.Module,
    image: UInt8[Tensor, "3 h w"],
    size: tuple[int, int],
    sizes: list[tuple[int, int]],
    views: Views,
    tiles: Tiles,
) -> Iterator[tuple[slice, Float32[Tensor, "k rows width"]]]:
    """Rows of the output from the top down, and what `_sum` makes of them."""
    looks = [
        _Look(model, pixels, size, tiles, mirrored)
        for pixels in (resize_image(image, scaled) for scaled in sizes)
        for mirrored in ((False, True) if views.flip else (False,))
    ]
    step = max(1, _BAND_PIXELS.get(looks[0].device.type, 1 << 22) // size[1])
    for top in range(0, size[0], step):
        rows = slice(top, min(top + step, size[0]))
        for look in looks:
            look.reach(rows.stop)
        with one_thread():
            scores = _sum(looks, rows, views.average)
        yield rows, scores


def _sum(looks: list[_Look], rows: slice, average: str) -> Float32[Tensor, "k rows width"]:
    """What the views' scores come to, but for a factor: one view's logits are as good as its probabilities."""
    if len(looks) == 1:
        return looks[0].scores(rows)
    bands = (look.scores(rows) for look in looks)
    if average == "probabilities":
        bands = (band.softmax(0) for band in bands)
    return reduce(torch.Tensor.add_, bands)


class _Look:
    """One view of an image through its tiles: class scores at the output's size, from the top down."""

    def __init__(
        self, model: nn.Module, pixels: UInt8[Tensor, "3 h w"], size: tuple[int, int], tiles: Tiles, mirrored: bool
    ) -> None:
        self._model, self._pixels, self._mirrored = model, pixels, mirrored
        self.device = next(model.parameters()).device
        self._width, self._align = size[1], bool(model.align_corners)
        down, across = (tiles.along(axis, pixels.shape[axis + 1]) for axis in (0, 1))
        self._side = down.side, across.side
        self._down, self._across = (parts(line, n, self._align) for line, n in zip((down, across), size))
        self._wide: dict[int, Tensor] = {}
        """Rows of tiles by number: logits (k, low, width), blended along their rows, which are few yet."""
        self._reached = 0
        """Rows of tiles that the network has seen."""

    def reach(self, row: int) -> None:
        """Run the network over the tiles that rows of the output above `row` lie in, if it has not yet."""
        for part in self._down[self._reached :]:
            if part.span.start >= row:
                break
            if part.span.start < part.span.stop:
                self._wide[self._reached] = self._row_of_tiles(part)
            self._reached += 1

    def scores(self, rows: slice) -> Float32[Tensor, "k rows width"]:
        """Blended logits of some rows. What lies above them can be asked for no more."""
        whole = None
        for number, part in enumerate(self._down):
            first, end = max(part.span.start, rows.start), min(part.span.stop, rows.stop)
            if first >= end:
                continue
            of_part = slice(first - part.span.start, end - part.span.start)
            found = self._upsampled(number, of_part)
            if whole is None and (first, end) == (rows.start, rows.stop):
                whole = found  # the first tile there is, so its share is 1
                continue
            if whole is None:
                whole = found.new_zeros(len(found), rows.stop - rows.start, self._width)
            at = whole[:, first - rows.start : end - rows.start]
            torch.lerp(at, found, part.share[of_part, None].to(at.device), out=at)
        self._wide = {number: wide for number, wide in self._wide.items() if self._down[number].span.stop > rows.stop}
        assert whole is not None, "every row lies in a tile"
        return whole

    def _upsampled(self, number: int, of_part: slice) -> Float32[Tensor, "k rows width"]:
        wide = self._wide[number]
        before, after, share = _between(self._down[number].centre[of_part], self._side[0], wide, 1, self._align)
        return torch.lerp(wide.index_select(1, before), wide.index_select(1, after), share[:, None])

    def _row_of_tiles(self, row: Part) -> Float32[Tensor, "k low width"]:
        whole = None
        for part in self._across:
            if part.span.start == part.span.stop:
                continue
            high, wide = (slice(p.start, p.start + side) for p, side in zip((row, part), self._side))
            logits = self._logits(self._pixels[:, high, wide])
            before, after, share = _between(part.centre, self._side[1], logits, 2, self._align)
            tile = torch.lerp(logits.index_select(2, before), logits.index_select(2, after), share)
            if whole is None:
                whole = tile.new_zeros(*tile.shape[:2], self._width)
            at = whole[..., part.span]
            torch.lerp(at, tile, part.share.to(at.device), out=at)
        assert whole is not None, "every column lies in a tile"
        return whole

    def _logits(self, pixels: UInt8[Tensor, "3 h w"]) -> Float32[Tensor, "k _ _"]:
        image = to_float(pixels)[None].to(self.device)
        if self._mirrored:
            return self._model(image.flip(3)).logits[0].flip(2).float()
        return self._model(image).logits[0].float()


def _between(
    centre: Float[Tensor, " n"], side: int, logits: Tensor, axis: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """For places in a tile of `side` pixels: the logit before, the one after, the share of the latter."""
    low = logits.shape[axis]
    at = (centre - 0.5) * ((low - 1) / max(side - 1, 1)) if align_corners else centre * (low / side) - 0.5
    at = at.clamp(0, low - 1)
    before = at.floor()
    found = before.long(), (before + 1).clamp_max(low - 1).long(), (at - before).float()
    return found[0].to(logits.device), found[1].to(logits.device), found[2].to(logits.device)


def _largest(scores: Float32[Tensor, "k rows width"]) -> UInt8[Tensor, "rows width"]:
    """The class of the largest score, of equal ones the first: class by class, which is faster than argmax."""
    best = scores[0].clone()
    label = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number, score in enumerate(scores[1:], start=1):
        label.masked_fill_(score > best, number)
        torch.maximum(best, score, out=best)
    return label
