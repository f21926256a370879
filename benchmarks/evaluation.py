"""Evaluation and prediction: megapixels per second of each step, beside what others do, and what bounds them.

Four tables: counting a confusion matrix; from low-resolution logits to labels; `segshift predict` step by step;
prediction in tiles, with its memory. Each side runs in turn with its reference; results are compared before they are
timed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from measuring import (
    RESULTS,
    Limits,
    Spread,
    in_own_process,
    in_turn,
    limits,
    machine,
    megabytes_at_peak,
    save,
    table,
    timed,
)
from segshift.data.minicity import MiniCity
from segshift.evaluate import confusion
from segshift.models.network import TrainedModel
from segshift.models.segmenter import upsample
from segshift.models.small import SmallNet
from segshift.painting import overlay, png
from segshift.prediction.inputs import LooseImages
from segshift.prediction.predicting import predict_folder
from segshift.prediction.tiles import Tiles, tiled_label
from segshift.scan import Views, evaluating, predict_label, view_logits
from segshift.taxonomy import CITYSCAPES
from segshift.types import Output

CLASSES, STRIDE = 19, 8
SIZES = ((512, 1024), (1024, 2048))
TILE, OVERLAP = (512, 512), 0.25
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="of each side; the median counts")
    parser.add_argument("--images", type=int, default=8, help="that segshift predict labels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="512 x 1024 alone, 3 repeats: what make bench runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluation.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes, repeats = (SIZES[:1], 3) if options.short else (SIZES, options.repeats)
    found = limits(threads=options.threads)
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "confusion": [counting(size, repeats, found) for size in sizes],
        "labels": [labelling(size, repeats, found) for size in sizes],
        "predict": predicting(2 if options.short else options.images),
        "tiles": tiling(sizes[0] if options.short else (2048, 2048), options.threads, 1 if options.short else 3),
    }
    save(options.out, machine("cpu", options.threads, found), result, ratios_of(result))


def ratios_of(result: Mapping[str, Any]) -> dict[str, float]:
    """At 512 x 1024, and of the tiles."""
    counted, labelled = (result[name][0]["megapixels_per_second"] for name in ("confusion", "labels"))
    found = {f"confusion: ours / {name}": counted["ours"] / counted[name] for name in counted if name != "ours"}
    found["labels: ours / host"] = labelled["ours"] / labelled["softmax, argmax on the host"]
    found["tiles: usual seconds / ours"] = result["tiles"]["usual"]["seconds"] / result["tiles"]["ours"]["seconds"]
    found["tiles: usual memory / ours"] = result["tiles"]["usual"]["megabytes"] / result["tiles"]["ours"]["megabytes"]
    return found


# --- a confusion matrix -----------------------------------------------------------------------------------------------


def label_pair(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Truth in blocks, a tenth of it ignored, and a prediction that is wrong on a tenth."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, CLASSES, (size[0] // 16, size[1] // 16), dtype=np.uint8)
    coarse[rng.random(coarse.shape) < 0.1] = 255
    truth = np.kron(coarse, np.ones((16, 16), np.uint8))
    predicted = np.where(truth == 255, 0, truth)
    wrong = rng.random(size) < 0.1
    predicted[wrong] = rng.integers(0, CLASSES, int(wrong.sum()))
    return torch.from_numpy(truth), torch.from_numpy(predicted)


def with_bincount(truth: Tensor, predicted: Tensor) -> np.ndarray:
    """The usual lines of numpy: a mask, an index a pixel, their counts."""
    a, b = truth.numpy(), predicted.numpy()
    known = (a >= 0) & (a < CLASSES)
    index = CLASSES * a[known].astype(int) + b[known]
    return np.bincount(index, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def with_masks(truth: Tensor, predicted: Tensor) -> np.ndarray:
    """A mask for each pair of classes."""
    a, b = truth.numpy(), predicted.numpy()
    return np.array([[np.count_nonzero((a == i) & (b == j)) for j in range(CLASSES)] for i in range(CLASSES)])


def with_torchmetrics(truth: Tensor, predicted: Tensor) -> np.ndarray:
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255, validate_args=False)
    metric.update(predicted.long(), truth.long())
    return metric.compute().numpy()


def counting(size: tuple[int, int], repeats: int, found: Limits) -> Figures:
    truth, predicted = label_pair(size)
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: confusion([(truth, predicted)], CLASSES).numpy(),
        "numpy bincount": partial(with_bincount, truth, predicted),
    }
    if size == SIZES[0]:
        sides["a mask a pair"] = partial(with_masks, truth, predicted)
    if find_spec("torchmetrics"):
        sides["torchmetrics"] = partial(with_torchmetrics, truth, predicted)
    for name, side in sides.items():
        assert np.array_equal(side(), sides["ours"]()), f"{name} counts otherwise"
    return shown("confusion matrix", size, in_turn(sides, repeats), found, least_bytes=2)


# --- from logits to labels --------------------------------------------------------------------------------------------


class Given(nn.Module):
    """A network that costs nothing: its logits are given."""

    align_corners = False

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.none = nn.Parameter(torch.zeros(()))
        self.logits = logits

    def forward(self, image: Tensor) -> Output:
        return Output(self.logits)


def on_the_host(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The usual lines: softmax at full size, to numpy, argmax there."""
    return upsample(logits, size, False)[0].softmax(0).cpu().numpy().argmax(0).astype(np.uint8)


