"""The options of the commands that need no recipe. No torch here: `segshift --help` reads this file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class NoOptions:
    """A command without options."""


@dataclass(frozen=True)
class ResumeOptions:
    run: Positional[Path]
    """Folder of the run."""
    devices: int | None = None
    """Processes a machine, in place of those the run began with; the result then differs by rounding."""
    nodes: int | None = None
    """Machines, likewise."""
    strategy: Literal["ddp", "fsdp"] | None = None
    """How they share the network, likewise."""
    model: str | None = None
    """FILE.py:FUNCTION again, where the run is of a module of your own: no run holds its code."""


@dataclass(frozen=True)
class DemoOptions:
    out: Path = Path("runs/demo")
    """Folder for the demo's runs and its report."""
    seed: int = 0
    threads: int = 2
    """CPU threads to compute with."""


@dataclass(frozen=True)
class EvaluateOptions:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a finished run, or of a saved model."""
    data: Annotated[str, arg(metavar="DATA")]
    """LAYOUT:DIR (such as cityscapes:DIR), or a folder with images/ and labels/, or with splits that hold them."""
    split: str | None = None
    """The split of that data; default: the one that is usually scored, of a folder images/ itself."""
    score_as: Literal["own", "nthu13"] = "own"
    """Merge predictions and truth into these classes before scoring; own: the model's classes."""
    class_map: Path | None = None
    """A class map that brings data of other classes to the model's (docs/data.md)."""
    flip: bool = False
    """Average over the image and its mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Average over these sizes (multi-scale testing)."""
    tile: tuple[int, int] | None = None
    """Height and width of overlapping tiles that images are predicted in, for images that are larger than memory, or
    than what the model was trained on; default: the whole image at once."""
    overlap: float = 0.25
    """Least share of a tile that it has in common with the next one."""
    out: Path | None = None
    """Also write the scores to this JSON file."""
    device: str = "auto"
    """Where the network computes: cpu, cuda, cuda:1, mps; auto: a GPU where there is one, else cpu."""
    max_pixels: int = 89_478_485
    """Images and labels of more pixels (height times width) are refused: a small file may unpack to gigabytes."""
    on_bad_file: Literal["stop", "skip"] = "stop"
    """Files that cannot be used: stop at the first, or skip: go without them, and list them."""
    model: str | None = None
    """FILE.py:FUNCTION, where the run is of a module of your own: no run holds its code."""


@dataclass(frozen=True)
class PredictOptions:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a finished run, or of a saved model."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="INPUT [INPUT ...]")]
    """Images, folders of images (with all below them), quoted patterns such as "photos/**/*.jpg", and videos."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for what is written."""
    keep: tuple[
        Literal[
            "labels",
            "overlays",
            "confidence",
            "entropy",
            "entropy-colors",
            "probabilities",
            "coco",
            "geotiff",
            "frames",
        ],
        ...,
    ] = ("labels", "overlays")
    """What is written: labels (ids, PNG with the classes' colours), overlays, confidence (the largest probability) and
    entropy (both 16-bit PNG), entropy-colors, probabilities (of all classes, safetensors), coco (one JSON of run-length
    encoded segments), geotiff (labels at the input's coordinates), frames (labels of a video's frames)."""
    ids: Literal["own", "cityscapes"] = "own"
    """The numbers in labels, geotiff, coco and frames: own: the model's classes, from 0; cityscapes: label ids, as its
    evaluation server takes them."""
    flip: bool = False
    """Average over the image and its mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Average over these sizes (multi-scale testing)."""
    short_side: int | Literal["trained", "native"] = "trained"
    """The shorter side in pixels that images are worked on at; trained: as in training; native: their own size."""
    tile: tuple[int, int] | None = None
    """Height and width of overlapping tiles that images are predicted in; default: the whole image, or for those that
    would take more than --memory, tiles as large as fit."""
    overlap: float = 0.25
    """Least share of a tile that it has in common with the next one."""
    memory: float = 2.0
    """GiB that predicting one image may take, beside the network's weights and the image, before it is cut into
    tiles."""
    device: str = "auto"
    """Where the network computes: cpu, cuda, cuda:1, mps; auto: a GPU where there is one, else cpu."""
    max_pixels: int = 89_478_485
    """Images of more pixels (height times width) are refused: a small file may unpack to gigabytes."""
    on_bad_file: Literal["stop", "skip"] = "stop"
    """Files that cannot be used: stop at the first, or skip: go without them, and list them in DIR/left_out.json."""
    model: str | None = None
    """FILE.py:FUNCTION, where the run is of a module of your own: no run holds its code."""


@dataclass(frozen=True)
class ExportOptions:
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Folder of a finished run, or of a saved model."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Folder for what is written."""
    format: Literal["onnx", "torch-export", "model", "huggingface"] = "onnx"
    """onnx: model.onnx, checked in ONNX Runtime; torch-export: model.pt2, a program of torch.export; model: model.json
    and model.safetensors, which `segshift.load_model` opens; huggingface: what `save_pretrained` writes, of models that
    came from there."""
    native_stride: bool = False
    """Give class scores at the network's own stride, instead of the image's size (onnx, torch-export)."""
    model: str | None = None
    """FILE.py:FUNCTION, where the run is of a module of your own: no run holds its code."""


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
    data: Annotated[Positional[tuple[str, ...]], arg(metavar="DATA [DATA ...]")]
    """Each LAYOUT:DIR (such as gta5:DIR), or a folder with images/ (and labels/), or with splits that hold them. Of
    several, images that two of them share are told too, and a class map where their classes differ."""
    sheet: str | None = None
    """Where contact sheets go (check-NAME.png: some images with their labels): a folder, a file .png, or none.
    Default: the current folder."""
    max_pixels: int = 89_478_485
    """Images and labels of more pixels (height times width) are refused: a small file may unpack to gigabytes."""


@dataclass(frozen=True)
class TableOptions:
    table: Positional[str]
    """A table of `segshift recipes`, such as cbst/table3."""
    source: str | None = None
    """Labelled source, as LAYOUT:DIR (such as gta5:DIR) or a folder."""
    target: str | None = None
    """Target, likewise; its labels are read for scoring alone, and by the oracle."""
    data: str | None = None
    """Run the rows on this group of recipes (minicity, camvid-dusk, nuclei, own) instead of the paper's pair."""
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = ()
    """Only these rows, by key or network/key; default: all."""
    out: Path = Path("runs/tables")
    """Folder for runs, tables and figures."""
    results: Path | None = None
    """File that finished runs are appended to, and read from; default: results.jsonl in OUT."""
    threads: int = 2
    """CPU threads to compute with."""
    devices: int = 1
    """Processes that train together, one a GPU where there are any."""
    weights: tuple[str, ...] = ()
    """Weights the networks start from: FILE, or NETWORK=FILE for each network of the table."""
    mean: tuple[float, float, float] | None = None
    """Mean of the images those weights expect; default: the network's own."""
    std: tuple[float, float, float] | None = None
    """Likewise the standard deviation."""
    student: str | None = None
    """What distilled students start from: a file of self-supervised weights; timm:NAME, random or pretrained."""
    variant: Literal["paper", "released"] = "paper"
    """Follow the paper, or its released code where that differs."""
    folds: Literal["pooled", "mean"] = "pooled"
    """Cross-validation: one confusion matrix over all folds, or the mean of the folds' scores."""
    dry_run: bool = False
    """Print the planned runs and what is done of them, and stop."""
    translated: str | None = None
    """Folder of translated source images, by the names of the source's; labels are those of the source."""
