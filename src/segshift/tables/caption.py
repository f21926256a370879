"""What stands under a table: how its figures came about, and what published ones may be compared with."""

from __future__ import annotations

from collections.abc import Sequence

from segshift.options import TableOptions
from segshift.restart import student_note
from segshift.tables import published
from segshift.tables.declare import NETWORKS, Row, Table
from segshift.tables.plan import Job


def caption(
    table: Table, options: TableOptions, jobs: Sequence[Job], rows: Sequence[Row], missing: Sequence[str]
) -> tuple[str, ...]:
    """The sentences under a table."""
    own = table.on_own_pair(options.data)
    notes = [
        "IoU in percent after the last step; nothing was chosen by target labels (oracle rows were trained on them). "
        "n: seeds; a class's figure is their mean, a mean's ± their standard deviation (of the sample).",
        *_protocol(table, options, jobs, own),
        *(table.notes if own or not table.groups else _elsewhere(table)),
        *table.reading,
        *_columns(table, rows),
        *(_beside(table, rows) if own else _instead(table, options, jobs)),
    ]
    if options.variant == "released":
        notes.append("Variant released: details of the released code where it differs from the paper.")
    notes += dict.fromkeys(note for job in jobs if (note := student_note(job.recipe)) is not None)
    if any(row.multi_scale for row in rows):
        views = next(job.key.views for job in jobs if job.row.multi_scale)
        notes.append(f"+MST: the model of the row without it, scored on scales {views}.")
    if missing:
        notes.append(f"Not finished yet: {', '.join(dict.fromkeys(missing))}; the same command goes on.")
    return tuple(notes)


def _protocol(table: Table, options: TableOptions, jobs: Sequence[Job], own: bool) -> list[str]:
    said = []
    if own and table.folds:
        how = "one confusion matrix over them" if options.folds == "pooled" else "the mean of their scores"
        said.append(f"A city's figures are over all {table.folds} folds: {how}.")
    if all(job.recipe.data.transductive for job in jobs):
        said.append("The images scored are the ones adapted to, without their labels, as in the paper.")
    return said


def _elsewhere(table: Table) -> list[str]:
    """A figure's notes hold wherever it is drawn; a table's are about its own pair."""
    return list(table.notes) if table.panels else []


def _columns(table: Table, rows: Sequence[Row]) -> list[str]:
    """About the columns that are no IoU of the model."""
    said = []
    if table.labels:
        headings = [heading for heading, _ in table.labels]
        said.append(
            f"{' and '.join(headings)}: of the pseudo-labels of round 1, when a row labels with the model of its "
            "warm-up, the same model in rows that share it. Proportion: the share of the target's pixels that got a "
            "label. table.csv has all rounds."
        )
    if any(figure != "proportion" for _, figure in table.labels):
        said.append(
            "P-mIoU: the mean IoU of pseudo-labels, over the pixels that have one, against target labels that the run "
            "never saw: an oracle diagnosis, by which nothing is chosen."
        )
    names = {row.name for row in rows}
    over = [f"{row.key} over {row.over}" for row in rows if row.base in names]
    if over:
        said.append(f"Δ: difference of the first mean, seed by seed, of rows by their keys: {', '.join(over)}.")
    return said


def _beside(table: Table, rows: Sequence[Row]) -> list[str]:
    """About the published lines of the paper's own pair."""
    lines = published.of_table(table.published)
    if not lines:
        return []
    said = ["Lines marked (published) are the paper's printed figures, not ours; they have one run and no deviation."]
    shown = {(row.network, row.key): row for row in rows}
    for line in lines:
        row = shown.get((line.network, line.row))
        if line.note and row is not None:
            said.append(f"{NETWORKS[line.network]} {row.label} (published): {line.note}.")
    return said


def _instead(table: Table, options: TableOptions, jobs: Sequence[Job]) -> list[str]:
    """What stands in for the paper's pair and networks, and its means apart from the table."""
    network = type(jobs[0].recipe.network).__name__
    if not table.groups:
        return [f"Data: {options.data or table.data}; network: {network}."]
    theirs = " and ".join(NETWORKS[name] for name in table.groups)
    said = [
        f"Run on {options.data}, where {network} stands in for the paper's {theirs} on {table.pair}: another pair and "
        "network, so published figures do not stand beside these."
    ]
    means: dict[tuple[str, str, str], list[str]] = {}
    for line in published.of_table(table.published):
        first, figure = next(iter(line.means.items()))
        others = [f"{heading} {line.others[heading]}" for heading, _ in table.labels if heading in line.others]
        figure = f"{line.row} {figure}{' (' + ', '.join(others) + ')' if others else ''}"
        means.setdefault((first, line.case, line.network), []).append(figure)
    for (first, case, name), figures in means.items():
        part = f"{table.pair}{f', {case}' if case else ''}, {NETWORKS[name]}"
        said.append(f"For reference only, published {first} on {part}: {', '.join(figures)}.")
    return said
