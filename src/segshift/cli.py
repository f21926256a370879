"""The command line: words on the terminal, nothing else. torch is imported only by a command that needs it."""

from __future__ import annotations

import difflib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segshift import __version__, recipes, tables
from segshift import options as options_of
from segshift.errors import ConfigError, SegshiftError, StoppedError
from segshift.paths import printable
from segshift.tables import selectors

COMMANDS = {
    "demo": "adapt a small model on the embedded street (minutes, no GPU, no download) and write a report",
    "recipes": "list the named experiments",
    "adapt": "run a recipe on a labelled source and an unlabelled target",
    "resume": "go on with an interrupted run, to the same weights",
    "table": "run the rows of a paper's table, and print ours beside the published figures",
    "evaluate": "score a trained model on labelled images",
    "predict": "label new images with a trained model",
    "report": "write the report of one or several runs again",
    "check": "look through data sets, and name every file with a fault and every image in two places",
}

EXAMPLES = {
    "evaluate": "segshift evaluate runs/own/cbst --data cityscapes:DIR --split val",
    "predict": "segshift predict runs/own/cbst photos --out labelled",
    "check": "segshift check gta5:DIR cityscapes:DIR",
}
"""What follows wrong words, where names of options alone leave open how they go together."""


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
    return _told(_HANDLERS[words[0]], words[1:])


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


def _parse(kind: Any, words: Sequence[str], command: str, default: Any = None, flags: bool = False) -> Any:
    """The options of a command; tyro prints help, and suggests what a mistyped option may have meant.

    `flags`: a switch is given by its name alone; else True or False follows, as for every field of a recipe.
    """
    known = {} if default is None else {"default": default}
    try:
        return tyro.cli(
            kind,
            args=list(words),
            prog=f"segshift {command}",
            description=COMMANDS[command.split(maxsplit=1)[0]],
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff if flags else tyro.conf.FlagConversionOff),
            **known,
        )
    except SystemExit as stop:
        if stop.code and command in EXAMPLES:
            Console(stderr=True).print(f"such as: {EXAMPLES[command]}", highlight=False, soft_wrap=True)
        raise


# --- commands ----------------------------------------------------------------------------------------------------


def _recipes(words: Sequence[str]) -> int:
    _parse(options_of.NoOptions, words, "recipes")
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


def _adapt(words: Sequence[str]) -> int:
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise ConfigError(f"adapt: expected a recipe before {words[0]}; such as: segshift adapt minicity/cbst")
        Console().print(
            "usage: segshift adapt RECIPE --source DIR --target DIR --out RUN \\[overrides]\n\n"
            "`segshift recipes` lists the recipes; `segshift adapt RECIPE --help` prints every option and its default.",
            highlight=False,
        )
        return 0
    from segshift.overrides import AdaptOptions, apply, given_model

    # These three decide the defaults that the other options override.
    variant, others = _taken("variant", words[1:], "paper")
    warmup, others = _taken("warmup", others, None)
    kept, others = _taken("retain", others, None)
    retain = None if kept is None else _switch("retain", kept)
    named = _recipe(words[0], variant, warmup, retain)
    defaults = AdaptOptions(recipe=named, variant=variant, warmup=warmup, retain=retain)
    options = _parse(AdaptOptions, others, f"adapt {words[0]}", defaults)
    recipe = apply(options, named)
    from segshift.adapt import start  # after the options: --help needs nothing that trains

    folder = start(recipe, options.out or Path("runs") / recipe.name, given_model(warmup), options.oracle)
    _print_scores([folder], options.oracle)
    return 0


def _switch(name: str, word: str) -> bool:
    if word not in ("True", "False"):
        raise ConfigError(f"{name} = {word!r}; expected True or False")
    return word == "True"


def _recipe(name: str, variant: Any, warmup: str | None, retain: bool | None) -> Any:
    """The recipe of a name, over the warm-up that is asked for."""
    from segshift.overrides import given_model
    from segshift.recipe_rows import retained, unretained
    from segshift.warmups import fitted

    model = given_model(warmup)
    recipe = recipes.find(name, variant, None if model is not None else warmup)
    if model is not None:
        recipe = fitted(recipe, model)
    return recipe if retain is None else retained(recipe) if retain else unretained(recipe)


def _taken(option: str, words: Sequence[str], default: str | None) -> tuple[Any, list[str]]:
    """The value of `--option`, and the other words."""
    words = list(words)
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == f"--{option}" and (equals or at + 1 < len(words)):
            return (value, words[:at] + words[at + 1 :]) if equals else (words[at + 1], words[:at] + words[at + 2 :])
    return default, words


