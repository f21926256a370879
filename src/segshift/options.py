"""The options of the commands that need no recipe. No torch here: `segshift --help` reads this file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True)
class NoOptions:
    """A command without options."""


@dataclass(frozen=True)
class RunOptions:
    run: Positional[Path]
    """Folder of the run."""


@dataclass(frozen=True)
class DemoOptions:
    out: Path = Path("runs/demo")
    """Folder for the demo's runs and its report."""
    seed: int = 0
    threads: int = 2
    """CPU threads to compute with."""


@dataclass(frozen=True)
class EvaluateOptions:
    run: Positional[Path]
    """Folder of a finished run, or of a saved model."""
    data: Path
    """Folder with images/ and labels/, or with splits that hold them."""
    split: str | None = None
    """The split of that folder."""
    flip: bool = False
    """Average over the image and its mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Average over these sizes (multi-scale testing)."""
    out: Path | None = None
    """Also write the scores to this JSON file."""


@dataclass(frozen=True)
class PredictOptions:
    run: Positional[Path]
    """Folder of a finished run, or of a saved model."""
    images: Positional[Path]
    """An image, or a folder of images."""
    out: Path
    """Folder for labels/ and overlays/."""
    flip: bool = False
    """Average over the image and its mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Average over these sizes (multi-scale testing)."""


@dataclass(frozen=True)
class ReportOptions:
    runs: Positional[tuple[Path, ...]]
    """Folders of one or several runs."""
    oracle: Path | None = None
    """Folder of an oracle run to show beside them."""
    out: Path | None = None
    """The HTML file; default: report.html in the first run."""


@dataclass(frozen=True)
class CheckOptions:
    folder: Positional[Path]
    """Folder with images/ (and labels/), or with splits that hold them."""
