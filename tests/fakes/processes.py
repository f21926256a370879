"""Which processes there are, as Linux says it; elsewhere the tests that ask are not run."""

from __future__ import annotations

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Process ids."""
    return [child for child, (_, parent) in _all().items() if parent == pid]


def is_alive(pid: int) -> bool:
    """Whether there is such a process. A zombie has ended, and waits for a parent that may never ask."""
    return _all().get(pid, ("Z", 0))[0] != "Z"


def _all() -> dict[int, tuple[str, int]]:
    """Process id -> (state, parent's id)."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has just ended
        found[int(stat.parent.name)] = (state, int(parent))
    return found
