"""The data of a run: opened, every file checked once, kept as it is read, and described for `run.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from segshift.data.cache import Cached, CachedImages, Kept, KeptImages, Memory
from segshift.data.contents import content_of, digests, duplicates
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.decoded import Decoded
from segshift.data.describe import protocol
from segshift.data.doctor import listed
from segshift.data.domains import Domains
from segshift.data.filling import Filling
from segshift.data.intake import told
from segshift.data.open_data import DataConfig, declared_space
from segshift.data.opening import Opening, Sets, left_out_lines
from segshift.data.protocols import ScoredAs
from segshift.data.sampling import keeps_size
from segshift.data.sizes import Sizes
from segshift.data.transforms import View
from segshift.errors import ConfigError
from segshift.parts.processes import is_first
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.taxonomy import LabelSpace

Target = Unlabelled | OracleTarget


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
    left_out: dict[str, list[str]]
    """Role -> files that could not be used and were left out, each with the reason."""


def open_all(recipe: Recipe, before: Data | None = None, space: LabelSpace | None = None) -> Data:
    """Open and check all data of a recipe, before a step is taken.

    DataError lists every bad file, and training images that are test images too. Where the config has it so, the data
    goes without them instead (never the test set without what is in training too).

    `before`: data opened earlier. Its source is taken over, checked and decoded as it is, where it is the same one.
    `space`: the classes of the model that is adapted, where there is no source to say them.
    """
    config = recipe.data
    # What a source goes without depends on the images that are scored, which may be others.
    same = before is not None and _source_of(before.config) == _source_of(config) and config.on_bad_file == "stop"
    known = before if same else None
    oracle = any(phase.method.needs_oracle for _, phase in recipe.phases())
    reporter = Reporter(quiet=not is_first())
    sizes = Sizes(config.short_side, recipe.smallest_side, config.max_pixels)
    filling = _filling(recipe, reporter)
    through = dict if filling is None else filling.through
    opening = Opening(config, oracle, lambda role: reporter.track(f"checking {role}"), sizes, through)
    sets = opening.open(None if known is None else known.domains.source, lambda: space or _declared(config))
    notes, left_out = _notes(sets, opening.notes, config.check), left_out_lines(sets)
    if known is not None:
        # They were said when it was opened.
        notes.pop("source", None)
    _say(reporter, notes, left_out)
    if known is not None and "source" in known.notes:
        notes["source"] = known.notes["source"]
    return Data(
        config,
        _domains(sets, filling, config.short_side, None if known is None else known.domains),
        None if sets.test is None else _test(sets.test, filling),
        {role: _record(dataset, config.check) for role, dataset in sets.roles().items()},
        notes,
        protocol(config, sets.source, sets.target, sets.test),
        left_out,
    )


def _record(dataset: ImageDataset, most: int | None) -> dict[str, Any]:
    """`most`: how many images are read of it."""
    return {"images": len(dataset.names), "fingerprint": dataset.fingerprint(), "content": content_of(dataset, most)}


def _notes(sets: Sets, found: Mapping[str, list[str]], most: int | None) -> dict[str, list[str]]:
    """What is odd in the files of a set but handled, and which of its images stand there twice, if all are read."""

    def twins(dataset: ImageDataset) -> list[str]:
        return _twins(dataset) if most is None or len(dataset.names) <= most else []

    notes = {role: listed([*found.get(role, []), *twins(dataset)]) for role, dataset in sets.roles().items()}
    return {role: said for role, said in notes.items() if said}


def _twins(dataset: ImageDataset) -> list[str]:
    groups = duplicates(digests(dataset) or {})
    if not groups:
        return []
    more = f"; {sum(map(len, groups)) - len(groups)} such images in all" if len(groups) > 1 else ""
    return [f"{' = '.join(groups[0][:3])}: the same file content, so the image counts {len(groups[0])} times{more}"]


def _say(reporter: Reporter, notes: Mapping[str, list[str]], left_out: Mapping[str, list[str]]) -> None:
    for role, said in notes.items():
        for note in said:
            reporter.say(f"{role}: note: {note}")
    for role, lines in left_out.items():
        reporter.say(told(role, lines, "run.json lists all"))


def _source_of(config: DataConfig) -> tuple[Any, ...]:
    """All that decides what the source is."""
    share = None if config.labelled_share is None else (config.labelled_share, config.labelled_seed)
    place = config.source, config.source_layout, config.source_split, config.translated
    return *place, config.classes, config.class_map, config.minicity, share, config.on_bad_file, config.max_pixels


def _declared(config: DataConfig) -> LabelSpace:
    """The classes of weights that come without names, as the target says them."""
    space = declared_space(config)
    if space is None:
        raise ConfigError(
            f"target {config.target}: names no classes, and neither does the file of weights; put a classes.yaml into "
            "the target's folder (docs/data.md), or start from the folder of a run, which knows them"
        )
    return space


def _filling(recipe: Recipe, reporter: Reporter) -> Filling | None:
    """What fills the folder of decoded images that a run names; None where it names none."""
    folder, side = recipe.settings.cache, recipe.data.short_side
    if folder is None:
        return None
    views: dict[str, list[View]] = {"source": [], "target": []}
    for _, phase in recipe.phases():
        for domain in phase.method.domains:
            views[domain].append(phase.source_view if domain == "source" else phase.target_view)
    sides = {role: side for role, of_role in views.items() if side is not None and any(map(keeps_size, of_role))}
    return Filling(Decoded(Path(folder), reporter.say), sides, recipe.data.max_pixels, reporter.say, reporter.track)


def _domains(sets: Sets, filling: Filling | None, side: int | None, before: Domains | None) -> Domains:
    """The domains, kept as they are read. `before`: opened earlier, of the same source."""
    source = ready = None
    if before is not None:
        source, ready = before.source, (before.worked or before).source
    elif sets.source is not None:
        source, ready = _labelled("source", sets.source, filling)
    target, ready_target = _target(sets.target, filling)
    domains = Domains(source, target, sets.space, side)
    if filling is None or not filling.short_sides:
        return domains
    return replace(domains, worked=Domains(ready, ready_target, sets.space, side))


def _labelled(role: str, dataset: LabelledDataset, filling: Filling | None) -> tuple[LabelledDataset, LabelledDataset]:
    """A set at its own size and at its working size, where it lies in a folder at both; else twice the same."""
    memory = Memory()
    entries = None if filling is None else filling.entries(role, dataset.names)
    if filling is None or entries is None:
        cached = Cached(dataset, memory)
        return cached, cached
    own = Kept(dataset, memory, filling.decoded, entries)
    side = filling.short_sides.get(role)
    return own, own if side is None else Kept(dataset, memory, filling.decoded, entries, side)


def _images(role: str, dataset: Unlabelled, filling: Filling | None) -> tuple[CachedImages, CachedImages]:
    """Likewise of images without labels."""
    memory = Memory()
    entries = None if filling is None else filling.entries(role, dataset.names)
    if filling is None or entries is None:
        cached = CachedImages(dataset, memory)
        return cached, cached
    own = KeptImages(dataset, memory, filling.decoded, entries)
    side = filling.short_sides.get(role)
    return own, own if side is None else KeptImages(dataset, memory, filling.decoded, entries, side)


def _target(target: Unlabelled | OracleTarget, filling: Filling | None) -> tuple[Target, Target]:
    if isinstance(target, OracleTarget):
        own, ready = _labelled("target", target, filling)
        return OracleTarget(own), OracleTarget(ready)
    own, ready = _images("target", target, filling)
    return Unlabelled(own), Unlabelled(ready)


def _test(test: LabelledDataset, filling: Filling | None) -> LabelledDataset:
    cached, _ = _labelled("test", test, filling)
    return ScoredAs(cached, test.classes) if isinstance(test, ScoredAs) else cached
