"""The models that a run could end with: each scored without target labels as it comes by, and the best one kept.

`RUN/candidates.jsonl` has a line for each; `RUN/candidates/` the weights of the best so far, by the score that the run
chooses by. Neither changes a bit of the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from segshift import checkpoint
from segshift.data.dataset import LabelledDataset
from segshift.data.held_out import held_out_split, open_held_out
from segshift.errors import ConfigError
from segshift.label_free import WORDS, Name, evenly, preference, scores_of
from segshift.models.segmenter import Segmenter
from segshift.phase import Settings
from segshift.predict import score
from segshift.recipe import Recipe
from segshift.run_data import Data
from segshift.run_log import RunLog
from segshift.scan import Track
from segshift.tracking import require

Line = Mapping[str, Any]
"""One of candidates.jsonl: step (steps taken), phase, round, scores by name, oracle: {"miou": …} or None."""


class Key(NamedTuple):
    """Which model of a run a candidate is."""

    phase: str
    round: int
    step: int
    """Steps taken, those of phases before included."""


def check_watching(recipe: Recipe) -> None:
    """ConfigError where a run would choose by what its data does not have, or tell a tracker that is not installed."""
    require(recipe.settings.track)
    config = recipe.data
    if recipe.settings.select == "source" and held_out_split(config) is None:
        raise ConfigError(
            f"select = source: the source ({config.source}) has no labelled split besides the one that is trained on "
            f"({config.source_split}); expected a folder val/ or test/ beside it; or choose by entropy, information "
            "or snd"
        )


class Candidates:
    """The candidates of one run. Without any asked for, nothing is done and nothing written.

    Only the first process scores and writes; all know which models have been looked at. Raises DataError where a
    source image that is held out for them cannot be read.
    """

    def __init__(self, folder: Path, recipe: Recipe, data: Data, first: bool = True) -> None:
        self.recipe, self.data, self.first = recipe, data, first
        self.settings: Settings = recipe.settings
        self.log = RunLog(folder / "candidates.jsonl", first)
        self.folder = folder / "candidates"
        self._checkpoints = folder / "checkpoints"
        self._lines: list[Line] = []
        self._seen: set[Key] = set()
        self._held_out = self._source() if self.settings.scores_candidates else None

    def go_on_at(self, t: int) -> None:
        """Forget what was seen of steps after t, which are taken again: the first process, before all `read`."""
        if self.settings.scores_candidates:
            self.log.cut(t + 1)

    def read(self) -> None:
        """Know the candidates so far, as every process must: those of steps up to the one that the run goes on at."""
        if self.settings.scores_candidates:
            self._lines = list(self.log.read())
            self._seen = {_key(line) for line in self._lines}

    def wants(self, key: Key) -> bool:
        """Whether a model is to be looked at, and has not been; a resumed run comes by some of them again."""
        return self.settings.scores_candidates and key not in self._seen

    def look(self, model: Segmenter, key: Key, track: Track | None = None) -> Line | None:
        """Score a model, keep its weights where it is the best so far, and add its line. The line on the first process.

        The weights come first, so that no line is without what it may be chosen for.
        """
        self._seen.add(key)
        if not self.first:
            return None
        domains, settings = self.data.domains, self.settings
        found = scores_of(model, domains.target, domains.short_side, self._held_out, settings.candidates_images, track)
        line = {
            "step": key.step,
            "phase": key.phase,
            "round": key.round,
            "scores": found.to_dict(),
            "images": found.images,
            "oracle": self._oracle(model),
        }
        lines = [*self._lines, line]
        if settings.select != "last" and best(lines, settings.select) is line:
            checkpoint.save(self._file(line), {"key": list(key), "weights": model.state_dict()})
        self.log.append(line)
        self.log.sync()
        self._lines = lines
        self._prune()
        return line

    def chosen(self) -> Line | None:
        """The candidate that the run ends with; None where it ends with the model of its last step."""
        by = self.settings.select
        return None if by == "last" else best(self._lines, by)

    def weights(self, line: Line) -> dict[str, Tensor]:
        """The weights of the best candidate. RunError where they are gone or damaged."""
        return checkpoint.load(self._file(line))["weights"]

    def told(self, line: Line, of: int, last: float | None) -> str:
        """The choice of a line, among those of `of` steps, as a sentence of the report.

        `last`: test mIoU of the last step's model, where there are test images.
        """
        by = self.settings.select
        score = by if by == "last" else f"{by} ({WORDS[by]})"
        after = "" if last is None else f" The scores of the last step's model (mIoU {100 * last:.1f} %) are in "
        return (
            f"The model was chosen without target labels, by {score}: step {line['step']} of {of} "
            f"({line['phase']}, round {line['round']}), one of {len(self._lines)} candidates."
            f"{after}{'evaluation/last.json.' if after else ''}"
        )

    def _source(self) -> LabelledDataset | None:
        config = self.recipe.data
        found = open_held_out(config)
        if found is not None:
            # A file that cannot be read is to stop the run before its first step.
            for index in evenly(len(found.names), self.settings.candidates_images):
                found.image(index)
                found.label(index)
        return found

    def _oracle(self, model: Segmenter) -> dict[str, float] | None:
        """What the test images say: for pictures alone."""
        test = self.data.test
        if test is None or not self.settings.candidates_oracle:
            return None
        return {"miou": score(model, test, self.data.domains.short_side, self.recipe.test).mean_iou()}

    def _file(self, line: Line) -> Path:
        return self.folder / f"{line['phase']}-{line['round']}-step-{line['step']:06d}.safetensors"

    def _prune(self) -> None:
        """Remove weights that no resumed run could want."""
        if self.settings.select == "last":
            return
        steps = [int(path.stem.removeprefix("step-")) for path in self._checkpoints.glob("step-*.safetensors")]
        wanted = {self._file(line) for line in needed(self._lines, steps, self.settings.select)}
        for file in self.folder.glob("*.safetensors"):
            if file not in wanted:
                checkpoint.discard(file)


def best(lines: Sequence[Line], by: Name) -> Line | None:
    """The candidate with the best score; of equals the earliest. None where none has that score."""
    there = [line for line in lines if line["scores"][by] is not None]
    return max(there, key=lambda line: preference(by, line["scores"][by]), default=None)


def needed(lines: Sequence[Line], checkpoints: Iterable[int], by: Name) -> list[Line]:
    """The best of all, and the best up to each checkpoint: a run that goes on there has only the lines before it."""
    prefixes = [[line for line in lines if line["step"] <= step] for step in checkpoints]
    found = [best(prefix, by) for prefix in (lines, *prefixes)]
    return [line for line in found if line is not None]


def _key(line: Line) -> Key:
    return Key(line["phase"], line["round"], line["step"])
