"""Distillation as a run's last phase: after its own adaptation or any given model, killed anywhere, and reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.tiny import NETWORK, ROUNDS, STEPS, WARMUP_STEPS, Watched, losses, tiny, watched, weights

from segshift import checkpoint
from segshift.cli import main
from segshift.errors import ConfigError, RunError
from segshift.recipe import Recipe
from segshift.restart import restart_weights
from segshift.run_folder import read_run
from segshift.runs import resume, start
from segshift.warmups import fitted

Domains = tuple[Path, Path]
Row = Callable[[str], Path]
FIRST = WARMUP_STEPS + STEPS + ROUNDS * STEPS
"""The first step of the distillation, where a warm-up, a second one and an adaptation come before it."""


def recipe_of(domains: Domains, **settings: Any) -> Recipe:
    """Distillation of IAST: its labels need no warm-up worth the name."""
    recipe, adapted = tiny("cpsl-distill", *domains, **settings), tiny("iast", *domains)
    distillation = recipe.distillation
    assert distillation is not None
    # A third of the pixels are hard labels, where a network of a few steps is sure of none.
    method: Any = distillation.method
    return replace(
        recipe,
        alignment=adapted.alignment,
        alignment_label=adapted.alignment_label,
        adaptation=adapted.adaptation,
        adaptation_label="IAST",
        distillation=replace(distillation, method=replace(method, confidence=0.25)),
    )


@pytest.fixture(scope="module")
def whole(domains: Domains, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """All four phases in one run, and its folder as it was at each checkpoint."""
    return watched(recipe_of(domains), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def teacher(domains: Domains, row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same adaptation as a run of its own, over the row of its second warm-up."""
    return start(tiny("iast", *domains), tmp_path_factory.mktemp("teacher") / "iast", row("adaptsegnet-ls"))


