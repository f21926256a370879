"""The recipes of the paper's pairs from end to end, on the fakes of their data sets: networks cut thin, a few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.layouts import FAKES

from segshift import recipes
from segshift.evaluate import Scores
from segshift.models.deeplab import DeepLabV2
from segshift.models.fcn8s import FCN8s
from segshift.models.network import Network
from segshift.models.resnet38 import ResNet38
from segshift.parts.optimizers import Optimizer
from segshift.phase import Phase, Settings
from segshift.recipe import Recipe
from segshift.recipe_bases import follows_paper
from segshift.runs import start

GROUPS = [group for group in recipes.GROUPS if follows_paper(group)]
NAMES = [entry.name for entry in recipes.entries() if follows_paper(entry.name.split("/")[0])]
FAST = ("/cbst-sp", "/iast", "/iast-semi")
ROUNDS = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fake of each data set; ten images and more of NTHU, for its ten folds."""
    root = tmp_path_factory.mktemp("layouts")
    for name in ("gta5", "synthia", "cityscapes", "bdd", "nthu"):
        FAKES[name](root / name, 11 if name == "nthu" else 3)
    return root


def thin(phase: Phase) -> Phase:
    view = replace(phase.source_view, crop=(32, 32), window=phase.source_view.window and (32, 64))
    start_anew = phase.restart and "random"  # a student's own weights are a file that nobody has here
    rounds = min(phase.rounds, ROUNDS)
    return replace(phase, steps=2, rounds=rounds, source_view=view, target_view=view, restart=start_anew)


def narrow(network: Network) -> Network:
    """A network of the same kind with few weights."""
    if isinstance(network, DeepLabV2):
        return DeepLabV2("mobilenetv2_035")
    assert isinstance(network, (FCN8s, ResNet38))
    return type(network)(weights="none", width=1 / 16)


def small(name: str, made: Path) -> Recipe:
    """The recipe as it is, but for the network's width, the crops and the number of steps and rounds."""
    recipe = recipes.find(name)
    source, target = recipe.data.source_layout, recipe.data.target_layout
    free = recipe.data.source is None
    return replace(
        recipe,
        network=narrow(recipe.network),
        data=replace(recipe.data, source=None if free else str(made / source), target=str(made / target)),
        **{phase: thin(found) for phase, found in recipe.phases()},
        settings=Settings(threads=1, accelerator="cpu", checkpoint_share=0),
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name.endswith(FAST) else pytest.mark.slow) for name in NAMES]
)
def test_a_papers_recipe_runs_on_fakes(name: str, made: Path, tmp_path: Path) -> None:
    recipe = small(name, made)
    warmup = None
    if recipe.data.source is None:
        warmup = start(small(name.replace("iast-source-free", "source-only"), made), tmp_path / "model")
    run = start(recipe, tmp_path / "run", warmup)
    scores = Scores.from_dict(json.loads((run / "evaluation" / "final.json").read_text()))
    info = json.loads((run / "run.json").read_text())
    adapted = info["data"]["target"]["images"]
    if "nthu" in name:
        assert scores.space.name == "nthu13"
        assert (adapted, scores.images) == (9, 2)  # of eleven images, the first and the last are fold 0
    else:
        assert scores.space.name == ("synthia16" if name.startswith("synthia-cityscapes-deeplab") else "cityscapes")
        assert (adapted, scores.images) == ((2, 3) if "semi" in name else (3, 3))
        transductive = any("(transductive)" in said for said in info["protocol"])
        assert transductive is ("deeplab-v2" not in name), info["protocol"]  # CBST's tables, and IAST's
    phase = recipe.adaptation
    if phase is not None and phase.target_epochs is not None:
        steps = info["recipe"]["adaptation"]["steps"]
        assert steps == -(-int(phase.target_epochs) * adapted // phase.batch)
        assert phase.target_epochs == (4 if "iast" in name else 2)
    rows = ("st", "cbst", "-sp", "-naive", "-free", "-semi", "-adaptive", "cpsl", "-distill")
    assert (run / "round-2").exists() is name.endswith(rows)
    assert (run / "distillation" / "round-2").exists() is name.endswith("-distill")


@pytest.mark.slow
@pytest.mark.parametrize("network", [FCN8s(), ResNet38(), ResNet38(variant="A2")])
def test_the_papers_networks_train_on_the_demo_pair(network: FCN8s | ResNet38, tmp_path: Path) -> None:
    """At their published width: a few steps of warm-up and of self-training on MiniCity."""
    recipe = recipes.find("minicity/cbst-sp")
    phase, optimizer = recipe.adaptation, Optimizer("adamw", lr=1e-5)  # the demo's rate is for a network of its own
    assert phase is not None
    size = {"batch": 2, "steps": 2}
    run = start(
        replace(
            recipe,
            network=network,
            warmup=replace(recipe.warmup, method=replace(recipe.warmup.method, optimizer=optimizer), **size),
            adaptation=replace(
                phase,
                method=replace(phase.method, optimizer=optimizer),
                rounds=1,
                adabn_before="none",
                adabn_after="none",
                **size,
            ),
            data=replace(recipe.data, minicity=replace(recipe.data.minicity, train=4, test=2, size=(64, 128))),
        ),
        tmp_path / "run",
    )
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [sorted(line["losses"]) for line in lines] == [["source"]] * 2 + [["source", "target"]] * 2
    assert (run / "model" / "model.safetensors").stat().st_size > 4e8
