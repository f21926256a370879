"""`segshift table selectors`: train the models that are missing, run every selector on their predictions, write a page.

Each model and seed is one line of the results file, so that what was measured is not measured again. It is a line of
`tables.results`, known by what was measured as well; `scores` are those of the model on the same withheld labels.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import replace
from typing import Any

from segshift import selectors, tables
from segshift.data.dataset import OracleTarget
from segshift.data.open_data import DataConfig, open_source
from segshift.errors import DataError
from segshift.evaluate import Scores
from segshift.kept_predictions import Kept, Truth
from segshift.label_quality import Quality, withheld
from segshift.models.network import load_model
from segshift.options import TableOptions
from segshift.progress import Reporter
from segshift.scan import LogitScan, Views
from segshift.tables.plan import Job, plan
from segshift.tables.report import describe, shown
from segshift.tables.results import Results, views_text
from segshift.tables.run import Runner, circumstances, finished, run_info
from segshift.tables.selectors import USUAL
from segshift.tables.selectors_page import PER_CLASS, read, write
from segshift.taxonomy import LabelSpace

VERSION = 1
"""Of what is measured. To be raised where the same model begins to give other figures."""
VIEWS = Views(flip=True)
"""As the recipes of self-training predict the target that they label."""


def run_selectors(options: TableOptions) -> None:
    """Measure what is missing, write the page under OUT/selectors/DATA/ and print it.

    Raises DataError where the target has no labels to measure against, and what `tables.run.run_table` raises.
    """
    table = tables.find(options.table)
    options = replace(options, rows=options.rows or USUAL)
    jobs = planned(options)
    results = Results(options.results or options.out / "selectors.jsonl")
    place = options.out / table.name / (options.data or table.data)
    if options.dry_run:
        Reporter().say(describe(jobs, results, finished))
        return
    from segshift.launch import launch  # what trains is imported when it is needed: a dry run does not

    runner = Runner(options, results, launch(jobs[0].recipe))
    for job in runner.missing(jobs):
        started = time.monotonic()
        runner.train(job.training)
        if runner.fabric.is_global_zero:
            found = measured(runner, job)
            info = run_info(job.training.folder)
            results.append(job.key, circumstances(options, job, info, time.monotonic() - started) | found)
            write(place, table, read(jobs, results), options)
        runner.fabric.barrier()
    if runner.fabric.is_global_zero:
        for report in write(place, table, read(jobs, results), options):
            runner.reporter.say(shown(report, runner.reporter.console))
        runner.reporter.say(f"written to {place}; lines in {results.path}")


def planned(options: TableOptions) -> list[Job]:
    """The models of the rows, seed by seed; their keys say what is measured of them. DataError without labels."""
    jobs = plan(tables.find(options.table), options)
    words = [VERSION, selectors.LEVELS, selectors.TOLERANCE]
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:8]
    views = f"selectors-{digest} {views_text(VIEWS)}"
    truth = {config: _record(config) for config in {job.recipe.data for job in jobs}}
    return [
        replace(job, key=job.key._replace(views=views), data={**job.data, "withheld": truth[job.recipe.data]})
        for job in jobs
    ]


def _record(config: DataConfig) -> dict[str, Any]:
    target = _withheld(config, open_source(config).space)
    return {"images": len(target.names), "fingerprint": target.fingerprint()}


def _withheld(config: DataConfig, space: LabelSpace) -> OracleTarget:
    target = withheld(config, space)
    if target is None:
        raise DataError(
            f"target {config.target}: the images that are adapted to have no labels. Selectors are measured against "
            "withheld labels; expected a folder labels/ beside images/ in that split (training reads none of it)"
        )
    return target


def measured(runner: Runner, job: Job) -> dict[str, Any]:
    """All selectors on the predictions of a job's model: the figures of its line. On the first process alone."""
    model = load_model(job.training.folder)
    network = model.network.to(runner.fabric.device)
    target = _withheld(job.recipe.data, model.space)
    folder = job.training.folder / "selectors"
    shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was killed
    track = runner.reporter.track(f"predicting the target, {job.name}")
    scan = LogitScan(network, target, folder / "logits", model.short_side, VIEWS, track=track)
    try:
        kept = Kept(scan, len(model.space), folder / "kept")
        truth = Truth(target, folder / "kept")
        everything = selectors.of_all(kept, truth, model.space)
        found = []
        for selector in selectors.selectors(kept):
            runner.reporter.say(f"{job.name}: {selector.name}")
            every = selectors.measure(selector, kept, truth, model.space, selectors.LEVELS)
            found += [_settled(entry, selector.knob) for entry in every]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "scores": Scores(model.space, everything.labelled, everything.images).to_dict(),
        "rarer_half": list(everything.rarer_half.classes),
        "all": _figures(everything),
        "selectors": found,
    }


def _settled(entry: selectors.Measured, knob: str) -> dict[str, Any]:
    return {
        "selector": entry.selector,
        "setting": entry.setting,
        "level": entry.level,
        "out_of_reach": entry.out_of_reach,
        "knob": knob,
        "value": entry.knob,
        **_figures(entry.quality),
    }


def _figures(quality: Quality) -> dict[str, Any]:
    """Fractions of 1, rounded; of each class in the order of the label space, None where there is nothing to divide."""
    content = quality.to_dict()
    classes = {name: [_rounded(value, 4) for value in content[name].values()] for name in PER_CLASS}
    return {
        "coverage": _rounded(quality.coverage),
        **{name: _rounded(content[name]) for name in ("accuracy", "miou")},
        "miou_classes": content["miou_classes"],
        "classes_labelled": quality.classes_labelled,
        **{f"rarer_{name}": _rounded(content["rarer_half"][name]) for name in ("precision", "recall")},
        **classes,
    }


def _rounded(value: float | None, digits: int = 5) -> float | None:
    return None if value is None else round(value, digits)
