"""The command `check`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from segshift import options as options_of
from segshift.commands.words import parse


def check(words: Sequence[str]) -> int:
    options = parse(options_of.CheckOptions, words, "check")
    from segshift.data.doctor_layout import list_all
    from segshift.data.doctor_print import check_all
    from segshift.progress import Reporter

    return 0 if check_all(list_all(options.data, options.max_pixels), Console(), Reporter().track("checking")) else 1
