"""One run from start to end: warm-up, rounds, scores, report. Started once, resumed as often as it takes.

A run is a folder: `run.json` (the recipe and what it ran on), `log.jsonl`, `checkpoints/`, `round-N/`,
`evaluation/`, `model/`, `report.html`. Whatever a kill leaves there, `resume` ends with the same weights.
"""

from __future__ import annotations

import copy
import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric

from segshift import checkpoint
from segshift import recipe as recipe_file
from segshift.adabn import estimate_batch_norm
from segshift.data.protocols import ScoredAs, scored_space
from segshift.data.records import changed_roles
from segshift.draw_cpsl import draw_cpsl
from segshift.draw_prior import draw_prior
from segshift.engine import Engine
from segshift.environment import differences, environment
from segshift.errors import ConfigError, DataError, RunError
from segshift.evaluate import summary
from segshift.guards import measure_chance, require_finite
from segshift.label_quality import measure_round, withheld
from segshift.label_views import last_views
from segshift.launch import changed_processes, launch, require_shared, together
from segshift.models.network import load_weights, save_model, without_weights
from segshift.models.segmenter import Segmenter
from segshift.only_one import only_one
from segshift.parts.processes import sum_over_processes
from segshift.phase import Phase
from segshift.predict import save_panels, score
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.report import write_report
from segshift.restart import check_restarts, restart_weights, student_note
from segshift.resumption import resume_point
from segshift.run_data import Data, open_all
from segshift.run_folder import read_info
from segshift.snapshot import Position, stamp
from segshift.stopping import Stopping
from segshift.taxonomy import from_dict
from segshift.warmups import before, require_same_weights, space_of, weights_digest


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
        info = _info(recipe, data, fabric, warmup, oracle)
        if fabric.is_global_zero:
            _write_info(folder, info)
        fabric.barrier()
        require_shared(folder)
        return _Run(folder, recipe, data, info, fabric).to_the_end()


def _write_info(folder: Path, info: Mapping[str, Any]) -> None:
    checkpoint.atomic_write(folder / "run.json", json.dumps(info, indent=2).encode())


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
    folder: Path, devices: int | None = None, nodes: int | None = None, strategy: Literal["ddp", "fsdp"] | None = None
) -> Path:
    """Go on with a run where its last good checkpoint is. A finished run is left as it is.

    `devices`, `nodes`, `strategy`: in place of those it began with. On another number of processes, or where they share
    the network in another way, it takes the same steps but for rounding.
    """
    info = read_info(folder, to_resume=True)
    recipe = recipe_of(folder)
    given: Any = {"devices": devices, "nodes": nodes, "strategy": strategy}
    given = {name: value for name, value in given.items() if value is not None}
    recipe = replace(recipe, settings=replace(recipe.settings, **given))
    fabric = launch(recipe)
    with together(fabric.world_size, folder), ExitStack() as held:
        if fabric.is_global_zero:
            held.enter_context(only_one(folder))
        data = open_all(recipe, space=from_dict(info["space"], str(folder / "run.json"))[0])
        _require_same_data(folder, info["data"], data.record)
        return _Run(folder, recipe, data, info, fabric, resumed=True).to_the_end()


