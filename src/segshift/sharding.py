"""FSDP: each process holds a part of the segmentation network's weights, gradients and optimiser state.

Sharded are the parameters of the segmentation network, in units: blocks of its backbone that are large enough, and the
rest. Every other player (discriminators, heads: they are small, and methods take their weights for constants) is
held whole by each process, as under DDP. So are BatchNorm statistics, and momentum networks.

Whoever looks at images with the network (scans, AdaBN, scores) does so in his own process, with a number of images of
his own, so no forward there may wait for another process: `WholeCopy` is a network for that, filled while it is looked
through, and empty while the sharded one trains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from segshift.models.segmenter import Segmenter
from segshift.parts.batch_norm import batch_norm_layers
from segshift.parts.processes import copy_from_first
from segshift.parts.sharded import whole
from segshift.scan import evaluating
from segshift.types import Method

LEAST = 2**16
"""Parameters that make a block a unit of its own; smaller ones are not worth an exchange."""


def distribute(unused: bool) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    """What makes a player one of several processes, in place; `unused`: some parameters may get no gradient."""

    def distributed(player: nn.Module, mesh: DeviceMesh) -> nn.Module:
        if isinstance(player, Segmenter):
            return _sharded(player, mesh["data_parallel"])
        return DistributedDataParallel(player, find_unused_parameters=unused)

    return distributed


def _sharded(network: Segmenter, mesh: DeviceMesh) -> nn.Module:
    units = list(_units(network))
    if not all(parameter.is_contiguous() for parameter in network.parameters()):
        # FSDP2 takes no other weights than contiguous ones; features follow the images as well.
        network.register_forward_pre_hook(_channels_last)
        for parameter in network.parameters():
            parameter.data = parameter.data.contiguous()
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(network, mesh=mesh)
    _keep_buffers_equal(network)
    return network


def _channels_last(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (images,) = inputs
    return (images.contiguous(memory_format=torch.channels_last),)


def _units(network: Segmenter) -> Iterator[nn.Module]:
    """The smallest blocks of the backbone that have `LEAST` parameters, beside those inside of which a larger one is.

    FSDP gathers a unit when it is called, and some encoders call the parts of a container, not itself: a forward
    tells.
    """
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, _: called.add(module))
        for module in network.backbone().modules()
    ]
    side = max(64, network.minimum_size)
    with evaluating(network):
        network(torch.zeros(1, 3, side, side, device=network.mean.device))
    for handle in handles:
        handle.remove()
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

    def inside(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if sum(p.numel() for p in child.parameters()) < LEAST:
                continue
            if child in called and not isinstance(child, containers):
                yield child
            else:
                yield from inside(child)

    return inside(network.backbone())


def _keep_buffers_equal(network: nn.Module) -> None:
    """Before each forward, every process has the first's BatchNorm statistics, as under DDP.

    So those that a checkpoint holds are those that all train with, and a resumed run is the one that was left alone.
    """
    layers = list(batch_norm_layers(network).values())
    moved = False

    def before(*_: object) -> None:
        nonlocal moved
        if moved:
            copy_from_first(network.buffers())
        moved = torch.is_grad_enabled() and any(layer.training for layer in layers)

    network.register_forward_pre_hook(before)


class WholeCopy:
    """A network of this process alone, with the weights of a sharded one whenever it is filled."""

    def __init__(self, network: nn.Module, sharded: nn.Module) -> None:
        """`network`: the same as `sharded`, not distributed. It is empty until it is filled."""
        self.network = network
        # FSDP puts other tensors in their place while a unit is gathered.
        self._parameters, self._sharded = list(sharded.parameters()), sharded
        self._layouts = [(p.shape, p.stride()) for p in network.parameters()]
        self.empty()

    @torch.no_grad()
    def fill(self) -> nn.Module:
        """The network with the weights as they are now. The processes meet, once for each tensor."""
        own = self.network.parameters()
        for parameter, shared, (shape, stride) in zip(own, self._parameters, self._layouts, strict=True):
            found = whole(shared)
            parameter.data = torch.empty_strided(shape, stride, dtype=found.dtype, device=found.device).copy_(found)
        for buffer, other in zip(self.network.buffers(), self._sharded.buffers(), strict=True):
            buffer.copy_(other)
        return self.network

    def empty(self) -> None:
        """Let go of the memory that its weights take."""
        for parameter in self.network.parameters():
            parameter.data = parameter.data.new_empty(0)


def share_out(method: Method, fabric: Fabric, prepare: Callable[[nn.Module], nn.Module]) -> WholeCopy:
    """Distribute a method's players, and let its optimisers go on with what has become of their parameters.

    Its network stays as it is, empty, and a sharded copy trains in its place; the method is built around the network
    as a whole, and its optimisers know the parameters by name and group, so they are exchanged one by one.
    """
    copies = []
    for attribute, player in method.players().items():
        if isinstance(player, Segmenter):
            ours = copy.deepcopy(player)
            setattr(method, attribute, fabric.setup_module(prepare(ours)))
            _exchange(method, player.parameters(), ours.parameters())
            copies.append(WholeCopy(player, ours))
        else:
            setattr(method, attribute, fabric.setup_module(prepare(player)))
    (one,) = copies
    return one


def _exchange(method: Method, old: Iterable[Tensor], new: Iterable[Tensor]) -> None:
    """Before the first step: an optimiser has no state yet."""
    becomes = dict(zip(old, new, strict=True))
    for entry in method.optimizers().values():
        for group in entry.optimizer.param_groups:
            group["params"] = [becomes.get(parameter, parameter) for parameter in group["params"]]
            # A GPU's fused SGD is not there for shared-out weights.
            group["fused"] = None
