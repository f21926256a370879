"""Runs whose files were damaged, deleted or exchanged between two processes.

A run goes on from an older checkpoint and ends as if nothing had happened, to the bit; or says what is wrong. It never
ends otherwise.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.tiny import ROUNDS, STEPS, WARMUP_STEPS, Watched, assert_same, tiny, watched, weights
from tests.faults.aims import kind_of

from segshift import checkpoint
from segshift.cli import main
from segshift.data.files import read_label
from segshift.data.pseudo_labels import PseudoLabels
from segshift.errors import RunError, SegshiftError
from segshift.models.network import load_model
from segshift.runs import resume, start

NOW = WARMUP_STEPS + (ROUNDS - 1) * STEPS + 1
"""The step at which the run was killed, one step into its last round. Two checkpoints before, it was in another."""


def newest(run: Path, back: int = 0) -> Path:
    """The newest checkpoint of a run, or one so many before."""
    return sorted((run / "checkpoints").iterdir())[-1 - back]


@pytest.fixture
def run(cbst: Watched, tmp_path: Path) -> Path:
    """A copy of a run that was killed in its last round."""
    killed = next(copy for copy in cbst.copies if newest(copy).stem == f"step-{NOW:06d}")
    return Path(shutil.copytree(killed, tmp_path / "run"))


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(path: Path, share: float = 0.5) -> None:
    """Turn one bit, somewhere between the first byte (0) and the last (1)."""
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def other_label(path: Path) -> None:
    """A whole label of other classes."""
    label = read_label(path)
    scratch = PseudoLabels(path.parents[2] / "scratch" / "round-1", 5)
    scratch.write("other", (label + 1) % 5)
    scratch.finish({})
    shutil.move(scratch.path("other"), path)
    shutil.rmtree(scratch.folder.parent)


def restated(run: Path, **entries: Any) -> None:
    """A newer checkpoint than the newest, whose state says otherwise."""
    state = checkpoint.load(newest(run)) | entries
    checkpoint.save(checkpoint.step_file(run / "checkpoints", NOW + 1), state)


def labels(run: Path, n: int = ROUNDS, kind: str = "pseudo-labels") -> list[Path]:
    return sorted((run / f"round-{n}" / kind).iterdir())


# --- it goes on from an older checkpoint -----------------------------------------------------------------------------

MENDED: dict[str, tuple[Callable[[Path], object], str]] = {
    "checkpoint cut short": (lambda run: cut(newest(run)), "step-000006.safetensors: is damaged"),
    "checkpoint empty": (lambda run: newest(run).write_bytes(b""), "step-000006.safetensors: is no checkpoint"),
    "checkpoint's first bit": (lambda run: flip(newest(run), 0), "step-000006.safetensors: is no checkpoint"),
    "checkpoint's last bit": (lambda run: flip(newest(run), 1), "step-000006.safetensors: is damaged, its SHA-256"),
    "two checkpoints": (lambda run: [cut(newest(run)), flip(newest(run, 1))], "step-000005.safetensors: is damaged"),
    "another recipe's": (
        lambda run: restated(run, recipe="2-0123456789ab"),
        "step-000007.safetensors: is of another r",
    ),
    "another seed's": (lambda run: restated(run, seed=1), "step-000007.safetensors: is of another seed: 1"),
    "another version's": (lambda run: restated(run, format=99), "step-000007.safetensors: has format 99"),
    "no state": (
        lambda run: checkpoint.save(checkpoint.step_file(run / "checkpoints", 9), [1]),
        "step-000009.safetensors: holds no state of a training",
    ),
    "pseudo-label deleted": (lambda run: labels(run)[0].unlink(), "round-2/pseudo-labels/dusk_000.png: "),
    "pseudo-label damaged": (lambda run: flip(labels(run)[1]), "round-2/pseudo-labels/"),
    "pseudo-label exchanged": (lambda run: other_label(labels(run)[1]), "round-2/pseudo-labels/"),
    "prediction deleted": (lambda run: labels(run, kind="predictions")[0].unlink(), "round-2/predictions/dusk_000"),
    "statistics deleted": (lambda run: (run / "round-2/statistics.json").unlink(), "round-2/statistics.json: "),
    "statistics cut short": (lambda run: cut(run / "round-2/statistics.json"), "round-2/statistics.json: "),
    "round deleted": (lambda run: shutil.rmtree(run / "round-2"), "round-2/statistics.json: "),
}
"""What is done to the run -> what the warning says."""
FIRST = ("checkpoint cut short", "two checkpoints", "another version's", "pseudo-label exchanged", "statistics deleted")
"""Tried at each change of the code; the others are slow tests."""


@pytest.mark.parametrize(
    ("damage", "said"),
    [pytest.param(*entry, id=name, marks=() if name in FIRST else pytest.mark.slow) for name, entry in MENDED.items()],
)
def test_what_the_checkpoints_before_can_mend(
    cbst: Watched, run: Path, damage: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run)
    assert main(["resume", str(run)]) == 0
    assert_same(run, cbst.folder)
    heard = capsys.readouterr().out
    assert "warning: " in heard
    assert said in heard


@pytest.mark.slow
def test_without_checkpoints_a_run_begins_anew(cbst: Watched, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    assert_same(resume(run), cbst.folder)


@pytest.mark.slow
def test_a_checkpoint_under_another_name(cbst: Watched, run: Path) -> None:
    """Its content says where the run is."""
    newest(run, 2).rename(checkpoint.step_file(run / "checkpoints", 90))
    assert_same(resume(run), cbst.folder)


# --- it does not go on -----------------------------------------------------------------------------------------------


def all_cut(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        cut(path)


def two_labels_deleted(run: Path) -> None:
    for n in (1, 2):
        labels(run, n)[0].unlink()


def another_rate(run: Path) -> None:
    changed(run / "run.json", lambda info: info["recipe"]["adaptation"]["method"]["optimizer"].update(lr=9e-3))


def another_seed(run: Path) -> None:
    changed(run / "run.json", lambda info: info["recipe"]["settings"].update(seed=5))


def without(entry: str) -> Callable[[Path], object]:
    return lambda run: changed(run / "run.json", lambda info: info.pop(entry))


def instead(content: bytes) -> Callable[[Path], object]:
    return lambda run: (run / "run.json").write_bytes(content)


def emptied(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


def made_a_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("x")


UNREADABLE = r"run\.json: cannot be read as JSON"
NO_RUN = r"run is not a run folder: .*run/run\.json is missing, so no run was begun there"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "all checkpoints": (all_cut, r"step-000006.*step-000005.*step-000004.*delete .*and the run begins anew"),
    "labels of two rounds": (
        two_labels_deleted,
        r"round-2/pseudo-labels/dusk_000.png.*round-1/pseudo-labels/dusk_000.png",
    ),
    "another learning rate": (another_rate, r"is of another recipe.*put the run\.json back"),
    "another seed": (another_seed, r"is of another seed: 0, run\.json's is 5.*put the run\.json back"),
    "run.json cut short": (lambda run: cut(run / "run.json"), UNREADABLE),
    "run.json empty": (instead(b""), UNREADABLE),
    "run.json no text": (instead(b"\xff\xfe\x00"), UNREADABLE),
    "run.json a list": (instead(b"[]"), r"run\.json"),
    "run.json a number": (instead(b"1"), r"run\.json"),
    "run.json an empty object": (instead(b"{}"), r"run\.json"),
    "run.json without recipe": (without("recipe"), r"run\.json"),
    "run.json without data": (without("data"), r"run\.json: has no data; put it back"),
    "run.json without classes": (without("space"), r"run\.json"),
    "run.json without warm-up": (without("warmup_from"), r"run\.json"),
    "run.json without oracle": (without("oracle"), r"run\.json"),
    "run.json deleted": (lambda run: (run / "run.json").unlink(), NO_RUN),
    "empty folder": (emptied, NO_RUN),
    "no folder": (shutil.rmtree, NO_RUN),
    "a file": (made_a_file, NO_RUN),
}
"""What is done to the run -> what the error says."""


@pytest.mark.parametrize(("damage", "said"), REFUSED.values(), ids=REFUSED)
def test_what_nothing_can_mend(
    run: Path, damage: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["resume", str(run)]) == 1
    heard = capsys.readouterr().err.replace("\n", " ")
    assert re.search(said, heard), heard
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_way_out_that_the_error_names(cbst: Watched, run: Path) -> None:
    all_cut(run)
    with pytest.raises(RunError, match=f"delete {run / 'checkpoints'}, and the run begins anew"):
        resume(run)
    shutil.rmtree(run / "checkpoints")
    assert_same(resume(run), cbst.folder)


# --- any file --------------------------------------------------------------------------------------------------------


def one_of_each_kind(run: Path) -> list[Path]:
    """Files of a run, relative to it: the first of each kind in each round."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    found = {(kind_of(path, run), path.relative_to(run).parts[0]): path.relative_to(run) for path in reversed(files)}
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("row", ["cbst-sp", "iast", "cpsl"])
def test_never_another_result(domains: tuple[Path, Path], row: str, tmp_path: Path) -> None:
    """Whatever becomes of one file of a killed run: it ends with the same weights, or with an error that names it."""
    whole = watched(tiny(row, *domains, keep=1), tmp_path / "whole" / "run")
    killed = next(copy for copy in whole.copies if "round-2" in {path.name for path in copy.iterdir()})
    ends: Counter[str] = Counter()
    for name in one_of_each_kind(killed):
        for change in (Path.unlink, cut, flip):
            run = Path(shutil.copytree(killed, tmp_path / "run"))
            change(run / name)
            try:
                resume(run)
            except SegshiftError as error:
                assert str(run / name) in str(error)
                ends["error"] += 1
            else:
                assert weights(run) == weights(whole.folder), f"{change.__name__} {name}"
                ends["same"] += 1
            shutil.rmtree(run)
    assert ends["error"] >= 5
    assert ends["same"] >= 5


# --- finished runs ---------------------------------------------------------------------------------------------------


def test_a_finished_run_is_left_as_it_is(cbst: Watched, tmp_path: Path) -> None:
    run = Path(shutil.copytree(cbst.folder, tmp_path / "run"))
    kept = [path for path in run.rglob("*") if path.is_file() and path.name not in ("report.html", "results.json")]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept}
    assert main(["resume", str(run)]) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == before
    assert_same(run, cbst.folder)


def test_a_damaged_model_is_not_used(cbst: Watched, tmp_path: Path, domains: tuple[Path, Path]) -> None:
    run = Path(shutil.copytree(cbst.folder, tmp_path / "run"))
    flip(run / "model" / "model.safetensors", 1)
    with pytest.raises(RunError, match=r"model\.safetensors: is damaged"):
        load_model(run)
    with pytest.raises(RunError, match=r"model\.safetensors: is damaged"):
        start(tiny("cbst", *domains), tmp_path / "other", run)
    assert weights(run) != weights(cbst.folder)
