"""What a run shows elsewhere as it goes on: TensorBoard and Weights & Biases, each imported only where it is asked for.

They are told what `log.jsonl` says, under the same names. A tracker that fails is said once and left behind: the run
does not depend on it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segshift.extras import optional

Say = Callable[[str], None]


class Tracker(Protocol):
    """One place that figures are shown at. `step`: that of the run."""

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """`pixels`: (h, w, 3) uint8."""
        ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path, _: str, step: int) -> None:
        writing = optional("torch.utils.tensorboard", "tensorboard", "track = tensorboard")
        # What a killed run wrote of steps that are taken again is passed over by whoever reads the files.
        self._writer = writing.SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, started: str, step: int) -> None:
        self._library = optional("wandb", "wandb", "track = wandb")
        # One id for all the times that a run is resumed: they are synchronised into one run.
        identity = hashlib.sha256(f"{folder.resolve()} {started}".encode()).hexdigest()[:16]
        self._run = self._library.init(
            project="segshift",
            name=folder.name,
            dir=str(folder),
            id=identity,
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=self._library.Settings(silent=True, console="off"),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._run.log({name: self._library.Image(pixels)}, step=step)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[[Path, str, int], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases}


def require(names: Sequence[str]) -> None:
    """ConfigError, before the first step, where a library that is asked for is missing."""
    if "tensorboard" in names:
        optional("tensorboard", "tensorboard", "track = tensorboard")
    if "wandb" in names:
        optional("wandb", "wandb", "track = wandb")


class Trackers:
    """All trackers of a run; without any, nothing happens and nothing is imported."""

    def __init__(self, folder: Path, names: Sequence[str] = (), say: Say = print) -> None:
        """`say`: told once of each tracker that fails."""
        self._folder, self._names, self._say = folder, tuple(names), say
        self._open: dict[str, Tracker] = {}

    def start(self, started: str, step: int) -> None:
        """Open all at the step that the run goes on at. `started`: when it first began, which tells it from others."""
        for name in self._names:
            self._guarded(name, lambda kind: _KINDS[kind](self._folder, started, step), keep=True)

    def step(self, entry: Mapping[str, Any]) -> None:
        """A line of `log.jsonl`: losses, what was measured, learning rate and seconds, under the phase's name."""
        if not self._open:
            return
        values = {"lr": entry["lr"], "seconds": entry["seconds"], "round": entry["round"]}
        values |= {f"loss/{name}": value for name, value in entry["losses"].items()}
        values |= {f"measured/{name}": value for name, value in entry.get("measured", {}).items()}
        self.scalars({f"{entry['phase']}/{name}": value for name, value in values.items()}, entry["step"])

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Any figures by name."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda _, one=tracker: one.scalars(values, step))

    def images(self, pictures: Iterable[tuple[str, np.ndarray]], step: int) -> None:
        """Named pictures (h, w, 3) uint8; not even made where nobody is told."""
        for title, pixels in pictures if self._open else ():
            for name, tracker in list(self._open.items()):
                self._guarded(name, lambda _, one=tracker, t=title, p=pixels: one.image(t, p, step))

    def close(self) -> None:
        """Write out and close all."""
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda _, one=tracker: one.close())
        self._open.clear()

    def _guarded(self, name: str, action: Callable[[str], Any], keep: bool = False) -> None:
        """Do something with a tracker; where it fails, in whatever way its library does, say so and go on without."""
        try:
            found = action(name)
        except Exception as error:
            self._open.pop(name, None)
            why = f"{type(error).__name__}: {error}"
            self._say(f"warning: {name} is not told any more ({why}); the run goes on without it")
            return
        if keep:
            self._open[name] = found
