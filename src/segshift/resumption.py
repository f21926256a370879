"""Where a run goes on from: its newest checkpoint that is whole, its own, and has its pseudo-labels still beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segshift import checkpoint
from segshift.checkpoint import Latest
from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import RunError
from segshift.recipe import Recipe
from segshift.snapshot import FORMAT, Position, round_folder, stamp


def resume_point(run: Path, recipe: Recipe, num_classes: int, target: Sequence[str]) -> Latest:
    """The checkpoint to go on from, with a warning that names those passed over; its path is None at a run's start.

    `target` are the names of the images that pseudo-labels are of. Raises RunError where there are checkpoints, but
    none that the rest of the run could rest on: to begin anew is for the user to say.
    """

    def accept(state: Any) -> None:
        _require_own(state, stamp(recipe))
        _require_labels(run, recipe, state, num_classes, target)

    folder = run / "checkpoints"
    found = checkpoint.latest(folder, accept)
    if found.path is None and found.warning:
        raise RunError(
            f"{folder}: holds no checkpoint that the run could go on from:\n{found.warning}\n"
            f"Put back what is damaged or gone; or delete {folder}, and the run begins anew when it is resumed"
        )
    return found


def _require_own(state: Any, expected: Mapping[str, Any]) -> None:
    """RunError unless a checkpoint's content is that of a run with this stamp."""
    if not isinstance(state, dict) or "position" not in state or "players" not in state:
        raise RunError("holds no state of a training; expected a checkpoint that `segshift adapt` wrote")
    if state.get("format") != FORMAT:
        found = state.get("format", "none")
        raise RunError(
            f"has format {found}, this version of Segshift reads format {FORMAT}; resume the run with the version that "
            "began it (run.json names it)"
        )
    for key, of in (("recipe", "another recipe"), ("seed", "another seed")):
        if state.get(key) != expected[key]:
            raise RunError(
                f"is of {of}: {state.get(key)}, run.json's is {expected[key]}; expected a checkpoint of this very run. "
                "Move it away, or put the run.json back that it was written under"
            )


def _require_labels(run: Path, recipe: Recipe, state: dict[str, Any], num_classes: int, target: Sequence[str]) -> None:
    """RunError unless the pseudo-labels that a checkpoint was trained on are there: others train another model."""
    at = Position(**state["position"])
    phases = recipe.phases()
    if at.phase >= len(phases):
        return
    name, _ = phases[at.phase]
    if state.get("labelled"):
        PseudoLabels(round_folder(run, name, at.round), num_classes).verify(target)
    if (n := state.get("soft")) is not None:
        PseudoLabels(round_folder(run, name, n), num_classes).verify_soft(target)
