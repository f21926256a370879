"""What `segshift check` prints: a data set's findings, as text that fits a terminal and can be searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segshift.data.class_map import skeleton
from segshift.data.doctor import Findings, Listed, Problem, Track, listed, read
from segshift.data.shared_images import between
from segshift.paths import printable
from segshift.taxonomy import IGNORE, LabelSpace

_SIZES = 5
"""Sizes of images that are listed, the most frequent ones."""
_BAR = 16
"""Letters of a bar at full length."""


Drawn = Callable[[Listed], str]
"""Draws a contact sheet of a data set that was read, and says where it is, or why there is none."""


def check_all(
    listings: Mapping[str, Listed], console: Console, track: Track | None = None, sheet: Drawn | None = None
) -> bool:
    """Read and print data sets one after the other, and then what they share; whether all are sound.

    `sheet`: draws a contact sheet of each. Of sets with different classes, a class map to start from is printed.
    """
    sound = True
    for listing in listings.values():
        findings = read(listing, track)
        # What was decoded is told before the next set is begun, which may take an hour.
        render(findings, console, "" if sheet is None else sheet(listing))
        sound = sound and not findings.problems
    if len(listings) == 1:
        return sound
    leaks = between({text: listing.findings.files for text, listing in listings.items()})
    _line(console, f"images in more than one of these {len(listings)} data sets: {len(leaks)}")
    render_problems([Problem(str(path), text) for path, text in leaks], console)
    _render_map({text: listing.findings for text, listing in listings.items()}, console)
    return sound and not leaks


def render(findings: Findings, console: Console, drawn: str = "") -> None:
    """Print the findings: number of images, sizes, the classes' shares, notes, and every file with a fault by name.

    `drawn`: a line that says where its contact sheet is.
    """
    splits = ", ".join(f"{name} {count}" for name, count in findings.splits.items())
    _line(console, f"{findings.where}: {findings.images} images" + (f" ({splits})" if splits else ""))
    _line(console, f"{findings.labels} labels" if findings.labels else "no labels")
    if findings.parts:
        console.print(_parts(findings))
    if findings.labels and findings.space is not None:
        console.print(_classes(findings, findings.space, console))
    if drawn:
        _line(console, drawn)
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


def _render_map(sets: Mapping[str, Findings], console: Console) -> None:
    """A class map to start from, where the first two sets of named classes that differ have different ones."""
    named = {text: found.space for text, found in sets.items() if found.space is not None and found.named}
    first = next(iter(named), "")
    other = next((text for text, space in named.items() if space.classes != named[first].classes), None)
    if other is None:
        return
    same = set(named[first].classes) == set(named[other].classes)
    what = "the same classes in another order" if same else "different classes"
    _line(console, f"note: {first} and {other} have {what}. A class map to start from, for --data.class-map:", "yellow")
    for line in skeleton(named[first], named[other]).splitlines():
        _line(console, line)


def _parts(findings: Findings) -> Table:
    """A line for each split: images, labels, sizes, faults; and one for faults of no image."""
    table = Table("split", "images", "labels", "sizes (height x width)", "problems", title=None)
    for column in (1, 2, 4):
        table.columns[column].justify = "right"
    for split, part in findings.parts.items():
        sizes = [f"{h}x{w}" + (f" ({count})" if len(part.sizes) > 1 else "")
                 for (h, w), count in part.sizes.most_common(_SIZES)]  # fmt: skip
        more = f" and {len(part.sizes) - _SIZES} more" if len(part.sizes) > _SIZES else ""
        faults = Text(str(part.problems), style="red" if part.problems else "")
        name = Text(printable(split or "(all)"))
        table.add_row(name, f"{part.images:,}", f"{part.labels:,}", f"{', '.join(sizes)}{more}", faults)
    other = len(findings.problems) - sum(part.problems for part in findings.parts.values())
    if other > 0:
        table.add_row("elsewhere", "", "", "", Text(str(other), style="red"))
    return table


def _classes(findings: Findings, space: LabelSpace, console: Console) -> Table:
    """A line for each class: its colour, pixels, share, a bar of it, and the labels it occurs in."""
    table = Table("id", "class", "pixels", "share", "", "labels with it", title=None)
    for column in (0, 2, 3, 5):
        table.columns[column].justify = "right"
        table.columns[column].no_wrap = column == 3
    rows = _class_rows(findings, space)
    most = max(share for *_, share in rows)
    blocks = console.encoding.lower().startswith("utf")
    for label, name, pixels, occurs, share in rows:
        style = "" if label >= len(space) else "rgb({},{},{})".format(*space.colors[label])
        bar = Text(_bar(share / most if most else 0.0, blocks), style=style, no_wrap=True, overflow="crop")
        table.add_row(str(label), Text(printable(name)), f"{pixels:,}", f"{share:.3%}", bar, f"{occurs:,}")
    return table


def _bar(part: float, blocks: bool) -> str:
    """A bar of `part` (0 to 1) of its full length: in eighths of a letter, or in # where the terminal has no blocks."""
    eighths = max(round(part * _BAR * 8), part > 0)
    if not blocks:
        return "#" * -(-eighths // 8)
    return "\u2588" * (eighths // 8) + " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"[eighths % 8].strip()


def _class_rows(findings: Findings, space: LabelSpace) -> list[tuple[int, str, int, int, float]]:
    """(id, name, pixels, labels, share). Shares of classes are of all pixels that are not ignored; that of ignored ones
    is of all."""
    labelled = max(int(findings.pixels[:IGNORE].sum()), 1)
    everything = max(int(findings.pixels.sum()), 1)
    named = [(i, name, labelled) for i, name in enumerate(space.classes)]
    unknown = [(i, "not in classes.yaml", labelled) for i in range(len(space), IGNORE) if findings.pixels[i]]
    rows = [*named, *unknown, (IGNORE, "ignored", everything)]
    return [
        (i, name, int(findings.pixels[i]), int(findings.occurs[i]), float(findings.pixels[i] / total))
        for i, name, total in rows
    ]
