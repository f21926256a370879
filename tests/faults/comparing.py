"""Whether a run that was hit is whole, and whether it ended as one that was left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from segshift import checkpoint

TIMES = ("started", "command", "seconds", "resumed")
"""Keys of `run.json`, `log.jsonl` and `results.json` that differ from run to run: when, how long, by which words."""


def contents(run: Path) -> dict[str, Any]:
    """All files of a run by name: bytes, parsed where there is a time inside.

    Of the checkpoints the newest: which others are kept depends on where a run was resumed.
    """
    older = sorted((run / "checkpoints").glob("step-*"))[:-1]
    return {str(p.relative_to(run)): _comparable(p) for p in run.rglob("*") if p.is_file() and p not in older}


def _comparable(file: Path) -> Any:
    content = file.read_bytes()
    if file.name == "log.jsonl":
        return [_timeless(json.loads(line)) for line in content.splitlines()]
    if file.name in ("run.json", "results.json"):
        return _timeless(json.loads(content))
    # The figures of the report are those of results.json.
    return content.rstrip().endswith(b"</html>") if file.name == "report.html" else content


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def assert_same_files(run: Path, reference: Path) -> None:
    """The same files, to the bit: weights, pseudo-labels, thresholds, losses, scores. Nothing missing or left over."""
    found, expected = contents(run), contents(reference)
    assert found.keys() == expected.keys(), f"differ: {sorted(found.keys() ^ expected.keys())}"
    other = [name for name, content in found.items() if content != expected[name]]
    assert not other, f"differ: {other}"
    entries, others = ({path.name for path in folder.iterdir()} for folder in (run, reference))
    assert entries == others, f"differ: {entries ^ others}"


def assert_whole(run: Path, reference: Path) -> None:
    """What has a name after a kill is whole: it verifies, or it is what the run that was left alone has there.

    The cache of a scan is never read by another process, and the log may end with half a line. What is kept beside the
    rounds is written anew each round.
    """
    for path in run.rglob("*"):
        name = path.relative_to(run)
        if path.is_dir() or name.parts[0] == "scan" or path.name.endswith(".tmp"):
            continue
        if (
            name.parts[0] == "checkpoints"
            or path.parent.name == "predicted"
            or (path.parent == run and path.suffix == ".safetensors")
        ):
            checkpoint.load(path)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.name == "log.jsonl":
            whole = path.read_bytes().split(b"\n")[:-1]
            assert all(json.loads(line) for line in whole)
        elif path.name == "report.html":
            assert path.read_bytes().rstrip().endswith(b"</html>")
        else:
            assert path.read_bytes() == (reference / name).read_bytes(), f"{name} differs"
