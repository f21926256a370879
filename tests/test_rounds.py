"""What a round is made of beside its steps: its length, its share of the source, its optimiser, its scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.tiny import ROUNDS, assert_resumes_everywhere, losses, tiny, watched, weights
from tests.test_engine import Locked, Stripes, phase, train
from tests.test_runs import COMMAND

from segshift import recipe as recipe_file
from segshift import recipes
from segshift.cli import main
from segshift.data.dataset import Unlabelled
from segshift.data.mining import Mining
from segshift.errors import ConfigError
from segshift.methods.cbst import CBSTConfig
from segshift.methods.source_only import SourceOnlyConfig
from segshift.models.network import load_model
from segshift.parts.optimizers import Optimizer
from segshift.phase import Phase, Share
from segshift.recipe import Recipe
from segshift.run_log import RunLog
from segshift.runs import recipe_of, start
from segshift.snapshot import optimizer_states, restore_optimizers

RELEASED: dict[str, Any] = {
    "mining": Mining(share=0.3, fallback=3, where="pseudo_labels"),
    "source_share": Share(0.4, 0.2, 0.8),
    "fresh_optimizer": True,
}


def changed(recipe: Recipe, **options: Any) -> Recipe:
    assert recipe.adaptation is not None
    return replace(recipe, adaptation=replace(recipe.adaptation, **options))


# --- the release's rounds are as safe from a kill as the paper's ---------------------------------------------------


@pytest.mark.slow
def test_resume_as_released_from_every_checkpoint(domains: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = changed(tiny("cbst-sp", *domains), **RELEASED)
    run = watched(recipe, tmp_path / "run")
    assert_resumes_everywhere(run, tmp_path)
    without = start(tiny("cbst-sp", *domains), tmp_path / "without")
    assert weights(without) != weights(run.folder)


def test_mining_keeps_what_it_reads(domains: tuple[Path, Path], tmp_path: Path) -> None:
    mined = start(tiny("cbst", *domains), tmp_path / "mined")
    plain = start(changed(tiny("cbst", *domains), mining=None), tmp_path / "plain")
    for n in range(1, ROUNDS + 1):
        assert len(list((mined / f"round-{n}" / "predictions").iterdir())) == 5
        assert not (plain / f"round-{n}" / "predictions").exists()


# --- the engine ----------------------------------------------------------------------------------------------------


def self_training(**options: Any) -> Phase:
    optimizer = Optimizer("sgd", lr=0.1, head_multiplier=1, momentum=0.9, power=1.0)
    return phase(CBSTConfig(optimizer=optimizer, augment=None), rounds=2, **options)


def rates(folder: Path) -> list[float]:
    return [entry["lr"] for entry in RunLog(folder / "log.jsonl").read()]


def test_a_fresh_optimiser_each_round(tmp_path: Path) -> None:
    train(tmp_path / "kept", self_training())
    train(tmp_path / "fresh", self_training(fresh_optimizer=True))
    assert rates(tmp_path / "kept") == pytest.approx([0.1 * (1 - t / 8) for t in range(8)])
    assert rates(tmp_path / "fresh") == pytest.approx([0.1 * (1 - t / 4) for t in range(4)] * 2)


def test_momentum_does_not_outlive_a_round() -> None:
    method = SourceOnlyConfig(Optimizer("sgd", lr=0.1, power=1.0)).build(torch.nn.Linear(2, 2), 4, 0)
    fresh = optimizer_states(method)
    entry = method.optimizers()["model"]
    for _ in range(2):
        method.players()["model"](torch.ones(1, 2)).sum().backward()
        entry.optimizer.step()
        entry.schedule.step()
    assert len(entry.optimizer.state) == 2
    assert entry.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    restore_optimizers(method, fresh)
    assert len(entry.optimizer.state) == 0
    assert entry.optimizer.param_groups[0]["lr"] == 0.1
    entry.optimizer.step()
    assert len(entry.optimizer.state) == 2  # the copy was not given away: it can be put back again
    restore_optimizers(method, fresh)
    assert len(entry.optimizer.state) == 0


def test_a_round_looks_at_its_share_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    image = Stripes.image

    def watch(self: Stripes, index: int) -> torch.Tensor:
        if not isinstance(self, Locked):
            seen.append(index)
        return image(self, index)

    monkeypatch.setattr(Stripes, "image", watch)
    train(tmp_path / "run", phase(rounds=1, source_share=Share(0.3, 0, 1)), Unlabelled(Locked()))
    assert len(set(seen)) == 1
    assert len(seen) == 8


@pytest.mark.parametrize("options", [{"initial": 0.0}, {"initial": 0.5, "limit": 0.4}, {"step": -0.1}, {"limit": 1.5}])
def test_bad_shares_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"source share: .*expected 0 < initial <= limit <= 1"):
        Share(**options)


def test_the_share_grows_to_its_limit() -> None:
    assert [Share(0.03, 0.0025, 0.06).at(n) for n in (1, 2, 3, 13, 14)] == [0.03, 0.0325, 0.035, 0.06, 0.06]


# --- the length of a round -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "batch", "steps"), [(500, 2, 500), (90, 1, 180), (5, 4, 3), (1, 8, 1)])
def test_target_epochs(images: int, batch: int, steps: int) -> None:
    asked = phase(target_epochs=2.0, batch=batch)
    assert asked.on(images).steps == steps
    assert phase(steps=7).on(images).steps == 7


def test_a_run_records_the_steps_it_takes(domains: tuple[Path, Path], tmp_path: Path) -> None:
    run = start(changed(tiny("st", *domains), target_epochs=1.0), tmp_path / "run")
    recorded = recipe_of(run).adaptation
    assert recorded is not None
    assert recorded.steps == 3  # five images, two a step
    assert len([entry for entry in losses(run) if entry[0] == "adaptation"]) == 3 * ROUNDS


def test_bad_epochs_are_named() -> None:
    with pytest.raises(ConfigError, match=r"target_epochs = 0.*the CBST paper: 2"):
        phase(target_epochs=0.0)


# --- scores of each round ------------------------------------------------------------------------------------------


def test_scores_after_each_round_change_nothing(domains: tuple[Path, Path], tmp_path: Path) -> None:
    plain = start(tiny("cbst", *domains), tmp_path / "plain")
    scored = start(tiny("cbst", *domains, evaluate_rounds=True), tmp_path / "scored")
    assert weights(scored) == weights(plain)
    names = sorted(path.stem for path in (scored / "evaluation").glob("*.json"))
    details = ["final.details", "warmup.details"]
    assert names == sorted([*details, "final", "labels-1", "labels-2", "round-1", "round-2", "warmup"])
    scores = {name: json.loads((scored / "evaluation" / f"{name}.json").read_text()) for name in names}
    assert scores["round-2"]["confusion"] == scores["final"]["confusion"]  # the last round's model is the run's
    assert scores["round-1"]["confusion"] != scores["final"]["confusion"]
    for n in (1, 2):
        coverage = json.loads((scored / f"round-{n}" / "statistics.json").read_text())["coverage"]
        # One of the share of all pixels, the other of those whose truth is known.
        assert scores[f"labels-{n}"]["proportion"] == pytest.approx(coverage, abs=0.05)
        assert 0 < scores[f"labels-{n}"]["miou"] <= 1


def test_a_few_target_labels_that_are_wrong_stop_no_run(domains: tuple[Path, Path], tmp_path: Path) -> None:
    """The oracle's figures are a diagnosis: where they cannot be had, the run says so and goes on."""
    dusk = Path(shutil.copytree(domains[1], tmp_path / "dusk"))
    (dusk / "train" / "labels" / "dusk_001.png").unlink()
    run = start(tiny("st", domains[0], dusk, evaluate_rounds=True), tmp_path / "run")
    assert not list((run / "evaluation").glob("labels-*.json"))
    shutil.rmtree(dusk / "train" / "labels")
    again = start(tiny("st", domains[0], dusk, evaluate_rounds=True), tmp_path / "again")
    assert weights(again) == weights(run)
    assert not list((again / "evaluation").glob("labels-*.json"))


