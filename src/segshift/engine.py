"""The training loop: rounds of steps over any `types.Method`, with checkpoints a kill cannot harm.

The method says what is minimised; the engine owns zero-grad, backward, precision, clipping, schedules, logging
and resumption. Everything drawn is a function of (seed, t), so a resumed run takes the very same steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn

from segshift import checkpoint
from segshift.data.domains import Domains
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.sampling import Stream, generator
from segshift.errors import TrainingError
from segshift.feeding import batches, labelled_domains
from segshift.findings import Finding, round_findings
from segshift.guards import Blanks, cause, require_finite
from segshift.models.execution import prepared
from segshift.parts.processes import copy_from_first, sum_over_processes
from segshift.parts.sharded import clip as clip_to
from segshift.parts.sharded import norm_of
from segshift.phase import Phase, Settings
from segshift.progress import Reporter
from segshift.run_log import RunLog
from segshift.scan import LogitScan, unwrapped
from segshift.sharding import WholeCopy, share_out
from segshift.snapshot import (
    Position,
    optimizer_states,
    restore,
    restore_optimizers,
    restore_player,
    round_folder,
    snapshot,
)
from segshift.stopping import Stopping
from segshift.tracking import Trackers
from segshift.types import Batch, Images, Losses, Method


class Taken(NamedTuple):
    """A step that was taken, as all processes together see it."""

    losses: dict[str, float]
    measured: dict[str, float]
    norms: dict[str, float]
    """Of each player's gradient, before it is clipped."""
    stop: bool
    """Whether any process was asked to stop."""
    save: bool
    """Whether a checkpoint is due, by the first process's clock: all must agree, for they may meet to write it."""
    labelled: list[float]
    """Pixels with a label, of each domain that is trained on labels of."""


