"""The command `report`."""

from __future__ import annotations

from collections.abc import Sequence

from segshift import options as options_of
from segshift.commands.words import parse
from segshift.errors import ConfigError


def report(words: Sequence[str]) -> int:
    options = parse(options_of.ReportOptions, words, "report")
    from segshift.progress import Reporter
    from segshift.reporting.report import write_report

    if not options.runs:
        raise ConfigError("report: expected at least one run folder, such as: segshift report runs/demo/cbst")
    out = options.out or options.runs[0] / "report.html"
    Reporter().say(f"report: {write_report(list(options.runs), out, options.oracle)}")
    return 0
