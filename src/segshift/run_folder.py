"""What a run left in its folder, read again: run.json, scores, rounds, the log. Nothing here writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segshift import taxonomy
from segshift.errors import RunError
from segshift.evaluate import Scores
from segshift.taxonomy import LabelSpace


@dataclass(frozen=True)
class Run:
    """What a report reads of a run folder; parts a run does not have are None or empty."""

    path: Path
    info: Mapping[str, Any]
    space: LabelSpace
    warmup: Scores | None
    alignment: Scores | None
    """Of the second warm-up, between `warmup` and the adaptation."""
    adaptation: Scores | None
    """Of the adapted model, where a student of it is what the run ends with."""
    final: Scores | None
    rounds: tuple[Mapping[str, Any], ...]
    distilled: tuple[Mapping[str, Any], ...]
    """Likewise of the rounds that taught a student."""
    label_quality: tuple[Mapping[str, Any], ...]
    """Each measured round's pseudo-labels against withheld target labels (oracle; `label_quality.Quality`)."""
    log: tuple[Mapping[str, Any], ...]

    @property
    def folder(self) -> str:
        return self.path.resolve().name

    @property
    def warmup_label(self) -> str:
        return str(self.info.get("warmup_label", "warm-up"))

    @property
    def alignment_label(self) -> str:
        return str(self.info.get("alignment_label") or "second warm-up")

    @property
    def adaptation_label(self) -> str:
        return str(self.info.get("adaptation_label") or "teacher")


def read_run(path: Path) -> Run:
    """Read a run folder. Raises RunError naming the folder or file that is missing or damaged."""
    path = Path(path)
    if not (path / "run.json").is_file():
        raise RunError(
            f"{path} is not a run folder: it holds no run.json; expected a folder that `segshift adapt` wrote"
        )
    info = _read_json(path / "run.json")
    missing = [key for key in ("label", "space") if key not in info]
    if missing:
        raise RunError(
            f"{path / 'run.json'}: {', '.join(missing)} missing; expected the run.json of a run: run it again"
        )
    space, _ = taxonomy.from_dict(info["space"], str(path / "run.json"))
    # Classes may be merged before scoring: the scores are then over other classes than the model.
    scored, _ = taxonomy.from_dict(info.get("scored_space", info["space"]), str(path / "run.json"))
    evaluation = path / "evaluation"
    return Run(
        path,
        info,
        space,
        _read_scores(evaluation / "warmup.json", scored),
        _read_scores(evaluation / "alignment.json", scored),
        _read_scores(evaluation / "adaptation.json", scored),
        _read_scores(evaluation / "final.json", scored),
        _read_rounds(path),
        _read_rounds(path / "distillation"),
        tuple(_read_quality(file) for file in sorted(evaluation.glob("labels-*.json"), key=lambda f: (len(f.name), f))),
        _read_log(path / "log.jsonl"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}); the run is damaged, run it again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds {type(content).__name__}, expected an object; the run is damaged, run it again")
    return content


def _read_rounds(folder: Path) -> tuple[dict[str, Any], ...]:
    """Statistics of the pseudo-labels of each round, in order."""
    files = sorted(folder.glob("round-*/statistics.json"), key=lambda file: (len(file.parent.name), file.parent.name))
    return tuple(_read_json(file) for file in files)


def _read_quality(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    expected = ("round", "proportion", "accuracy", "miou", "miou_classes", "iou", "precision", "recall", "rarer_half")
    missing = [key for key in expected if key not in content]
    if missing:
        raise RunError(
            f"{path}: {', '.join(missing)} missing; expected the quality of a round's pseudo-labels: delete the file, "
            "or measure it again"
        )
    return content


def _read_scores(path: Path, space: LabelSpace) -> Scores | None:
    if not path.is_file():
        return None
    scores = Scores.from_dict(_read_json(path), str(path))
    if scores.space.classes != space.classes:
        raise RunError(
            f"{path}: classes of {scores.space.name}, run.json has those of {space.name}; score the run again"
        )
    return scores


def _read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """Lines of a log in order; of a step that was repeated after a kill, the last one counts."""
    if not path.is_file():
        return ()
    lines: dict[tuple[str, int, int], dict[str, Any]] = {}
    written = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(written, start=1):
        try:
            line = json.loads(text)
            lines[(line["phase"], line["round"], line["step"])] = line
        except (ValueError, KeyError, TypeError) as error:
            if number < len(written):
                raise RunError(
                    f"{path}, line {number}: cannot be read ({error!r}); expected phase, round, step"
                ) from error
            # A kill can cut the last line short.
    return tuple(lines.values())
