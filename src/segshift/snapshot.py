"""The state of a training between two steps: what a checkpoint holds, and how it is put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segshift.parts.sharded import is_shared, shared_like, whole
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


def snapshot(method: Method, at: Position, labelled: bool, keep: bool = True) -> dict[str, Any]:
    """All state of a phase: networks, optimisers, schedules, the method's own, counters, random numbers.

    `labelled`: whether the round trains on pseudo-labels, which stay in their own files. What the processes share out
    is in it as a whole, so that any number of them can go on with it, sharing it out or not; all must come here then,
    and only where `keep` says so is what they gather kept.
    """
    players = {name: player.state_dict() for name, player in method.players().items()}
    return {
        "position": asdict(at),
        "labelled": labelled,
        "players": gathered(players, keep),
        **gathered(_optimizers(method), keep),
        "method": method.state_dict(),
        "random": torch.get_rng_state(),
    }


def gathered(state: Any, keep: bool = True) -> Any:
    """A nested state with whole tensors, in main memory, for those that are shared out; None for them without `keep`.

    The processes meet at each, in the order of the state. Other tensors are left as they are.
    """
    if isinstance(state, Mapping):
        return {key: gathered(value, keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gathered(value, keep) for value in state)
    if not (isinstance(state, Tensor) and is_shared([state])):
        return state
    found = whole(state)
    return found.cpu() if keep else None


def restore(method: Method, state: Mapping[str, Any]) -> None:
    """Put a snapshot back."""
    for name, player in method.players().items():
        restore_player(player, state["players"][name])
    restore_optimizers(method, state)
    method.load_state_dict(state["method"])
    torch.set_rng_state(state["random"])


def restore_player(player: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put whole weights and buffers into a network, shared out or not."""
    own = player.state_dict()
    player.load_state_dict({name: shared_like(value, own.get(name, value)) for name, value in state.items()})


def optimizer_states(method: Method) -> dict[str, Any]:
    """A copy of the optimisers' and schedules' state, for `restore_optimizers`."""
    return copy.deepcopy(_optimizers(method))


def restore_optimizers(method: Method, state: Mapping[str, Any]) -> None:
    """Put the optimisers and schedules back, momentum and learning rate included."""
    for name, entry in method.optimizers().items():
        entry.optimizer.load_state_dict(_shared_out(entry.optimizer, state["optimizers"][name]))
        entry.schedule.load_state_dict(state["schedules"][name])


def _shared_out(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimiser's state, what it keeps of a weight in the layout of that weight and shared out as it is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def placed(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        if is_shared([parameter]):
            return shared_like(value, parameter)
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    kept = {
        index: {key: placed(value, parameters[index]) for key, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": kept}


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
