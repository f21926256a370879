"""Training steps without an engine: random batches, one step as the engine takes it, and the same on two processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from segshift.types import IGNORE, Batch, Geometry, Images

CLASSES, SIZE = 4, 32


def images(seed: int, count: int = 3, size: int = SIZE) -> Images:
    """Noise, with random labels of which a fifth is ignored, and soft ones that are 0 there."""
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (count, size, size), generator=rng)
    label[torch.rand(label.shape, generator=rng) < 0.2] = IGNORE
    image, names = torch.rand(count, 3, size, size, generator=rng), tuple(f"{seed}_{i}" for i in range(count))
    geometry = tuple(Geometry((size, size), 0, 0, (size, size), False, slot) for slot in range(count))
    soft = torch.randn(count, CLASSES, size, size, generator=rng).softmax(1) * (label != IGNORE)[:, None]
    return Images(image, label, names, geometry, soft)


def share(given: Images, rank: int, world: int = 2) -> Images:
    """The images of one process."""
    assert given.geometry is not None and given.soft is not None
    own = slice(rank, None, world)
    return Images(given.image[own], given.label[own], given.name[own], given.geometry[own], given.soft[own])


def batch() -> Batch:
    return Batch(images(1), images(2))


def backward(losses: Mapping[str, Tensor]) -> None:
    torch.stack(list(losses.values())).sum().backward()


def step(method: Any, given: Batch, t: int = 0) -> list[dict[str, float]]:
    """One step as the engine takes it; the losses of each yield."""
    for entry in method.optimizers().values():
        entry.optimizer.zero_grad()
    seen = []
    for losses in method.step(given, t):
        backward(losses)
        seen.append({name: loss.item() for name, loss in losses.items()})
    for entry in method.optimizers().values():
        entry.optimizer.step()
        entry.schedule.step()
    return seen


def weights(method: Any) -> dict[str, Tensor]:
    """Of all players, under names that do not tell whether they are wrapped."""
    return {
        f"{name} {key.removeprefix('module.')}": tensor.clone()
        for name, player in method.players().items()
        for key, tensor in player.state_dict().items()
    }


# --- two processes ---------------------------------------------------------------------------------------------------


def three_steps(method: Any, rank: int | None, given: Batch | None = None) -> dict[str, Tensor]:
    """Weights after three steps; with a rank, on its share of the images, each player distributed."""
    given = batch() if given is None else given
    if rank is not None:
        for name, player in method.players().items():
            setattr(method, name, DistributedDataParallel(player))
            getattr(method, name).align_corners = getattr(player, "align_corners", None)
        given = Batch(*(share(x, rank) for x in given))
    for t in range(3):
        step(method, given, t)
    return weights(method)


Trained = Callable[[int | None], dict[str, dict[str, Tensor]]]
"""Case -> weights, of the process of a rank, or of one alone (None). A function of a module: processes import it."""


def assert_two_processes_match_one(trained: Trained, folder: Path) -> None:
    """Both end with the same bits, and these are those of one process but for rounding."""
    mp.start_processes(_process, (str(folder), trained), nprocs=2, start_method="spawn")
    first, second = (load_file(folder / f"{rank}.safetensors") for rank in range(2))
    alone = _flat(trained(None))
    assert first.keys() == second.keys() == alone.keys()
    for key, weight in alone.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], weight, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


def _process(rank: int, folder: str, trained: Trained) -> None:
    """One of the two; it leaves its weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    save_file(_flat(trained(rank)), f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def _flat(found: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{case}: {key}": tensor.contiguous() for case, tensors in found.items() for key, tensor in tensors.items()}
