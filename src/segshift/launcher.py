"""Who has started the processes of a run: torchrun, SLURM's srun, or the first of them itself. Read from variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Launcher(NamedTuple):
    """A program that has started all processes of a run, and what it says of this one."""

    name: str
    """torchrun or srun."""
    rank: int
    """Of this process, from 0 on all nodes together."""
    world: int
    """Processes in all."""
    on_node: int | None
    """Processes on this node; None where it is not said."""

    @property
    def nodes(self) -> int | None:
        """How many nodes there are, if each has as many processes as this one."""
        return None if not self.on_node or self.world % self.on_node else self.world // self.on_node


def launcher(variables: Mapping[str, str]) -> Launcher | None:
    """The launcher that an environment tells of; None: this process is to start others itself, if it needs any.

    That holds for a SLURM job as well whose script or shell runs the command without srun, or with one task: its
    variables say how many tasks the job may start, not that they are started. A shell that srun itself has started
    (`srun --pty bash`) is known by its job's name, bash or interactive, as Lightning has it too.
    """
    if "TORCHELASTIC_RUN_ID" in variables:
        world, on_node = int(variables["WORLD_SIZE"]), int(variables["LOCAL_WORLD_SIZE"])
        return Launcher("torchrun", int(variables["RANK"]), world, on_node)
    tasks = int(variables.get("SLURM_NTASKS", "1"))
    in_step = "SLURM_STEP_ID" in variables and variables.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    if not in_step or tasks == 1:
        return None
    on_node = variables.get("SLURM_NTASKS_PER_NODE")
    return Launcher("srun", int(variables["SLURM_PROCID"]), tasks, None if on_node is None else int(on_node))
