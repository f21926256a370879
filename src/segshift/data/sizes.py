"""Which sizes of images a run can work on: what the network takes, and what memory holds once they are resized."""

from __future__ import annotations

from dataclasses import dataclass

from segshift.data.files import MAX_PIXELS
from segshift.data.transforms import working_size


@dataclass(frozen=True)
class Sizes:
    """The sizes that images may have at their working size."""

    short_side: int | None = None
    """Their shorter side, in pixels, is resized to this; None: their own size."""
    smallest: int = 1
    """The shorter side that is needed at least."""
    most: int = MAX_PIXELS
    """Pixels (height times width) at most."""

    def fault(self, size: tuple[int, int]) -> str:
        """What is wrong with an image of `size` (height, width), and what helps; empty where nothing is."""
        height, width = working_size(size, self.short_side)
        own = f"is {size[0]}x{size[1]} pixels (height x width)"
        if height * width > self.most:
            return (
                f"{own}, and would be worked on at {height}x{width} with a shorter side of {self.short_side}; expected "
                f"at most {self.most} pixels then. Crop it, choose a smaller --data.short-side, or raise --max-pixels"
            )
        if min(height, width) < self.smallest:
            return (
                f"{own}; this network needs a shorter side of {self.smallest}, for the smallest scale it looks at. "
                f"Leave it out, or let images be resized: --data.short-side {self.smallest} or more"
            )
        return ""
