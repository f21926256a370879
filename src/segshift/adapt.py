"""One run from start to end: warm-up, rounds, scores, report. Started once, resumed as often as it takes.

A run is a folder: `run.json` (the recipe and what it ran on), `log.jsonl`, `checkpoints/`, `round-N/`,
`evaluation/`, `model/`, `report.html`. Whatever a kill leaves there, `resume` ends with the same weights.
"""

from __future__ import annotations

import copy
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from segshift import checkpoint
from segshift import recipe as recipe_file
from segshift.adabn import estimate_batch_norm
from segshift.data.protocols import ScoredAs, scored_space
from segshift.draw_cpsl import draw_cpsl
from segshift.draw_prior import draw_prior
from segshift.engine import Engine
from segshift.errors import ConfigError, DataError, RunError
from segshift.evaluate import summary
from segshift.label_quality import measure_round, withheld
from segshift.label_views import last_views
from segshift.models.network import load_weights, save_model, without_weights
from segshift.models.segmenter import Segmenter
from segshift.parts.processes import sum_over_processes
from segshift.phase import Phase
from segshift.predict import save_panels, score
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.report import write_report
from segshift.restart import check_restarts, restart_weights, student_note
from segshift.run_data import Data, open_all
from segshift.snapshot import Position
from segshift.taxonomy import from_dict
from segshift.warmups import before, space_of

LIBRARIES = ("segshift", "torch", "torchvision", "timm", "lightning-fabric", "kornia", "numpy", "pillow")


def start(
    recipe: Recipe, folder: Path, warmup: Path | None = None, oracle: Path | None = None, data: Data | None = None
) -> Path:
    """Run a recipe in a new folder and return that folder.

    `warmup`: a run (or a file of weights) that stands in for all that comes before the recipe's last phase, so that
    many rows share it; where it is that, the result is the one that the whole recipe would give. A recipe without a
    source needs one. `oracle`: a finished oracle run, shown beside this one in the report. `data`: what `open_all`
    gave, where several runs share it. Raises RunError where the folder already holds a run.
    """
    if warmup is not None and recipe.last[0] == "warmup":
        raise ConfigError(f"warmup = {warmup}: recipe {recipe.name} is a warm-up itself; leave the option out")
    if warmup is None and recipe.data.source is None:
        raise ConfigError(
            f"recipe {recipe.name} has no source to train on: start it from a model, --warmup RUN or FILE"
        )
    fabric = launch(recipe)
    # The first process's answer counts: it writes run.json, and another may look later.
    if fabric.broadcast((folder / "run.json").exists()):
        raise RunError(f"{folder}: holds a run already; go on with `segshift resume {folder}`, or choose another --out")
    data = data or open_all(recipe, space=space_of(warmup))
    recipe = recipe.on(len(data.domains.target.names))
    _refuse_missing_source(recipe, data)
    check_restarts(recipe, len(data.domains.space))
    info = _info(recipe, data, fabric, warmup, oracle)
    if fabric.is_global_zero:
        checkpoint.atomic_write(folder / "run.json", json.dumps(info, indent=2).encode())
    return _Run(folder, recipe, data, info, fabric).to_the_end()


def _info(recipe: Recipe, data: Data, fabric: Fabric, warmup: Path | None, oracle: Path | None) -> dict[str, Any]:
    """What `run.json` says."""
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
        "oracle": None if oracle is None else str(oracle.resolve()),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "threads": recipe.settings.threads,
        "device": str(fabric.device.type),
        "processes": recipe.settings.devices * recipe.settings.nodes,
        "data": data.record,
        "data_notes": data.notes,
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


