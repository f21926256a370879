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
    from segshift.reporting.contact_sheet import sheet_paths, write_sheet

    listings = list_all(options.data, options.max_pixels)
    paths = sheet_paths(options.data, options.sheet)
    sheets = {id(listings[text]): path for text, path in paths.items()}
    asked = options.sheet is not None
    track = Reporter().track("checking")
    sound = check_all(listings, Console(), track, lambda listing: write_sheet(listing, sheets[id(listing)], asked))
    return 0 if sound else 1
