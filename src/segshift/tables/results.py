"""The results file: a line of JSON for each finished run, known by what decides its figures and by no table.

A run is known by group, row, seed, the hash of its recipe, the part of the target (split and fold) and the views it
was scored on. So tables share runs, and a run that stands there is not repeated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segshift.data.records import changed_roles
from segshift.errors import RunError
from segshift.evaluate import Scores
from segshift.recipe_identity import VERSION
from segshift.scan import Views

_REQUIRED = ("group", "row", "seed", "recipe", "scores")


class Key(NamedTuple):
    """What decides a run's figures, the images aside."""

    group: str
    row: str
    seed: int
    recipe: str
    """`identity` of the recipe."""
    split: str | None
    """The target's split, where a table has several."""
    fold: int | None
    views: str
    """`views_text` of how it was scored."""


def views_text(views: Views) -> str:
    """`0.5 0.75 1 flip`: how a model was scored, in a word for the key."""
    words = [f"{scale:g}" for scale in views.scales]
    words += ["flip"] if views.flip else []
    return " ".join(words + (["logits"] if views.average == "logits" and len(words) > 1 else []))


@dataclass(frozen=True)
class Entry:
    """A line of a results file."""

    content: Mapping[str, Any]
    origin: str
    """File and line."""

    @property
    def key(self) -> Key:
        """Lines of the first version, which had fewer fields, get a key that no new run has."""
        c = self.content
        return Key(c["group"], c["row"], c["seed"], str(c["recipe"]), c.get("split"), c.get("fold"), c.get("views", ""))

    @property
    def scores(self) -> Scores:
        return Scores.from_dict(self.content["scores"], self.origin)

    @property
    def rounds(self) -> dict[int, Mapping[str, float]]:
        """Round -> mean IoU of each subset, where every round was scored; round 0 is the warm-up."""
        return {int(n): miou for n, miou in (self.content.get("rounds") or {}).items()}

    @property
    def accuracies(self) -> dict[int, float]:
        """Round -> mean pixel accuracy, likewise; empty for a line from before it was kept."""
        return {int(n): value for n, value in (self.content.get("accuracies") or {}).items()}

    @property
    def labels(self) -> dict[int, Mapping[str, Any]]:
        """Round -> figures of its pseudo-labels, as fractions of 1: proportion; where the target has labels, accuracy
        and miou (P-mIoU), and of each class iou and kept (the share of the pixels predicted as it).

        Empty for a run without pseudo-labels, and for a line from before they were measured.
        """
        return {int(n): figures for n, figures in (self.content.get("labels") or {}).items()}


class Results:
    """A results file, read once and appended to.

    Raises RunError, naming file and line, for a line that cannot be read. A last line that a kill cut short does not
    count, and the next `append` cuts it off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = self._read()

    def find(self, key: Key, data: Mapping[str, Any]) -> Entry | None:
        """The newest line of a key whose images were the same; a line that does not say which is taken."""
        for entry in reversed(self.entries):
            if entry.key == key and not changed_roles(entry.content.get("data", data), data):
                return entry
        return None

    def append(self, key: Key, content: Mapping[str, Any]) -> Entry:
        """Add a line at the end of the file."""
        text = json.dumps({"format": VERSION, **key._asdict(), **content})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0)
            end = file.read().rpartition(b"\n")[2]
            if end and not _whole(end):
                file.truncate(file.tell() - len(end))
            # One write, so that two commands may share a file.
            file.write((b"\n" if end and _whole(end) else b"") + text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        entry = Entry(json.loads(text), f"{self.path}, the last line")
        self.entries.append(entry)
        return entry

    def _read(self) -> list[Entry]:
        if not self.path.exists():
            return []
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{self.path}: cannot be read ({error}); expected a results file of JSON lines") from error
        start, newline, end = text.rpartition("\n")
        numbered = enumerate((text if _whole(end.encode()) else start + newline).splitlines(), start=1)
        return [_entry(line, f"{self.path}, line {number}") for number, line in numbered if line.strip()]


def _whole(line: bytes) -> bool:
    """Whether a line without its end of line is all there."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _entry(line: str, origin: str) -> Entry:
    cure = "mend or remove that line; the run it stood for is then scored again from its folder"
    try:
        content = json.loads(line)
    except ValueError as error:
        raise RunError(f"{origin}: is no JSON ({error}): {line[:60]!r}; {cure}") from error
    missing = [name for name in _REQUIRED if not isinstance(content, dict) or name not in content]
    if missing:
        raise RunError(f"{origin}: {', '.join(missing)} missing; expected a line that `segshift table` wrote: {cure}")
    return Entry(content, origin)
