"""Tensors of which each process holds a part (FSDP2's are torch's DTensor), beside those that each holds whole.

What meets other processes says so: all of them must call it, equally often and in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from segshift.parts.processes import sum_over_processes


def is_shared(tensors: Iterable[Tensor]) -> bool:
    """Whether any of the tensors is shared out over the processes."""
    return any(isinstance(tensor, DTensor) for tensor in tensors)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor: itself, or (meeting the other processes) what all hold of it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory; it may be empty."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shared_like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor that every process has, shared out as `reference` is; nothing is sent."""
    if not isinstance(reference, DTensor) or isinstance(value, DTensor):
        return value
    mesh = reference.device_mesh
    return distribute_tensor(value.to(reference.device), mesh, reference.placements, src_data_rank=None)


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, the same on every process; they meet where any is shared out."""
    own = nn.utils.get_total_norm([part for part in map(own_part, gradients) if part.numel()])
    if not is_shared(gradients):
        return own
    # In float64, so that a norm whose square float32 cannot hold is none that overflows.
    return sum_over_processes(own.double().square()).sqrt().to(own.dtype)


def clip(gradients: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients of a norm down to the norm `limit`, in place, as torch.nn.utils.clip_grad_norm_ does."""
    torch._foreach_mul_([*map(own_part, gradients)], (limit / (norm + 1e-6)).clamp(max=1.0))