def _require_same_data(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """RunError where images differ from those the run began with."""
    for role in changed_roles(then, now):
        raise RunError(
            f"{folder}: the {role} images have changed: {then.get(role)} at first, {now.get(role)} now. "
            "Put the old ones back, or start a new run"
        )


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was started with."""
    return recipe_file.from_dict(read_info(folder).get("recipe"), str(folder / "run.json"))


class _Run:
    """A run on its way: what its phases share."""

    def __init__(
        self, folder: Path, recipe: Recipe, data: Data, info: dict[str, Any], fabric: Fabric, resumed: bool = False
    ) -> None:
        self.folder, self.recipe, self.data, self.info, self.fabric = folder, recipe, data, info, fabric
        self.resumed = resumed
        self.reporter = Reporter(quiet=not fabric.is_global_zero)
        self.stopping = Stopping(folder, alone=fabric.world_size == 1)
        self.stamp = stamp(recipe)
        self.engine = Engine(folder, recipe.settings, fabric, self.reporter, self.stamp, self.stopping)

    def to_the_end(self) -> Path:
        """Train the phases that are left, score, save the model, write the report."""
        with self.stopping.listening():
            self._phases()
            self._report()
        return self.folder

    def _phases(self) -> None:
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
            self._finish_phase(model, at, name, last)
            state = None

    def _position(self) -> tuple[Position, dict[str, Any] | None]:
        if self.fabric.is_global_zero:
            checkpoint.sweep(self.folder)
            shutil.rmtree(self.folder / "scan", ignore_errors=True)
        self.fabric.barrier()
        domains = self.data.domains
        path, state, warning = resume_point(self.folder, self.recipe, len(domains.space), domains.target.names)
        if warning:
            self.reporter.say(f"warning: {warning}")
        if path is not None:
            at = Position(**state["position"])
            self.reporter.say(f"resuming at step {at.t}, from {path}")
        else:
            state, at = None, Position()
            if self.info["warmup_from"] is not None:
                *before, _ = self.recipe.phases()
                length = sum(phase.length for _, phase in before)
                at = Position(len(before), 0, length, length)
        self.engine.log.cut(at.t)
        if self.resumed:
            self._say_what_the_log_lacks(at)
            self._compare_environment(at)
        return at, state

    def _say_what_the_log_lacks(self, at: Position) -> None:
        """A log that was cut or deleted changes no weight; the report would show a shorter training."""
        begun = 0 if self.info["warmup_from"] is None else sum(p.length for _, p in self.recipe.phases()[:-1])
        missing = at.t - begun - len({entry["step"] for entry in self.engine.log.read()})
        if missing > 0 and self.fabric.is_global_zero:
            self.reporter.say(f"warning: {self.engine.log.path}: {missing} of the steps so far are gone from it")

    def _compare_environment(self, at: Position) -> None:
        """Say what differs from where the run began, and keep it in `run.json`, unless nothing is left to train."""
        changed = differences(self.info.get("environment", {}), environment(self.fabric.device.type))
        changed += changed_processes(recipe_of(self.folder).settings, self.recipe.settings)
        for text in changed:
            self.reporter.say(f"warning: {text}; the run may end with other weights than where it began")
        if self.fabric.is_global_zero and at.phase < len(self.recipe.phases()):
            resumed = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "step": at.t, "changed": changed}
            self.info["resumed"] = [*self.info.get("resumed", []), resumed]
            _write_info(self.folder, self.info)

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
            require_same_weights(given, self.info.get("warmup_digest"))
            load_weights(model, given, network)
            model.to(self.fabric.device)
            known = before(given, self.data.record, self.recipe.last[0])
            if self.fabric.is_global_zero:
                for name, scores in known.scores.items():
                    checkpoint.atomic_write(self.folder / "evaluation" / f"{name}.json", scores)
            self._evaluate(model, known.stage)
            self._compare_with_chance(model, known.stage)
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
        track = self.stopping.between_images(self.reporter.track("estimating BatchNorm statistics"))
        estimate_batch_norm(model, images, domains.short_side, seed, phase.adabn_batch, rank, track)

    def _finish_phase(self, model: Segmenter, at: Position, name: str, last: bool) -> None:
        """Score the model, then close the phase with a checkpoint that the next one (or the end) starts from."""
        # BatchNorm statistics may just have been estimated anew.
        require_finite({"model": model}, at.t)
        self._evaluate(model, "final" if last else name)
        if name == "warmup":
            self._compare_with_chance(model, name)
        if self.fabric.is_global_zero:
            if last:
                space, short_side = self.data.domains.space, self.recipe.data.short_side
                save_model(self.folder / "model", self.recipe.network, model.state_dict(), space, short_side)
            # Last: this checkpoint says that all of the phase is done.
            state = {"position": asdict(at), "players": {"model": model.state_dict()}, **self.stamp}
            self.engine.log.sync()
            checkpoint.save(checkpoint.step_file(self.folder / "checkpoints", at.t), state)
            checkpoint.prune(self.folder / "checkpoints", self.recipe.settings.keep, at.t)
        self.fabric.barrier()

    def _evaluate(self, model: Segmenter, which: str) -> None:
        test = self.data.test
        if test is None:
            return
        views, short_side = self.recipe.test, self.recipe.data.short_side
        rank, world = self.fabric.global_rank, self.fabric.world_size
        track = self.stopping.between_images(self.reporter.track(f"scoring {which}"))
        scores = score(model, test, short_side, views, rank, world, sum_over_processes, track)
        if self.fabric.is_global_zero:
            content = json.dumps(scores.to_dict(), indent=1).encode()
            checkpoint.atomic_write(self.folder / "evaluation" / f"{which}.json", content)
            if not which.startswith("round-"):
                save_panels(self.folder / "evaluation" / "panels", model, test, short_side, views, which)
        self.reporter.say(f"{which}: {summary(scores)}, over {len(test.names)} test images")

    def _compare_with_chance(self, model: Segmenter, which: str) -> None:
        """Whether a warm-up sees anything: on source images, which need no target label."""
        domains = self.data.domains
        if domains.source is None:
            return
        chance = measure_chance(model, domains.source, domains.short_side, self.recipe.settings.seed)
        if self.fabric.is_global_zero:
            content = json.dumps(chance.to_dict(), indent=1).encode()
            checkpoint.atomic_write(self.folder / "chance.json", content)
        found = chance.finding()
        self.engine.weigh([] if found is None else [found._replace(text=f"{which}: {found.text}")])

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
