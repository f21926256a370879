"""The commands' names, and how their words become options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro
from rich.console import Console

COMMANDS = {
    "demo": "adapt a small model on the embedded street (minutes, no GPU, no download) and write a report",
    "recipes": "list the named experiments",
    "adapt": "run a recipe on a labelled source and an unlabelled target",
    "resume": "go on with an interrupted run, to the same weights",
    "table": "run the rows of a paper's table, and print ours beside the published figures",
    "evaluate": "score a trained model on labelled images",
    "predict": "label new images with a trained model",
    "export": "write a trained model as ONNX, as a program of torch.export, or as weights",
    "report": "write the report of one or several runs again",
    "check": "look through data sets, and name every file with a fault and every image in two places",
}

EXAMPLES = {
    "evaluate": "segshift evaluate runs/own/cbst --data cityscapes:DIR --split val",
    "predict": "segshift predict runs/own/cbst photos --out labelled",
    "export": "segshift export runs/own/cbst --out exported --format onnx",
    "check": "segshift check gta5:DIR cityscapes:DIR",
}
"""What follows wrong words, where names of options alone leave open how they go together."""


def parse(kind: Any, words: Sequence[str], command: str, default: Any = None, flags: bool = False) -> Any:
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