def resume(folder: Path) -> Path:
    """Go on with a run where its last good checkpoint is. A finished run is left as it is."""
    info = _read_info(folder)
    recipe = recipe_of(folder)
    fabric = launch(recipe)
    data = open_all(recipe, space=from_dict(info["space"], str(folder / "run.json"))[0])
    changed = [name for name, found in data.record.items() if info["data"].get(name) != found]
    if changed:
        name = changed[0]
        raise RunError(
            f"{folder}: the {name} images have changed: {info['data'].get(name)} at first, {data.record[name]} now. "
            "Put the old ones back, or start a new run"
        )
    return _Run(folder, recipe, data, info, fabric).to_the_end()


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was started with."""
    return recipe_file.from_dict(_read_info(folder).get("recipe"), str(folder / "run.json"))


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / 'run.json'}: cannot be read ({error}); expected the folder of a run") from error


def launch(recipe: Recipe) -> Fabric:
    """Start the processes of a run: each further one runs the same command, and comes by here too."""
    settings = recipe.settings
    # A method may leave an auxiliary classifier out of its losses, and no process waits for gradients of it then.
    unused = getattr(recipe.network, "auxiliary", False)
    distributed = "ddp_find_unused_parameters_true" if unused else "ddp"
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="auto" if settings.devices * settings.nodes == 1 else distributed,
            precision=settings.precision,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise ConfigError(
            f"accelerator = {settings.accelerator}, devices = {settings.devices}: {error} Expected what this machine "
            "has; auto takes a GPU where there is one, else cpu"
        ) from error
    fabric.launch()
    # After the launch, which sets a number of its own choice.
    torch.set_num_threads(settings.threads)
    return fabric


class _Run:
    """A run on its way: what its phases share."""

    def __init__(self, folder: Path, recipe: Recipe, data: Data, info: Mapping[str, Any], fabric: Fabric) -> None:
        self.folder, self.recipe, self.data, self.info, self.fabric = folder, recipe, data, info, fabric
        self.reporter = Reporter(quiet=not fabric.is_global_zero)
        self.engine = Engine(folder, recipe.settings, fabric, self.reporter)

    def to_the_end(self) -> Path:
        """Train the phases that are left, score, save the model, write the report."""
        at, state = self._position()
        model = self._network(state)
        phases = self.recipe.phases()
        while at.phase < len(phases):
            name, phase = phases[at.phase]
            last = at.phase == len(phases) - 1
            if at.round == 0:
                self._adabn(phase.adabn_before, model, phase)
            scored = self.recipe.settings.evaluate_rounds and last and name != "warmup"
            after_round = partial(self._score_round, model, name, phase) if scored else None
            restart = None if phase.restart is None else partial(self._restart, phase.restart)
            begun = state if at.round else None
            at = self.engine.train(phase, name, model, self.data.domains, at, begun, after_round, restart)
            self._adabn(phase.adabn_after, model, phase)
            self._finish_phase(model, at, "final" if last else name, last)
            state = None
        self._report()
        return self.folder

    def _position(self) -> tuple[Position, dict[str, Any] | None]:
        path, warning = checkpoint.latest(self.folder / "checkpoints")
        if warning:
            self.reporter.say(warning)
        if path is not None:
            state = checkpoint.load(path)
            at = Position(**state["position"])
            self.reporter.say(f"resuming at step {at.t}, from {path}")
        else:
            state, at = None, Position()
            if self.info["warmup_from"] is not None:
                *before, _ = self.recipe.phases()
                length = sum(phase.length for _, phase in before)
                at = Position(len(before), 0, length, length)
        self.engine.log.cut(at.t)
        return at, state

    def _network(self, state: Mapping[str, Any] | None) -> Segmenter:
        """The network as the position needs it; the weights it starts from are a function of the seed."""
        torch.manual_seed(self.recipe.settings.seed)
        given = None if self.info["warmup_from"] is None else Path(self.info["warmup_from"])
        network = self.recipe.network
        if state is not None or given is not None:
            network = without_weights(network)
        model = network.build(len(self.data.domains.space))
        if state is not None:
            model.load_state_dict(state["players"]["model"])
        elif given is not None:
            load_weights(model, given, network)
            model.to(self.fabric.device)
            known = before(given, self.data.record, self.recipe.last[0])
            if self.fabric.is_global_zero:
                for name, scores in known.scores.items():
                    checkpoint.atomic_write(self.folder / "evaluation" / f"{name}.json", scores)
            self._evaluate(model, known.stage)
        return model.to(self.fabric.device)

    def _restart(self, weights: str, n: int) -> dict[str, torch.Tensor]:
        """What the network of round n starts from."""
        classes, seed = len(self.data.domains.space), self.recipe.settings.seed
        return restart_weights(self.recipe.network, classes, weights, seed, n)

    def _adabn(self, domain: str, model: Segmenter, phase: Phase) -> None:
        if domain == "none":
            return
        self.reporter.say(f"estimating BatchNorm statistics on {domain} images (AdaBN)")
        domains = self.data.domains
        images = domains.images(domain)
        seed, rank = self.recipe.settings.seed, self.fabric.global_rank
        estimate_batch_norm(model, images, domains.short_side, seed, phase.adabn_batch, rank)

    def _finish_phase(self, model: Segmenter, at: Position, which: str, last: bool) -> None:
        """Score the model, then close the phase with a checkpoint that the next one (or the end) starts from."""
        self._evaluate(model, which)
        if self.fabric.is_global_zero:
            if last:
                space, short_side = self.data.domains.space, self.recipe.data.short_side
                save_model(self.folder / "model", self.recipe.network, model.state_dict(), space, short_side)
            # Last: this checkpoint says that all of the phase is done.
            state = {"position": asdict(at), "players": {"model": model.state_dict()}}
            checkpoint.save(checkpoint.step_file(self.folder / "checkpoints", at.t), state)
            checkpoint.prune(self.folder / "checkpoints", self.recipe.settings.keep)
        self.fabric.barrier()

    def _evaluate(self, model: Segmenter, which: str) -> None:
        test = self.data.test
        if test is None:
            return
        views, short_side = self.recipe.test, self.recipe.data.short_side
        rank, world = self.fabric.global_rank, self.fabric.world_size
        track = self.reporter.track(f"scoring {which}")
        scores = score(model, test, short_side, views, rank, world, sum_over_processes, track)
        if self.fabric.is_global_zero:
            content = json.dumps(scores.to_dict(), indent=1).encode()
            checkpoint.atomic_write(self.folder / "evaluation" / f"{which}.json", content)
            if not which.startswith("round-"):
                save_panels(self.folder / "evaluation" / "panels", model, test, short_side, views, which)
        self.reporter.say(f"{which}: {summary(scores)}, over {len(test.names)} test images")

    def _score_round(self, model: Segmenter, name: str, phase: Phase, n: int) -> None:
        """Oracle figures of round n: how right its pseudo-labels are, and what the run would score if it ended here.

        On a copy, so that training goes on as it would.
        """
        if name == "adaptation":
            self._measure_labels(n)
        model = copy.deepcopy(model)
        self._adabn(phase.adabn_after, model, phase)
        self._evaluate(model, f"round-{n}")

    def _measure_labels(self, n: int) -> None:
        """The round's pseudo-labels against the target's own, where there are any; a few that are wrong stop no run."""
        if not (self.fabric.is_global_zero and (self.folder / f"round-{n}" / "statistics.json").is_file()):
            return
        space = self.data.domains.space
        try:
            target = withheld(self.recipe.data, space)
            if target is None:
                return
            found = measure_round(self.folder, n, target, space)
        except DataError as error:
            self.reporter.say(f"round {n}: pseudo-labels not compared with target labels: {error}")
            return
        self.reporter.say(
            f"round {n}: {100 * found.proportion:.1f} % labelled, P-mIoU {100 * found.miou:.1f} (oracle diagnosis)"
        )

    def _report(self) -> None:
        if self.fabric.is_global_zero:
            oracle = None if self.info["oracle"] is None else Path(self.info["oracle"])
            draw_prior(self.folder, self.data.domains.space)
            self._draw_labels()
            write_report([self.folder], self.folder / "report.html", oracle)
            self.reporter.say(f"report: {self.folder / 'report.html'}")
        self.fabric.barrier()

    def _draw_labels(self) -> None:
        """Label maps that the method left, beside withheld target labels where there are any."""
        space, target = self.data.domains.space, self.data.domains.target
        if last_views(self.folder, space) is None:
            return
        try:
            truth = withheld(self.recipe.data, space)
            draw_cpsl(self.folder, space, target, truth)
        except DataError as error:
            self.reporter.say(f"label maps not compared with target labels: {error}")
            draw_cpsl(self.folder, space, target, None)
