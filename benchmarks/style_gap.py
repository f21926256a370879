"""How far the styles of source and target are apart in the first two stages of trained networks. Reads no label.

    python benchmarks/style_gap.py RUN [RUN ...] [--source DIR] [--target DIR] [--images 100]

The style of an image on a stage is the mean of each channel (category-adaptive paper, §2.1). Of each channel: the
distance between the two domains' means over images, in standard deviations of a domain; then the mean over channels. A
line a run goes to results/style_gap.jsonl.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from segshift import recipe as recipe_file
from segshift.data.dataset import ImageDataset
from segshift.data.open_data import open_source, open_target
from segshift.data.resizing import resize_image
from segshift.data.transforms import to_float, working_size
from segshift.models.network import load_model
from segshift.models.segmenter import Segmenter
from segshift.parts.style import channel_means
from segshift.run_folder import read_run
from segshift.scan import evaluating

RESULTS = Path(__file__).parent / "results" / "style_gap.jsonl"
STAGES = (0, 1)


@dataclass(frozen=True)
class Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs."""
    source: str | None = None
    """Where the source's folder is now, if it has moved."""
    target: str | None = None
    """Likewise the target's."""
    images: int = 100
    """Of each domain, evenly spread over its names; all where there are fewer."""


def styles(network: Segmenter, dataset: ImageDataset, short_side: int | None, count: int) -> list[Float[Tensor, "n c"]]:
    """Channel means of `count` images on each of the stages."""
    found: list[list[Tensor]] = [[] for _ in STAGES]
    total = len(dataset.names)
    with evaluating(network):
        for index in torch.linspace(0, total - 1, min(count, total)).round().int().tolist():
            image = dataset.image(index)
            size = working_size((image.shape[1], image.shape[2]), short_side)
            output = network(to_float(resize_image(image, size))[None])
            for means, stage in zip(found, STAGES):
                means.append(channel_means(output.stages[stage])[0])
    return [torch.stack(means) for means in found]


def gap(source: Float[Tensor, "n c"], target: Float[Tensor, "m c"]) -> float:
    """Mean over channels of |mean of source - mean of target| in standard deviations of a domain."""
    spread = ((source.var(0) + target.var(0)) / 2).sqrt()
    seen = spread > 0  # a channel that is the same in all images has no style
    return float(((source.mean(0) - target.mean(0)).abs()[seen] / spread[seen]).mean())


def main(options: Options) -> None:
    table = Table("run", "seed", *(f"stage {stage}" for stage in STAGES))
    for run in options.runs:
        info = read_run(run).info
        config = recipe_file.from_dict(info["recipe"], str(run)).data
        config = replace(config, source=options.source or config.source, target=options.target or config.target)
        model = load_model(run)
        domains = open_source(config), open_target(config)
        pairs = zip(*(styles(model.network, images, model.short_side, options.images) for images in domains))
        gaps = [gap(*pair) for pair in pairs]
        table.add_row(f"{info['name'].split('/')[0]}/{info['label']}", str(info["seed"]), *(f"{g:.3f}" for g in gaps))
        line = {key: info[key] for key in ("name", "label", "seed", "data", "versions")}
        line |= {"stages": STAGES, "gaps": [round(g, 4) for g in gaps], "images": options.images}
        date = datetime.now(UTC).date().isoformat()
        command = f"python benchmarks/style_gap.py …/{run.parent.name}/{run.name}"
        with RESULTS.open("a") as file:
            file.write(json.dumps({"date": date, "command": command, **line}) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
