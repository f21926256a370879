"""From a table and the command's options to the runs it takes: what is trained, from which warm-up, scored how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from segshift import recipes, tables
from segshift.data.open_data import MINICITY, DataConfig, open_source, open_target, open_test
from segshift.errors import ConfigError
from segshift.options import TableOptions
from segshift.overrides import AdaptOptions, apply
from segshift.phase import Phase
from segshift.recipe import Recipe
from segshift.recipe_identity import identity
from segshift.recipe_rows import PAPER_SCALES, RELEASED_SCALES
from segshift.tables.declare import NETWORKS, Case, Row, Table
from segshift.tables.results import Key, views_text

SOURCE_FIELDS = (
    "source_layout", "source_split", "short_side", "classes", "class_map", "minicity", "labelled_share",
    "labelled_seed",
)  # fmt: skip
"""What of the data's options a warm-up depends on; paths aside, as in every identity. Whether the source's images are
translated ones is in their fingerprint."""


@dataclass(frozen=True)
class Training:
    """A run: what is trained, in which folder, and the warm-up it starts from (None: it is one)."""

    recipe: Recipe
    folder: Path
    warmup: Training | None = None


@dataclass(frozen=True)
class Job:
    """A figure of the table: one row, one seed, one case; a trained model scored on some views."""

    row: Row
    case: Case | None
    recipe: Recipe
    """With the data and the views it is scored on; the model may come from a run on others."""
    training: Training
    key: Key
    data: Mapping[str, Any]
    """Number and fingerprint of the source, target and test images."""

    @property
    def name(self) -> str:
        """For messages: row, case, seed."""
        case = "" if self.case is None else f", {self.case.city} fold {self.case.fold}"
        return f"{self.row.name}{case}, seed {self.key.seed}"


def plan(table: Table, options: TableOptions) -> list[Job]:
    """All jobs of a table, in the order they are done: seed by seed, case by case, row by row.

    Raises ConfigError for a row, network, group or path that does not fit; DataError where the data is not there.
    """
    _check(table, options)
    rows = tables.select(table.on(options.data), options.rows)
    cases = table.cases(options.data)
    records = _Records()
    jobs = []
    for seed in options.seeds:
        for case in cases:
            jobs += [_job(table, row, case, cases[0], options, seed, records) for row in rows]
    if options.student is not None and all(job.recipe.distillation is None for job in jobs):
        raise ConfigError(f"student = {options.student}: no row of this table distils a student; leave the option out")
    return jobs


def _check(table: Table, options: TableOptions) -> None:
    if options.data is not None and options.data not in recipes.GROUPS:
        raise ConfigError(f"data = {options.data!r}; expected a group of recipes: {', '.join(recipes.GROUPS)}")
    if not options.seeds or len(set(options.seeds)) != len(options.seeds):
        raise ConfigError(
            f"seeds = {' '.join(map(str, options.seeds)) or 'nothing'}; expected one or several, each once"
        )
    group = options.data or (table.data if not table.groups else None)
    needed = ("source",) if _semi_supervised(table, options) else ("source", "target")
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing and group != MINICITY:
        where = recipes.GROUPS[group or next(iter(table.groups.values()))][0]
        other = "" if options.data else "; or run its rows on the embedded street: --data minicity"
        raise ConfigError(f"table {table.name}: {' and '.join(missing)} missing; expected {where}{other}")
    known = set(table.groups) if table.on_own_pair(options.data) else set()
    for network in weights_of(options):
        if network and network not in known:
            expected = ", ".join(f"{name}=FILE" for name in sorted(known)) or "FILE alone: all rows have one network"
            raise ConfigError(f"weights = {network}=…: this table has no such network; expected {expected}")


def _semi_supervised(table: Table, options: TableOptions) -> bool:
    """Whether all rows divide one data set into a labelled and an unlabelled part."""
    found = [_named(row, table.group_of(row, options.data), options) for row in table.on(options.data)]
    return all(recipe.data.labelled_share is not None for recipe in found)


def weights_of(options: TableOptions) -> dict[str, str]:
    """Network -> file of weights; the key is empty for a file that all networks take."""
    found: dict[str, str] = {}
    for text in options.weights:
        network, equals, file = text.partition("=")
        if equals and "/" not in network and network not in NETWORKS and not Path(text).exists():
            raise ConfigError(f"weights = {text}: {network!r} is no network; expected one of {', '.join(NETWORKS)}")
        named = bool(equals) and network in NETWORKS
        key = network if named else ""
        if key in found:
            raise ConfigError(f"weights: two files for {key or 'all networks'}; expected one, or NETWORK=FILE for each")
        found[key] = file if named else text
    return found


def _job(
    table: Table, row: Row, case: Case | None, first: Case | None, options: TableOptions, seed: int, records: _Records
) -> Job:
    group = table.group_of(row, options.data)
    recipe = _recipe(table, row, group, options, seed)
    single, views = _on(recipe, case), recipe.test
    if row.multi_scale:
        views = PAPER_SCALES if options.variant == "paper" else RELEASED_SCALES
    sourced = single.data
    if sourced.source is None:
        # The model it starts from was trained on the source that this command names.
        bare = replace(row, recipe="source-only", warmup="", change=None)
        sourced = _on(_recipe(table, bare, group, options, seed), case).data
    data = records.of(sourced)
    if _sees_target(recipe.warmup):
        seen = {"source": data["source"], "target": data["target"]}
        warmup = _warmup(replace(recipe, data=sourced), group, options.out, seen)
    else:
        warmup = _warmup(_on(replace(recipe, data=sourced), first), group, options.out, data["source"])
    place = options.out / "runs" / group / f"seed-{seed}"
    place = place if case is None else place / case.city / f"fold-{case.fold}"
    if single.alignment is not None:
        aligned = _aligned(single, group)
        warmup = Training(aligned, _folder(place, aligned.name.rpartition("/")[2], aligned, data), warmup)
    training = warmup
    if single.distillation is not None:
        teacher = _teacher(single, group)
        warmup = Training(teacher, _folder(place, teacher.name.rpartition("/")[2], teacher, data), warmup)
    if single.last[0] != "warmup":
        training = Training(single, _folder(place, row.key.removesuffix("+mst"), single, data), warmup)
    trained = row.recipe if row.change is None else row.key
    split, fold = (None, None) if case is None else (case.split, case.fold)
    key = Key(group, trained, seed, identity(single), split, fold, views_text(views))
    return Job(row, case, replace(single, test=views), training, key, data)


def _recipe(table: Table, row: Row, group: str, options: TableOptions, seed: int) -> Recipe:
    """A row's recipe with the command's options put in, scored on one view."""
    recipe = _named(row, group, options)
    weights, data = weights_of(options), recipe.data
    # A run that tables share is not called what one of them calls it.
    label = row.label if row.change or row.warmup else recipe.label
    recipe = apply(
        AdaptOptions(
            recipe=replace(recipe, label=label.removesuffix("+MST")),
            source=None if data.source is None else options.source,
            target=None if data.labelled_share is not None else options.target,
            translated=None if data.source is None else options.translated,
            seed=seed,
            threads=options.threads,
            weights=weights.get(row.network, weights.get("")),
            student=None if recipe.distillation is None else options.student,
        )
    )
    network: Any = recipe.network
    for name in ("mean", "std"):
        value = getattr(options, name)
        if value is not None and name not in {f.name for f in fields(network)}:
            raise ConfigError(f"{name} = {value}: {type(network).__name__} has no weights that would expect it")
        network = network if value is None else replace(network, **{name: value})
    settings = replace(recipe.settings, devices=options.devices, evaluate_rounds=bool(table.panels))
    return replace(recipe, network=network, settings=settings)


def _named(row: Row, group: str, options: TableOptions) -> Recipe:
    """A row's recipe without the command's options."""
    recipe = recipes.find(f"{group}/{row.recipe}", options.variant, row.warmup or None)
    return row.change(recipe) if row.change else recipe


def _on(recipe: Recipe, case: Case | None) -> Recipe:
    """The recipe on one city and fold."""
    if case is None:
        return recipe
    data = replace(recipe.data, target_split=case.split, folds=case.folds, fold=case.fold)
    return replace(recipe, data=data)


def _aligned(recipe: Recipe, group: str) -> Recipe:
    """The recipe's second warm-up as a run of its own: the row of that name."""
    row = next(name for name, label in recipes.LABELS.items() if label == recipe.alignment_label)
    settings = replace(recipe.settings, evaluate_rounds=False)
    label = recipe.alignment_label
    return replace(
        recipe, name=f"{group}/{row}", label=label, adaptation=recipe.alignment, alignment=None, alignment_label="",
        distillation=None, adaptation_label="", settings=settings,
    )  # fmt: skip


