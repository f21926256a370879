"""The command that gives a trained model away: `export`."""

from __future__ import annotations

from collections.abc import Sequence

from segshift import options as options_of
from segshift.commands.words import parse


def export(words: Sequence[str]) -> int:
    options = parse(options_of.ExportOptions, words, "export")
    from segshift.export import TOLERANCE, ExportConfig
    from segshift.export import export as write
    from segshift.progress import Reporter

    reporter = Reporter()
    done = write(options.run, options.out, ExportConfig(options.format, options.native_stride))
    reporter.say(f"written: {', '.join(map(str, done.files))}")
    if done.sizes:
        shapes = ", ".join(f"{batch} of {height}x{width}" for batch, height, width in done.sizes)
        reporter.say(
            f"compared with torch on images ({shapes}): class scores differ by at most {done.difference:.1e} of the "
            f"largest (allowed: {TOLERANCE:.0e})"
        )
    return 0
