"""Who has started a process, by its variables; and a launcher that has started other processes than were asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from tests.fakes.tiny import tiny

from segshift import launch as launch_module
from segshift.errors import ConfigError, RunError
from segshift.launch import changed_processes, environment_of, launch, require_shared
from segshift.launcher import Launcher, launcher
from segshift.phase import Settings

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1", "MASTER_ADDR": "node-0", "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "adapt", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1",
    "SLURM_NODELIST": "node[07-08]",
}  # fmt: skip
TORCHRUN_SAYS, SRUN_SAYS = Launcher("torchrun", 3, 4, 2), Launcher("srun", 2, 4, 2)


def without(variables: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in variables.items() if key != name}


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        (TORCHRUN, TORCHRUN_SAYS),
        (SRUN, SRUN_SAYS),
        # torchrun, one task a node.
        (SRUN | TORCHRUN, TORCHRUN_SAYS),
        (without(SRUN, "SLURM_NTASKS_PER_NODE"), Launcher("srun", 2, 4, None)),
        # A script's own shell: the job may start four tasks, and has started none.
        (without(SRUN, "SLURM_STEP_ID"), None),
        # Shells on a node.
        (SRUN | {"SLURM_JOB_NAME": "bash"}, None),
        (SRUN | {"SLURM_JOB_NAME": "interactive"}, None),
        # One task, which may start further processes itself.
        (SRUN | {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}, None),
    ],
)
def test_a_launcher_is_known_by_its_variables(variables: dict[str, str], found: Launcher | None) -> None:
    assert launcher(variables) == found


def test_nodes_follow_from_the_processes_of_one() -> None:
    assert (TORCHRUN_SAYS.nodes, SRUN_SAYS._replace(on_node=None).nodes, SRUN_SAYS._replace(on_node=3).nodes) == (
        2, None, None,
    )  # fmt: skip


def as_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in {*TORCHRUN, *SRUN} & os.environ.keys():
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        (TORCHRUN, TorchElasticEnvironment),
        (SRUN, SLURMEnvironment),
        (SRUN | {"SLURM_JOB_NAME": "bash"}, LightningEnvironment),
        (without(SRUN, "SLURM_STEP_ID"), LightningEnvironment),
        ({}, type(None)),
    ],
)
def test_lightning_is_told_the_same(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kind: type) -> None:
    as_variables(monkeypatch, variables)
    found = environment_of(launcher(variables))
    assert type(found) is kind
    if isinstance(found, SLURMEnvironment | TorchElasticEnvironment):
        said = launcher(variables)
        assert said is not None
        assert (found.world_size(), found.global_rank(), found.node_rank()) == (said.world, said.rank, 1)
        assert found.creates_processes_externally
        assert found.main_address in ("node-0", "node07")


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "message"),
    [
        (
            TORCHRUN,
            1,
            1,
            "torchrun has started 4 processes, 2 of them on this node; nodes = 1, devices = 1 ask for 1. ",
        ),
        (
            TORCHRUN,
            4,
            1,
            "nodes = 1, devices = 4 ask for 4. Expected the same: change the settings (--settings.nodes 2 ",
        ),
        (SRUN, 2, 4, "srun has started 4 processes, 2 of them on this node; nodes = 4, devices = 2 ask for 8. "),
        (
            without(SRUN, "SLURM_NTASKS_PER_NODE"),
            2,
            1,
            "srun has started 4 processes; nodes = 1, devices = 2 ask for 2",
        ),
    ],
)
def test_another_number_of_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], devices: int, nodes: int, message: str
) -> None:
    """The first process names both; the others wait for it to be heard, and say nothing."""
    recipe = tiny("source-only", Path("a"), Path("b"), devices=devices, nodes=nodes)
    rank = "RANK" if variables is TORCHRUN else "SLURM_PROCID"
    as_variables(monkeypatch, variables | {rank: "0"})
    with pytest.raises(ConfigError) as caught:
        launch(recipe)
    assert message in str(caught.value)
    monkeypatch.setenv(rank, "1")
    monkeypatch.setattr(launch_module, "PATIENCE", 0.0)
    with pytest.raises(SystemExit, match="1"):
        launch(recipe)


def test_tasks_that_slurm_spreads_as_it_likes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning counts on as many on each node."""
    as_variables(monkeypatch, without(SRUN, "SLURM_NTASKS_PER_NODE"))
    with pytest.raises(ConfigError, match=r"srun: .*Expected --ntasks-per-node"):
        launch(tiny("source-only", Path("a"), Path("b"), devices=2, nodes=2))


def test_what_does_not_go_together_is_refused() -> None:
    recipe = tiny("source-only", Path("a"), Path("b"), devices=2, strategy="fsdp", compile=True)
    with pytest.raises(ConfigError, match=r"strategy = fsdp, compile = True: .*expected one of the two"):
        launch(recipe)


def test_a_folder_that_a_node_does_not_share(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{tmp_path}: .* does not see the run.json .*--out"):
        require_shared(tmp_path, patience=0.0)
    (tmp_path / "run.json").touch()
    require_shared(tmp_path, patience=0.0)


def test_what_has_changed_of_the_processes() -> None:
    then = Settings(devices=2, strategy="fsdp")
    assert changed_processes(then, then) == []
    assert changed_processes(then, replace(then, devices=1, nodes=4, strategy="ddp")) == [
        "devices was 2, is 1",
        "nodes was 1, is 4",
        "strategy was fsdp, is ddp",
    ]
