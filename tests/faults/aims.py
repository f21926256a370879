"""Where a run can be hit, and by what: a process that gets to a place for the n-th time does it to itself.

    Watch(run, Aim("pseudo-label, half written", 2), die)

kills this process with SIGKILL while it writes the run's second pseudo-label. `Watch` also counts how often each place
is passed. It patches operations for good, so it belongs into a process of its own: `runs.make` starts one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from segshift import adabn, predict
from segshift.run_log import RunLog
from segshift.scan import LogitScan

FILES = {
    "run.json": "/run.json",
    "log": "/log.jsonl",
    "checkpoint": "/checkpoints/*",
    "pseudo-label": "*/pseudo-labels/*",
    "prediction": "*/predictions/*",
    "statistics": "*/statistics.json",
    "soft label": "*/soft-labels/*.safetensors",
    "index of soft labels": "*/soft-labels/index.json",
    "label map to look at": "*/round-*/*/*",
    "weights": "/model/model.safetensors",
    "model.json": "/model/model.json",
    "scores": "/evaluation/*.json",
    "panel": "/evaluation/panels/*",
    "report": "/report.html",
    "results": "/results.json",
    "kept for all rounds": "*.safetensors",
    "figure": "*.png",
    "other file": "*",
}
"""What a run writes, and how it is told by its path in the run's folder: the first pattern that fits."""


class Aim(NamedTuple):
    """The n-th time, from 1, that a process gets to a place."""

    place: str
    call: int = 1


Hit = Callable[[], None]
"""What happens at an aim. It must be a function of a module: it travels to another process."""


def die() -> None:
    """A kill that no process survives."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice() -> None:
    """Ctrl-C, and again before the first could be obeyed."""
    interrupt()
    interrupt()


def terminate() -> None:
    """What a cluster sends before it kills."""
    os.kill(os.getpid(), signal.SIGTERM)


def kind_of(path: Path, run: Path) -> str | None:
    """The key of FILES for a file of a run; None where it lies elsewhere."""
    if not path.is_relative_to(run):
        return None
    name = f"/{path.relative_to(run)}"
    return next(kind for kind, pattern in FILES.items() if fnmatch(name, pattern))


class Watch:
    """Counts the places that this process passes on its way through a run, and hits it at one of them."""

    def __init__(self, run: Path, aim: Aim | None = None, hit: Hit = die) -> None:
        self.run, self.aim, self.hit = run, aim, hit
        self.passed: Counter[str] = Counter()
        patch = pytest.MonkeyPatch()
        self._files(patch)
        self._training(patch)
        self._images(patch)

    def at(self, place: str, spoil: Callable[[], object] | None = None) -> None:
        """To be called when the process gets to a place. `spoil` leaves on disk what a kill there would leave."""
        self.passed[place] += 1
        if (place, self.passed[place]) == self.aim:
            if spoil is not None and self.hit is die:
                spoil()
            self.hit()

    def _files(self, patch: pytest.MonkeyPatch) -> None:
        """Files get their name by a rename, and lose it by an unlink. Halved just before, a file is as half written."""
        rename, unlink, rmtree = Path.replace, Path.unlink, shutil.rmtree

        def replace(path: Path, target: Path) -> Path:
            kind = kind_of(Path(target), self.run)
            if kind is None:
                return rename(path, target)
            self.at(f"{kind}, half written", lambda: halve(path))
            self.at(f"{kind}, before it gets its name")
            result = rename(path, target)
            self.at(f"{kind}, just there")
            return result

        def remove(path: Path, missing_ok: bool = False) -> None:
            kind = "temporary file" if path.name.endswith(".tmp") else kind_of(path, self.run)
            if kind is not None and path.exists():
                self.at(f"{kind}, before it is deleted")
            unlink(path, missing_ok)

        def remove_all(path: Path, **options: Any) -> None:
            if Path(path).is_relative_to(self.run) and Path(path).exists():
                files = [file for file in sorted(Path(path).rglob("*")) if file.is_file()]
                self.at("scan, its cache half deleted", lambda: [unlink(file) for file in files[::2]])
            rmtree(path, **options)

        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", remove)
        patch.setattr(shutil, "rmtree", remove_all)

    def _training(self, patch: pytest.MonkeyPatch) -> None:
        backward, step, append = Fabric.backward, torch.optim.Adam.step, RunLog.append

        def half_line(log: RunLog, entry: dict[str, Any]) -> None:
            line = json.dumps(entry)
            with log.path.open("a", encoding="utf-8") as file:
                file.write(line[: len(line) // 2])

        def backward_(fabric: Fabric, *rest: Any, **options: Any) -> None:
            self.at("step, before the gradient")
            backward(fabric, *rest, **options)

        def step_(optimizer: torch.optim.Adam, *rest: Any, **options: Any) -> Any:
            self.at("step, before the weights move")
            return step(optimizer, *rest, **options)

        def append_(log: RunLog, entry: dict[str, Any]) -> None:
            self.at("log, half a line", lambda: half_line(log, entry))
            append(log, entry)
            self.at("step, after its line in the log")

        patch.setattr(Fabric, "backward", backward_)
        patch.setattr(torch.optim.Adam, "step", step_)
        patch.setattr(RunLog, "append", append_)

    def _images(self, patch: pytest.MonkeyPatch) -> None:
        """Whatever goes through a data set image by image: scans, scores, AdaBN."""
        look, save, label, resize = LogitScan._look, np.save, predict.predict_label, adabn.resize_image

        def look_(scan: LogitScan, index: int, image: Tensor) -> Any:
            self.at("scan, at an image")
            return look(scan, index, image)

        def save_(file: Path, values: np.ndarray) -> None:
            save(file, values)
            if Path(file).is_relative_to(self.run):
                self.at("scan, its cache half written", lambda: halve(file))

        def label_(*rest: Any) -> Any:
            self.at("scoring, at an image")
            return label(*rest)

        def resize_(*rest: Any) -> Any:
            self.at("AdaBN, at an image")
            return resize(*rest)

        patch.setattr(LogitScan, "_look", look_)
        patch.setattr(np, "save", save_)
        patch.setattr(predict, "predict_label", label_)
        patch.setattr(adabn, "resize_image", resize_)


def halve(file: Path) -> None:
    """Cut a file to half of its bytes."""
    os.truncate(file, file.stat().st_size // 2)
