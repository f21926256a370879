"""The data of a run: opened, every file checked once, kept in memory as it is read, and described for `run.json`."""

from __future__ import annotations

from typing import Any, NamedTuple

from segshift.data.cache import Cached, CachedImages, Memory
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.describe import protocol
from segshift.data.doctor import listed, validate
from segshift.data.open_data import MINICITY, DataConfig, open_oracle, open_source, open_target, open_test
from segshift.data.protocols import ScoredAs
from segshift.engine import Domains
from segshift.parts.processes import is_first
from segshift.progress import Reporter
from segshift.recipe import Recipe


class Data(NamedTuple):
    """The data of a run, opened and checked."""

    config: DataConfig
    domains: Domains
    test: LabelledDataset | None
    record: dict[str, Any]
    """Counts and fingerprints: what `run.json` says of the data."""
    notes: dict[str, list[str]]
    """What is odd in the files of a set but handled; sets without any are left out."""
    protocol: list[str]
    """In sentences: what is trained on, what is scored, how."""


def open_all(recipe: Recipe, before: Data | None = None) -> Data:
    """Open and check all data of a recipe. DataError lists every bad file before a step is taken.

    `before`: data opened earlier. Its source is taken over, checked and decoded as it is, where it is the same one.
    """
    config = recipe.data
    known = before if before is not None and _source_of(before.config) == _source_of(config) else None
    source = open_source(config) if known is None else known.domains.source
    needs_oracle = any(phase.method.needs_oracle for _, phase in recipe.phases())
    target = open_oracle(config, source.space) if needs_oracle else open_target(config)
    test = open_test(config, source.space)
    sets: dict[str, ImageDataset] = {"source": source, "target": target}
    if test is not None:
        sets["test"] = test
    notes = {role: _checked(config, role, dataset) for role, dataset in sets.items() if role != "source" or not known}
    if known is not None:
        notes["source"] = known.notes.get("source", [])
    record = {name: {"images": len(d.names), "fingerprint": d.fingerprint()} for name, d in sets.items()}
    cached_source = Cached(source, Memory()) if known is None else known.domains.source
    return Data(
        config,
        Domains(cached_source, _cached_target(target), config.short_side),
        None if test is None else _cached_test(test),
        record,
        {role: said for role, said in notes.items() if said},
        protocol(config, source, target, test),
    )


def _source_of(config: DataConfig) -> tuple[Any, ...]:
    """All that decides what the source is."""
    return config.source, config.source_layout, config.source_split, config.classes, config.minicity


def _checked(config: DataConfig, role: str, dataset: ImageDataset) -> list[str]:
    """Every file of a data set is read once; what is odd but handled is said, and returned."""
    # What is drawn on demand has no files to check.
    if (config.source if role == "source" else config.target) == MINICITY:
        return []
    reporter = Reporter(quiet=not is_first())
    notes = listed(validate(dataset, role, reporter.track(f"checking {role}")).notes)
    for note in notes:
        reporter.say(f"{role}: note: {note}")
    return notes


def _cached_target(target: Unlabelled | OracleTarget) -> Unlabelled | OracleTarget:
    if isinstance(target, OracleTarget):
        return OracleTarget(Cached(target, Memory()))
    return Unlabelled(CachedImages(target, Memory()))


def _cached_test(test: LabelledDataset) -> LabelledDataset:
    cached = Cached(test, Memory())
    return ScoredAs(cached, test.classes) if isinstance(test, ScoredAs) else cached
