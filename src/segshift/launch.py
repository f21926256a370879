"""The processes of a run: started together, ended together, with one message whichever of them fails."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from segshift.children import LOST, STARTED_BY, STOPPED, UNKNOWN, Children, Parent, with_advice
from segshift.errors import ConfigError, RunError, SegshiftError, StoppedError
from segshift.launcher import Launcher, launcher
from segshift.phase import Settings
from segshift.recipe import Recipe
from segshift.sharding import distribute

T = TypeVar("T", bound=threading.Thread)
PATIENCE = 30.0
"""Seconds in which the first process of a launcher has come to say what is wrong with its number of processes."""
NOTICE = 10.0
"""Seconds that the first process waits for the failure of another to show, once their group is broken."""


def launch(recipe: Recipe) -> Fabric:
    """Start the processes of a run: each further one runs the same command, and comes by here too.

    Where a launcher has started them already (torchrun, SLURM's srun), they only meet. Raises ConfigError where the
    machine has no such devices or the launcher started another number of processes, RunError where the processes do
    not find one another within `Settings.timeout`.
    """
    settings = recipe.settings
    started = launcher(os.environ)
    _require_same_processes(settings, started)
    alone = settings.devices * settings.nodes == 1
    together_by = _strategy(recipe)
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="auto" if alone else together_by,
            precision=settings.precision,
            plugins=environment_of(started),
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
            "MASTER_PORT, and that all are started within --settings.timeout seconds (in a SLURM job: by srun)"
        ) from error
    # After the launch, which sets a number of its own choice.
    torch.set_num_threads(settings.threads)
    return fabric


def _require_same_processes(settings: Settings, started: Launcher | None) -> None:
    """ConfigError where a launcher has started other processes than the settings ask for; the first one says so."""
    if started is None:
        return
    fits = started.world == settings.devices * settings.nodes and started.on_node in (None, settings.devices)
    if fits:
        return
    if started.rank:
        # The launcher ends all when one has ended, and the first may not have said it yet.
        time.sleep(PATIENCE)
        raise SystemExit(1)
    here = "" if started.on_node is None else f", {started.on_node} of them on this node"
    cure = "" if started.nodes is None else f" (--settings.nodes {started.nodes} --settings.devices {started.on_node})"
    raise ConfigError(
        f"{started.name} has started {started.world} process{'' if started.world == 1 else 'es'}{here}; nodes = "
        f"{settings.nodes}, devices = {settings.devices} ask for {settings.nodes * settings.devices}. Expected the "
        f"same: change the settings{cure}, or what {started.name} is told"
    )


def _strategy(recipe: Recipe) -> DDPStrategy | ModelParallelStrategy:
    settings = recipe.settings
    timeout = timedelta(seconds=settings.timeout)
    # A method may leave an auxiliary classifier out of its losses, and no process waits for gradients of it then.
    unused = getattr(recipe.network, "auxiliary", False)
    if settings.strategy == "fsdp":
        if settings.compile:
            raise ConfigError(
                "strategy = fsdp, compile = True: the compiler does not follow weights that are gathered and let go "
                "within a forward; expected one of the two"
            )
        world = settings.devices * settings.nodes
        return ModelParallelStrategy(distribute(unused), world, tensor_parallel_size=1, timeout=timeout)
    return DDPStrategy(timeout=timeout, find_unused_parameters=unused)


def environment_of(started: Launcher | None) -> ClusterEnvironment | None:
    """How the processes find one another; None: as Lightning finds out."""
    if started is not None:
        return TorchElasticEnvironment() if started.name == "torchrun" else _srun()
    # Lightning takes every job of SLURM for one that srun has started.
    return LightningEnvironment() if "SLURM_JOB_ID" in os.environ else None


def _srun() -> SLURMEnvironment:
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise ConfigError(f"srun: {error} Expected --ntasks-per-node, with --nodes") from error


def _start_others(strategy: DDPStrategy | ModelParallelStrategy, nodes: int) -> None:
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


def changed_processes(then: Settings, now: Settings) -> list[str]:
    """What has changed of the processes since a run began, as sentences."""
    names = ("devices", "nodes", "strategy")
    pairs = [(name, getattr(then, name), getattr(now, name)) for name in names]
    return [f"{name} was {before}, is {after}" for name, before, after in pairs if before != after]


def require_shared(folder: Path, patience: float = 60.0) -> None:
    """RunError where this process does not see, within `patience` seconds, the `run.json` that the first has written.

    A network disk may take so long.
    """
    until = time.monotonic() + patience
    while not (folder / "run.json").exists():
        if time.monotonic() > until:
            raise RunError(
                f"{folder}: {platform.node()} does not see the run.json that the first process has written there; "
                "expected a folder on a disk that all nodes share: choose another --out"
            )
        time.sleep(0.1)


@contextmanager
def together(world: int, folder: Path) -> Iterator[None]:
    """What several processes do in one run folder: where one fails, all end, and the user reads why, once.

    The first process raises its own error, or RunError in place of a broken group's; the others give theirs to it and
    leave with SystemExit. Of processes that a launcher has started, the one that fails first raises its error, and the
    others leave. `world`: how many processes there are; with one this does nothing.
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
        if children is None:
            _leave_unless_first(error, broken)
        fate = children.fate(NOTICE) if broken and children is not None else None
        if children is not None:
            # Those that fail alike, or stop, get to their end; one that waits for this process never would.
            children.end(2.0)
        if not broken:
            raise
        raise RunError(with_advice(str(fate or f"{UNKNOWN} ({_first_line(error)})"), folder)) from error


def _leave_unless_first(error: BaseException, broken: bool) -> None:
    """SystemExit where another process says why the run has ended. A fault in the program is shown by each."""
    if not dist.is_initialized():
        return
    rank = dist.get_rank()
    if isinstance(error, StoppedError | KeyboardInterrupt):  # on which all agree
        if rank > 0:
            raise SystemExit(STOPPED) from None
        return
    try:
        first = dist.distributed_c10d._get_default_store().add("segshift has failed", 1) == 1
    except RuntimeError:
        # Where the processes have met has ended: the first process itself, or its launcher.
        first = rank == 1
    if not first and (broken or isinstance(error, SegshiftError)):
        time.sleep(1.0)  # a launcher ends all when one has ended, and the first may not have said it yet
        raise SystemExit(LOST if broken else 1) from None


def is_broken(error: BaseException) -> bool:
    """Whether an error is that of a group of processes of which one is gone, or has not answered in time."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _thread(kind: type[T]) -> T | None:
    """This process's thread of a kind. One process has one group, however many runs it makes."""
    return next((thread for thread in threading.enumerate() if isinstance(thread, kind)), None)
