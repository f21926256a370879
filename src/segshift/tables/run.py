"""`segshift table`: train what is missing, score it, append each finished run to the results file, print the table.

Whatever stops it, the same command goes on: a run that stands in the results file is not repeated, one that was cut
short is resumed in its folder. Nothing is chosen by target labels: every figure is that of the last step. What trains
and what draws is imported when it is needed: a dry run does neither.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segshift import recipe as recipe_file
from segshift import tables
from segshift.checkpoint import atomic_write
from segshift.data.open_data import DataConfig, open_test
from segshift.data.records import changed_roles
from segshift.errors import DataError, RunError
from segshift.evaluate import Scores
from segshift.label_quality import measure_run
from segshift.models.network import load_model
from segshift.options import TableOptions
from segshift.parts.processes import sum_over_processes
from segshift.predict import score
from segshift.progress import Reporter
from segshift.recipe import Recipe
from segshift.run_data import Data, open_all
from segshift.run_folder import read_info
from segshift.scan import Views
from segshift.tables.declare import Table
from segshift.tables.lines import report_of
from segshift.tables.plan import Job, Training, plan
from segshift.tables.report import Report, describe, shown
from segshift.tables.results import Results
from segshift.warmups import space_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def run_table(options: TableOptions) -> None:
    """Run a table's jobs, write it under OUT/TABLE/DATA/ and print it.

    Raises ConfigError for an unknown table, row or group, RunError for a damaged results file or run folder, and what
    `runs.start` raises.
    """
    table = tables.find(options.table)
    jobs = plan(table, options)
    results = Results(options.results or options.out / "results.jsonl")
    place = options.out / table.name / (options.data or table.data or "published-pair")
    if options.dry_run:
        Reporter().say(describe(jobs, results, finished))
        return
    from segshift.launch import launch
    from segshift.tables.pictures import write_pictures
    from segshift.tables.sweep import write_figure

    runner = Runner(options, results, launch(jobs[0].recipe))
    for job in runner.missing(jobs):
        runner.run(job)
        if runner.fabric.is_global_zero:
            _write(place, table, options, jobs, results)
    if runner.fabric.is_global_zero:
        report = _write(place, table, options, jobs, results)
        write_figure(place, table, jobs, results)
        write_pictures(place, table, jobs)
        runner.reporter.say(shown(report, runner.reporter.console))
        runner.reporter.say(f"written to {place}; runs in {results.path}")


def _write(place: Path, table: Table, options: TableOptions, jobs: list[Job], results: Results) -> Report:
    """The table as Markdown and CSV, as far as it is finished."""
    report = report_of(table, options, jobs, results)
    atomic_write(place / "table.md", report.markdown().encode())
    atomic_write(place / "table.csv", report.csv().encode())
    return report


def finished(training: Training) -> bool:
    """Whether a run has reached its end: the report is the last thing it writes."""
    return (training.folder / "report.html").is_file()


class Runner:
    """Jobs, one after another, on the same processes."""

    def __init__(self, options: TableOptions, results: Results, fabric: Fabric) -> None:
        self.options, self.results, self.fabric = options, results, fabric
        self.reporter = Reporter(quiet=not fabric.is_global_zero)
        self._opened: tuple[Any, Data] | None = None

    def missing(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """The jobs that are in no line of the results, each announced when its turn comes."""
        # The first process decides for all: the others start later, when there may be a line more.
        todo = [i for i, job in enumerate(jobs) if self.results.find(job.key, job.data) is None]
        todo = self.fabric.broadcast(todo)
        for number, index in enumerate(todo, start=1):
            self.reporter.say(f"--- {self.options.table}: {jobs[index].name} ({number} of {len(todo)} to do)")
            yield jobs[index]

    def run(self, job: Job) -> None:
        """Train what the job needs, score it, and append it to the results."""
        started = time.monotonic()
        resumed = (job.training.folder / "run.json").exists()
        self.train(job.training)
        scores = self._scores(job)
        if self.fabric.is_global_zero:
            info = run_info(job.training.folder)
            self.results.append(job.key, self._line(job, scores, info, time.monotonic() - started, resumed))
        self.fabric.barrier()

    def train(self, training: Training) -> None:
        """Train a run and the warm-ups below it, as far as they are not finished."""
        from segshift.runs import resume, start

        if self.fabric.broadcast(finished(training)):
            return
        if training.warmup is not None:
            self.train(training.warmup)
        if self.fabric.broadcast((training.folder / "run.json").exists()):
            self._check_processes(training)
            resume(training.folder)
            return
        warmup = None if training.warmup is None else training.warmup.folder
        start(training.recipe, training.folder, warmup, data=self._data(training.recipe, warmup))

    def _check_processes(self, training: Training) -> None:
        begun, wanted = int(run_info(training.folder)["processes"]), self.fabric.world_size
        if begun != wanted:
            raise RunError(
                f"{training.folder}: was begun on {begun} processes, and this command has {wanted}; expected the same "
                f"number: use --devices {begun}, or delete that folder to begin again"
            )

    def _data(self, recipe: Recipe, warmup: Path | None) -> Data:
        """The data of a run, opened and checked; kept for the next run where that is on the same."""
        oracle = any(phase.method.needs_oracle for _, phase in recipe.phases())
        if self._opened is None or self._opened[0] != (recipe.data, oracle):
            # The source is often the same: ten folds of a city read it once.
            before = None if self._opened is None else self._opened[1]
            self._opened = ((recipe.data, oracle), open_all(recipe, before, space_of(warmup)))
        return self._opened[1]

    def _scores(self, job: Job) -> Scores:
        """The run's own scores where they are of the same images and views; else its model is scored on the job's."""
        folder = job.training.folder
        own = recipe_file.from_dict(run_info(folder)["recipe"], str(folder / "run.json"))
        same_images = "test" not in changed_roles(run_info(folder)["data"], job.data)
        if same_images and own.test == job.recipe.test and _without_paths(own.data) == _without_paths(job.recipe.data):
            return Scores.from_dict(_read(folder / "evaluation" / "final.json"), str(folder))
        return self._rescored(folder, job.recipe.data, job.recipe.test, job.name)

    def _rescored(self, folder: Path, data: DataConfig, views: Views, name: str) -> Scores:
        model = load_model(folder)
        network = model.network.to(self.fabric.device)
        test = open_test(data, model.space)
        assert test is not None, "the plan has looked for labelled images"
        rank, world = self.fabric.global_rank, self.fabric.world_size
        track = self.reporter.track(f"scoring {name}")
        return score(network, test, model.short_side, views, rank, world, sum_over_processes, track)

    def _line(self, job: Job, scores: Scores, info: Mapping[str, Any], seconds: float, resumed: bool) -> dict[str, Any]:
        return circumstances(self.options, job, info, seconds) | {
            "scores": scores.to_dict(),
            "rounds": _rounds(job.training.folder, "miou"),
            "accuracies": _rounds(job.training.folder, "mean_pixel_accuracy"),
            "labels": _labels(job.training.folder, self.reporter),
            "resumed": resumed,
        }


def circumstances(options: TableOptions, job: Job, info: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a line of results says beside its figures. `info`: `run_info` of the job's run."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "label": job.row.label,
        "network": type(job.recipe.network).__name__,
        "data": job.data,
        "threads": info["threads"],
        "processes": info["processes"],
        "device": info["device"],
        "seconds": round(seconds, 1),
        "command": command(options, job),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": info["versions"],
    }


def command(options: TableOptions, job: Job) -> str:
    """What repeats a job: paths by their last two parts, for they are another machine's."""
    words = ["segshift table", options.table]
    for name in ("source", "target"):
        value = getattr(options, name)
        words += [f"--{name} {_short(value)}"] if value else []
    words += [f"--translated {_short(options.translated)}"] if options.translated else []
    words += [f"--data {options.data}"] if options.data else []
    words += [f"--rows {job.row.name} --seeds {job.key.seed} --threads {options.threads}"]
    words += [f"--devices {options.devices}"] if options.devices > 1 else []
    words += [f"--weights {' '.join(map(_short, options.weights))}"] if options.weights else []
    words += [f"--student {_short(options.student)}"] if options.student and job.recipe.distillation else []
    for name in ("mean", "std"):
        value = getattr(options, name)
        words += [f"--{name} {' '.join(f'{v:g}' for v in value)}"] if value else []
    return " ".join(words + ([f"--variant {options.variant}"] if options.variant != "paper" else []))


