"""What a run may start from: warm-ups by name, another run, a file of weights, a model without its source."""

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
from tests.fakes.tiny import ROUNDS, STEPS, WARMUP_STEPS, Watched, rounds, tiny, watched, weights

from segshift import checkpoint
from segshift.cli import main
from segshift.errors import ConfigError, RunError
from segshift.evaluate import Scores
from segshift.models.deeplab import DeepLabV2
from segshift.recipe import Recipe
from segshift.recipe_rows import retained
from segshift.run_log import RunLog
from segshift.runs import resume, start

Row = Callable[[str], Path]
Domains = tuple[Path, Path]
FIRST = WARMUP_STEPS + STEPS
"""The first step of self-training, where a second warm-up comes before it."""


@pytest.fixture(scope="module")
def whole(domains: Domains, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """IAST from its own warm-ups: source-only, AdaptSegNet, rounds."""
    return watched(tiny("iast", *domains), tmp_path_factory.mktemp("whole") / "iast")


@pytest.fixture(scope="module")
def source_free(domains: Domains, source_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    recipe = tiny("iast-source-free", *domains)
    return watched(recipe, tmp_path_factory.mktemp("free") / "run", source_only)


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def phases(run: Path) -> list[tuple[str, int, int]]:
    return [(line["phase"], line["round"], line["step"]) for line in RunLog(run / "log.jsonl").read()]


def assert_same(run: Path, reference: Path) -> None:
    assert weights(run) == weights(reference)
    assert rounds(run) == rounds(reference)


def test_three_phases_follow_each_other(whole: Watched) -> None:
    steps = phases(whole.folder)
    assert [step for _, _, step in steps] == list(range(FIRST + ROUNDS * STEPS))
    expected = ["warmup"] * WARMUP_STEPS + ["alignment"] * STEPS + ["adaptation"] * (ROUNDS * STEPS)
    assert [phase for phase, _, _ in steps] == expected
    scored = {path.stem for path in (whole.folder / "evaluation").glob("*.json")}
    assert {"warmup", "alignment", "final"} <= scored
    info = read(whole.folder, "run.json")
    assert (info["warmup_label"], info["alignment_label"], info["label"]) == ("source-only", "AdaptSegNet (LS)", "IAST")


def test_a_chain_of_runs_is_the_whole_recipe(whole: Watched, row: Row, domains: Domains, tmp_path: Path) -> None:
    """Rows share warm-ups: source-only, then AdaptSegNet from it, then IAST from that, is one run of all three."""
    run = start(tiny("iast", *domains), tmp_path / "iast", row("adaptsegnet-ls"))
    assert_same(run, whole.folder)
    for name in ("warmup", "alignment", "final"):
        assert read(run, f"evaluation/{name}.json") == read(whole.folder, f"evaluation/{name}.json")
    labels = ("warmup_label", "alignment_label", "label")
    assert [read(run, "run.json")[key] for key in labels] == [read(whole.folder, "run.json")[key] for key in labels]


def test_resumed_from_each_checkpoint(whole: Watched, tmp_path: Path) -> None:
    """A kill in any of the three phases, the adversarial one included, leaves what ends in the same weights."""
    assert len(whole.copies) > FIRST + ROUNDS * STEPS
    for copy in whole.copies[1::3]:
        run = Path(shutil.copytree(copy, tmp_path / copy.name))
        resume(run)
        assert_same(run, whole.folder)


@pytest.mark.parametrize("warmup", ["source-only", "adaptsegnet", "advent", "minent"])
def test_iast_over_any_row(row: Row, domains: Domains, tmp_path: Path, warmup: str) -> None:
    recipe = replace(tiny("iast", *domains), alignment=None)
    run = start(recipe, tmp_path / "run", row(warmup))
    assert {phase for phase, _, _ in phases(run)} == {"adaptation"}
    info = read(run, "run.json")
    below = read(row(warmup), "run.json")["label"]
    if warmup == "source-only":
        assert info["warmup_label"] == below
    else:
        assert (info["warmup_label"], info["alignment_label"]) == ("source-only", below)
        assert read(run, "evaluation/alignment.json") == read(row(warmup), "evaluation/final.json")
    assert below in (run / "report.html").read_text()


def test_the_warmups_losses_are_kept(row: Row, domains: Domains, tmp_path: Path) -> None:
    recipe = retained(tiny("iast", *domains))
    run = start(recipe, tmp_path / "run", row("adaptsegnet-ls"))
    plain = start(tiny("iast", *domains), tmp_path / "plain", row("adaptsegnet-ls"))
    kept = set(RunLog(run / "log.jsonl").read()[-1]["losses"])
    own = set(RunLog(plain / "log.jsonl").read()[-1]["losses"])
    assert own < kept
    assert {"source", "generator", "discriminator target"} <= kept - own
    assert weights(run) != weights(plain)
    path = checkpoint.latest(run / "checkpoints").path
    assert path is not None


def test_a_warmup_that_was_trained_anew_is_not_gone_on_from(
    row: Row, domains: Domains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first checkpoint, the given model is the only place where the run's weights are."""
    given, run = Path(shutil.copytree(row("source-only"), tmp_path / "given")), tmp_path / "run"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save", killed)
        start(tiny("cbst", *domains), run, given)
    shutil.rmtree(given / "model")
    shutil.copytree(row("adabn") / "model", given / "model")
    with pytest.raises(RunError, match=r"given: holds other weights than when the run was begun from it"):
        resume(run)
    shutil.rmtree(given / "model")
    shutil.copytree(row("source-only") / "model", given / "model")
    assert weights(resume(run)) == weights(row("cbst"))


# --- source-free -------------------------------------------------------------------------------------------------


def test_source_free_needs_no_source(source_free: Watched, source_only: Path) -> None:
    info = read(source_free.folder, "run.json")
    assert set(info["data"]) == {"target", "test"}
    assert info["recipe"]["data"]["source"] is None
    assert info["warmup_label"] == "source-only"
    scores = Scores.from_dict(read(source_free.folder, "evaluation/final.json"))
    assert scores.space.classes == ("sky", "hill", "ground", "block", "ball")
    assert read(source_free.folder, "evaluation/warmup.json") == read(source_only, "evaluation/final.json")
    assert any("source-free" in line for line in info["protocol"])


def test_source_free_is_iast_on_that_model(
    source_free: Watched, source_only: Path, domains: Domains, tmp_path: Path
) -> None:
    """IAST looks at the target alone: without the source at hand it takes the very same steps."""
    recipe = replace(tiny("iast", *domains), alignment=None)
    assert_same(start(recipe, tmp_path / "run", source_only), source_free.folder)


def test_source_free_is_resumed_without_its_source(source_free: Watched, tmp_path: Path) -> None:
    for copy in source_free.copies:
        run = Path(shutil.copytree(copy, tmp_path / copy.name))
        resume(run)
        assert_same(run, source_free.folder)


def test_source_free_from_weights_alone(
    source_free: Watched, source_only: Path, domains: Domains, tmp_path: Path
) -> None:
    """The target's classes.yaml names the classes that a bare file of weights does not."""
    recipe, file = tiny("iast-source-free", *domains), source_only / "model" / "model.safetensors"
    run = start(recipe, tmp_path / "run", file)
    assert_same(run, source_free.folder)
    assert read(run, "run.json")["warmup_label"] == "given model"
    bare = shutil.copytree(domains[1], tmp_path / "bare")
    (bare / "classes.yaml").unlink()
    with pytest.raises(ConfigError, match=r"bare: names no classes.*classes\.yaml"):
        start(tiny("iast-source-free", domains[0], bare), tmp_path / "b", file)


def test_source_free_without_a_model_is_an_error(source_only: Path, domains: Domains, tmp_path: Path) -> None:
    recipe = tiny("iast-source-free", *domains)
    with pytest.raises(ConfigError, match="has no source to train on: start it from a model, --warmup RUN or FILE"):
        start(recipe, tmp_path / "a")
    with pytest.raises(RunError, match=r"no_run: holds no model/model\.json"):
        (tmp_path / "no_run").mkdir()
        start(recipe, tmp_path / "a", tmp_path / "no_run")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(RunError, match=r"text\.pth cannot be read.*Expected a model to start from"):
        start(recipe, tmp_path / "b", tmp_path / "text.pth")
    wanting: Recipe = replace(tiny("cbst", *domains), data=recipe.data)
    with pytest.raises(ConfigError, match="looks at source images, and there is no source"):
        start(wanting, tmp_path / "c", source_only)
    assert not (tmp_path / "c" / "run.json").exists()


def test_source_free_from_the_command_line(
    source_only: Path, domains: Domains, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network and the working size are the model's; nothing of the source is named."""
    out = tmp_path / "run"
    size = "--adaptation.rounds 1 --adaptation.steps 1 --adaptation.batch 2 --adaptation.target-view.crop 32 32"
    words = f"adapt own/iast-source-free --warmup {source_only} --target {domains[1]} --out {out} --threads 1 {size}"
    assert main(words.split()) == 0
    recipe = read(out, "run.json")["recipe"]
    assert (recipe["network"]["kind"], recipe["network"]["width"], recipe["data"]["short_side"]) == ("SmallNet", 4, 48)
    assert "IAST, source-free" in capsys.readouterr().out
    assert main([*words.replace(str(out), str(out) + "2").split(), "--source", str(domains[0])]) == 1
    assert "is source-free; leave the option out" in " ".join(capsys.readouterr().err.split())
    assert main(words.replace(str(source_only), str(tmp_path / "nowhere")).split()) == 1
    assert "there is no such file or folder; expected a run" in " ".join(capsys.readouterr().err.split())


def test_a_published_checkpoint_is_a_model_to_start_from(domains: Domains, tmp_path: Path) -> None:
    """DeepLab-v2 under the names of the AdaptSegNet family: with a head for the classes it is taken, else refused."""
    network = DeepLabV2("resnet50", layout="caffe", dilations=(6,))
    recipe = replace(tiny("iast-source-free", *domains), network=network)
    phase = recipe.adaptation
    assert phase is not None
    recipe = replace(recipe, adaptation=replace(phase, rounds=0))
    for classes in (5, 4):
        ours = network.build(classes).state_dict()
        names = {name.removeprefix("encoder."): tensor for name, tensor in ours.items() if name not in ("mean", "std")}
        theirs = {name.replace("classifier.branches.0", "layer5.conv2d_list.0"): t for name, t in names.items()}
        torch.save(theirs, tmp_path / f"{classes}.pth")
    run = start(recipe, tmp_path / "run", tmp_path / "5.pth")
    saved = load_file(run / "model" / "model.safetensors")
    given = torch.load(tmp_path / "5.pth", weights_only=True)
    assert torch.equal(saved["classifier.branches.0.weight"], given["layer5.conv2d_list.0.weight"])
    with pytest.raises(RunError, match=r"4\.pth: holds a head of 4 classes; expected a trained model of 5 classes"):
        start(recipe, tmp_path / "b", tmp_path / "4.pth")
    timm = replace(recipe, network=replace(network, layout="timm"))
    with pytest.raises(RunError, match=r"set network\.layout to caffe"):
        start(timm, tmp_path / "c", tmp_path / "5.pth")


def test_adabn_needs_no_source_either(row: Row, source_only: Path, domains: Domains, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = f"adapt own/adabn --data.source None --warmup {source_only} --target {domains[1]} --out {out} --threads 1"
    assert main(words.split()) == 0
    assert set(read(out, "run.json")["data"]) == {"target", "test"}
    assert weights(out) == weights(row("adabn"))


# --- semi-supervised ---------------------------------------------------------------------------------------------


def test_semi_supervised(domains: Domains, tmp_path: Path) -> None:
    """Of the five training images of one set, some are labelled; their loss is kept while the others are labelled."""
    recipe = tiny("iast-semi", *domains)
    recipe = replace(recipe, data=replace(recipe.data, labelled_share=0.4))
    run = start(recipe, tmp_path / "run")
    data = read(run, "run.json")["data"]
    assert [data[role]["images"] for role in ("source", "target", "test")] == [2, 3, 5]
    assert sorted(path.stem[:3] for path in (run / "round-1" / "pseudo-labels").iterdir()) == ["day"] * 3
    assert {"source", "target", "ignored", "confident"} <= set(RunLog(run / "log.jsonl").read()[-1]["losses"])
    assert any("semi-supervised" in line for line in read(run, "run.json")["protocol"])
