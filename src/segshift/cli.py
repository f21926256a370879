"""The command line: words on the terminal, nothing else. torch is imported only by a command that needs it."""

from __future__ import annotations

import difflib
import io
import sys
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segshift import __version__, recipes, tables
from segshift import options as options_of
from segshift.commands import train, use
from segshift.commands.check import check
from segshift.commands.export import export
from segshift.commands.report import report
from segshift.commands.words import COMMANDS, parse
from segshift.errors import SegshiftError, StoppedError
from segshift.paths import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0, 1 for an error the user can mend, 2 for wrong words, 130 when stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows ASCII alone shows a name's other letters as escapes, and ends no run.
            stream.reconfigure(errors="backslashreplace")
    if not words or words[0] in ("-h", "--help"):
        _help()
        return 0
    if words[0] == "--version":
        print(f"segshift {__version__}")
        return 0
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        _complain(f"there is no command {words[0]!r}.{hint} Commands: {', '.join(COMMANDS)}")
        return 2
    return _told(HANDLERS[words[0]], words[1:])


def _told(handler: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Run a command; what the user can mend is told in a line, without a traceback."""
    try:
        return handler(words)
    except SegshiftError as error:
        _complain(str(error))
        return 130 if isinstance(error, StoppedError) else 1
    except KeyboardInterrupt:
        _complain("stopped at once; a run goes on from its last checkpoint with: segshift resume RUN")
        return 130
    except OSError as error:
        # What no part of the program saw coming, such as a name that is too long for the system.
        where = "" if error.filename is None else f"{error.filename}: "
        _complain(f"{where}{error.strerror or error}; expected a file or folder that can be read and written")
        return 1


def _complain(text: str) -> None:
    Console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {printable(text)}"), soft_wrap=True)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _help() -> None:
    console = Console()
    console.print(
        "segshift adapts a segmentation model from labelled source images to unlabelled target images.\n\n"
        "usage: segshift COMMAND …   (segshift COMMAND --help for its options)\n"
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, summary in COMMANDS.items():
        table.add_row(f"[bold]{name}[/]", summary)
    console.print(table)


def _recipes(words: Sequence[str]) -> int:
    parse(options_of.NoOptions, words, "recipes")
    console = Console()
    console.print("A recipe is GROUP/ROW. Groups: network, data, warm-up\n", highlight=False)
    for group, (data, cost) in recipes.GROUPS.items():
        rows = recipes.rows_of(group)
        which = "every row" if rows == tuple(recipes.ROWS) else f"rows {', '.join(rows)}"
        console.print(f"[bold]{group}[/]  {_escaped(data)}", highlight=False, soft_wrap=True)
        console.print(Padding(f"{cost}; {which}", (0, 0, 0, 4)), highlight=False)
    console.print("\nRows: what is done after the warm-up\n", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2))
    for row, summary in recipes.ROWS.items():
        table.add_row(f"[bold]{row}[/]", summary)
    console.print(table)
    console.print("\nRun one: segshift adapt RECIPE --source DIR --target DIR", highlight=False)
    console.print("\ntables and figures of the papers", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2))
    for entry in tables.TABLES.values():
        table.add_row(f"[bold]{entry.name}[/]", entry.summary)
    console.print(table)
    console.print("\nRun one: segshift table NAME --source LAYOUT:DIR --target LAYOUT:DIR", highlight=False)
    return 0


HANDLERS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": train.demo,
    "recipes": _recipes,
    "adapt": train.adapt,
    "resume": train.resume,
    "table": train.table,
    "evaluate": use.evaluate,
    "predict": use.predict,
    "export": export,
    "report": report,
    "check": check,
}
