"""The command that gives a trained model away: `export`."""

from __future__ import annotations

from collections.abc import Sequence

from segshift import options as options_of
from segshift.commands.words import parse


def export(words: Sequence[str]) -> int:
    options = parse(options_of.ExportOptions, words, "export")
    from segshift.exporting.export import ExportConfig
    from segshift.exporting.export import export as write
    from segshift.exporting.tracing import TOLERANCE
    from segshift.own_module import module_of
    from segshift.progress import Reporter

    reporter, module = Reporter(), None if options.model is None else module_of(options.model)
    done = write(options.run, options.out, ExportConfig(options.format, options.native_stride), module)
    reporter.say(f"written: {', '.join(map(str, done.files))}")
    if done.sizes:
        shapes = ", ".join(f"{batch} of {height}x{width}" for batch, height, width in done.sizes)
        reporter.say(
            f"compared with torch on images ({shapes}): class scores differ by at most {done.difference:.1e} of the "
            f"largest (allowed: {TOLERANCE:.0e})"
        )
    if done.multiple > 1:
        reporter.say(f"this network takes heights and widths that are multiples of {done.multiple}: pad other images")
    return 0