def labelling(size: tuple[int, int], repeats: int, found: Limits) -> Figures:
    rng = torch.Generator().manual_seed(0)
    low = (size[0] // STRIDE, size[1] // STRIDE)
    logits = torch.randn(1, CLASSES, *low, generator=rng).mul(3).contiguous(memory_format=torch.channels_last)
    image, model = torch.zeros(3, *size, dtype=torch.uint8), Given(logits).eval()
    sides: dict[str, Callable[[], Any]] = {
        "ours": lambda: predict_label(model, image, size, None, Views()),
        "upsampling alone": lambda: upsample(logits, size, False),
        "softmax, argmax on the host": partial(on_the_host, logits, size),
    }
    with torch.no_grad():
        differ = np.mean(sides["ours"]().numpy() != on_the_host(logits, size))
        assert differ < 1e-4, f"{differ:.1e} of the labels differ"
        # Read: three bytes of the image, the logits; written: floats of the image, a label.
        least = 3 + 4 * 3 + 4 * CLASSES / STRIDE**2 + 1
        return shown("logits to labels", size, in_turn(sides, repeats), found, least)


def shown(
    what: str, size: tuple[int, int], spreads: Mapping[str, Spread], found: Limits, least_bytes: float
) -> Figures:
    """Print a table, and what of it is kept. `least_bytes`: that no way can do without, of each pixel."""
    pixels = size[0] * size[1] / 1e6
    bound = found.bytes_per_second / least_bytes / 1e6
    rows = [
        (name, f"{1e3 * s.median:.2f}", f"{1e3 * s.least:.2f} to {1e3 * s.most:.2f}", f"{pixels / s.median:.1f}",
         f"{100 * pixels / s.median / bound:.1f} %", f"{s.median / spreads['ours'].median:.1f}")
        for name, s in spreads.items()
    ]  # fmt: skip
    print(f"\n{what}, {size[0]} x {size[1]}, {CLASSES} classes")
    print(table(("side", "ms", "spread", "MP/s", "of the limit", "times ours"), rows))
    print(f"limit: {least_bytes:.1f} bytes a pixel at {found.bytes_per_second / 1e9:.1f} GB/s: {bound:.0f} MP/s")
    return {
        "size": size,
        "seconds": {name: s._asdict() for name, s in spreads.items()},
        "megapixels_per_second": {name: round(pixels / s.median, 2) for name, s in spreads.items()},
        "limit": round(bound, 1),
    }


# --- segshift predict, step by step -----------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().build(CLASSES)


def photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Street scenes with a camera's noise: files that compress like photographs, not like drawings."""
    scenes, rng = MiniCity("target", "test", count, size), np.random.default_rng(0)
    for index, name in enumerate(scenes.names):
        pixels = scenes.image(index).permute(1, 2, 0).numpy() + rng.normal(0, 6, (*size, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")


def predicting(count: int, size: tuple[int, int] = SIZES[0]) -> Figures:
    trained: Any = TrainedModel(network(), CITYSCAPES, None)  # pyright: ignore[reportArgumentType]
    spent: dict[str, float] = {}
    written: dict[str, int] = {}

    def step(name: str, side: Callable[[], Any]) -> Any:
        kept: list[Any] = []
        spent[name] = spent.get(name, 0.0) + timed(lambda: kept.append(side()))
        return kept[0]

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        photographs(Path(folder) / "images", count, size)
        images = LooseImages(Path(folder) / "images")
        whole = min(timed(lambda: predict_folder(trained, images, Path(folder) / "out", Views())) for _ in range(2))
        with evaluating(trained.network):
            for index in range(count):
                image = step("decode", partial(images.image, index))
                logits = step("network", partial(view_logits, trained.network, image, None, Views()))[0]
                given = Given(logits[None])
                label = step("labels", partial(predict_label, given, image, size, None, Views())).numpy()
                pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
                painted = step("blend the overlay", partial(overlay, pixels, label, CITYSCAPES))
                for name, made in (
                    ("label PNG", partial(png, label, CITYSCAPES)),
                    ("overlay PNG", partial(png, painted)),
                ):
                    written[name] = written.get(name, 0) + len(step(name, made))
    rows = [(name, f"{1e3 * s / count:.1f}", f"{100 * s / whole:.0f} %") for name, s in spent.items()]
    rows += [("whole command", f"{1e3 * whole / count:.1f}", "100 %")]
    print(f"\nsegshift predict, SmallNet, {size[0]} x {size[1]}, {count} images: {count / whole:.2f} images/s")
    print(table(("step", "ms an image", "share"), rows))
    print(", ".join(f"{name} {n / count / 1e3:.0f} kB" for name, n in written.items()))
    per_image = {name: s / count for name, s in spent.items()}
    sizes = {name: n / count for name, n in written.items()}
    return {"images_per_second": count / whole, "seconds_an_image": per_image, "bytes_an_image": sizes}


# --- tiles ------------------------------------------------------------------------------------------------------------


def usual_tiles(model: nn.Module, image: Tensor, size: tuple[int, int]) -> Tensor:
    """The usual lines: scores of each tile at full size added to a map of the whole image, divided by their number."""
    total, number = torch.zeros(1, CLASSES, *size), torch.zeros(1, 1, *size)
    tiles = Tiles(TILE, OVERLAP)
    for top in tiles.along(0, size[0]).starts:
        for left in tiles.along(1, size[1]).starts:
            part = (..., slice(top, top + TILE[0]), slice(left, left + TILE[1]))
            logits = model(image[part][None].float() / 255).logits
            total[part] += upsample(logits, TILE, False)
            number[part] += 1
    return (total / number)[0].argmax(0).to(torch.uint8)


def tiled_by(side: str, size: tuple[int, int], threads: int, repeats: int) -> Figures:
    """Seconds, and the process's memory beyond what it held before."""
    torch.set_num_threads(threads)
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=rng)
    model = network()
    sides = {
        "ours": lambda: tiled_label(model, image, size, None, Views(), Tiles(TILE, OVERLAP)),
        "usual": lambda: usual_tiles(model, image, size),
        "whole image": lambda: predict_label(model, image, size, None, Views()),
    }
    with evaluating(model):
        model(torch.zeros(1, 3, *TILE))
        before = megabytes_at_peak()
        seconds = [timed(sides[side]) for _ in range(repeats)]
    return {"seconds": sorted(seconds)[len(seconds) // 2], "megabytes": max(megabytes_at_peak() - before, 1.0)}


def tiling(size: tuple[int, int], threads: int, repeats: int) -> dict[str, Figures]:
    found: dict[str, Figures] = {}
    for side in ("ours", "usual", "whole image"):
        found[side] = in_own_process(tiled_by, side, size, threads, repeats)
    pixels = size[0] * size[1] / 1e6
    rows: Sequence[Sequence[str]] = [
        (name, f"{f['seconds']:.2f}", f"{pixels / f['seconds']:.2f}", f"{f['megabytes']:.0f}")
        for name, f in found.items()
    ]
    print(f"\ntiles of {TILE[0]} x {TILE[1]}, overlap {OVERLAP:g}, SmallNet, an image of {size[0]} x {size[1]}")
    print(table(("side", "seconds", "MP/s", "MB beyond the network"), rows))
    print(f"the scores of the whole image at full size: {4 * CLASSES * pixels:.0f} MB; the label: {pixels:.0f} MB")
    return found


if __name__ == "__main__":
    main()
