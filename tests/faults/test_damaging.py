"""No truncation and no flipped byte of a file that a run rests on is read as another content."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.faults.damaging import kinds, sweep


@pytest.mark.slow
def test_every_damage_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    tried = {kind.name: sweep(kind, seed=0) for kind in kinds(tmp_path)}
    assert sum(sum(counts) for counts in tried.values()) > 14_000
    # What is sealed by a digest is refused whatever happens to it; a PNG has bytes that mean nothing.
    sealed = [counts for name, counts in tried.items() if name != "pseudo-label"]
    assert len(sealed) == 4
    assert all(counts.equal == 0 for counts in sealed)
