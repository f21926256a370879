"""One run from start to end: warm-up, rounds, scores, report. Started once, resumed as often as it takes.

A run is a folder: `run.json` (the recipe and what it ran on), `log.jsonl`, `checkpoints/`, `round-N/`,
`evaluation/`, `model/`, `report.html`. Whatever a kill leaves there, `resume` ends with the same weights.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from lightning_fabric import Fabric
from torch import nn

from segshift import recipe as recipe_file
from segshift.candidates import check_watching
from segshift.data.protocols import ScoredAs, scored_space
from segshift.data.records import changed_roles
from segshift.environment import environment
from segshift.errors import ConfigError, RunError
from segshift.launch import launch, require_shared, together
from segshift.models.network import with_module
from segshift.one_run import OneRun, recipe_of, write_info
from segshift.only_one import only_one
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.restart import check_restarts, student_note
from segshift.run_data import Data, open_all
from segshift.run_folder import read_info
from segshift.taxonomy import from_dict
from segshift.warmups import before, space_of, weights_digest


def start(
    recipe: Recipe,
    folder: Path,
    warmup: Path | None = None,
    oracle: Path | None = None,
    data: Data | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Run a recipe in a new folder and return that folder.

    `warmup`: a run (or a file of weights) that stands in for all that comes before the recipe's last phase, so that
    many rows share it; where it is that, the result is the one that the whole recipe would give. A recipe without a
    source needs one. `oracle`: a finished oracle run, shown beside this one in the report. `data`: what `open_all`
    gave, where several runs share it. `reporter`: who is told of it, in place of the terminal. Raises RunError where
    the folder already holds a run.
    """
    if warmup is not None and recipe.last[0] == "warmup":
        raise ConfigError(f"warmup = {warmup}: recipe {recipe.name} is a warm-up itself; leave the option out")
    if warmup is None and recipe.data.source is None:
        raise ConfigError(
            f"recipe {recipe.name} has no source to train on: start it from a model, --warmup RUN or FILE"
        )
    fabric = launch(recipe)
    with together(fabric.world_size, folder), ExitStack() as held:
        if fabric.is_global_zero:
            held.enter_context(only_one(folder))
        # The first process's answer counts: it writes run.json. A network disk may remember for another, which looked
        # too, that there was none.
        if fabric.broadcast(fabric.is_global_zero and (folder / "run.json").exists()):
            raise RunError(
                f"{folder}: holds a run already; go on with `segshift resume {folder}`, or choose another --out"
            )
        data = data or open_all(recipe, space=space_of(warmup))
        recipe = recipe.on(len(data.domains.target.names))
        _refuse_missing_source(recipe, data)
        check_restarts(recipe, len(data.domains.space))
        check_watching(recipe)
        info = _info(recipe, data, fabric, warmup, oracle)
        if fabric.is_global_zero:
            write_info(folder, info)
        fabric.barrier()
        require_shared(folder)
        return OneRun(folder, recipe, data, info, fabric, reporter=reporter).to_the_end()


def _info(recipe: Recipe, data: Data, fabric: Fabric, warmup: Path | None, oracle: Path | None) -> dict[str, Any]:
    """What `run.json` says."""
    now = environment(fabric.device.type)
    info = {
        "name": recipe.name,
        "label": recipe.label,
        "warmup_label": recipe.warmup_label,
        "alignment_label": recipe.alignment_label,
        "adaptation_label": recipe.adaptation_label,
        "seed": recipe.settings.seed,
        "command": shlex.join(["segshift", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": recipe_file.to_dict(recipe),
        "warmup_from": None if warmup is None else str(warmup.resolve()),
        "warmup_digest": None if warmup is None else weights_digest(warmup),
        "oracle": None if oracle is None else str(oracle.resolve()),
        "versions": {"python": now["python"]} | now["libraries"],
        "environment": now,
        "threads": recipe.settings.threads,
        "device": str(fabric.device.type),
        "processes": recipe.settings.devices * recipe.settings.nodes,
        "data": data.record,
        "data_notes": data.notes,
        "left_out": data.left_out,
        "protocol": [*data.protocol, *_repainted(recipe), *filter(None, [student_note(recipe)])],
        "space": data.domains.space.to_dict(),
    }
    if isinstance(data.test, ScoredAs):
        info["scored_space"] = scored_space(data.test).to_dict()
    return info | ({} if warmup is None else before(warmup, data.record, recipe.last[0]).labels)


def _repainted(recipe: Recipe) -> list[str]:
    """A sentence for `run.json` and the report where phases translate source images as they train."""
    kinds = {name: phase.translation.kind for name, phase in recipe.phases() if phase.translation is not None}
    ways = {"fourier": "low-frequency amplitudes", "lab": "colour statistics"}
    said = "; ".join(f"{name}: {ways[kind]}" for name, kind in kinds.items())
    return [f"Source images are translated towards drawn target images ({said})."] if said else []


def _refuse_missing_source(recipe: Recipe, data: Data) -> None:
    """ConfigError, before the first step, where there is no source and the last phase would look at one."""
    _, phase = recipe.last
    if data.domains.source is None:
        trains = "source" in phase.method.domains or getattr(phase.method, "prior", None) is not None
        if (trains and phase.rounds) or "source" in (phase.adabn_before, phase.adabn_after):
            data.domains.labelled()


def resume(
    folder: Path,
    devices: int | None = None,
    nodes: int | None = None,
    strategy: Literal["ddp", "fsdp"] | None = None,
    module: nn.Module | None = None,
) -> Path:
    """Go on with a run where its last good checkpoint is. A finished run is left as it is.

    `devices`, `nodes`, `strategy`: in place of those it began with. On another number of processes, or where they share
    the network in another way, it takes the same steps but for rounding. `module`: the user's own, where the run is of
    one: no run holds its code.
    """
    info = read_info(folder, to_resume=True)
    recipe = recipe_of(folder)
    given: Any = {"devices": devices, "nodes": nodes, "strategy": strategy}
    given = {name: value for name, value in given.items() if value is not None}
    network = with_module(recipe.network, module)
    recipe = replace(recipe, network=network, settings=replace(recipe.settings, **given))
    fabric = launch(recipe)
    with together(fabric.world_size, folder), ExitStack() as held:
        if fabric.is_global_zero:
            held.enter_context(only_one(folder))
        data = open_all(recipe, space=from_dict(info["space"], str(folder / "run.json"))[0])
        _require_same_data(folder, info["data"], data.record)
        return OneRun(folder, recipe, data, info, fabric, resumed=True).to_the_end()


def _require_same_data(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """RunError where images differ from those the run began with."""
    for role in changed_roles(then, now):
        raise RunError(
            f"{folder}: the {role} images have changed: {then.get(role)} at first, {now.get(role)} now. "
            "Put the old ones back, or start a new run"
        )