def _short(value: str) -> str:
    """`gta5:…/data/gta5` of LAYOUT:PATH, NETWORK=PATH or PATH."""
    before, mark, path = next((value.partition(m) for m in (":", "=") if m in value), ("", "", value))
    parts = Path(path).parts
    return f"{before}{mark}{'…/' if len(parts) > 2 else ''}{'/'.join(parts[-2:])}"


def _without_paths(config: DataConfig) -> DataConfig:
    return replace(config, source="", target="", translated=None)


def _rounds(folder: Path, figure: str) -> dict[str, Any] | None:
    """Round -> a figure of its scores, where every round was scored; round 0 is the model that training began with."""
    files = {path.stem.removeprefix("round-"): path for path in (folder / "evaluation").glob("round-*.json")}
    if not files:
        return None
    before = [folder / "evaluation" / f"{name}.json" for name in ("adaptation", "alignment", "warmup")]
    files["0"] = next(path for path in before if path.is_file())
    return {n: _read(files[n])[figure] for n in sorted(files, key=int)}


def _labels(folder: Path, reporter: Reporter) -> dict[str, Any] | None:
    """Round -> share of the target's pixels that got a pseudo-label; how right those are, where the target has labels.

    The latter is an oracle diagnosis of a finished run: nothing is chosen by it. None for a run without pseudo-labels.
    """
    files = {path.parent.name.removeprefix("round-"): path for path in folder.glob("round-*/statistics.json")}
    if not files:
        return None
    found = {n: {"proportion": _read(files[n])["coverage"]} for n in sorted(files, key=int)}
    try:
        measured = measure_run(folder) or {}
    except DataError as error:
        reporter.say(f"{folder}: how right its pseudo-labels are cannot be said: {error}")
        measured = {}
    for n, quality in measured.items():
        content = quality.to_dict()
        found[str(n)] |= {name: content[name] for name in ("accuracy", "miou")}
        found[str(n)] |= {name: _rounded(content[name]) for name in ("iou", "kept")}
    return found


def _rounded(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    """Per class, short enough for a line."""
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}


def run_info(folder: Path) -> dict[str, Any]:
    """What a run says of itself (run.json)."""
    return read_info(folder, to_resume=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); delete that run's folder to train it again") from error
