"""Sums over all processes, for whoever must divide by a count that no single process knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many processes train together; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes and prints for all."""
    return world_size() == 1 or dist.get_rank() == 0


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors on every process by those of the first. One exchange for all that are of a type."""
    if world_size() == 1:
        return
    alike: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.dtype, []).append(tensor)
    for group in alike.values():
        packed = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(packed, 0)
        for tensor, part in zip(group, packed.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor: the same bits on each of them. Floats are added in rank order.

    Integers add up to the same in any order, so nobody needs to hold everyone's: histograms are megabytes.
    """
    if world_size() == 1:
        return tensor
    if not tensor.is_floating_point():
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def gather_by_slot(tensor: Tensor, slots: Sequence[int]) -> Tensor:
    """Rows of all processes, (b, ...) on each, in the order of the images' places in the global batch.

    `slots`: the place of each of this process's rows. Every process gets the same rows; each may have another number.
    """
    if world_size() == 1:
        return tensor
    own = torch.tensor([len(slots)], device=tensor.device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(counts, own)
    longest = int(torch.cat(counts).max())
    keys = torch.full((longest,), _NO_SLOT, device=tensor.device)
    keys[: len(slots)] = torch.tensor(slots, device=tensor.device)
    rows = torch.cat((tensor, tensor.new_zeros(longest - len(tensor), *tensor.shape[1:]))).contiguous()
    all_keys = [torch.empty_like(keys) for _ in range(world_size())]
    all_rows = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(all_keys, keys)
    dist.all_gather(all_rows, rows)
    order = torch.cat(all_keys).argsort(stable=True)
    return torch.cat(all_rows)[order[: int(torch.cat(counts).sum())]]


_NO_SLOT = 2**62
"""Sorts behind every place of a batch."""
