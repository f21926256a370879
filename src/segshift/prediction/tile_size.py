"""How much memory predicting an image takes, estimated, and the tiles that keep it within a budget.

What a network holds while it looks at a small image is counted once, tensor by tensor; it grows with the image. The
estimate depends on the network alone, not on what else is running: the same image gets the same tiles everywhere.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segshift.errors import ConfigError
from segshift.prediction.tiles import Tiles, working_sizes
from segshift.scan import Views, evaluating

BUDGET = 2 << 30
"""Bytes that predicting one image may take beside the network's weights and the image."""
SMALL = 1 << 20
"""Pixels of a working size that is never cut, so that no network is asked what it takes."""
LARGEST = 1 << 15
"""Sides of automatic tiles go no further."""
STEP = 64
"""Sides of automatic tiles are multiples of this."""
_SPARE = 1.5
"""Of what is counted: kernels take room of their own for a while, which no tensor shows."""
_PROBES = (192, 384)


class Footprint(NamedTuple):
    """What a network takes in memory, as a function of what it is shown."""

    linear: float
    """Bytes a pixel of the network's input."""
    square: float
    """Bytes a squared pixel: of networks where every place looks at every other; of convolutions 0."""
    logits: float
    """Bytes of class scores a pixel of the input, at the network's own stride."""
    stride: float
    """Pixels of the input a side of a class score."""

    def of(self, pixels: int) -> int:
        """Bytes while the network looks at so many pixels."""
        return int(self.linear * pixels + self.square * pixels**2)


def footprint(model: nn.Module, minimum: int = 1) -> Footprint:
    """Measured on two small images. `minimum`: the shortest side in pixels that the network takes."""
    found = []
    device = next(model.parameters()).device
    for side in (max(probe, minimum * probe // _PROBES[0]) for probe in _PROBES):
        with evaluating(model), _Held() as held:
            logits = model(torch.zeros(1, 3, side, side, device=device)).logits
        found.append((side * side, held.most * _SPARE, logits))
    (few, least, _), (many, most, logits) = found
    square = max(0.0, (most / many - least / few) / (many - few))
    linear = max(least / few, most / many) - square * few
    return Footprint(max(linear, 0.0), square, 4 * logits.numel() / many, (many / logits[0, 0].numel()) ** 0.5)


class _Held(TorchDispatchMode):
    """Counts the bytes of tensors that are made, and let go of, in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._sees(tensor.untyped_storage())
        return found

    def _sees(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def estimate(found: Footprint, sizes: list[tuple[int, int]], width: int, tiles: Tiles | None, flip: bool) -> int:
    """Bytes that predicting takes at its peak. `sizes`: what the network sees, a scale each; `width`: of the output.

    Beside the network's own, class scores are held at its stride down and at the output's width across: of the whole
    image, or of the rows of tiles that reach into one row of pixels.
    """
    most = kept = 0
    for height, across in sizes:
        if tiles is None or tiles.holds((height, across)):
            most, rows = max(most, found.of(height * across)), height
        else:
            side = min(tiles.size[0], height)
            most = max(most, found.of(side * min(tiles.size[1], across)))
            # Those that one row of pixels lies in, the row of tiles that is being made, and what it is made of.
            stride = max(1, int(side * (1 - tiles.overlap)))
            rows = (-(-side // stride) + 3) * side
        wide = found.logits * found.stride * max(width, across)
        kept += int(wide * rows / found.stride) * (2 if flip else 1)
    return most + kept


def automatic(
    found: Footprint,
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    overlap: float = 0.25,
    budget: int = BUDGET,
    minimum: int = 1,
) -> Tiles | None:
    """The largest square tiles for an image of `size` (height, width) that keep the estimate within `budget` bytes.

    None where the whole image does. Raises ConfigError where not even the smallest tiles do, which are of `minimum`
    pixels rounded up to a multiple of 64.
    """
    sizes = working_sizes(size, short_side, views)
    if estimate(found, sizes, size[1], None, views.flip) <= budget:
        return None
    fewest = -(-max(minimum, STEP) // STEP)
    most = -(-min(max(map(max, sizes)), LARGEST) // STEP)

    def needs(steps: int) -> int:
        return estimate(found, sizes, size[1], Tiles((steps * STEP, steps * STEP), overlap), views.flip)

    if needs(fewest) > budget:
        raise ConfigError(
            f"memory = {budget / 2**30:.2g} GiB; an image of {size[0]}x{size[1]} pixels (height x width) needs about "
            f"{needs(fewest) / 2**30:.2g} GiB in the smallest tiles. Allow more (--memory), or let it be worked on at "
            "a smaller size (--short-side)"
        )
    side = STEP * max(steps for steps in range(fewest, most + 1) if needs(steps) <= budget)
    return Tiles((side, side), overlap)


def tiles_for(
    model: nn.Module,
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    known: Footprint | None,
    budget: int = BUDGET,
    overlap: float = 0.25,
    minimum: int = 1,
) -> tuple[Tiles | None, Footprint | None]:
    """Tiles for an image where it is large, and the network's footprint once it had to be measured."""
    if max(height * width for height, width in working_sizes(size, short_side, views)) <= SMALL:
        return None, known
    known = known or footprint(model, minimum)
    return automatic(known, size, short_side, views, overlap, budget, minimum), known
