"""Work beside the caller's own, in one thread and in order: files read before they are needed, written afterwards.

Decoding, compressing and waiting for a disk leave the interpreter to others, so a network runs meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], work: Callable[[T], R]) -> Iterator[tuple[T, R]]:
    """(item, work(item)) of each item, in order; the next one is worked on while the caller looks at this one.

    What `work` raises is raised where its item would have come.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="segshift-ahead") as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > 1:
                first, found = waiting.popleft()
                yield first, found.result()
        for item, found in waiting:
            yield item, found.result()


class Behind:
    """Runs what it is given, one after the other, while the caller goes on; a few pieces may wait.

    What a piece raises is raised by the next `do`, or by `wait`; pieces after it are not begun.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[Any]] = deque()

    def do(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Begin `work(*arguments)` once all before it is done. Waits where too much is waiting."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._most):
            self._take()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="segshift-behind")
        self._waiting.append(self._pool.submit(work, *arguments))

    def wait(self) -> None:
        """Until all is done; then the thread ends."""
        while self._waiting:
            self._take()
        self._end()

    def _take(self) -> None:
        try:
            self._waiting.popleft().result()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        for future in self._waiting:
            future.cancel()
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
