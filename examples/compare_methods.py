"""Methods compared as they should be: python examples/compare_methods.py SOURCE TARGET [OPTIONS]

One warm-up a seed, shared by all; AdaBN among them, which trains nothing; three seeds; one report.
"""

import sys
from pathlib import Path

from segshift.cli import main as segshift
from segshift.reporting.report import write_report


def run(words: list[str]) -> None:
    if status := segshift(words):
        sys.exit(status)


def main(source: str, target: str, *options: str) -> None:
    runs, out = [], Path("runs/compared")
    for seed in ("0", "1", "2"):
        data = ["--source", source, "--target", target, "--seed", seed, *options]
        warmup = out / f"source-only-{seed}"
        if not (warmup / "report.html").exists():
            run(["adapt", "own/source-only", *data, "--out", str(warmup)])
        for row in ("adabn", "cbst"):
            folder = out / f"{row}-{seed}"
            runs.append(folder)
            if not (folder / "report.html").exists():
                run(["adapt", f"own/{row}", *data, "--warmup", str(warmup), "--out", str(folder)])
    print(write_report(runs, out / "report.html"))


if __name__ == "__main__":
    main(*sys.argv[1:])
