"""A random order of many items, one place at a time: no list of all places is made.

A Feistel network of four rounds is a permutation of the numbers of 2 b bits whatever its round function (Luby and
Rackoff, 1988), here a keyed BLAKE2. Numbers beyond the count are mapped again until one falls below it (cycle walking,
Black and Rogaway, 2002): fewer than four times on average.
"""

from __future__ import annotations

import hashlib

ROUNDS = 4


def place_of(position: int, count: int, key: bytes) -> int:
    """Which of `count` items stands at a position of the order that `key` (up to 60 bytes) says.

    For a key, the positions 0 .. count - 1 give each item once.
    """
    if not 0 <= position < count:
        raise IndexError(f"position {position} of an order of {count} items")
    half = (max(count - 1, 1).bit_length() + 1) // 2
    mask, found = (1 << half) - 1, position
    while True:
        left, right = found >> half, found & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (_mixed(right, number, key) & mask)
        found = left << half | right
        if found < count:
            return found


def _mixed(value: int, number: int, key: bytes) -> int:
    content = value.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key + bytes([number])).digest(), "little")
