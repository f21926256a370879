"""Short operations on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread for a while; also a decorator of functions (not of generators).

    For many operations of microseconds each: waking a second thread costs more than it brings, and where other
    work holds a core, the threads wait for one another at each of them (measured: 90 times slower).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
