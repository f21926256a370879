"""`log.jsonl`: one line a step, appended; a resumed run first cuts off the steps it will take again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segshift.checkpoint import atomic_write


class RunLog:
    """The step log of a run; only the first process writes."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line."""
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def cut(self, t: int) -> None:
        """Drop the lines of steps t and later, and a line that a kill left half-written."""
        if self.writes and self.path.exists():
            kept = [entry for entry in self.read() if entry["step"] < t]
            atomic_write(self.path, "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
        if not self.path.exists():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return entries
