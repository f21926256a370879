"""What a run would do, and what it would take: its plan, its data checked, a few steps of each phase tried and timed.

The steps are those of the real recipe (network, crops, batch, method), on a few images, in a folder that is thrown
away. Seconds and bytes are counted up from there to the whole run.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segshift.candidates import check_watching
from segshift.data.cache import BUDGET
from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.domains import Domains
from segshift.data.protocols import SomeImages, SomeLabelled
from segshift.label_free import evenly
from segshift.phase import Phase
from segshift.progress import Bar, Reporter
from segshift.recipe import Recipe
from segshift.run_data import Data, open_all
from segshift.run_log import RunLog
from segshift.runs import start
from segshift.warmups import space_of

STEPS = 3
"""Tried of each phase. The first one also sets things up, so that only the others are timed."""
IMAGES = 8
"""Target and test images of the trial; of the source as many as a batch, at least."""


class PhaseCost(NamedTuple):
    """What a phase takes."""

    name: str
    rounds: int
    steps: int
    """A round."""
    step_seconds: float
    round_seconds: float
    """Of the beginning and the end of a round: predicting the target, selecting labels."""
    other_seconds: float
    """BatchNorm statistics, scores on the test images, candidates."""

    @property
    def seconds(self) -> float:
        return self.rounds * (self.steps * self.step_seconds + self.round_seconds) + self.other_seconds


@dataclass(frozen=True)
class Plan:
    """A run before it begins. Bytes and seconds are estimates, from a trial of `STEPS` steps a phase."""

    recipe: Recipe
    data: Data
    parameters: int
    device: str
    check_seconds: float
    read_seconds: float
    """Decoding each image: once, or each time where a set is larger than the memory it is kept in."""
    phases: tuple[PhaseCost, ...]
    memory: int
    """Peak of main memory of the process: that of the trial, and decoded images up to 1 GiB."""
    device_memory: int | None
    """Peak of a GPU's memory; None without one."""
    checkpoint_bytes: int
    label_bytes: int
    """Pseudo-labels of all rounds, hard and soft."""
    model_bytes: int

    @property
    def seconds(self) -> float:
        """In all: the check of the data, all images read, all phases."""
        return self.check_seconds + self.read_seconds + sum(phase.seconds for phase in self.phases)

    @property
    def disk(self) -> int:
        """Bytes of the finished run; while a checkpoint is written, one more is there."""
        kept = self.recipe.settings.keep * self.checkpoint_bytes
        chosen = self.model_bytes if self.recipe.settings.select != "last" else 0
        return kept + self.label_bytes + self.model_bytes + chosen

    def lines(self) -> list[str]:
        """The plan in words, for a person."""
        recipe, settings = self.recipe, self.recipe.settings
        target, test = len(self.data.domains.target.names), self.data.test
        source = self.data.domains.source
        found = [
            f"{recipe.name}: {recipe.label}, seed {settings.seed}, {settings.precision}, {self.device}, "
            f"{settings.threads} threads, {settings.devices * settings.nodes} process(es)",
            f"network: {type(recipe.network).__name__}, {self.parameters / 1e6:.2f} million weights, "
            f"{len(self.data.domains.space)} classes",
            f"data: {'no' if source is None else len(source.names)} source images, {target} target images, "
            f"{'no' if test is None else len(test.names)} test images: checked in {_time(self.check_seconds)}",
            *self.data.protocol,
        ]
        phases = dict(recipe.phases())
        found += [_told(phases[cost.name], cost) for cost in self.phases]
        gpu = "" if self.device_memory is None else f", {_size(self.device_memory)} of the GPU's"
        found += [
            f"time: about {_time(self.seconds)} in all, {_time(self.read_seconds)} of it to decode images, without the "
            "report",
            f"memory: about {_size(self.memory)}{gpu}",
            f"disk: about {_size(self.disk)}: checkpoints {_size(self.checkpoint_bytes)} each, {settings.keep} kept; "
            f"pseudo-labels {_size(self.label_bytes)}; model {_size(self.model_bytes)}",
            f"measured on {STEPS} steps of each phase, of which the first is not counted, and rounds begun on "
            f"{min(IMAGES, target)} target images; nothing of it is kept",
        ]
        if settings.devices * settings.nodes > 1:
            found.append("tried on one process, with its share of the batch: what processes say to each other is extra")
        return found