def test_panels_show_the_start_and_the_end(domains: tuple[Path, Path], tmp_path: Path) -> None:
    scored = start(tiny("st", *domains, evaluate_rounds=True), tmp_path / "scored")
    panels = {path.name for path in (scored / "evaluation" / "panels").rglob("*.png")}
    assert panels == {"image.png", "truth.png", "warmup.png", "final.png"}


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", [entry.name for entry in recipes.entries()])
def test_every_recipe_is_there_and_survives_json(name: str, variant: Any) -> None:
    if variant == "released" and name.endswith(("/style-gap", "/category-adaptive")):
        with pytest.raises(ConfigError, match="no code of the category-adaptive paper was released"):
            recipes.find(name, variant)
        return
    recipe = recipes.find(name, variant)
    assert recipe_file.from_dict(json.loads(json.dumps(recipe_file.to_dict(recipe))), "here") == recipe


@pytest.mark.parametrize("group", ["minicity", "gta5-cityscapes-resnet38"])
def test_the_release_differs_where_the_docs_say(group: str) -> None:
    paper, released = (recipes.find(f"{group}/cbst-sp", variant).adaptation for variant in ("paper", "released"))  # type: ignore[arg-type]
    assert paper is not None and released is not None
    assert (paper.mining, paper.source_share, paper.fresh_optimizer) == (Mining(), Share(), False)
    assert released.mining == Mining(fallback=3, where="pseudo_labels")
    assert (released.source_share, released.fresh_optimizer) == (Share(0.03, 0.0025, 0.06), True)
    assert isinstance(paper.method, CBSTConfig) and isinstance(released.method, CBSTConfig)
    assert (paper.method.stride, released.method.stride) == (1, 4)
    assert (paper.method.portion, released.method.portion) == (0.2, 0.15)
    assert released.method.optimizer.power == 0
    assert released.scan.flip
    # Spatial priors and class balance are what the row is about: both variants have them.
    assert paper.method.prior == released.method.prior is not None


