"""The training loop: rounds of steps over any `types.Method`, with checkpoints a kill cannot harm.

The method says what is minimised; the engine owns zero-grad, backward, precision, clipping, schedules, logging
and resumption. Everything drawn is a function of (seed, t), so a resumed run takes the very same steps.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segshift import checkpoint
from segshift.data.cache import Memory
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.mining import Miner
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.sampling import Feed, LabelOf, SoftOf, Steps, Stream, generator, subset_at, unchanged
from segshift.data.translation import Translator
from segshift.errors import ConfigError, RunError, StoppedError, TrainingError
from segshift.parts.processes import copy_from_first, sum_over_processes
from segshift.phase import Phase, Settings
from segshift.progress import Reporter
from segshift.run_log import RunLog
from segshift.scan import LogitScan, unwrapped
from segshift.snapshot import Position, optimizer_states, restore, restore_optimizers, snapshot
from segshift.taxonomy import LabelSpace
from segshift.types import Batch, Images, Losses, Method


@dataclass(frozen=True)
class Domains:
    """The data of a run: a labelled source, and target images (for the oracle alone, a labelled target)."""

    source: LabelledDataset | None
    """None: the run starts from a trained model, and there is no source (source-free adaptation)."""
    target: Unlabelled | OracleTarget
    space: LabelSpace
    short_side: int | None = None
    """Working size of the images: their shorter side, in pixels. None: their own."""

    def images(self, domain: str) -> ImageDataset:
        """The images of a domain. ConfigError where that is the source, and there is none."""
        return self.labelled() if domain == "source" else self.target

    def labelled(self) -> LabelledDataset:
        """The source. ConfigError where there is none."""
        if self.source is None:
            raise ConfigError(
                "this recipe looks at source images, and there is no source; give it one (--source DIR), or take a "
                "recipe that needs none, such as own/iast-source-free"
            )
        return self.source


class Engine:
    """Trains the phases of one run in one folder."""

    def __init__(self, folder: Path, settings: Settings, fabric: Fabric, reporter: Reporter) -> None:
        self.folder, self.settings, self.fabric, self.reporter = folder, settings, fabric, reporter
        self.log = RunLog(folder / "log.jsonl", fabric.is_global_zero)
        self._signal: str | None = None
        self._save_seconds, self._saved_at = 0.0, time.monotonic()

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
    ) -> Position:
        """Train `model` in place through a phase, from `at` on, and return the position after it.

        `state` is the content of the checkpoint written at `at`, or None at the phase's start; `after_round` is
        called with the number of each round that ends; `restart` gives the state that the network begins a round with,
        in place of its own, once it has predicted the target (a function of the round alone: a resumed run asks again).
        Raises TrainingError where a loss or gradient is not finite, StoppedError after a signal to stop.
        """
        steps = phase.steps if phase.fresh_optimizer else phase.length
        method = phase.method.build(model, max(steps, 1), self.settings.seed)
        for attribute, player in method.players().items():
            setattr(method, attribute, self.fabric.setup_module(player))
        fresh = optimizer_states(method)
        if state is not None:
            restore(method, state)
            self._require_labels(self._store(phase, name, at.round, data), state)
        with self._signals():
            for n in range(max(at.round, 1), phase.rounds + 1):
                store = self._store(phase, name, n, data)
                if at.round < n:
                    at = replace(at, round=n)
                    if phase.fresh_optimizer:
                        restore_optimizers(method, fresh)
                    self._begin_round(phase, method, data, store, at)
                    if restart is not None:
                        method.players()["model"].load_state_dict(restart(n))
                    self._save(at, method, store)
                at = self._round(phase, name, method, data, store, at)
                self._end_round(phase, method, data, store, at)
                if after_round is not None:
                    after_round(n)
        return Position(at.phase + 1, 0, at.t, at.t)

    def _begin_round(self, phase: Phase, method: Method, data: Domains, store: PseudoLabels, at: Position) -> None:
        self._seed(at.t, Stream.TARGET)
        with self._scan(phase, method, data, f"round {at.round}: predicting target images") as scan:
            method.begin_round(at.round, scan, data.source, store)
        if store.finished:
            coverage = store.statistics()["coverage"]
            self.reporter.say(f"round {at.round}: {100 * coverage:.1f} % of the target's pixels labelled")

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
        scan = LogitScan(
            unwrapped(method.players()["model"]),
            data.target,
            self.folder / "scan",
            data.short_side,
            phase.scan,
            self.fabric.global_rank,
            self.fabric.world_size,
            self.reporter.track(title),
        )
        try:
            yield scan
        finally:
            scan.close()
        self.fabric.barrier()

    def _round(
        self, phase: Phase, name: str, method: Method, data: Domains, store: PseudoLabels, at: Position
    ) -> Position:
        last = at.first + at.round * phase.steps
        batches = self._batches(phase, data, store, at, last)
        title = f"{name}, round {at.round}/{phase.rounds}"
        started = time.monotonic()
        with self.reporter.bar(title, phase.steps, phase.steps - (last - at.t)) as bar:
            for batch in batches:
                rate = next(iter(method.optimizers().values())).schedule.get_last_lr()[0]
                losses, measured = self._step(method, self._to_device(batch), at.t, phase.clip)
                seconds = time.monotonic() - started
                started = time.monotonic()
                self.log.append(
                    {"phase": name, "round": at.round, "step": at.t, "seconds": round(seconds, 4), "lr": rate}
                    | ({"losses": losses, "measured": measured} if measured else {"losses": losses})
                )
                bar.advance("  ".join(f"{key} {value:.3f}" for key, value in losses.items()))
                at = replace(at, t=at.t + 1)
                self._save_if_due(at, method, store)
        # BatchNorm statistics have followed each process's own images; those of the first are in the checkpoints.
        for player in method.players().values():
            copy_from_first(player.buffers())
        return at

    def _step(
        self, method: Method, batch: Batch, t: int, clip: float | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """One optimiser step of every player; the losses and what is measured beside, averaged over processes."""
        self._seed(t, Stream.ENGINE)
        optimizers = method.optimizers()
        for entry in optimizers.values():
            entry.optimizer.zero_grad()
        logged: Losses = {}
        for losses in method.step(batch, t):
            self._check_losses(losses, batch, t)
            self.fabric.backward(torch.stack(list(losses.values())).sum())
            logged |= {name: loss.detach() for name, loss in losses.items()}
        for name, player in method.players().items():
            self._check_gradient(name, player, batch, t, clip)
        for entry in optimizers.values():
            entry.optimizer.step()
            entry.schedule.step()
        method.end_step(t)
        return self._means(logged), self._means(method.measured())

    def _means(self, scalars: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over processes, rounded for the log."""
        if not scalars:
            return {}
        means = sum_over_processes(torch.stack([value.detach() for value in scalars.values()])) / self.fabric.world_size
        return dict(zip(scalars, [round(value, 6) for value in means.tolist()]))

    def _require_labels(self, store: PseudoLabels, state: Mapping[str, Any]) -> None:
        """A round begun with pseudo-labels is not gone on with without them: that would train another model."""
        if state["labelled"] and not store.finished:
            raise RunError(
                f"{store.folder}: the statistics of the round's pseudo-labels are gone; expected those that the "
                "checkpoint at hand was trained on. Put the folder back, or start the run again in another folder"
            )
        soft, expected = store.soft_labels(), state.get("soft")
        if expected is not None and (soft is None or soft.round != expected):
            raise RunError(
                f"{store.folder.parent}: the soft pseudo-labels of round {expected} are gone; expected those that the "
                f"checkpoint at hand was trained on, in round-{expected}/soft-labels. "
                "Put the folder back, or start the run again in another folder"
            )

    # --- guards ------------------------------------------------------------------------------------------------

    def _check_losses(self, losses: Losses, batch: Batch, t: int) -> None:
        wrong = {name: loss.item() for name, loss in losses.items() if not bool(torch.isfinite(loss))}
        if wrong:
            found = ", ".join(f"{name} = {value}" for name, value in wrong.items())
            raise TrainingError(f"step {t}: loss {found}; expected a finite number. {self._way_back(batch)}")

    def _check_gradient(self, name: str, player: nn.Module, batch: Batch, t: int, clip: float | None) -> None:
        gradients = [p.grad for p in player.parameters() if p.grad is not None]
        if not gradients:
            return
        limit = float("inf") if clip is None else clip
        norm = nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(norm)):
            raise TrainingError(
                f"step {t}: the gradient of {name} has norm {float(norm)}; expected a finite number. "
                f"{self._way_back(batch)}"
            )
        if clip is not None:
            nn.utils.clip_grads_with_norm_(player.parameters(), limit, norm)

    def _way_back(self, batch: Batch) -> str:
        images = ", ".join((*batch.source.name, *batch.target.name))
        path, _ = checkpoint.latest(self.folder / "checkpoints")
        return f"Images: {images}. Last good checkpoint: {path}. Lower the learning rate, or clip the gradient"

    def _seed(self, t: int, stream: Stream) -> None:
        """Whatever a layer draws at step t (dropout) is a function of (seed, t, process), not of what came before."""
        keys = (t, self.fabric.global_rank)
        torch.manual_seed(int(generator(self.settings.seed, stream, 3, *keys).integers(2**63)))

    # --- data --------------------------------------------------------------------------------------------------

    def _store(self, phase: Phase, name: str, n: int, data: Domains) -> PseudoLabels:
        parent = self.folder if name == "adaptation" else self.folder / name
        keep = phase.mining is not None and phase.mining.where == "predictions"
        return PseudoLabels(parent / f"round-{n}", len(data.space), sum_over_processes, keep)

    def _batches(self, phase: Phase, data: Domains, store: PseudoLabels, at: Position, last: int) -> DataLoader[Batch]:
        source = target = None
        if "source" in phase.method.domains:
            share, labelled = phase.source_share.at(at.round), data.labelled()
            indices = subset_at(self.settings.seed, Stream.SOURCE, at.round, len(labelled.names), share)
            translate = None
            if phase.translation is not None:
                translate = Translator(phase.translation, data.target, data.short_side, self.settings.seed)
            source = self._feed(phase, data, Stream.SOURCE, labelled.label, indices=indices, translate=translate)
        if "target" in phase.method.domains:
            label, miner = target_labels(data.target, store), miner_of(phase, data.target, store)
            soft = soft_labels(data.target, store)
            target = self._feed(phase, data, Stream.TARGET, label, miner=miner, soft=soft)
        steps = Steps(source, target, at.t, last, self.fabric.global_rank, self.fabric.world_size)
        # The loader draws a seed for its workers: from a generator of its own, not from the global one.
        own = torch.Generator().manual_seed(self.settings.seed)
        return DataLoader(
            steps, batch_size=None, num_workers=self.settings.workers, generator=own, collate_fn=unchanged
        )

    def _feed(self, phase: Phase, data: Domains, stream: Stream, label: LabelOf | None, **drawn: Any) -> Feed:
        at_source = stream is Stream.SOURCE
        images = data.images("source" if at_source else "target")
        view = phase.source_view if at_source else phase.target_view
        return Feed(images, label, view, data.short_side, phase.batch, stream, self.settings.seed, **drawn)

    def _to_device(self, batch: Batch) -> Batch:
        device = self.fabric.device

        def moved(i: Images) -> Images:
            soft = None if i.soft is None else i.soft.to(device)
            return i._replace(image=i.image.to(device), label=i.label.to(device), soft=soft)

        return Batch(moved(batch.source), moved(batch.target))

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _save_if_due(self, at: Position, method: Method, store: PseudoLabels) -> None:
        settings = self.settings
        due = self._signal is not None
        if settings.checkpoint_steps is not None:
            due = due or at.t % settings.checkpoint_steps == 0
        elif settings.checkpoint_share > 0:
            due = due or time.monotonic() - self._saved_at > self._save_seconds / settings.checkpoint_share
        if due:
            self._save(at, method, store)
        if self._signal is not None:
            text = f"stopped by {self._signal} after step {at.t - 1}; go on with: segshift resume {self.folder}"
            raise StoppedError(text)

    def _save(self, at: Position, method: Method, store: PseudoLabels) -> None:
        """Write the checkpoint of position `at`: everything the rest of the run depends on."""
        if not self.fabric.is_global_zero:
            return
        started = time.monotonic()
        state = snapshot(method, at, store.finished)
        if (soft := store.soft_labels()) is not None:
            state["soft"] = soft.round
        checkpoint.save(checkpoint.step_file(self.folder / "checkpoints", at.t), state)
        checkpoint.prune(self.folder / "checkpoints", self.settings.keep)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM finish the current step, save, and end the run. A group of processes is its launcher's."""
        if self.fabric.world_size > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(number: int, _: object) -> None:
            self._signal = signal.Signals(number).name

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def target_labels(target: Unlabelled | OracleTarget, store: PseudoLabels) -> LabelOf | None:
    """Where target labels come from: the truth for the oracle, else the round's pseudo-labels, else nowhere."""
    if isinstance(target, OracleTarget):
        return target.label
    if not store.finished:
        return None
    memory, names = Memory(), target.names
    return lambda index: memory.get("pseudo-label", index, lambda i: store.read(names[i]))


def soft_labels(target: Unlabelled | OracleTarget, store: PseudoLabels) -> SoftOf | None:
    """Where the target's soft labels come from: the newest of the phase up to this round; None where it has none."""
    kept = None if isinstance(target, OracleTarget) else store.soft_labels()
    if kept is None:
        return None
    names = target.names
    return lambda index, geometry: kept.cut(names[index], geometry)


def miner_of(phase: Phase, target: Unlabelled | OracleTarget, store: PseudoLabels) -> Miner | None:
    """Where the round's target crops are put; None where there is no mining, or no prediction to mine from."""
    if phase.mining is None or isinstance(target, OracleTarget) or not store.finished:
        return None
    predicted = store.statistics()["predicted"]
    if predicted is None:
        return None
    memory, names = Memory(), target.names
    read = store.read_prediction if phase.mining.where == "predictions" else store.read
    return Miner(phase.mining, predicted, lambda index: memory.get("mined", index, lambda i: read(names[i])))
