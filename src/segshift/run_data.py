"""The data of a run: opened, every file checked once, kept in memory as it is read, and described for `run.json`."""

from __future__ import annotations

from typing import Any, NamedTuple

from segshift.data.cache import Cached, CachedImages, Memory
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.describe import protocol
from segshift.data.doctor import listed, validate
from segshift.data.open_data import (
    MINICITY,
    DataConfig,
    declared_space,
    open_oracle,
    open_source,
    open_target,
    open_test,
    place_of,
)
from segshift.data.protocols import ScoredAs
from segshift.engine import Domains
from segshift.errors import ConfigError
from segshift.parts.processes import is_first
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.taxonomy import LabelSpace


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


def open_all(recipe: Recipe, before: Data | None = None, space: LabelSpace | None = None) -> Data:
    """Open and check all data of a recipe. DataError lists every bad file before a step is taken.

    `before`: data opened earlier. Its source is taken over, checked and decoded as it is, where it is the same one.
    `space`: the classes of the model that is adapted, where there is no source to say them.
    """
    config = recipe.data
    known = before if before is not None and _source_of(before.config) == _source_of(config) else None
    source = _source(config) if known is None else known.domains.source
    space = source.space if source is not None else space or _declared(config)
    needs_oracle = any(phase.method.needs_oracle for _, phase in recipe.phases())
    target = open_oracle(config, space) if needs_oracle else open_target(config)
    test = open_test(config, space)
    roles: tuple[tuple[str, ImageDataset | None], ...] = (("source", source), ("target", target), ("test", test))
    sets = {role: dataset for role, dataset in roles if dataset is not None}
    notes = {role: _checked(config, role, dataset) for role, dataset in sets.items() if role != "source" or not known}
    if known is not None and source is not None:
        notes["source"] = known.notes.get("source", [])
    record = {name: {"images": len(d.names), "fingerprint": d.fingerprint()} for name, d in sets.items()}
    if source is not None and known is None:
        source = Cached(source, Memory())
    return Data(
        config,
        Domains(source, _cached_target(target), space, config.short_side),
        None if test is None else _cached_test(test),
        record,
        {role: said for role, said in notes.items() if said},
        protocol(config, source, target, test),
    )


def _source_of(config: DataConfig) -> tuple[Any, ...]:
    """All that decides what the source is."""
    share = None if config.labelled_share is None else (config.labelled_share, config.labelled_seed)
    place = config.source, config.source_layout, config.source_split, config.translated
    return *place, config.classes, config.minicity, share


def _source(config: DataConfig) -> LabelledDataset | None:
    return None if config.source is None else open_source(config)


def _declared(config: DataConfig) -> LabelSpace:
    """The classes of weights that come without names, as the target says them."""
    space = declared_space(config)
    if space is None:
        raise ConfigError(
            f"target {config.target}: names no classes, and neither does the file of weights; put a classes.yaml into "
            "the target's folder (docs/data.md), or start from the folder of a run, which knows them"
        )
    return space


def _checked(config: DataConfig, role: str, dataset: ImageDataset) -> list[str]:
    """Every file of a data set is read once; what is odd but handled is said, and returned."""
    # What is drawn on demand has no files to check.
    if place_of(config, "source" if role == "source" else "target").path == MINICITY:
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
