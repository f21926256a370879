"""Where a run goes on from: never from another run's checkpoint, or with labels that it was not trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny import Watched

from segshift import checkpoint
from segshift.checkpoint import Latest
from segshift.errors import RunError
from segshift.resumption import resume_point
from segshift.runs import recipe_of, resume
from segshift.snapshot import FORMAT, Position, round_folder

CLASSES = 4


def found(run: Path, **settings: Any) -> Latest:
    recipe = recipe_of(run)
    recipe = replace(recipe, settings=replace(recipe.settings, **settings))
    names = tuple(path.stem for path in sorted((run / "round-1" / "pseudo-labels").iterdir()))
    return resume_point(run, recipe, CLASSES, names)


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def rewritten(run: Path, change: Callable[[dict[str, Any]], Any], count: int = 1) -> None:
    """Change the state in the newest `count` checkpoints; they stay whole files."""
    for path in sorted((run / "checkpoints").iterdir())[-count:]:
        checkpoint.save(path, change(checkpoint.load(path)))


@pytest.fixture
def run(cbst: Watched, tmp_path: Path) -> Path:
    """A run as a kill in its second round left it: a checkpoint of the first round is still there."""
    for copy in cbst.copies:
        rounds = [checkpoint.load(path)["position"]["round"] for path in sorted((copy / "checkpoints").iterdir())]
        if (copy / "round-2").exists() and rounds[-1] == 2 and 1 in rounds:
            return Path(shutil.copytree(copy, tmp_path / "run"))
    raise AssertionError("no such copy")


def test_the_newest_of_a_run_left_alone(run: Path) -> None:
    path, state, warning = found(run)
    assert (path, warning) == (newest(run), "")
    assert Position(**state["position"]).round == 2
    assert found(run, workers=3, keep=9).path == path  # how a run is executed is no other recipe


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": FORMAT + 1}, rf"has format {FORMAT + 1}, .* reads format {FORMAT}; .*run.json names it"),
        ({"format": None}, r"has format None"),
        (
            {"recipe": "2-0123456789ab"},
            r"is of another recipe: 2-0123456789ab, run.json's is 2-.*put the run.json back",
        ),
        ({"seed": 5}, r"is of another seed: 5, run.json's is 0"),
        ({"position": None}, r"holds no state of a training"),
    ],
)
def test_one_that_is_not_this_runs_is_passed_over(run: Path, change: dict[str, Any], text: str) -> None:
    strange = newest(run)

    def changed(state: dict[str, Any]) -> dict[str, Any]:
        state |= change
        return {key: value for key, value in state.items() if key != "position" or value is not None}

    rewritten(run, changed)
    path, _, warning = found(run)
    assert path == sorted((run / "checkpoints").iterdir())[-2]
    assert warning.startswith(f"{strange}: ")
    rewritten(run, changed, count=99)
    with pytest.raises(RunError, match=rf"(?s)holds no checkpoint that the run could go on from:.*{text}.*begins anew"):
        found(run)


def test_another_seed_or_recipe_in_run_json_fits_no_checkpoint(run: Path) -> None:
    with pytest.raises(RunError, match=r"is of another seed: 0, run\.json's is 1"):
        found(run, seed=1)
    recipe = recipe_of(run)
    assert recipe.adaptation is not None
    longer = replace(recipe, adaptation=replace(recipe.adaptation, steps=3))
    with pytest.raises(RunError, match="is of another recipe"):
        resume_point(run, longer, CLASSES, ())


def test_labels_that_are_gone_lead_back_to_the_round_before(run: Path) -> None:
    gone = sorted((round_folder(run, "adaptation", 2) / "pseudo-labels").iterdir())[1]
    gone.unlink()
    path, state, warning = found(run)
    assert path is not None
    assert state["position"]["round"] == 1
    assert str(newest(run)) in warning
    assert gone.name in warning
    (round_folder(run, "adaptation", 1) / "statistics.json").unlink()
    with pytest.raises(RunError, match=r"(?s)round-2.*round-1"):
        found(run)


def test_a_label_swapped_for_another_is_noticed(run: Path) -> None:
    first, second, *_ = sorted((round_folder(run, "adaptation", 2) / "pseudo-labels").iterdir())
    assert first.read_bytes() != second.read_bytes()
    first.write_bytes(second.read_bytes())
    assert found(run).state["position"]["round"] == 1


def test_a_run_without_checkpoints_begins_at_its_start(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert found(run) == (None, None, "")


@pytest.mark.parametrize("begun", [False, True], ids=["before the first checkpoint", "later"])
def test_what_has_changed_on_the_machine_is_said_and_kept(
    cbst: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str], begun: bool
) -> None:
    run = Path(shutil.copytree(cbst.copies[-2], tmp_path / "run"))
    if not begun:
        shutil.rmtree(run / "checkpoints")
    info = json.loads((run / "run.json").read_text())
    assert "resumed" not in info
    info["environment"]["libraries"]["torch"] = "1.0"
    (run / "run.json").write_text(json.dumps(info))
    resume(run)
    assert "warning: torch was 1.0, is " in capsys.readouterr().out
    (resumed,) = json.loads((run / "run.json").read_text())["resumed"]
    assert resumed["step"] > 0 if begun else resumed["step"] == 0
    assert [text.partition(",")[0] for text in resumed["changed"]] == ["torch was 1.0"]
    assert "torch was 1.0" in (run / "report.html").read_text()