class Engine:
    """Trains the phases of one run in one folder."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        fabric: Fabric,
        reporter: Reporter,
        stamp: Mapping[str, Any] | None = None,
        stopping: Stopping | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        self.folder, self.settings, self.fabric, self.reporter = folder, settings, fabric, reporter
        self.stamp = stamp or {}
        """What every checkpoint says of the run it is of (`snapshot.stamp`)."""
        self.stopping = stopping or Stopping(folder)
        self.trackers = trackers or Trackers(folder)
        self.log = RunLog(folder / "log.jsonl", fabric.is_global_zero)
        self._save_seconds, self._saved_at = 0.0, time.monotonic()
        self._saved: Position | None = None
        self._copy: WholeCopy | None = None
        """Of a network whose weights the processes share out."""
        self.began = 0.0
        """Seconds that the beginning of the last round took: what a dry run counts with."""
        self._seen: list[str] = []
        """Images of the last step, this process's."""

    def train(
        self,
        phase: Phase,
        name: str,
        model: nn.Module,
        data: Domains,
        at: Position,
        state: Mapping[str, Any] | None,
        after_round: Callable[[int], None] | None = None,
        restart: Callable[[int], Mapping[str, Tensor]] | None = None,
        between: Callable[[Position], None] | None = None,
    ) -> Position:
        """Train `model` in place through a phase, from `at` on, and return the position after it.

        `state` is the content of the checkpoint written at `at`, or None at the phase's start; `after_round` is
        called with the number of each round that ends; `restart` gives the state that the network begins a round with,
        in place of its own, once it has predicted the target (a function of the round alone: a resumed run asks again).
        `between` may look at the network inside a round, each `Settings.candidates_every` steps of the run; the end of
        a round is `after_round`'s.
        Raises TrainingError where a loss or gradient is not finite, StoppedError after a signal to stop.
        """
        steps = phase.steps if phase.fresh_optimizer else phase.length
        method = phase.method.build(model, max(steps, 1), self.settings.seed)
        self._set_up(method)
        fresh = optimizer_states(method)
        if state is not None:
            restore(method, state)
        for n in range(max(at.round, 1), phase.rounds + 1):
            store = self._store(phase, name, n, data)
            if at.round < n:
                at = replace(at, round=n)
                if phase.fresh_optimizer:
                    restore_optimizers(method, fresh)
                self._begin_round(phase, name, method, data, store, at)
                if restart is not None:
                    restore_player(method.players()["model"], restart(n))
                self._save(at, method, store)
            at = self._round(phase, name, method, data, store, at, between)
            # What follows looks at images for as long as it takes: a run stopped there goes on from here.
            self._save(at, method, store)
            self._end_round(phase, method, data, store, at)
            if after_round is not None:
                with self._looking(method):
                    after_round(n)
        if self._copy is not None:
            self._copy.fill()
            self._copy = None
        return Position(at.phase + 1, 0, at.t, at.t)

    def _set_up(self, method: Method) -> None:
        """Make every player one of several processes, where there are several."""
        ready = partial(prepared, channels_last=self.settings.channels_last, compiled=self.settings.compile)
        if isinstance(self.fabric.strategy, ModelParallelStrategy):
            self._copy = share_out(method, self.fabric, ready)
            return
        for attribute, player in method.players().items():
            setattr(method, attribute, self.fabric.setup_module(ready(player)))

    @contextmanager
    def _looking(self, method: Method) -> Iterator[nn.Module]:
        """The network as it is now, for this process to look at any number of images with: no other waits for it."""
        if self._copy is None:
            yield unwrapped(method.players()["model"])
            return
        yield self._copy.fill()
        self._copy.empty()

    def _begin_round(
        self, phase: Phase, name: str, method: Method, data: Domains, store: PseudoLabels, at: Position
    ) -> None:
        self._seed(at.t, Stream.TARGET)
        started = time.monotonic()
        with self._scan(phase, method, data, f"round {at.round}: predicting target images") as scan:
            method.begin_round(at.round, scan, data.source, store)
        self.began = time.monotonic() - started
        if store.finished:
            found = store.statistics()
            self.trackers.scalars({f"{name}/coverage": found["coverage"]}, at.t)
            self.reporter.say(f"round {at.round}: {100 * found['coverage']:.1f} % of the target's pixels labelled")
            before = self._store(phase, name, at.round - 1, data) if at.round > 1 else None
            earlier = before.statistics() if before is not None and before.finished else None
            self.weigh(round_findings(found, earlier, data.space), f"{name}, ")

    def _end_round(self, phase: Phase, method: Method, data: Domains, store: PseudoLabels, at: Position) -> None:
        """Let the method show its round. A run killed after the round's last step comes here again."""
        # Whatever is drawn here changes nothing that follows: with a look at the round or without, a run is the same.
        device = self.fabric.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self._seed(at.t, Stream.TARGET)
            with self._scan(phase, method, data, f"round {at.round}: looking at target images") as scan:
                method.end_round(at.round, scan, store)

    @contextmanager
    def _scan(self, phase: Phase, method: Method, data: Domains, title: str) -> Iterator[LogitScan]:
        """The target through the network as it is; nothing is computed before it is looked at."""
        with self._looking(method) as network:
            scan = LogitScan(
                network,
                data.target,
                self.folder / "scan",
                data.short_side,
                phase.scan,
                self.fabric.global_rank,
                self.fabric.world_size,
                self.stopping.between_images(self.reporter.track(title)),
            )
            try:
                yield scan
            finally:
                scan.close()
        self.fabric.barrier()

    def _round(
        self,
        phase: Phase,
        name: str,
        method: Method,
        data: Domains,
        store: PseudoLabels,
        at: Position,
        between: Callable[[Position], None] | None,
    ) -> Position:
        last = at.first + at.round * phase.steps
        rank, world = self.fabric.global_rank, self.fabric.world_size
        labelled = f", {100 * store.statistics()['coverage']:.0f} % labelled" if store.finished else ""
        title = f"{name}, round {at.round}/{phase.rounds}{labelled}"
        started, blanks = time.monotonic(), Blanks(labelled_domains(phase, data, store))
        with self.reporter.bar(title, phase.steps, phase.steps - (last - at.t)) as bar:
            for batch in batches(phase, self.settings, data, store, at, last, rank, world, self.fabric.device):
                rate = next(iter(method.optimizers().values())).schedule.get_last_lr()[0]
                taken = self._step(method, self._to_device(batch), at.t, phase.clip, blanks.labelled(batch))
                seconds = time.monotonic() - started
                started = time.monotonic()
                told = {"measured": taken.measured, "blank": blanks.add(taken.labelled)}
                entry = {"phase": name, "round": at.round, "step": at.t, "seconds": round(seconds, 4), "lr": rate}
                entry |= {"losses": taken.losses} | {key: value for key, value in told.items() if value}
                self.log.append(entry)
                self.trackers.step(entry)
                bar.advance("  ".join(f"{key} {value:.3f}" for key, value in taken.losses.items()))
                at = replace(at, t=at.t + 1)
                every = self.settings.candidates_every
                if between is not None and every and at.t % every == 0 and at.t < last:
                    # Before the checkpoint: a run that goes on from there has seen this model.
                    with self._looking(method):
                        between(at)
                self._save_if_due(at, method, store, taken)
        self.weigh(blanks.findings(f"{name}, round {at.round}"))
        # BatchNorm statistics have followed each process's own images; those of the first are in the checkpoints.
        for player in method.players().values():
            copy_from_first(player.buffers())
        return at

    def _step(self, method: Method, batch: Batch, t: int, clip: float | None, labelled: Sequence[int]) -> Taken:
        """One optimiser step of every player. `labelled`: counts of this process, to be summed over all."""
        self._seed(t, Stream.ENGINE)
        self._seen = [*batch.source.name, *batch.target.name]
        optimizers = method.optimizers()
        for entry in optimizers.values():
            entry.optimizer.zero_grad()
        logged: Losses = {}
        for losses in method.step(batch, t):
            self.fabric.backward(torch.stack(list(losses.values())).sum())
            logged |= {name: loss.detach() for name, loss in losses.items()}
        gradients = {
            name: found
            for name, player in method.players().items()
            if (found := [p.grad for p in player.parameters() if p.grad is not None])
        }
        norms = {name: norm_of(found) for name, found in gradients.items()}
        # The one wait for the device in a step: all losses and gradients are known before a weight changes.
        taken = self._agreed(logged, method.measured(), norms, labelled, self._is_due(t + 1))
        self._require_finite(taken, method, batch, t)
        if clip is not None:
            for name, found in gradients.items():
                clip_to(found, clip, norms[name])
        for entry in optimizers.values():
            entry.optimizer.step()
            entry.schedule.step()
        method.end_step(t)
        return taken

    def _agreed(
        self,
        losses: Mapping[str, Tensor],
        measured: Mapping[str, Tensor],
        norms: Mapping[str, Tensor],
        labelled: Sequence[int],
        due: bool,
    ) -> Taken:
        """What all processes together say of a step, before its weights change. Means are rounded for the log.

        In one exchange, the wish to stop too: processes that did not stop after the same step would wait for each
        other for ever; so would one that alone has found a number that is not finite.
        """
        wishes = [float(self.stopping.signal is not None), float(due)]
        counts = torch.tensor([*wishes, *labelled], device=self.fabric.device)
        named = (losses, measured, norms)
        scalars = torch.stack([value.detach() for values in named for value in values.values()])
        total = sum_over_processes(torch.cat([scalars, counts])).tolist()
        means = iter([round(value / self.fabric.world_size, 6) for value in total[: len(scalars)]])
        lost, seen, sizes = ({name: next(means) for name in values} for values in named)
        stops, saves, *pixels = total[len(scalars) :]
        return Taken(lost, seen, sizes, stops > 0, saves > 0, pixels)

    # --- guards ------------------------------------------------------------------------------------------------

    def weigh(self, findings: Sequence[Finding], where: str = "") -> None:
        """Say what looks wrong; TrainingError where the run is to stop at it (`Settings.on_bad_numbers`)."""
        for finding in findings:
            self.reporter.say(f"warning: {where}{finding.text}")
        grave = [f"{where}{finding.text}" for finding in findings if finding.stops]
        if grave and self.settings.on_bad_numbers == "stop":
            text = "\n".join(grave)
            raise TrainingError(f"{text}\nThe run stops, as settings.on_bad_numbers = stop asks. {self._last_good()}")

    def _require_finite(self, taken: Taken, method: Method, batch: Batch, t: int) -> None:
        """TrainingError naming each loss, or else the first gradient, that is no finite number."""
        wrong = {name: value for name, value in taken.losses.items() if not math.isfinite(value)}
        norms = {name: value for name, value in taken.norms.items() if not math.isfinite(value)}
        if not wrong and not norms:
            return
        name, value = next(iter(norms.items()), ("", 0.0))
        found = f"the gradient of {name} has norm {value}"
        if wrong:
            found = "loss " + ", ".join(f"{name} = {value}" for name, value in wrong.items())
        why = cause(method.players(), batch)
        raise TrainingError(f"step {t}: {found}; expected a finite number. {why} {self._way_back()}")

    def _way_back(self) -> str:
        images = f"Images: {', '.join(self._seen)}. " if self._seen else ""
        return f"{images}{self._last_good()} Lower the learning rate, or clip the gradient"

    def _last_good(self) -> str:
        return f"Last good checkpoint: {checkpoint.latest(self.folder / 'checkpoints').path}."

    def _seed(self, t: int, stream: Stream) -> None:
        """Whatever a layer draws at step t (dropout) is a function of (seed, t, process), not of what came before."""
        keys = (t, self.fabric.global_rank)
        torch.manual_seed(int(generator(self.settings.seed, stream, 3, *keys).integers(2**63)))

    # --- data --------------------------------------------------------------------------------------------------

    def _store(self, phase: Phase, name: str, n: int, data: Domains) -> PseudoLabels:
        keep = phase.mining is not None and phase.mining.where == "predictions"
        return PseudoLabels(round_folder(self.folder, name, n), len(data.space), sum_over_processes, keep)

    def _to_device(self, batch: Batch) -> Batch:
        """A copy from pinned memory goes on beside what the device has yet to do; any other is waited for."""

        def there(tensor: Tensor) -> Tensor:
            return tensor.to(self.fabric.device, non_blocking=True)

        def moved(i: Images) -> Images:
            soft = None if i.soft is None else there(i.soft)
            return i._replace(image=there(i.image), label=there(i.label), soft=soft)

        return Batch(moved(batch.source), moved(batch.target))

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _is_due(self, t: int) -> bool:
        """Whether a checkpoint is due before step t: only the first process says so."""
        settings = self.settings
        if not self.fabric.is_global_zero:
            return False
        if settings.checkpoint_steps is not None:
            return t % settings.checkpoint_steps == 0
        share = settings.checkpoint_share
        return share > 0 and time.monotonic() - self._saved_at > self._save_seconds / share

    def _save_if_due(self, at: Position, method: Method, store: PseudoLabels, taken: Taken) -> None:
        stop = taken.stop or self.stopping.may_now
        if taken.save or stop:
            self._save(at, method, store)
        if stop:
            # A launcher ends all processes when one has ended, and the first may still be writing.
            self.fabric.barrier()
            raise self.stopping.error(f"the run is saved after step {at.t - 1}")

    def _save(self, at: Position, method: Method, store: PseudoLabels) -> None:
        """Write the checkpoint of position `at`, unless it is there: everything the rest of the run depends on.

        Raises TrainingError where a weight is no finite number: the checkpoint before it stays the last one.
        """
        if at == self._saved:
            return
        started = time.monotonic()
        require_finite(method.players(), at.t, method.optimizers(), method.state_dict(), self._way_back)
        self._saved = at
        first = self.fabric.is_global_zero
        if not first and self._copy is None:
            return
        state = snapshot(method, at, store.finished, keep=first) | dict(self.stamp)
        if not first:
            return
        if (soft := store.soft_labels()) is not None:
            state["soft"] = soft.round
        self.log.sync()
        checkpoint.save(checkpoint.step_file(self.folder / "checkpoints", at.t), state)
        checkpoint.prune(self.folder / "checkpoints", self.settings.keep, at.t)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started
