"""The state of a training between two steps: what a checkpoint holds, and how it is put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segshift.recipe import Recipe
from segshift.recipe_identity import identity
from segshift.types import Method


@dataclass(frozen=True)
class Position:
    """Where a run stands: phase index, round of it (0: none begun), next step t of the whole run."""

    phase: int = 0
    round: int = 0
    t: int = 0
    first: int = 0
    """The step at which the phase began."""


FORMAT = 1
"""Of a checkpoint's content. To be raised where another version would read it wrongly."""


def stamp(recipe: Recipe) -> dict[str, Any]:
    """What every checkpoint of a run says of it, so that one of another run is not taken for its own."""
    return {"format": FORMAT, "recipe": identity(recipe), "seed": recipe.settings.seed}


def round_folder(run: Path, phase: str, n: int) -> Path:
    """Where round n of a phase keeps its pseudo-labels."""
    return (run if phase == "adaptation" else run / phase) / f"round-{n}"


def snapshot(method: Method, at: Position, labelled: bool) -> dict[str, Any]:
    """All state of a phase: networks, optimisers, schedules, the method's own, counters, random numbers.

    `labelled`: whether the round trains on pseudo-labels, which stay in their own files.
    """
    return {
        "position": asdict(at),
        "labelled": labelled,
        "players": {name: player.state_dict() for name, player in method.players().items()},
        **_optimizers(method),
        "method": method.state_dict(),
        "random": torch.get_rng_state(),
    }


def restore(method: Method, state: Mapping[str, Any]) -> None:
    """Put a snapshot back."""
    for name, player in method.players().items():
        player.load_state_dict(state["players"][name])
    restore_optimizers(method, state)
    method.load_state_dict(state["method"])
    torch.set_rng_state(state["random"])


def optimizer_states(method: Method) -> dict[str, Any]:
    """A copy of the optimisers' and schedules' state, for `restore_optimizers`."""
    return copy.deepcopy(_optimizers(method))


def restore_optimizers(method: Method, state: Mapping[str, Any]) -> None:
    """Put the optimisers and schedules back, momentum and learning rate included."""
    for name, entry in method.optimizers().items():
        entry.optimizer.load_state_dict(state["optimizers"][name])
        entry.schedule.load_state_dict(state["schedules"][name])


def _optimizers(method: Method) -> dict[str, Any]:
    optimizers = method.optimizers()
    return {
        "optimizers": {name: entry.optimizer.state_dict() for name, entry in optimizers.items()},
        "schedules": {name: _plain(entry.schedule.state_dict()) for name, entry in optimizers.items()},
    }


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule's state without what is no data (it may refer to its optimiser or to functions)."""
    return {
        k: v for k, v in state.items() if isinstance(v, (int, float, str, bool, list, tuple, dict, Tensor, type(None)))
    }
