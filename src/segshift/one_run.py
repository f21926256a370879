"""What a run does between its start and its end: phases, scores, candidates, the report."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from segshift import checkpoint
from segshift import recipe as recipe_file
from segshift.adabn import estimate_batch_norm
from segshift.candidates import Candidates, Key
from segshift.engine import Engine
from segshift.environment import differences, environment
from segshift.evaluate import summary
from segshift.guards import measure_chance, require_finite
from segshift.launch import changed_processes
from segshift.models.network import load_weights, save_model, without_weights
from segshift.models.segmenter import Segmenter
from segshift.parts.processes import sum_over_processes
from segshift.phase import Phase
from segshift.picked_images import Watching, forget
from segshift.predict import score
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.reporting.draw_prior import draw_prior
from segshift.reporting.report import write_report
from segshift.restart import restart_weights
from segshift.resumption import resume_point
from segshift.run_data import Data
from segshift.run_figures import drawn_labels, measured_labels, panels
from segshift.run_folder import read_info
from segshift.snapshot import Position, stamp
from segshift.source_shares import write_source_shares
from segshift.stopping import Stopping
from segshift.tracking import Trackers
from segshift.warmups import before, require_same_weights


def recipe_of(folder: Path) -> Recipe:
    """The recipe that a run was started with."""
    return recipe_file.from_dict(read_info(folder).get("recipe"), str(folder / "run.json"))


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    checkpoint.atomic_write(folder / "run.json", json.dumps(info, indent=2).encode())


class OneRun:
    """A run on its way: what its phases share."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        data: Data,
        info: dict[str, Any],
        fabric: Fabric,
        resumed: bool = False,
        reporter: Reporter | None = None,
    ) -> None:
        self.folder, self.recipe, self.data, self.info, self.fabric = folder, recipe, data, info, fabric
        self.resumed = resumed
        self.reporter = reporter or Reporter(quiet=not fabric.is_global_zero)
        self.stopping = Stopping(folder, alone=fabric.world_size == 1)
        self.stamp = stamp(recipe)
        first = fabric.is_global_zero
        self.trackers = Trackers(folder, recipe.settings.track if first else (), self.reporter.say)
        self.engine = Engine(folder, recipe.settings, fabric, self.reporter, self.stamp, self.stopping, self.trackers)
        self.candidates = Candidates(folder, recipe, data, first)

    def to_the_end(self) -> Path:
        """Train the phases that are left, score, save the model, write the report."""
        with self.stopping.listening(), closing(self.trackers):
            self._phases()
            self._report()
        return self.folder

    def _phases(self) -> None:
        at, state = self._position()
        model = self._network(state)
        phases = self.recipe.phases()
        if at.phase < len(phases):
            self.trackers.start(self.info["started"], at.t)
        if state is None and at.phase:  # of a given model, the phase that it stands for is the first candidate
            self._look(model, Key(phases[at.phase - 1][0], phases[at.phase - 1][1].rounds, at.t))
        while at.phase < len(phases):
            name, phase = phases[at.phase]
            last = at.phase == len(phases) - 1
            if at.round == 0:
                self._adabn(phase.adabn_before, model, phase)
            scored = self.recipe.settings.evaluate_rounds and last and name != "warmup"
            looks = self.recipe.settings.scores_candidates
            after_round = partial(self._after_round, model, name, phase, at.first, scored) if scored or looks else None
            # A half-trained first model is alike everywhere, which some scores take for certainty.
            inside = looks and (last or name != "warmup")
            between = partial(self._between, model, name, phase) if inside else None
            restart = None if phase.restart is None else partial(self._restart, phase.restart)
            begun = state if at.round else None
            at = self.engine.train(phase, name, model, self.data.domains, at, begun, after_round, restart, between)
            self._adabn(phase.adabn_after, model, phase)
            self._look(model, Key(name, phase.rounds, at.t))
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
        self.candidates.go_on_at(at.t)
        self.fabric.barrier()
        self.candidates.read()
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
            write_info(self.folder, self.info)

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

    def _adabn(self, domain: str, model: Segmenter, phase: Phase, stops: bool = True) -> None:
        if domain == "none":
            return
        self.reporter.say(f"estimating BatchNorm statistics on {domain} images (AdaBN)")
        domains = self.data.domains
        images = domains.images(domain)
        seed, rank = self.recipe.settings.seed, self.fabric.global_rank
        track = self.reporter.track("estimating BatchNorm statistics")
        track = self.stopping.between_images(track) if stops else track
        estimate_batch_norm(model, images, domains.short_side, seed, phase.adabn_batch, rank, track)

    def _after_round(self, model: Segmenter, name: str, phase: Phase, first: int, scored: bool, n: int) -> None:
        t = first + n * phase.steps
        if scored:
            self._score_round(model, name, phase, n, t)
        if n < phase.rounds:  # the phase's end looks at the last
            self._between(model, name, phase, Position(round=n, t=t))

    def _between(self, model: Segmenter, name: str, phase: Phase, at: Position) -> None:
        """Look at the model that the phase would end with if it ended here; training goes on with its own."""
        key = Key(name, at.round, at.t)
        if phase.adabn_after != "none" and self.candidates.wants(key):
            model = copy.deepcopy(model)
            self._adabn(phase.adabn_after, model, phase, stops=False)
        self._look(model, key)

    def _look(self, model: Segmenter, key: Key) -> None:
        """Score a candidate without target labels, on the first process."""
        if not self.candidates.wants(key):
            return
        line = self.candidates.look(model, key, self.reporter.track(f"scoring without labels, step {key.step}"))
        if line is not None:
            found = {name: value for name, value in line["scores"].items() if value is not None}
            self.reporter.say(f"step {key.step}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
            self.trackers.scalars({f"label-free/{name}": value for name, value in found.items()}, key.step)

    def _chosen(self, model: Segmenter, t: int) -> Segmenter:
        """The model that the run ends with; of the last step's, the scores are kept where it is another."""
        self.fabric.barrier()
        self.candidates.read()
        line = self.candidates.chosen()
        if line is None:
            return model
        last = self._evaluate(model, "last")
        self.info["chosen"] = {"by": self.recipe.settings.select, **line, "of": t}
        said = self.candidates.told(line, t, last)
        self.info["protocol"] = [*dict.fromkeys([*self.info.get("protocol", []), said])]
        self.reporter.say(said)
        if self.fabric.is_global_zero:
            write_info(self.folder, self.info)
        model = copy.deepcopy(model)
        model.load_state_dict(self.candidates.weights(line))
        return model

    def _finish_phase(self, model: Segmenter, at: Position, name: str, last: bool) -> None:
        """Score the model, then close the phase with a checkpoint that the next one (or the end) starts from."""
        # BatchNorm statistics may just have been estimated anew.
        require_finite({"model": model}, at.t)
        ended = self._chosen(model, at.t) if last else model
        self._evaluate(ended, "final" if last else name, at.t)
        if name == "warmup":
            self._compare_with_chance(model, name)
        if self.fabric.is_global_zero:
            if last:
                space, short_side = self.data.domains.space, self.recipe.data.short_side
                save_model(self.folder / "model", self.recipe.network, ended.state_dict(), space, short_side)
                self.trackers.images(panels(self.folder, space), at.t)
            # Last: this checkpoint says that all of the phase is done.
            state = {"position": asdict(at), "players": {"model": model.state_dict()}, **self.stamp}
            self.engine.log.sync()
            checkpoint.save(checkpoint.step_file(self.folder / "checkpoints", at.t), state)
            checkpoint.prune(self.folder / "checkpoints", self.recipe.settings.keep, at.t)
        self.fabric.barrier()

    def _evaluate(self, model: Segmenter, which: str, t: int | None = None) -> float | None:
        """Score a model on the test images, where there are any: their mIoU, which trackers are told at step t."""
        test = self.data.test
        if test is None:
            return None
        views, short_side = self.recipe.test, self.recipe.data.short_side
        rank, world = self.fabric.global_rank, self.fabric.world_size
        track = self.stopping.between_images(self.reporter.track(f"scoring {which}"))
        shown = not which.startswith(("round-", "last"))
        look = Watching(self.folder, which, model, test, short_side, views) if shown else None
        scores = score(model, test, short_side, views, rank, world, sum_over_processes, track, look=look)
        if look is not None:
            look.finish(sum_over_processes, self.fabric.is_global_zero)
        if self.fabric.is_global_zero:
            content = json.dumps(scores.to_dict(), indent=1).encode()
            checkpoint.atomic_write(self.folder / "evaluation" / f"{which}.json", content)
        self.reporter.say(f"{which}: {summary(scores)}, over {len(test.names)} test images")
        if t is not None:
            self.trackers.scalars({"test/miou": scores.mean_iou()}, t)
        return scores.mean_iou()

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

    def _score_round(self, model: Segmenter, name: str, phase: Phase, n: int, t: int) -> None:
        """Oracle figures of round n: how right its pseudo-labels are, and what the run would score if it ended here.

        On a copy, so that training goes on as it would.
        """
        if name == "adaptation" and self.fabric.is_global_zero:
            self._say(measured_labels(self.folder, n, self.recipe.data, self.data.domains.space))
        model = copy.deepcopy(model)
        self._adabn(phase.adabn_after, model, phase)
        self._evaluate(model, f"round-{n}", t)

    def _say(self, text: str) -> None:
        if text:
            self.reporter.say(text)

    def _report(self) -> None:
        if self.fabric.is_global_zero:
            oracle = None if self.info["oracle"] is None else Path(self.info["oracle"])
            draw_prior(self.folder, self.data.domains.space)
            self._say(drawn_labels(self.folder, self.recipe.data, self.data.domains))
            forget(self.folder)
            write_source_shares(self.folder, self.data.domains.source, self.data.domains.space)
            write_report([self.folder], self.folder / "report.html", oracle)
            self.reporter.say(f"report: {self.folder / 'report.html'}")
        self.fabric.barrier()
