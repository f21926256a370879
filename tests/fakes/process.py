"""One process of a group: what `tests/test_processes.py` starts twice and compares with a process alone.

    python -m tests.fakes.process RANK WORLD PORT JOB.json

It leaves in the job's folder `rank-R.json` (`measured`, where the job asks for it), and the runs that the job's recipes
ask for, each with every process's final weights beside it: RUN-rank-R.safetensors.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from segshift import one_run
from segshift import recipe as recipe_file
from segshift.adabn import estimate_batch_norm
from segshift.data.folder import ImageFolder
from segshift.engine import Engine
from segshift.methods.cbst import class_thresholds, global_threshold
from segshift.models.network import load_model
from segshift.parts.batch_norm import batch_norm_layers
from segshift.recipe import Recipe
from segshift.run_data import open_all
from segshift.runs import resume, start
from segshift.scan import LogitScan, Views
from segshift.warmups import space_of

SIZE = 48
TIMEOUT = timedelta(seconds=240)


def measured(model: Path, target: Path, scratch: Path, rank: int, world: int) -> dict[str, Any]:
    """Thresholds as exact hexadecimal numbers, the names this process looked at, AdaBN statistics."""
    network = load_model(model).network
    images = ImageFolder(target, "train")
    scan = LogitScan(network, images, scratch / "scan", SIZE, Views(flip=True), rank, world)
    classes = len(load_model(model).space)
    found: dict[str, Any] = {
        f"cbst {portion} {stride}": [v.hex() for v in class_thresholds(scan, portion, classes, stride).tolist()]
        for portion, stride in ((0.2, 1), (0.5, 4))
    }
    found["st"] = global_threshold(scan, 0.3).hex()
    found["names"] = [prediction.name for prediction in scan]
    scan.close()
    estimate_batch_norm(network, images, SIZE, seed=0, batch=2, rank=rank)
    layers = batch_norm_layers(network).values()
    found["adabn"] = [[layer.running_mean.tolist(), layer.running_var.tolist()] for layer in layers]
    return found


def train(recipe: Recipe, folder: Path, warmup: Path | None) -> None:
    """A run without scores and report, of which nothing is compared."""
    data = open_all(recipe, space=space_of(warmup))._replace(test=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_run, "write_report", lambda *_: None)
        start(recipe, folder, warmup, data=data)


def cut_short(run: Path, again: Path) -> None:
    """A copy of a run's folder as a kill after its second checkpoint would have left it."""
    shutil.copytree(run, again)
    for path in sorted((again / "checkpoints").iterdir())[2:]:
        path.unlink()


def run_all(job: dict[str, Any], folder: Path, rank: int) -> None:
    """Train the job's recipes; then resume copies of some from the middle."""
    train_phase = Engine.train

    def train_and_keep(engine: Engine, phase: Any, name: str, model: torch.nn.Module, *rest: Any) -> Any:
        position = train_phase(engine, phase, name, model, *rest)
        state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        save_file(state, f"{engine.folder}-rank-{rank}.safetensors")
        return position

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "train", train_and_keep)
        for name, content in job["recipes"].items():
            model = None if name in job["whole"] else Path(job["model"])
            train(recipe_file.from_dict(content, name), folder / name, model)
        for again, (first, strategy) in job["again"].items():
            if rank == 0:
                cut_short(folder / first, folder / again)
            dist.barrier()
            resume(folder / again, strategy=strategy)


def main(rank: int, world: int, port: int, path: Path) -> None:
    torch.set_num_threads(1)
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world, "LOCAL_RANK": rank}
    os.environ.update({key: str(value) for key, value in group.items()})
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=TIMEOUT)
    job = json.loads(path.read_text())
    if job["measure"]:
        found = measured(Path(job["model"]), Path(job["target"]), path.parent, rank, world)
        (path.parent / f"rank-{rank}.json").write_text(json.dumps(found))
    run_all(job, path.parent, rank)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
