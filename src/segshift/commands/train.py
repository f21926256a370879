"""The commands that train: `demo`, `adapt`, `resume`, `table`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segshift import options as options_of
from segshift import recipes, tables
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
    from segshift.overrides import AdaptOptions, apply, given_model

    # These three decide the defaults that the other options override.
    variant, others = _taken("variant", words[1:], "paper")
    warmup, others = _taken("warmup", others, None)
    kept, others = _taken("retain", others, None)
    retain = None if kept is None else _switch("retain", kept)
    named = _recipe(words[0], variant, warmup, retain)
    defaults = AdaptOptions(recipe=named, variant=variant, warmup=warmup, retain=retain)
    options = parse(AdaptOptions, others, f"adapt {words[0]}", defaults)
    recipe = apply(options, named)
    from segshift.runs import start  # after the options: --help needs nothing that trains

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


def resume(words: Sequence[str]) -> int:
    options = parse(options_of.ResumeOptions, words, "resume")
    from segshift.runs import resume

    resume(options.run, options.devices, options.nodes, options.strategy)
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
    from segshift.report_figures import score_table

    if not is_first():
        return
    Console().print(score_table(runs, oracle))