@pytest.fixture(scope="module")
def student(domains: Domains, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(recipe_of(domains), tmp_path_factory.mktemp("student") / "run", teacher)


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def rounds(run: Path) -> dict[str, bytes]:
    """Everything that the distillation's rounds keep."""
    files = (path for path in (run / "distillation").rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def assert_same(run: Path, reference: Path) -> None:
    assert weights(run) == weights(reference)
    assert rounds(run) == rounds(reference)
    assert read(run, "evaluation/final.json") == read(reference, "evaluation/final.json")


# --- one run, or a chain of them -------------------------------------------------------------------------------------


def test_the_phases_follow_each_other(whole: Watched) -> None:
    steps = losses(whole.folder)
    last = FIRST + ROUNDS * STEPS
    assert [step for _, _, step, _ in steps] == list(range(last))
    distilled = steps[FIRST:]
    assert {phase for phase, _, _, _ in distilled} == {"distillation"}
    assert [n for _, n, _, _ in distilled] == [n for n in range(1, ROUNDS + 1) for _ in range(STEPS)]
    assert all(set(found) == {"source", "target", "distillation"} for _, _, _, found in distilled)
    scored = {path.stem for path in (whole.folder / "evaluation").glob("*.json") if ".details" not in path.name}
    assert scored == {"warmup", "alignment", "adaptation", "final"}


def test_a_chain_of_runs_is_the_whole_recipe(whole: Watched, student: Path) -> None:
    """Source-only, a second warm-up from it, IAST from that, a student of it: one run of all four."""
    assert_same(student, whole.folder)
    for name in ("warmup", "alignment", "adaptation"):
        assert read(student, f"evaluation/{name}.json") == read(whole.folder, f"evaluation/{name}.json")
    names = ("warmup_label", "alignment_label", "adaptation_label", "label")
    labels = [read(student, "run.json")[name] for name in names]
    assert labels == [read(whole.folder, "run.json")[name] for name in names]
    assert labels == ["source-only", "AdaptSegNet (LS)", "IAST", "CPSL+distill"]
    assert losses(student) == losses(whole.folder)[FIRST:]


def test_a_kill_anywhere_changes_nothing(whole: Watched, tmp_path: Path) -> None:
    """From every other checkpoint of the distillation: starts of rounds, and the middle of one."""
    copies = [copy for copy in whole.copies if int(copy.name.rpartition("-")[2]) >= FIRST]
    assert len(copies) >= ROUNDS * (STEPS + 1)
    begun = [tuple(checkpoint.load(max((copy / "checkpoints").iterdir()))["position"].values()) for copy in copies]
    assert len(set(begun)) == len(begun)
    for copy in copies[::2]:
        again = resume(Path(shutil.copytree(copy, tmp_path / copy.name)))
        assert_same(again, whole.folder)
        assert losses(again) == losses(whole.folder)


def test_a_kill_while_the_student_is_put_in(
    whole: Watched, domains: Domains, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the teacher's labels were written, before any checkpoint says so: the round begins once more."""
    save, run = checkpoint.save, tmp_path / "run"

    def killed(path: Path, state: Any) -> None:
        if state["position"]["round"] == 2:
            raise KeyboardInterrupt
        save(path, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", killed)
        start(recipe_of(domains), run, teacher)
    assert (run / "distillation" / "round-2" / "statistics.json").is_file()
    assert_same(resume(run), whole.folder)


def test_soft_labels_that_are_gone_are_written_again_or_an_error(whole: Watched, tmp_path: Path) -> None:
    copy = next(copy for copy in whole.copies if int(copy.name.rpartition("-")[2]) == FIRST + 1)
    run = Path(shutil.copytree(copy, tmp_path / "run"))
    shutil.rmtree(run / "distillation" / "round-1" / "soft-labels")
    other = Path(shutil.copytree(run, tmp_path / "other"))
    # A checkpoint of before the round is there, and the run begins the round again from it.
    assert_same(resume(run), whole.folder)
    for path in sorted((other / "checkpoints").iterdir())[:-2]:
        path.unlink()
    with pytest.raises(RunError, match=r"round-1/soft-labels"):
        resume(other)


# --- the student -----------------------------------------------------------------------------------------------------


def states_at(run: Watched, t: int) -> list[dict[str, Any]]:
    """The checkpoints written at step t, in order."""
    copies = [copy for copy in run.copies if int(copy.name.rpartition("-")[2]) == t]
    return [checkpoint.load(max((copy / "checkpoints").iterdir())) for copy in copies]


def test_each_round_starts_from_other_random_weights(whole: Watched) -> None:
    seen = []
    for n in range(1, ROUNDS + 1):
        begun = states_at(whole, FIRST + (n - 1) * STEPS)[-1]
        assert (begun["position"]["round"], begun["labelled"]) == (n, True)
        expected = restart_weights(NETWORK, 5, "random", 0, n)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in begun["players"]["model"].items())
        assert not begun["optimizers"]["model"]["state"]  # no momentum of the round before
        assert begun["schedules"]["model"]["last_epoch"] == 0
        seen.append(begun["players"]["model"]["classifier.weight"])
    assert not torch.equal(*seen)


def test_the_teacher_is_the_network_before_it(teacher: Path, student: Path) -> None:
    """Round 1 is taught by the adapted model, round 2 by the student of round 1."""
    first, second = (read(student, f"distillation/round-{n}/statistics.json") for n in (1, 2))
    assert first["predicted"] != second["predicted"]
    assert first["thresholds"] == {"confidence": [0.25] * 5}
    assert 0 < first["coverage"] < 1
    given = load_file(teacher / "model" / "model.safetensors")
    left = load_file(student / "model" / "model.safetensors")
    assert not torch.equal(given["classifier.weight"], left["classifier.weight"])
    assert read(student, "evaluation/adaptation.json") == read(teacher, "evaluation/final.json")


def test_a_student_from_other_weights_is_another_one(
    domains: Domains, teacher: Path, student: Path, tmp_path: Path
) -> None:
    """The same teacher, steps and images from the teacher's own weights: what the restart is for."""
    recipe = recipe_of(domains)
    assert recipe.distillation is not None
    recipe = replace(recipe, distillation=replace(recipe.distillation, restart=None))
    run = start(recipe, tmp_path / "run", teacher)
    soft = Path("distillation") / "round-1"
    assert rounds(run)[f"{soft}/statistics.json"] == rounds(student)[f"{soft}/statistics.json"]
    assert weights(run) != weights(student)


# --- any model can be distilled --------------------------------------------------------------------------------------


def test_a_given_model_stands_for_all_that_comes_before(row: Row, domains: Domains, tmp_path: Path) -> None:
    out = tmp_path / "run"
    size = "--distillation.steps 2 --distillation.batch 2 --distillation.target-view.crop 32 32 --student random"
    size += " --distillation.source-view.crop 32 32 --distillation.method.confidence .3"
    places = f"--warmup {row('cbst')} --source {domains[0]} --target {domains[1]} --threads 1"
    assert main(f"adapt own/cpsl-distill {places} {size} --out {out}".split()) == 0
    recipe = read(out, "run.json")["recipe"]
    assert (recipe["alignment"], recipe["adaptation"]) == (None, None)
    assert (recipe["distillation"]["restart"], recipe["distillation"]["method"]["confidence"]) == ("random", 0.3)
    info = read(out, "run.json")
    names = ("warmup_label", "adaptation_label", "label")
    assert [info[name] for name in names] == ["source-only", "CBST", "CPSL+distill"]
    assert read(out, "evaluation/adaptation.json") == read(row("cbst"), "evaluation/final.json")
    assert not (out / "evaluation" / "alignment.json").exists()
    assert any("random weights, a stand-in for the self-supervised ones" in line for line in info["protocol"])


def test_a_warmup_is_a_teacher_too(source_only: Path, domains: Domains, tmp_path: Path) -> None:
    run = start(recipe_of(domains), tmp_path / "run", source_only)
    scored = {path.stem for path in (run / "evaluation").glob("*.json")}
    assert scored == {"warmup", "final", "warmup.details", "final.details"}
    assert [row["label"] for row in read(run, "results.json")["rows"]] == ["source-only", "CPSL+distill"]


def test_what_a_given_model_leaves_of_a_recipe(source_only: Path, domains: Domains) -> None:
    recipe = recipe_of(domains)
    assert [name for name, _ in recipe.phases()] == ["warmup", "alignment", "adaptation", "distillation"]
    assert [name for name, _ in fitted(recipe, source_only).phases()] == ["warmup", "distillation"]
    alone = fitted(tiny("iast", *domains), source_only)
    assert [name for name, _ in alone.phases()] == ["warmup", "adaptation"]


def test_a_student_without_a_source_is_refused(source_only: Path, domains: Domains, tmp_path: Path) -> None:
    recipe = recipe_of(domains)
    recipe = replace(recipe, data=replace(recipe.data, source=None))
    with pytest.raises(ConfigError, match="looks at source images, and there is no source"):
        start(recipe, tmp_path / "run", source_only)


def test_weights_are_looked_for_before_the_first_step(domains: Domains, tmp_path: Path) -> None:
    recipe = recipe_of(domains)
    assert recipe.distillation is not None
    recipe = replace(recipe, distillation=replace(recipe.distillation, restart="pretrained"))
    with pytest.raises(ConfigError, match=r"distillation\.restart = pretrained: SmallNet has no backbone"):
        start(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_student_is_an_option_of_distillation_alone(domains: Domains, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"adapt own/cbst --source {domains[0]} --target {domains[1]} --student random"
    assert main(words.split()) == 1
    assert "student = random: recipe own/cbst distils no student; leave the option out" in capsys.readouterr().err


# --- scores and report -----------------------------------------------------------------------------------------------


def test_scores_after_each_round_are_the_students(
    domains: Domains, teacher: Path, student: Path, tmp_path: Path
) -> None:
    run = start(recipe_of(domains, evaluate_rounds=True), tmp_path / "run", teacher)
    assert weights(run) == weights(student)
    assert read(run, "evaluation/round-2.json")["confusion"] == read(run, "evaluation/final.json")["confusion"]
    assert read(run, "evaluation/round-1.json")["confusion"] != read(run, "evaluation/final.json")["confusion"]
    # They are of the distillation, and not compared with target labels.
    assert not list((run / "evaluation").glob("labels-*.json"))


def test_the_report_shows_the_chain(whole: Watched, student: Path) -> None:
    for run in (whole.folder, student):
        rows = read(run, "results.json")["rows"]
        assert [row["label"] for row in rows] == ["source-only", "AdaptSegNet (LS)", "IAST", "CPSL+distill"]
        assert [row["kind"] for row in rows] == ["warmup", "alignment", "adaptation", "adapted"]
        page = (run / "report.html").read_text()
        assert "a stand-in for the self-supervised ones" in page
        assert "Hard labels of the teacher in each round of distillation" in page
        assert "no rounds of pseudo-labels" not in page
        assert len(read(run, "results.json")["runs"][0]["distilled"]) == ROUNDS
        found = read_run(run)
        assert found.adaptation is not None
        assert found.adaptation_label == "IAST"


def test_a_teacher_among_the_runs_is_shown_once(teacher: Path, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    assert main(["report", str(teacher), str(student), "--out", str(out)]) == 0
    labels = [row["label"] for row in read(tmp_path, "results.json")["rows"]]
    assert labels == ["source-only", "AdaptSegNet (LS)", "IAST", "CPSL+distill"]