def dry_run(
    recipe: Recipe, folder: Path, warmup: Path | None = None, oracle: Path | None = None, data: Data | None = None
) -> Plan:
    """Try a recipe in `folder`, which the caller throws away, and say what it would take.

    The other words are those of `runs.start`. Raises what the run itself would raise before its first step, or in it.
    """
    started = time.monotonic()
    data = data or open_all(recipe, space=space_of(warmup))
    checked = time.monotonic() - started
    recipe = recipe.on(len(data.domains.target.names))
    check_watching(recipe)
    small, few = _small(recipe), _few(data, recipe)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    watch = _Watch()
    start(small, folder, warmup, oracle, few, watch)
    reading, decoded = _reading(data, recipe)
    ran = [name for name, _ in (recipe.phases() if warmup is None else (recipe.last,))]
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return Plan(
        recipe,
        data,
        sum(p.numel() for p in recipe.network.build(len(data.domains.space)).parameters()),
        "cpu" if not gpu else "cuda",
        checked,
        reading,
        tuple(_cost(name, recipe, data, few, folder, watch) for name in ran),
        _resident() + decoded,
        gpu,
        max((file.stat().st_size for file in (folder / "checkpoints").glob("step-*")), default=0),
        sum(_labels(folder, name, phase, data, few) for name, phase in recipe.phases() if name in ran),
        sum(file.stat().st_size for file in (folder / "model").iterdir()),
    )


# --- the trial ------------------------------------------------------------------------------------------------------


