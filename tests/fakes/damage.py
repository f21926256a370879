"""What happens to a file by accident."""

from __future__ import annotations

from hypothesis import strategies as st

HITS = st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=8)
"""Places in a file of any length (from its start, around and around it), and what a byte there is changed by."""


def damaged(content: bytes, hits: list[tuple[int, int]]) -> list[bytes]:
    """The content cut short at each place, and with one byte changed there."""
    places = [(place % len(content), by) for place, by in hits]
    cut = [content[:place] for place, _ in places]
    return cut + [content[:place] + bytes([content[place] ^ by]) + content[place + 1 :] for place, by in places]
