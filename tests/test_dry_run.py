"""A run tried before it begins: what it says, and that it leaves nothing."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.tiny import tiny

from segshift.cli import main
from segshift.dry_run import PhaseCost, Plan, dry_run
from segshift.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def plan(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    recipe = tiny("cbst", *domains)
    longer = replace(recipe.warmup, steps=1000)
    return dry_run(replace(recipe, warmup=longer), tmp_path_factory.mktemp("dry") / "run")


def test_time_is_that_of_all_steps(plan: Plan) -> None:
    warmup, adaptation = plan.phases
    assert (warmup.name, warmup.rounds, warmup.steps) == ("warmup", 1, 1000)
    assert (adaptation.name, adaptation.rounds, adaptation.steps) == ("adaptation", 2, 2)
    assert warmup.seconds >= 1000 * warmup.step_seconds > 0
    assert adaptation.round_seconds > 0 and adaptation.other_seconds > 0
    assert plan.seconds >= sum(phase.seconds for phase in plan.phases)


def test_disk_is_that_of_all_rounds_and_kept_checkpoints(plan: Plan) -> None:
    settings = plan.recipe.settings
    # Adam keeps two numbers beside each weight of four bytes.
    assert plan.checkpoint_bytes > 3 * 4 * plan.parameters
    assert plan.model_bytes > 4 * plan.parameters
    assert plan.label_bytes > 0
    assert plan.disk == settings.keep * plan.checkpoint_bytes + plan.label_bytes + plan.model_bytes
    assert plan.memory > 2**25


def test_the_plan_names_what_will_run(plan: Plan) -> None:
    text = "\n".join(plan.lines())
    for words in ("SmallNet", "5 source images", "1 round(s) of 1000 steps", "2 round(s) of 2 steps", "batches of 2",
                  "source 32x32, target 32x32", "nothing of it is kept"):  # fmt: skip
        assert words in text


def test_seconds_of_a_phase_by_hand() -> None:
    assert PhaseCost("adaptation", 3, 10, 0.5, 2.0, 4.0).seconds == 3 * (10 * 0.5 + 2) + 4


def test_data_is_checked_as_the_run_would(domains: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tiny("cbst", domains[0], tmp_path)
    with pytest.raises(DataError):
        dry_run(recipe, tmp_path / "run")


@pytest.mark.slow
def test_the_command_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    words = ["adapt", "minicity/st", "--dry-run", "--threads", "1", "--data.minicity.train", "4"]
    words += ["--data.minicity.test", "2", "--warmup.batch", "2", "--adaptation.batch", "2", "--network.width", "4"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "4 target images" in said and "time: about" in said
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_choosing_by_what_is_not_there_is_said_now(domains: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tiny("cbst", *domains, select="source")
    with pytest.raises(ConfigError, match="select = source"):
        dry_run(replace(recipe, data=replace(recipe.data, source_split="test")), tmp_path / "run")