def _resume(words: Sequence[str]) -> int:
    options = _parse(options_of.ResumeOptions, words, "resume")
    from segshift.adapt import resume

    resume(options.run, options.devices, options.nodes, options.strategy)
    _print_scores([options.run])
    return 0


def _demo(words: Sequence[str]) -> int:
    options = _parse(options_of.DemoOptions, words, "demo")
    from segshift.demo import demo

    demo(options.out, options.seed, options.threads)
    return 0


def _table(words: Sequence[str]) -> int:
    options = _parse(options_of.TableOptions, words, "table", flags=True)
    table = tables.find(options.table)  # before torch is loaded
    if table.name == selectors.TABLE.name:
        from segshift.tables.selectors_run import run_selectors as run
    else:
        from segshift.tables.run import run_table as run

    run(options)
    return 0


def _evaluate(words: Sequence[str]) -> int:
    options = _parse(options_of.EvaluateOptions, words, "evaluate")
    from segshift.checkpoint import atomic_write
    from segshift.data.intake import FileRules, told
    from segshift.environment import changes_since
    from segshift.evaluate import compare
    from segshift.models.network import device_of
    from segshift.predict import evaluate_folder
    from segshift.progress import Reporter
    from segshift.scan import Views

    reporter, views = Reporter(), Views(options.flip, options.scales)
    for text in changes_since(options.run, device_of(options.device).type):
        reporter.say(f"warning: {text}; since the model was trained. Scores may differ in their last digits")
    rules, track = FileRules(options.max_pixels, options.on_bad_file), reporter.track("scoring")
    tiles = _tiles(options.tile, options.overlap)
    scores, left_out = evaluate_folder(
        options.run, options.data, options.split, views, track, options.score_as, rules, tiles, options.device
    )
    if left_out:
        where = "name --out to list all" if options.out is None else f"{options.out} lists all"
        reporter.say(told(options.data, list(left_out.values()), where))
    if options.out is not None:
        found = scores.to_dict() | ({"left_out": left_out} if left_out else {})
        atomic_write(options.out, json.dumps(found, indent=1).encode())
    Console().print(compare({options.run.name: scores}, scores.space))
    return 0


def _predict(words: Sequence[str]) -> int:
    options = _parse(options_of.PredictOptions, words, "predict")
    from segshift.data.intake import FileRules, told
    from segshift.predict import predict_path
    from segshift.progress import Reporter
    from segshift.scan import Views

    reporter, views = Reporter(), Views(options.flip, options.scales)
    rules, track = FileRules(options.max_pixels, options.on_bad_file), reporter.track("predicting")
    tiles = _tiles(options.tile, options.overlap)
    count, left_out = predict_path(options.run, options.images, options.out, views, track, rules, tiles, options.device)
    reporter.say(f"{count} images: labels in {options.out / 'labels'}, overlays in {options.out / 'overlays'}")
    if left_out:
        where = f"{options.out / 'left_out.json'} lists all"
        reporter.say(told(str(options.images), list(left_out.values()), where))
    return 0


def _tiles(size: tuple[int, int] | None, overlap: float) -> Any:
    from segshift.tiles import Tiles

    return None if size is None else Tiles(size, overlap)


def _report(words: Sequence[str]) -> int:
    options = _parse(options_of.ReportOptions, words, "report")
    from segshift.progress import Reporter
    from segshift.report import write_report

    if not options.runs:
        raise ConfigError("report: expected at least one run folder, such as: segshift report runs/demo/cbst")
    out = options.out or options.runs[0] / "report.html"
    Reporter().say(f"report: {write_report(list(options.runs), out, options.oracle)}")
    return 0


def _check(words: Sequence[str]) -> int:
    options = _parse(options_of.CheckOptions, words, "check")
    from segshift.data.doctor_layout import list_all
    from segshift.data.doctor_print import check_all
    from segshift.progress import Reporter

    return 0 if check_all(list_all(options.data, options.max_pixels), Console(), Reporter().track("checking")) else 1


def _print_scores(runs: Sequence[Path], oracle: Path | None = None) -> None:
    from segshift.parts.processes import is_first
    from segshift.report_figures import score_table

    if not is_first():
        return
    Console().print(score_table(runs, oracle))


_HANDLERS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": _demo,
    "recipes": _recipes,
    "adapt": _adapt,
    "resume": _resume,
    "table": _table,
    "evaluate": _evaluate,
    "predict": _predict,
    "report": _report,
    "check": _check,
}
