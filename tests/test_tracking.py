"""What trackers are told: the numbers of log.jsonl, once each, whatever becomes of the tracker."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fakes.tiny import Watched, tiny, watched, weights

from segshift import tracking
from segshift.errors import ConfigError
from segshift.run_log import RunLog
from segshift.runs import resume, start
from segshift.tracking import Trackers

ENTRY = {"phase": "warmup", "round": 1, "step": 7, "seconds": 0.5, "lr": 0.01, "losses": {"source": 2.0}}


def read_back(run: Path) -> Any:
    """The event files of a run, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 100, "scalars": 0})
    return events.Reload()


def curve(events: Any, name: str) -> list[tuple[int, Any]]:
    return [(event.step, pytest.approx(event.value, rel=1e-5)) for event in events.Scalars(name)]


@pytest.fixture(scope="module")
def tracked(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    recipe = tiny("cbst", *domains, track=("tensorboard",), candidates_every=0)
    return watched(recipe, tmp_path_factory.mktemp("tracked") / "run")


def assert_told(run: Path) -> None:
    events = read_back(run)
    log = RunLog(run / "log.jsonl").read()
    for phase in ("warmup", "adaptation"):
        lines = [line for line in log if line["phase"] == phase]
        for loss in lines[0]["losses"]:
            assert curve(events, f"{phase}/loss/{loss}") == [(line["step"], line["losses"][loss]) for line in lines]
        assert curve(events, f"{phase}/lr") == [(line["step"], line["lr"]) for line in lines]
    shares = [json.loads((run / f"round-{n}" / "statistics.json").read_text())["coverage"] for n in (1, 2)]
    assert curve(events, "adaptation/coverage") == [(3, shares[0]), (5, shares[1])]
    scored = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    assert curve(events, "label-free/snd") == [(line["step"], line["scores"]["snd"]) for line in scored]
    final = json.loads((run / "evaluation" / "final.json").read_text())
    assert curve(events, "test/miou")[-1] == (7, final["miou"]["all"])


def test_tensorboard_holds_the_log(tracked: Watched) -> None:
    assert_told(tracked.folder)
    assert any(name.endswith("/final") for name in read_back(tracked.folder).Tags()["images"])


def test_a_resumed_run_tells_no_step_twice(tracked: Watched, tmp_path: Path) -> None:
    copy = next(copy for copy in tracked.copies if copy.name.endswith("step-000004"))
    # A kill comes later than the checkpoint: the steps that are taken again have been told already.
    again = Path(shutil.copytree(copy, tmp_path / "run"))
    shutil.rmtree(again / "tensorboard")
    shutil.copytree(tracked.folder / "tensorboard", again / "tensorboard")
    resume(again)
    assert weights(again) == weights(tracked.folder)
    assert len(list((again / "tensorboard").iterdir())) == 2
    assert_told(again)


class Broken:
    closed = 0

    def __init__(self, folder: Path, started: str, step: int) -> None:
        self.told = 0

    def scalars(self, values: Any, step: int) -> None:
        self.told += 1
        if self.told == 2:
            raise OSError("the disk is full")

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        raise AssertionError("told after it had failed")

    def close(self) -> None:
        raise AssertionError("closed after it had failed")


def test_a_tracker_that_fails_is_said_once_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking._KINDS, "wandb", Broken)
    said: list[str] = []
    trackers = Trackers(tmp_path, ("wandb",), said.append)
    trackers.start("now", 0)
    for _ in range(4):
        trackers.step(ENTRY)
    trackers.images([("a", np.zeros((2, 2, 3), np.uint8))], 1)
    trackers.close()
    assert said == ["warning: wandb is not told any more (OSError: the disk is full); the run goes on without it"]


def test_a_missing_library_is_named_before_the_first_step(
    domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r'track = wandb needs the library wandb.*pip install "segshift\[wandb\]"'):
        start(tiny("cbst", *domains, track=("wandb",)), tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_nothing_is_imported_that_nobody_asked_for() -> None:
    code = (
        "import sys, segshift.tracking; print([m for m in ('tensorboard', 'wandb', 'tensorflow') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
import numpy as np
from segshift.tracking import Trackers
for step in (7, 9):
    trackers = Trackers(Path({str(tmp_path)!r}), ("wandb",))
    trackers.start("2025", step)
    trackers.step({ENTRY!r} | {{"step": step}})
    trackers.images([("a", np.zeros((4, 4, 3), np.uint8))], step)
    trackers.close()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "warning" not in found.stdout
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    assert b"warmup/loss/source" in files[0].read_bytes()
