"""What a run left in its folder, read again: run.json, scores, rounds, the log. Nothing here writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from segshift import taxonomy
from segshift.errors import RunError
from segshift.evaluate import Scores
from segshift.json_shape import require
from segshift.sealed import open_json
from segshift.taxonomy import LabelSpace

_AGAIN = "the run is damaged, run it again"
_SEALED = "files"
"""A key that stands in no file older than the seals."""


class _Domain(TypedDict):
    images: int
    fingerprint: str


class _Resumed(TypedDict):
    when: str
    step: int
    changed: list[str]


class _Needed(TypedDict):
    label: str
    space: dict[str, Any]


class _Info(_Needed, total=False):
    """What is read of run.json; what else it holds is its own."""

    scored_space: dict[str, Any]
    name: str
    warmup_label: str
    alignment_label: str | None
    adaptation_label: str | None
    seed: int
    command: str
    started: str
    device: str
    processes: int
    threads: int | None
    versions: dict[str, str]
    data: dict[str, _Domain | None]
    data_notes: dict[str, list[str]]
    protocol: list[str]
    left_out: dict[str, list[str]]
    resumed: list[_Resumed]
    environment: dict[str, Any]
    warmup_digest: str | None


class _Counted(TypedDict):
    round: int
    images: int
    pixels: int
    kept: int
    coverage: float
    kept_per_class: list[int]
    predicted: list[int] | None


class _Round(_Counted, total=False):
    thresholds: dict[str, list[float]]


class _Rarer(TypedDict):
    share_of_truth: float | None
    share_of_labels: float | None
    precision: float | None
    recall: float | None


class _Quality(TypedDict):
    round: int
    proportion: float | None
    accuracy: float | None
    miou: float | None
    miou_classes: int
    iou: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    rarer_half: _Rarer


class _Counts(TypedDict, total=False):
    confusion: list[list[int]]
    images: int


class _Step(TypedDict):
    phase: str
    round: int
    step: int


class _Line(_Step, total=False):
    losses: dict[str, float | None]
    blank: list[str]


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


class _Begun(_Needed):
    """What a run cannot go on without."""

    recipe: dict[str, Any]
    data: dict[str, dict[str, Any]]
    warmup_from: str | None
    oracle: str | None


def read_info(path: Path, to_resume: bool = False) -> dict[str, Any]:
    """What run.json says of a run; with all that going on with it asks for, where that is meant.

    RunError where it is missing, damaged or of another shape.
    """
    file = path / "run.json"
    if not file.is_file():
        raise RunError(
            f"{path} is not a run folder: {file} is missing, so no run was begun there; expected a folder that "
            "`segshift adapt` wrote"
        )
    info = _read_json(file)
    require(info, _Info, str(file), _AGAIN)
    if to_resume:
        require(info, _Begun, str(file), "put it back as it was, or start a new run")
    return info


def read_run(path: Path) -> Run:
    """Read a run folder. Raises RunError naming the folder or file that is missing or damaged."""
    path = Path(path)
    file, info = path / "run.json", read_info(path)
    space, _ = taxonomy.from_dict(info["space"], str(file))
    # Classes may be merged before scoring: the scores are then over other classes than the model.
    scored, _ = taxonomy.from_dict(info.get("scored_space", info["space"]), str(file))
    evaluation = path / "evaluation"
    return Run(
        path,
        info,
        space,
        _read_scores(evaluation / "warmup.json", scored),
        _read_scores(evaluation / "alignment.json", scored),
        _read_scores(evaluation / "adaptation.json", scored),
        _read_scores(evaluation / "final.json", scored),
        _read_rounds(path, space),
        _read_rounds(path / "distillation", space),
        tuple(_read_quality(found, space) for found in _in_order(evaluation.glob("labels-*.json"))),
        _read_log(path / "log.jsonl"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; where it is sealed, its seal is looked at."""
    try:
        return open_json(path.read_text(encoding="utf-8"), _SEALED)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as JSON ({error}); {_AGAIN}") from error


def _in_order(files: Iterable[Path]) -> list[Path]:
    """By their number: 2 before 10."""
    return sorted(files, key=lambda file: (len(str(file)), file))


def _read_rounds(folder: Path, space: LabelSpace) -> tuple[dict[str, Any], ...]:
    """Statistics of the pseudo-labels of each round, in order."""
    found = []
    for file in _in_order(folder.glob("round-*/statistics.json")):
        content = _read_json(file)
        require(content, _Round, str(file), _AGAIN)
        for name in ("kept_per_class", "predicted"):
            counts = content[name]
            if counts is not None and len(counts) != len(space):
                raise RunError(f"{file}: {name} has {len(counts)} numbers for {len(space)} classes; {_AGAIN}")
        found.append(content)
    return tuple(found)


def _read_quality(path: Path, space: LabelSpace) -> dict[str, Any]:
    content = _read_json(path)
    cure = "delete the file, or measure the pseudo-labels again"
    require(content, _Quality, str(path), cure)
    for name in ("iou", "precision", "recall"):
        unknown = [each for each in space.classes if each not in content[name]]
        if unknown:
            raise RunError(f"{path}: {name} has no {', '.join(unknown)}; {cure}")
    return content


def _read_scores(path: Path, space: LabelSpace) -> Scores | None:
    if not path.is_file():
        return None
    content = _read_json(path)
    # A tensor would take 1.5 pixels for 1.
    require(content, _Counts, str(path), "score the run again")
    scores = Scores.from_dict(content, str(path))
    if scores.space.classes != space.classes:
        raise RunError(
            f"{path}: classes of {scores.space.name}, run.json has those of {space.name}; score the run again"
        )
    return scores


def _read_log(path: Path) -> tuple[dict[str, Any], ...]:
    """Lines of a log in order; of a step that was repeated after a kill, the last one counts."""
    if not path.is_file():
        return ()
    try:
        written = path.read_bytes().splitlines()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    lines: dict[tuple[str, int, int], dict[str, Any]] = {}
    for number, text in enumerate(written, start=1):
        try:
            line = json.loads(text)
            require(line, _Line, "expected phase, round, step, losses", _AGAIN)
            lines[(line["phase"], line["round"], line["step"])] = line
        except (ValueError, RecursionError, RunError) as error:
            # A kill can cut the last line short.
            if number < len(written):
                raise RunError(f"{path}, line {number}: cannot be read ({error})") from error
    return tuple(lines.values())