def _teacher(recipe: Recipe, group: str) -> Recipe:
    """What a student is taught by, as a run of its own: the same recipe without the distillation."""
    row = next(name for name, label in recipes.LABELS.items() if label == recipe.adaptation_label)
    return replace(recipe, name=f"{group}/{row}", label=recipe.adaptation_label, distillation=None, adaptation_label="")


def _folder(place: Path, name: str, recipe: Recipe, data: Mapping[str, Any]) -> Path:
    return place / f"{name.replace('/', '_')}-{_digest(identity(recipe), data)}"


def _sees_target(warmup: Phase) -> bool:
    """Whether target images change the warm-up: it is another one for each target, then, and for each fold."""
    return warmup.translation is not None or "target" in (warmup.adabn_before, warmup.adabn_after)


def _warmup(recipe: Recipe, group: str, out: Path, images: Mapping[str, Any]) -> Training:
    """The warm-up that rows share: across tables and targets too, where source, network and schedule are the same.

    `images`: number and fingerprint of those it looks at.
    """
    settings = replace(recipe.settings, evaluate_rounds=False)
    recipe = replace(
        recipe, name=f"{group}/source-only", label="source-only", alignment=None, alignment_label="", adaptation=None,
        distillation=None, adaptation_label="", settings=settings,
    )  # fmt: skip
    words: dict[str, Any] = {name: getattr(recipe.data, name) for name in SOURCE_FIELDS}
    blind = replace(recipe, data=DataConfig(**words))
    seen = identity(recipe if _sees_target(recipe.warmup) else blind)
    name = f"{type(recipe.network).__name__}-{_digest(seen, images)}"
    return Training(recipe, out / "runs" / "warmups" / f"seed-{settings.seed}" / name)


def _digest(seen: str, data: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell a run's folder from one of another recipe, or on other images."""
    return hashlib.sha256(json.dumps([seen, data], sort_keys=True).encode()).hexdigest()[:8]


class _Records:
    """Counts and fingerprints of data sets, each looked at once."""

    def __init__(self) -> None:
        self._sources: dict[tuple[Any, ...], Any] = {}
        self._found: dict[DataConfig, dict[str, Any]] = {}

    def of(self, config: DataConfig) -> dict[str, Any]:
        if config not in self._found:
            names = ("source", "translated", *SOURCE_FIELDS)
            key = tuple(getattr(config, name) for name in names)
            if key not in self._sources:
                self._sources[key] = open_source(config)
            source = self._sources[key]
            sets = {"source": source, "target": open_target(config), "test": open_test(config, source.space)}
            if sets["test"] is None:
                raise ConfigError(f"target {config.target}: holds no labelled images to score; a table needs them")
            self._found[config] = {
                name: {"images": len(found.names), "fingerprint": found.fingerprint()} for name, found in sets.items()
            }
        return self._found[config]
