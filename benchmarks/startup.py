"""Seconds of whole processes, from their start to their end: what each command costs before it does anything.

Beside them, in the same run, an interpreter that does nothing and one that imports torch alone: what no command can
beat, and what none that computes can. The exit status is 1 where --help or recipes takes a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from measuring import RESULTS, Spread, in_turn, machine, save, table
from segshift.data.minicity import MiniCity
from segshift.data.transforms import View
from segshift.models.small import SmallNet
from segshift.taxonomy import CITYSCAPES

GOAL = 1.0
"""Seconds."""
LIGHT = ("segshift --help", "segshift recipes")
"""Commands that the goal is for: they import no torch."""
NOTHING, TORCH = "python -c pass", "python -c 'import torch'"
SCRIPT = str(Path(sys.executable).with_name("segshift"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind, after one to warm up")
    parser.add_argument("--short", action="store_true", help="fewer commands, twice each: what make bench runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.jsonl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sides = commands(Path(folder), options.short)
        found = in_turn(sides, 2 if options.short else options.repeats)
    said = {name: find_spec(name) is not None for name in ("torchmetrics", "torchvision", "timm")}
    show(found, said)
    result = {name: each._asdict() for name, each in found.items()}
    ratios = {f"import torch / {name}": found[TORCH].median / found[name].median for name in found if name in LIGHT}
    save(options.out, machine("cpu", 1), {"seconds": result, "installed": said}, ratios)
    missed = [name for name in LIGHT if found[name].median >= GOAL]
    for name in missed:
        print(f"missed: {name} takes {found[name].median:.2f} s, the goal is {GOAL:g} s")
    return 1 if missed else 0


def commands(folder: Path, short: bool) -> dict[str, Callable[[], object]]:
    """Name -> a process to time."""
    python, segshift = partial(_process, sys.executable, "-c", cwd=folder), partial(_process, SCRIPT, cwd=folder)
    sides: dict[str, Callable[[], object]] = {
        NOTHING: partial(python, "pass"),
        TORCH: partial(python, "import torch"),
        LIGHT[0]: partial(segshift, "--help"),
        LIGHT[1]: partial(segshift, "recipes"),
    }
    if short:
        return sides
    data = _images(folder / "data")
    run = _run(folder / "run", data)
    images = str(data / "test" / "images")
    return sides | {
        "segshift check DIR": partial(segshift, "check", str(data)),
        "segshift adapt RECIPE --help": partial(segshift, "adapt", "minicity/cbst", "--help"),
        "segshift report RUN": partial(segshift, "report", str(run), "--out", str(folder / "report.html")),
        "segshift predict RUN DIR": partial(segshift, "predict", str(run), images, "--out", str(folder / "labels")),
        "segshift evaluate RUN": partial(segshift, "evaluate", str(run), "--data", str(data), "--split", "test"),
        "python -c 'import lightning_fabric'": partial(python, "import lightning_fabric"),
        "python -c 'import timm'": partial(python, "import timm"),
        "python -c 'import segshift.runs'": partial(python, "import segshift.runs"),
    }


def _process(*words: str, cwd: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    subprocess.run(words, cwd=cwd, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _images(folder: Path) -> Path:
    """Two labelled images a split, as a data set of its own."""
    for split in ("train", "test"):
        scenes = MiniCity("target", split, 2)
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for index, name in enumerate(scenes.names):
            for kind, pixels in (("images", scenes.image(index).permute(1, 2, 0)), ("labels", scenes.label(index))):
                Image.fromarray(pixels.numpy()).save(folder / split / kind / f"{name}.png")
    classes = "".join(f"- {{id: {i}, name: {name}}}\n" for i, name in enumerate(CITYSCAPES.classes))
    (folder / "classes.yaml").write_text(f"classes:\n{classes}", encoding="utf-8")
    return folder


def _run(folder: Path, data: Path) -> Path:
    """A run that is finished after two steps."""
    from segshift import recipes
    from segshift.runs import start

    recipe = recipes.find("own/source-only")
    return start(
        replace(
            recipe,
            network=SmallNet(),
            data=replace(recipe.data, source=str(data), target=str(data), short_side=96),
            warmup=replace(recipe.warmup, steps=2, batch=2, source_view=View((64, 64))),
            settings=replace(recipe.settings, threads=1, accelerator="cpu"),
        ),
        folder,
    )


def show(found: Mapping[str, Spread], said: Mapping[str, bool]) -> None:
    floor = found[TORCH].median

    def row(name: str, each: Spread) -> Sequence[str]:
        above = "" if name in (NOTHING, TORCH, *LIGHT) else f"{each.median - floor:+.2f}"
        return name, f"{each.median:.2f}", f"{each.least:.2f} to {each.most:.2f}", f"{floor / each.median:.2f}", above

    header = ("process", "seconds", "spread", "import torch / it", "above import torch")
    print(table(header, [row(name, each) for name, each in found.items()]))
    print("importable here: " + ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in said.items()))
    print("(lightning_fabric imports torchmetrics wherever it finds it, and that imports torchvision)")


if __name__ == "__main__":
    sys.exit(main())