def test_a_papers_recipe_is_as_printed() -> None:
    for network, lr, batch, scale in (("fcn8s", 1e-6, 1, (1.0, 1.0)), ("resnet38", 1e-4, 2, (0.7, 1.3))):
        recipe = recipes.find(f"gta5-cityscapes-{network}/cbst")
        phase = recipe.adaptation
        assert phase is not None and isinstance(phase.method, CBSTConfig)
        assert (phase.rounds, phase.target_epochs, phase.batch) == (3, 2.0, batch)
        assert phase.target_view.crop == (500, 500)
        assert phase.target_view.scale == scale
        assert phase.target_view.flip is (network == "resnet38")
        assert (phase.method.optimizer.kind, phase.method.optimizer.lr, phase.method.augment) == ("sgd", lr, None)
        assert (phase.adabn_before, phase.adabn_after) == ("none", "none")
        portions = (phase.method.portion, phase.method.portion_step, phase.method.portion_limit)
        assert portions == (0.2, 0.05, 0.5)


def test_unknown_variants_are_named() -> None:
    with pytest.raises(ConfigError, match="variant = 'mine'; expected paper or released"):
        recipes.find("own/cbst", "mine")  # type: ignore[arg-type]


def test_a_spatial_prior_is_in_the_model_no_more(domains: tuple[Path, Path], tmp_path: Path) -> None:
    """Eq. 9 changes the labels alone: the network of a run with priors is like any other."""
    run = start(tiny("st-sp", *domains), tmp_path / "run")
    assert not any("prior" in name for name in load_model(run).network.state_dict())


@pytest.mark.parametrize("words", [["--variant", "released"], ["--variant=released"]])
def test_the_variant_is_an_option_that_others_override(words: list[str], tmp_path: Path) -> None:
    small = COMMAND.split()
    assert small[:2] == ["adapt", "minicity/cbst"]
    run = tmp_path / "run"
    assert main([*small[:2], *words, *small[2:], str(run), "--adaptation.mining.fallback", "2"]) == 0
    adaptation = recipe_of(run).adaptation
    assert adaptation is not None
    assert adaptation.fresh_optimizer
    assert adaptation.mining == Mining(fallback=2, where="pseudo_labels")
    assert json.loads((run / "run.json").read_text())["recipe"]["adaptation"]["method"]["stride"] == 4


def test_a_wrong_variant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapt", "minicity/cbst", "--variant", "theirs"]) == 1
    assert "variant = 'theirs'; expected paper or released" in capsys.readouterr().err


def test_steps_that_would_not_be_looked_at_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipes of the paper's pairs count rounds in target epochs."""
    words = ["adapt", "gta5-cityscapes-fcn8s/cbst", "--source", "gta5:a", "--target", "cityscapes:b"]
    words += ["--out", str(tmp_path / "run")]
    assert main([*words, "--adaptation.steps", "7"]) == 1
    told = capsys.readouterr().err
    assert "adaptation.steps = 7: this recipe counts its rounds in passes over the target" in told
    assert "set --adaptation.target-epochs None too" in told
    # With that option, or epochs alone, it goes on to look for the data.
    for more in (
        ["--adaptation.steps", "7", "--adaptation.target-epochs", "None"],
        ["--adaptation.target-epochs", "1"],
    ):
        assert main([*words, *more]) == 1
        assert "a: does not exist" in capsys.readouterr().err
