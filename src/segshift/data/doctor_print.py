"""What `segshift check` prints: a data set's findings, as text that fits a terminal and can be searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segshift.data.doctor import Findings, Listed, Problem, Track, listed, read
from segshift.data.shared_images import between
from segshift.paths import printable
from segshift.taxonomy import IGNORE, LabelSpace


def check_all(listings: Mapping[str, Listed], console: Console, track: Track | None = None) -> bool:
    """Read and print data sets one after the other, and then what they share; whether all are sound."""
    sound = True
    for listing in listings.values():
        findings = read(listing, track)
        # What was decoded is told before the next set is begun, which may take an hour.
        render(findings, console)
        sound = sound and not findings.problems
    if len(listings) == 1:
        return sound
    leaks = between({text: listing.findings.files for text, listing in listings.items()})
    _line(console, f"images in more than one of these {len(listings)} data sets: {len(leaks)}")
    render_problems([Problem(str(path), text) for path, text in leaks], console)
    return sound and not leaks


def render(findings: Findings, console: Console) -> None:
    """Print the findings: number of images, sizes, the classes' shares, notes, and every file with a fault by name."""
    splits = ", ".join(f"{name} {count}" for name, count in findings.splits.items())
    _line(console, f"{findings.where}: {findings.images} images" + (f" ({splits})" if splits else ""))
    _line(console, f"{findings.labels} labels" if findings.labels else "no labels")
    sizes = [f"{h}x{w} ({count})" for (h, w), count in findings.sizes.most_common(5)]
    more = f" and {len(findings.sizes) - 5} more" if len(findings.sizes) > 5 else ""
    _line(console, f"sizes (height x width): {', '.join(sizes)}{more}")
    if findings.labels and findings.space is not None:
        console.print(_classes(findings, findings.space))
    for note in listed(findings.notes):
        _line(console, f"note: {note}", "yellow")
    render_problems(findings.problems, console)


def render_problems(problems: Sequence[Problem], console: Console) -> None:
    """Print each problem, and how many there are."""
    for problem in problems:
        _line(console, f"problem: {problem}", "red")
    _line(console, f"{len(problems)} problems" if problems else "no problems", "bold")


def _line(console: Console, text: str, style: str = "") -> None:
    """One line however narrow the terminal, and whatever a file is called: names are to be copied and searched for."""
    console.print(Text(printable(text).replace("\n", "\\n"), style=style), soft_wrap=True)


def _classes(findings: Findings, space: LabelSpace) -> Table:
    table = Table("id", "class", "pixels", "share", "labels with it", title=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for row in _class_rows(findings, space):
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _class_rows(findings: Findings, space: LabelSpace) -> list[tuple[str, str, str, str, str]]:
    """Shares of classes are of all pixels that are not ignored; the share of ignored ones is of all."""
    labelled = max(int(findings.pixels[:IGNORE].sum()), 1)
    everything = max(int(findings.pixels.sum()), 1)
    named = [(i, name, labelled) for i, name in enumerate(space.classes)]
    unknown = [(i, "not in classes.yaml", labelled) for i in range(len(space), IGNORE) if findings.pixels[i]]
    rows = [*named, *unknown, (IGNORE, "ignored", everything)]
    return [
        (str(i), name, f"{findings.pixels[i]:,}", f"{findings.pixels[i] / total:.3%}", str(findings.occurs[i]))
        for i, name, total in rows
    ]
