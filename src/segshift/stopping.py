"""A request to stop: Ctrl-C or SIGTERM is remembered, and obeyed where nothing is lost by it.

Within training that is after the step at hand, once it is saved; while a network only looks at images, before the next
of them. A second request ends the process at once, which costs the steps since the last checkpoint.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segshift.errors import StoppedError
from segshift.scan import Track


class Stopping:
    """What a run asks whether it should go on. Without `listening` nobody ever asks it to stop."""

    def __init__(self, folder: Path, alone: bool = True) -> None:
        self.folder = folder
        self._alone = alone
        """Whether this is the only process. Of several, none may leave a scan: the others would wait at its end."""
        self.signal: str | None = None
        """Name of the signal that came."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM for a request. Outside of the main thread, where no signal arrives: do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, _: object) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name

    def between_images(self, track: Track) -> Track:
        """A track that ends the run before the next image when asked to: looking at images changes nothing."""

        def tracked(items: Iterator[int], total: int) -> Iterator[int]:
            for item in track(items, total):
                self.before_looking()
                yield item

        return tracked

    @property
    def may_now(self) -> bool:
        """Whether this process was asked to stop, and no other would wait for it."""
        return self.signal is not None and self._alone

    def before_looking(self) -> None:
        """Raise StoppedError when asked to stop, where the last checkpoint holds all that was trained."""
        if self.may_now:
            raise self.error("all steps so far are saved")

    def error(self, where: str) -> StoppedError:
        """What the user reads: which signal, where the run stands, how to go on."""
        by = self.signal or "a signal to another process"
        return StoppedError(f"stopped by {by}: {where}; go on with: segshift resume {self.folder}")