def _small(recipe: Recipe) -> Recipe:
    """The recipe with a few steps a phase, on one process, which looks at nothing on the way."""
    settings = recipe.settings
    world = settings.devices * settings.nodes
    phases = {
        name: replace(
            phase, rounds=min(1, phase.rounds), steps=STEPS, target_epochs=None, batch=-(-phase.batch // world)
        )
        for name, phase in recipe.phases()
    }
    alone = replace(
        settings, devices=1, nodes=1, strategy="ddp", evaluate_rounds=False, checkpoint_share=0.0,
        checkpoint_steps=STEPS - 1, keep=100, on_bad_numbers="warn", select="last", candidates_every=None,
        candidates_oracle=False, track=(),
    )  # fmt: skip
    return replace(recipe, settings=alone, **phases)


def _few(data: Data, recipe: Recipe) -> Data:
    """The data with a few images of each set, so that each is decoded in the first step."""
    most = max(IMAGES, *(phase.batch for _, phase in recipe.phases()))

    def fewer(domains: Domains) -> Domains:
        target, source = domains.target, domains.source
        part = evenly(len(target.names), IMAGES)
        return replace(
            domains,
            source=None if source is None else SomeLabelled(source, evenly(len(source.names), most)),
            target=(
                OracleTarget(SomeLabelled(target, part))
                if isinstance(target, OracleTarget)
                else Unlabelled(SomeImages(target, part))
            ),
            worked=None if domains.worked is None else fewer(domains.worked),
        )

    test = None if data.test is None else SomeLabelled(data.test, evenly(len(data.test.names), IMAGES))
    return data._replace(domains=fewer(data.domains), test=test)


class _Seen(NamedTuple):
    title: str
    began: float
    ended: float
    total: int


class _Watch(Reporter):
    """Says nothing, and notes when each piece of work began and ended."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.seen: list[_Seen] = []

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        began = time.monotonic()
        with super().bar(title, total, done) as bar:
            yield bar
        self.seen.append(_Seen(title, began, time.monotonic(), total))

    def per_image(self, *begins: str) -> float:
        """Seconds an image of the work whose title begins so; 0 where there was none."""
        found = [seen for seen in self.seen if seen.title.startswith(begins) and seen.total]
        return statistics.median((s.ended - s.began) / s.total for s in found) if found else 0.0

    def before_steps(self, name: str) -> float:
        """Seconds between the work before a phase's steps and these, with the scan that is part of it."""
        at = next((i for i, seen in enumerate(self.seen) if seen.title.startswith(f"{name}, round 1/")), None)
        if at is None:
            return 0.0
        before = at
        while before > 0 and self.seen[before - 1].title.startswith("round "):
            before -= 1
        since = self.seen[before - 1].ended if before else self.seen[before].began
        return self.seen[at].began - since


# --- from the trial to the run --------------------------------------------------------------------------------------


def _cost(name: str, recipe: Recipe, data: Data, few: Data, folder: Path, watch: _Watch) -> PhaseCost:
    phase = dict(recipe.phases())[name]
    target = len(data.domains.target.names)
    lines = [line for line in RunLog(folder / "log.jsonl").read() if line["phase"] == name]
    # A checkpoint falls into one of them.
    step = min(line["seconds"] for line in lines[1:]) if phase.rounds else 0.0
    step /= 1 - recipe.settings.checkpoint_share
    part = target / len(few.domains.target.names)
    scans = any(seen.title == "round 1: predicting target images" for seen in watch.seen) and name != "warmup"
    begun = watch.before_steps(name) * (part if scans else 1.0)
    return PhaseCost(name, phase.rounds, phase.steps, step, begun, _others(name, phase, recipe, data, watch))


def _others(name: str, phase: Phase, recipe: Recipe, data: Data, watch: _Watch) -> float:
    """Seconds of what a phase does beside its rounds."""
    settings = recipe.settings
    sets: dict[str, ImageDataset | LabelledDataset | None] = {
        "source": data.domains.source,
        "target": data.domains.target,
        "none": None,
    }
    statistic, scoring = watch.per_image("estimating BatchNorm"), watch.per_image("scoring")
    found = sum(
        statistic * len(images.names)
        for images in (sets[phase.adabn_before], sets[phase.adabn_after])
        if images is not None
    )
    test = 0 if data.test is None else len(data.test.names)
    rounds = phase.rounds if settings.evaluate_rounds and name == recipe.last[0] else 0
    looks = 0
    if settings.scores_candidates:
        looks = max(1, phase.rounds)
        if settings.candidates_every:
            looks += phase.length // settings.candidates_every
    after = 0 if phase.adabn_after == "none" else len(data.domains.target.names) * statistic
    oracle = test if settings.candidates_oracle else 0
    images = min(settings.candidates_images, len(data.domains.target.names))
    return found + scoring * test * (1 + rounds) + looks * (scoring * (images + oracle) + after)


def _labels(folder: Path, name: str, phase: Phase, data: Data, few: Data) -> int:
    """Bytes that the rounds of a phase leave."""
    place = folder / "round-1" if name == "adaptation" else folder / name / "round-1"
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return round(size * phase.rounds * len(data.domains.target.names) / len(few.domains.target.names))


def _resident() -> int:
    """The most main memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reading(data: Data, recipe: Recipe) -> tuple[float, int]:
    """(seconds to decode images, bytes of them that are kept) in a whole run, by a few that the trial has not seen."""
    steps = sum(phase.length * phase.batch for _, phase in recipe.phases())
    seconds, kept = 0.0, 0
    for images in (data.domains.source, data.domains.target, data.test):
        if images is None:
            continue
        count, started = len(images.names), time.monotonic()
        sample = [min(index + 1, count - 1) for index in evenly(count, IMAGES)]
        size = sum(each.nbytes for index in sample for each in _item(images, index)) * count / len(sample)
        fits = size <= BUDGET
        seconds += (time.monotonic() - started) / len(sample) * (count if fits else max(count, steps))
        kept += min(BUDGET, round(size))
    return seconds, kept


def _item(images: ImageDataset | LabelledDataset, index: int) -> list[Tensor]:
    """What is read of an image: its label too, where it is used."""
    label = getattr(images, "label", None)
    return [images.image(index)] if label is None else [images.image(index), label(index)]


# --- words ----------------------------------------------------------------------------------------------------------


def _told(phase: Phase, cost: PhaseCost) -> str:
    crops = {"source": phase.source_view.crop, "target": phase.target_view.crop}
    views = ", ".join(f"{domain} {_sides(crops[domain])}" for domain in phase.method.domains)
    return (
        f"{cost.name}: {type(phase.method).__name__.removesuffix('Config')}, {cost.rounds} round(s) of {cost.steps} "
        f"steps, batches of {phase.batch}, crops: {views}; {cost.step_seconds:.3f} s a step, "
        f"{_time(cost.round_seconds)} a round before its steps, {_time(cost.other_seconds)} for scores and statistics: "
        f"{_time(cost.seconds)}"
    )


def _sides(crop: tuple[int, int] | None) -> str:
    return "whole images" if crop is None else f"{crop[0]}x{crop[1]}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
