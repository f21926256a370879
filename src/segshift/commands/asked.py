"""What the words of `segshift adapt` ask for: a recipe, over the model they name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from segshift import recipes
from segshift.commands.words import parse
from segshift.errors import ConfigError


class Asked(NamedTuple):
    """What `segshift adapt` is to run."""

    recipe: Any
    options: Any
    """`overrides.AdaptOptions`."""
    given: Any
    """The user's model, `own_model.Given`; None: the recipe's own network."""
    warmup: Path | None
    """A finished run, or a file, that the recipe starts from."""


def recipe_of_words(name: str, words: Sequence[str], given: Any = None) -> Asked:
    """The recipe of a name with the options put in. `given`: the user's model, in place of `--model`."""
    from segshift.overrides import AdaptOptions, apply, given_model

    # These decide the defaults that the other options override.
    variant, others = _taken("variant", words, "paper")
    warmup, others = _taken("warmup", others, None)
    kept, others = _taken("retain", others, None)
    spec, others = _taken("model", others, None)
    said, others = _taken("trained", others, None)
    retain = None if kept is None else _switch("retain", kept)
    trained = None if said is None else _switch("trained", said)
    if trained is not None and spec is None:
        raise ConfigError(f"trained = {said}, and no --model that it could be said of; leave it out")
    named = _recipe(name, variant, warmup, retain)
    helped = "--help" in others or "-h" in others
    if given is not None or (spec is not None and not helped):
        given = _given(spec, trained, warmup) if given is None else given
        named = _fitted(named, given)
    defaults = AdaptOptions(recipe=named, variant=variant, warmup=warmup, retain=retain, model=spec, trained=trained)
    options = parse(AdaptOptions, others, f"adapt {name}", defaults)
    recipe = apply(options, named)
    return Asked(recipe if given is None else _of_given(recipe, given), options, given, given_model(warmup))


def _given(spec: str, trained: bool | None, warmup: str | None) -> Any:
    from segshift.overrides import given_model
    from segshift.own_model import named

    if given_model(warmup) is not None:
        raise ConfigError(f"model = {spec}, warmup = {warmup}: two models to start from; expected one of the options")
    return named(spec, trained)


def _fitted(recipe: Any, given: Any) -> Any:
    """The recipe for the user's network; without a module in it, of which the parser would make another one."""
    from segshift.own_model import fitted

    recipe = fitted(recipe, given)
    module = getattr(recipe.network, "module", None)
    return recipe if module is None else replace(recipe, network=replace(recipe.network, module=None))


def _of_given(recipe: Any, given: Any) -> Any:
    """The recipe with the user's own module back in it."""
    from segshift.models.network import with_module

    return replace(recipe, network=with_module(recipe.network, getattr(given.network, "module", None)))


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
