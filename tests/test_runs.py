"""Whole runs on tiny images: every row of the table, and whatever interrupts one, to the bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.tiny import ROUNDS, STEPS, WARMUP_STEPS, Watched, assert_same, losses, rounds, tiny, weights

from segshift import checkpoint, one_run, recipes
from segshift.cli import main
from segshift.errors import ConfigError, DataError, RunError, StoppedError, TrainingError
from segshift.evaluate import Scores
from segshift.methods.source_only import SourceOnly
from segshift.models.network import load_model
from segshift.run_log import RunLog
from segshift.runs import resume, start
from segshift.types import Batch, Losses

COMMAND = (
    "adapt minicity/cbst --settings.accelerator cpu --settings.checkpoint-steps 1 --threads 1 --seed 3 "
    "--network.width 4 --data.minicity.train 4 --data.minicity.test 2 --data.minicity.size 32 64 "
    "--warmup.steps 4 --warmup.batch 2 --warmup.source-view.crop 32 32 --adaptation.rounds 2 --adaptation.steps 4 "
    "--adaptation.batch 2 --adaptation.source-view.crop 32 32 --adaptation.target-view.crop 32 32 --out"
)
LAST = WARMUP_STEPS + ROUNDS * STEPS


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


@pytest.mark.parametrize("name", [row for row in recipes.ROWS if row not in ("iast-source-free", "iast-semi")])
def test_every_row_runs_to_the_end(row: Callable[[str], Path], name: str) -> None:
    run = row(name)
    info = json.loads((run / "run.json").read_text())
    assert (info["label"], info["threads"], info["processes"], info["device"]) == (recipes.LABELS[name], 1, 1, "cpu")
    assert {role: entry["images"] for role, entry in info["data"].items()} == {"source": 5, "target": 5, "test": 5}
    scores = Scores.from_dict(json.loads((run / "evaluation" / "final.json").read_text()))
    assert scores.images == 5
    assert scores.space.classes == ("sky", "hill", "ground", "block", "ball")
    assert (run / "report.html").stat().st_size > 1000
    assert (run / "evaluation" / "warmup.json").exists() is (name != "source-only")
    steps = [entry[2] for entry in losses(run)]
    one_round, aligned = range(WARMUP_STEPS, WARMUP_STEPS + STEPS), range(WARMUP_STEPS + STEPS, LAST + STEPS)
    expected = {
        "source-only": range(WARMUP_STEPS), "adabn": [], "iast": aligned, "category-adaptive": aligned,
        "cpsl": aligned, "cpsl-distill": range(LAST + STEPS, LAST + STEPS + ROUNDS * STEPS),
        **{warmup: one_round for warmup in recipes.WARMUPS if warmup != "source-only"},
    }  # fmt: skip
    assert steps == list(expected.get(name, range(WARMUP_STEPS, LAST)))
    labelled = sorted(folder.name for folder in run.glob("round-*"))
    trained_on_labels = name in ("st", "st-sp", "category-adaptive", "cpsl") or name.startswith(("cbst", "iast"))
    assert labelled == (["round-1", "round-2"] if trained_on_labels else [])
    assert all(len(list((run / folder / "pseudo-labels").iterdir())) == 5 for folder in labelled)
    assert not (run / "scan").exists()
    assert (run / "spatial-prior.png").exists() is (run / "spatial-prior.safetensors").exists() is name.endswith("-sp")


def test_rows_differ_where_their_names_say_so(row: Callable[[str], Path]) -> None:
    rows = [name for name in recipes.ROWS if name != "iast-semi"]
    runs = {name: load_model(row(name)).network.state_dict() for name in rows}
    base = runs["source-only"]
    changed = {
        name: {key for key, tensor in state.items() if not torch.equal(tensor, base[key])}
        for name, state in runs.items()
    }
    statistics = {key for key in base if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert changed["adabn"]
    assert changed["adabn"] <= statistics
    for name in ("st", "st-sp", "cbst", "cbst-sp", "cbst-naive", "oracle"):
        assert "classifier.weight" in changed[name]
    for name in ("st", "cbst"):
        assert not torch.equal(runs[name]["classifier.weight"], runs[f"{name}-sp"]["classifier.weight"])
    theta = json.loads((row("st") / "round-1" / "statistics.json").read_text())["thresholds"]["theta"]
    assert len(set(theta)) == 1
    theta = json.loads((row("cbst") / "round-1" / "statistics.json").read_text())["thresholds"]["theta"]
    assert len(set(theta)) > 1
    assert set(losses(row("oracle"))[0][3]) == {"source", "target (oracle)"}


def test_same_seed_same_weights(cbst: Watched, domains: tuple[Path, Path], tmp_path: Path) -> None:
    assert_same(start(tiny("cbst", *domains, workers=1), tmp_path / "again"), cbst.folder)
    other = start(tiny("source-only", *domains, seed=1), tmp_path / "seed")
    assert weights(other) != weights(start(tiny("source-only", *domains, seed=2), tmp_path / "other"))


def test_a_shared_warmup_changes_nothing(row: Callable[[str], Path], cbst: Watched) -> None:
    shared = row("cbst")
    assert weights(shared) == weights(cbst.folder)
    assert rounds(shared) == rounds(cbst.folder)
    assert losses(shared) == losses(cbst.folder)[WARMUP_STEPS:]
    name = Path("evaluation") / "warmup.json"
    assert (shared / name).read_bytes() == (cbst.folder / name).read_bytes()


# Each step, the start of each round, the end of each phase.
@pytest.mark.parametrize("number", range(WARMUP_STEPS + 1 + ROUNDS * (STEPS + 1) + 1 + 1))
def test_resume_from_every_checkpoint(cbst: Watched, number: int, tmp_path: Path) -> None:
    assert len(cbst.copies) == WARMUP_STEPS + 1 + ROUNDS * (STEPS + 1) + 1 + 1
    run = copied(cbst.copies[number], tmp_path / "run")
    # Older ones cannot help out.
    for path in sorted((run / "checkpoints").iterdir())[:-1]:
        path.unlink()
    assert_same(resume(run), cbst.folder)


def test_a_kill_before_the_first_checkpoint(cbst: Watched, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(cbst.folder / "run.json", run)
    (run / "log.jsonl").write_text((cbst.folder / "log.jsonl").read_text()[:-20])
    assert_same(resume(run), cbst.folder)


def test_a_finished_run_is_left_as_it_is(cbst: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(cbst.folder, tmp_path / "run")
    monkeypatch.setattr(checkpoint, "save", None)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name.endswith((".safetensors", ".png"))}
    assert_same(resume(run), cbst.folder)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_kill_while_the_model_is_saved(
    cbst: Watched, domains: tuple[Path, Path], source_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(one_run, "save_model", killed)
        start(tiny("cbst", *domains), tmp_path / "run", source_only)
    assert weights(resume(tmp_path / "run")) == weights(cbst.folder)


def test_a_damaged_checkpoint_is_passed_over(cbst: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(cbst.copies[8], tmp_path / "run")
    *_, before, newest = sorted((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])
    assert_same(resume(run), cbst.folder)
    said = capsys.readouterr().out
    assert str(newest) in said
    assert f"resuming at step {int(before.stem[-6:])}, from {before}" in said


def test_a_round_is_not_gone_on_with_without_its_labels(cbst: Watched, tmp_path: Path) -> None:
    first = [copy for copy in cbst.copies if (copy / "round-1").exists() and not (copy / "round-2").exists()][-1]
    run = copied(first, tmp_path / "run")
    (run / "round-1" / "statistics.json").unlink()
    # The oldest checkpoint is of the warm-up, from which the round is begun again.
    assert_same(resume(run), cbst.folder)
    run = copied(first, tmp_path / "other")
    sorted((run / "checkpoints").iterdir())[0].unlink()
    for path in (run / "round-1" / "pseudo-labels").iterdir():
        path.unlink()
    with pytest.raises(RunError, match=r"dusk_00\d\.png: does not exist.*(?s:.*)Put back what is damaged or gone"):
        resume(run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(
    cbst: Watched,
    domains: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    append, at = RunLog.append, WARMUP_STEPS + 1

    def append_and_signal(log: RunLog, entry: dict[str, Any]) -> None:
        append(log, entry)
        if entry["step"] == at:
            signal.raise_signal(number)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    recipe = tiny("cbst", *domains, checkpoint_steps=None, checkpoint_share=0)
    with (
        monkeypatch.context() as patch,
        pytest.raises(StoppedError, match=f"{number.name}: .* after step {at}; .* resume"),
    ):
        patch.setattr(RunLog, "append", append_and_signal)
        start(recipe, tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    path = checkpoint.latest(tmp_path / "run" / "checkpoints").path
    assert path is not None
    assert checkpoint.load(path)["position"]["t"] == at + 1
    assert_same(resume(tmp_path / "run"), cbst.folder)


@pytest.mark.slow
def test_a_kill_of_the_command(tmp_path: Path) -> None:
    """SIGKILL in the middle of `segshift adapt`, then `segshift resume`: what an uninterrupted run gives."""
    words = COMMAND.split()
    run = tmp_path / "killed"
    program = "import sys; from segshift.cli import main; sys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", program, *words, str(run)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "step-000006.safetensors").exists():
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "model").exists()
    assert main(["resume", str(run)]) == 0
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert_same(run, tmp_path / "whole")


def test_a_loss_that_is_no_number(
    cbst: Watched, domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = SourceOnly.step

    def diverging(method: SourceOnly, batch: Batch, t: int) -> Iterator[Losses]:
        for found in step(method, batch, t):
            yield {**found, "other": found["source"] * (torch.nan if t == 2 else 0)}

    with monkeypatch.context() as patch, pytest.raises(TrainingError) as error:
        patch.setattr(SourceOnly, "step", diverging)
        start(tiny("cbst", *domains), tmp_path / "run")
    path = checkpoint.latest(tmp_path / "run" / "checkpoints").path
    assert "step 2: loss other = nan" in str(error.value)
    assert f"Last good checkpoint: {path}" in str(error.value)
    assert "day_00" in str(error.value)
    assert path is not None
    assert checkpoint.load(path)["position"]["t"] == 2
    # Nothing of the bad step is kept: with the fault mended, the run ends where it should.
    assert weights(resume(tmp_path / "run")) == weights(cbst.folder)


def test_changed_data_is_an_error(cbst: Watched, domains: tuple[Path, Path], tmp_path: Path) -> None:
    day, dusk = (copied(folder, tmp_path / folder.name) for folder in domains)
    run = copied(cbst.copies[3], tmp_path / "run")
    info = json.loads((run / "run.json").read_text())
    info["recipe"]["data"] |= {"source": str(day), "target": str(dusk)}
    (run / "run.json").write_text(json.dumps(info))
    for kind in ("images", "labels"):
        next((dusk / "train" / kind).iterdir()).unlink()
    with pytest.raises(RunError, match="the target images have changed"):
        resume(run)


def test_an_existing_run_is_kept(cbst: Watched, domains: tuple[Path, Path]) -> None:
    before = (cbst.folder / "run.json").read_bytes()
    with pytest.raises(RunError, match="holds a run already; go on with `segshift resume"):
        start(tiny("cbst", *domains), cbst.folder)
    assert (cbst.folder / "run.json").read_bytes() == before


def test_wrong_input_is_an_error_before_the_first_step(domains: tuple[Path, Path], tmp_path: Path) -> None:
    day, dusk = domains
    with pytest.raises(ConfigError, match="source-only is a warm-up itself"):
        start(tiny("source-only", day, dusk), tmp_path / "a", warmup=tmp_path)
    with pytest.raises(RunError, match=r"missing is not a run folder: .*missing/run\.json is missing"):
        resume(tmp_path / "missing")
    with pytest.raises(ConfigError, match=r"accelerator = abacus.*auto takes a GPU"):
        start(tiny("cbst", day, dusk, accelerator="abacus"), tmp_path / "a")
    broken = copied(day, tmp_path / "broken")
    (broken / "train" / "images" / "day_001.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"source: 1 of .*\n.*day_001\.jpg"):
        start(tiny("source-only", broken, dusk), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    wide = replace(tiny("cbst", day, dusk), network=replace(tiny("cbst", day, dusk).network, width=8))
    run = start(tiny("source-only", day, dusk), tmp_path / "narrow")
    with pytest.raises(RunError, match="holds another network than the recipe's"):
        start(wide, tmp_path / "b", warmup=run)


def test_an_oracle_stands_in_the_report(row: Callable[[str], Path], domains: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = tiny("adabn", *domains)
    run = start(recipe, tmp_path / "run", row("source-only"), oracle=row("oracle"))
    labels = [entry["label"] for entry in json.loads((run / "results.json").read_text())["rows"]]
    assert labels == ["source-only", "AdaBN", "oracle (target labels)"]


def test_without_a_test_set_nothing_is_scored(domains: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(domains[1] / "train", tmp_path / "dusk" / "train")
    shutil.rmtree(tmp_path / "dusk" / "train" / "labels")
    run = start(tiny("cbst", domains[0], tmp_path / "dusk"), tmp_path / "run")
    assert not (run / "evaluation").exists()
    assert load_file(run / "model" / "model.safetensors")
    assert "No model was scored" in (run / "report.html").read_text()
