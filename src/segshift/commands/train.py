"""The commands that train: `demo`, `adapt`, `resume`, `table`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from segshift import options as options_of
from segshift import tables
from segshift.commands.asked import Asked, recipe_of_words
from segshift.commands.words import parse
from segshift.errors import ConfigError
from segshift.tables import selectors


def adapt(words: Sequence[str]) -> int:
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise ConfigError(f"adapt: expected a recipe before {words[0]}; such as: segshift adapt minicity/cbst")
        Console().print(
            "usage: segshift adapt RECIPE --source DIR --target DIR --out RUN \\[overrides]\n\n"
            "`segshift recipes` lists the recipes; `segshift adapt RECIPE --help` prints every option and its default.",
            highlight=False,
        )
        return 0
    asked = recipe_of_words(words[0], _spelt_out(words[1:]))
    options, recipe = asked.options, asked.recipe
    if options.dry_run:
        return _dry_run(asked)
    out = options.out or Path("runs") / recipe.name
    if asked.given is not None:
        from segshift.own_model import start_from

        folder = start_from(asked.given, recipe, out, options.oracle)
    else:
        from segshift.runs import start  # after the options: --help needs nothing that trains

        folder = start(recipe, out, asked.warmup, options.oracle)
    _print_scores([folder], options.oracle)
    return 0


def _spelt_out(words: Sequence[str]) -> list[str]:
    """`--dry-run` alone is the same as `--dry-run True`."""
    found = list(words)
    for at, word in enumerate(words):
        if word == "--dry-run" and words[at + 1 : at + 2] not in (["True"], ["False"]):
            found.insert(at + 1, "True")
    return found


def _dry_run(asked: Asked) -> int:
    from segshift.dry_run import dry_run

    with tempfile.TemporaryDirectory(prefix="segshift-dry-run-") as place:
        folder = Path(place) / "run"
        if asked.given is None:
            plan = dry_run(asked.recipe, folder, asked.warmup)
        else:
            from segshift.own_model import start_from

            plan = start_from(asked.given, asked.recipe, folder, begin=dry_run)
        for line in plan.lines():
            Console().print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def resume(words: Sequence[str]) -> int:
    options = parse(options_of.ResumeOptions, words, "resume")
    from segshift.own_module import module_of
    from segshift.runs import resume

    module = None if options.model is None else module_of(options.model)
    resume(options.run, options.devices, options.nodes, options.strategy, module)
    _print_scores([options.run])
    return 0


def demo(words: Sequence[str]) -> int:
    options = parse(options_of.DemoOptions, words, "demo")
    from segshift.demo import demo

    demo(options.out, options.seed, options.threads)
    return 0


def table(words: Sequence[str]) -> int:
    options = parse(options_of.TableOptions, words, "table", flags=True)
    table = tables.find(options.table)  # before torch is loaded
    if table.name == selectors.TABLE.name:
        from segshift.tables.selectors_run import run_selectors as run
    else:
        from segshift.tables.run import run_table as run

    run(options)
    return 0


def _print_scores(runs: Sequence[Path], oracle: Path | None = None) -> None:
    from segshift.parts.processes import is_first
    from segshift.reporting.figures import score_table

    if not is_first():
        return
    Console().print(score_table(runs, oracle))
