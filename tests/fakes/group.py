"""Two processes of a run, without its training: they meet, and then one of them does as told.

    python -m tests.fakes.group WHAT FOLDER

Errors reach the terminal and the exit status as those of `segshift` do.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from tests.fakes.tiny import tiny

from segshift import cli
from segshift.errors import DataError, StoppedError
from segshift.launch import launch, together
from segshift.parts.processes import sum_over_processes

TIMEOUT = 60
"""Seconds that one process waits for the other, in which it must also have started."""


def run(what: str, folder: Path) -> int:
    recipe = tiny("source-only", folder, folder, devices=2)
    fabric = launch(replace(recipe, settings=replace(recipe.settings, timeout=TIMEOUT)))
    rank = fabric.global_rank
    with together(fabric.world_size, folder):
        for step in range(100_000):
            sum_over_processes(torch.ones(1))
            if step == 10:
                act(what, rank)
    return 0


def act(what: str, rank: int) -> None:
    match what, rank:
        case ("1-is-killed", 1) | ("0-is-killed", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        case ("1-fails", 1) | ("0-fails", 0) | ("both-fail", _):
            raise DataError(f"photo-{rank}.png: cannot be read")
        case ("both-stop", _):
            raise StoppedError("stopped by SIGTERM")
        case ("both-are-interrupted", _):
            raise KeyboardInterrupt
        case ("1-hangs", 1):
            time.sleep(10 * TIMEOUT)


if __name__ == "__main__":
    cli.COMMANDS["act"], cli._HANDLERS["act"] = "", lambda words: run(words[0], Path(words[1]))
    sys.exit(cli.main(["act", *sys.argv[1:]]))
