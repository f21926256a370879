"""The processes of a run: started together, ended together, with one message whichever of them fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from segshift.children import STARTED_BY, UNKNOWN, Children, Parent, with_advice
from segshift.errors import ConfigError, RunError
from segshift.recipe import Recipe

T = TypeVar("T", bound=threading.Thread)
NOTICE = 10.0
"""Seconds that the first process waits for the failure of another to show, once their group is broken."""


def launch(recipe: Recipe) -> Fabric:
    """Start the processes of a run: each further one runs the same command, and comes by here too.

    Where a launcher has started them already (torchrun, SLURM), they only meet. Raises ConfigError where the machine
    has no such devices, RunError where the processes do not find one another within `Settings.timeout`.
    """
    settings = recipe.settings
    alone = settings.devices * settings.nodes == 1
    # A method may leave an auxiliary classifier out of its losses, and no process waits for gradients of it then.
    unused = getattr(recipe.network, "auxiliary", False)
    together_by = DDPStrategy(timeout=timedelta(seconds=settings.timeout), find_unused_parameters=unused)
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="auto" if alone else together_by,
            precision=settings.precision,
        )
    except (ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise ConfigError(
            f"accelerator = {settings.accelerator}, devices = {settings.devices}: {error} Expected what this machine "
            "has; auto takes a GPU where there is one, else cpu"
        ) from error
    if not alone:
        _start_others(together_by, settings.nodes)
    try:
        fabric.launch()
    except dist.DistError as error:
        raise RunError(
            f"the {settings.devices * settings.nodes} processes of this run do not find one another "
            f"({_first_line(error)}); expected that they reach the address and the port in MASTER_ADDR and "
            "MASTER_PORT, and that all are started within --settings.timeout seconds"
        ) from error
    # After the launch, which sets a number of its own choice.
    torch.set_num_threads(settings.threads)
    return fabric


def _start_others(strategy: DDPStrategy, nodes: int) -> None:
    """The processes of this machine but the first, unless they are there. LOCAL_RANK tells Lightning that they are."""
    if dist.is_initialized():
        return
    group, count = strategy.cluster_environment, strategy.num_processes
    assert group is not None
    if STARTED_BY in os.environ:
        Parent(group.local_rank())
    elif not group.creates_processes_externally and count > 1:
        os.environ |= {
            "MASTER_ADDR": group.main_address,
            "MASTER_PORT": str(group.main_port),
            "NODE_RANK": str(group.node_rank()),
            "WORLD_SIZE": str(count * nodes),
            "LOCAL_RANK": "0",
        }
        Children({"LOCAL_RANK": str(rank)} for rank in range(1, count))


@contextmanager
def together(world: int, folder: Path) -> Iterator[None]:
    """What several processes do in one run folder: where one fails, all end, and the user reads why, once.

    The first process raises its own error, or RunError in place of a broken group's; the others give theirs to it and
    leave with SystemExit. `world`: how many processes there are; with one this does nothing.
    """
    if world == 1:
        yield
        return
    parent, children = _thread(Parent), _thread(Children)
    for thread in (parent, children):
        if thread is not None:
            thread.folder = folder
    try:
        yield
    except BaseException as error:
        broken = is_broken(error)
        if parent is not None:
            parent.leave(error, broken)
        fate = children.fate(NOTICE) if broken and children is not None else None
        if children is not None:
            # Those that fail alike, or stop, get to their end; one that waits for this process never would.
            children.end(2.0)
        if not broken:
            raise
        raise RunError(with_advice(str(fate or f"{UNKNOWN} ({_first_line(error)})"), folder)) from error


def is_broken(error: BaseException) -> bool:
    """Whether an error is that of a group of processes of which one is gone, or has not answered in time."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _thread(kind: type[T]) -> T | None:
    """This process's thread of a kind. One process has one group, however many runs it makes."""
    return next((thread for thread in threading.enumerate() if isinstance(thread, kind)), None)
