"""Where the batches of a round come from: which images, with which labels, cut and changed as the phase says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from segshift.data.cache import Memory
from segshift.data.dataset import OracleTarget, Unlabelled
from segshift.data.domains import Domains
from segshift.data.mining import Miner
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.sampling import Feed, LabelOf, PackedBatch, SoftOf, Steps, Stream, keeps_size, subset_at, unchanged
from segshift.data.transforms import View
from segshift.data.translation import Translator
from segshift.errors import RunError, SegshiftError
from segshift.phase import Phase, Settings
from segshift.snapshot import Position
from segshift.types import Batch


def batches(
    phase: Phase,
    settings: Settings,
    data: Domains,
    store: PseudoLabels,
    at: Position,
    last: int,
    rank: int,
    world: int,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The batches of steps at.t .. last-1 of a round, this process's share of each, on a device.

    Raises DataError where a file has gone bad since it was checked, RunError where a loading process has died.
    """
    source = target = None
    if "source" in phase.method.domains:
        share, ready = phase.source_share.at(at.round), _ready(data, phase.source_view)
        labelled = ready.labelled()
        indices = subset_at(settings.seed, Stream.SOURCE, at.round, len(labelled.names), share)
        translate = None
        if phase.translation is not None:
            translate = Translator(phase.translation, data.target, data.short_side, settings.seed)
        source = _feed(phase, settings, ready, Stream.SOURCE, labelled.label, indices=indices, translate=translate)
    if "target" in phase.method.domains:
        ready = _ready(data, phase.target_view)
        label, miner = target_labels(ready.target, store), miner_of(phase, ready.target, store)
        soft = soft_labels(ready.target, store)
        target = _feed(phase, settings, ready, Stream.TARGET, label, miner=miner, soft=soft)
    steps = Steps(source, target, at.t, last, rank, world)
    # The loader draws a seed for its workers: from a generator of its own, not from the global one.
    own = torch.Generator().manual_seed(settings.seed)
    loader = DataLoader(
        _Told(steps),
        batch_size=None,
        num_workers=settings.workers,
        generator=own,
        collate_fn=unchanged,
        pin_memory=torch.device(device).type == "cuda",
    )
    return _loaded(iter(loader), device)


def labelled_domains(phase: Phase, data: Domains, store: PseudoLabels) -> list[str]:
    """The domains whose labels a round trains on."""
    labelled = {"source": True, "target": store.finished or isinstance(data.target, OracleTarget)}
    return [domain for domain in phase.method.domains if labelled[domain]]


def _ready(data: Domains, view: View) -> Domains:
    """The domains as a view is cheapest cut from: where it needs images at their working size alone, those at hand."""
    return data.worked if data.worked is not None and keeps_size(view) else data


def _feed(phase: Phase, settings: Settings, data: Domains, stream: Stream, label: LabelOf | None, **drawn: Any) -> Feed:
    at_source = stream is Stream.SOURCE
    images = data.images("source" if at_source else "target")
    view = phase.source_view if at_source else phase.target_view
    return Feed(images, label, view, data.short_side, phase.batch, stream, settings.seed, **drawn)


class _Told(Dataset[PackedBatch | SegshiftError]):
    """Steps as bytes, whose errors are items: raised in a loading process, one would arrive wrapped in a traceback."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, item: int) -> PackedBatch | SegshiftError:
        try:
            return self._steps.packed(item)
        except SegshiftError as error:
            return error


def _loaded(loader: Iterator[PackedBatch | SegshiftError], device: torch.device | str) -> Iterator[Batch]:
    while True:
        try:
            packed = next(loader, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise RunError(
                f"a process that loads images has died ({error}); expected it to live as long as the run. The memory "
                "may be used up: resume the run, with fewer --settings.workers where it happens again"
            ) from error
        if packed is None:
            return
        if isinstance(packed, SegshiftError):
            raise packed
        yield packed.unpacked(device)


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
