"""Models that users bring, from the command line and from Python, to the end and back into their own formats."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.fakes.own import MODULE_FILE, Plain, saved, segformer

import segshift
from segshift import checkpoint
from segshift.cli import main
from segshift.errors import ConfigError, RunError
from segshift.models.huggingface import network_of
from segshift.models.network import load_model
from segshift.models.wrapped import OwnModule, Wrapped
from segshift.own_model import around, fitted, named
from segshift.own_module import module_of
from segshift.recipes import find

NAMES = ("sky", "hill", "ground", "block", "ball")
SHORT = (
    "--adaptation.steps 2 --adaptation.rounds 2 --adaptation.batch 2 --adaptation.source-view.crop 32 32 "
    "--adaptation.target-view.crop 32 32 --warmup.steps 2 --warmup.batch 2 --warmup.source-view.crop 32 32 --threads 1 "
    "--settings.accelerator cpu --settings.checkpoint-steps 1 --settings.keep 3"
)
Domains = tuple[Path, Path]
Command = Callable[[str], tuple[int, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line: its exit status, and all it said on one line."""

    def run(words: str) -> tuple[int, str]:
        status = main(words.split())
        said = capsys.readouterr()
        return status, " ".join((said.out + said.err).split())

    return run


def plain(seed: int = 0) -> Plain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Plain()


def kind(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["recipe"]["network"]["kind"]


def differs(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    own, others = one.state_dict(), other.state_dict()
    assert own.keys() == others.keys()
    return any(not torch.equal(own[name], others[name]) for name in own)


# --- from Python -------------------------------------------------------------------------------------------------


def test_a_module_is_adapted_and_comes_back(domains: Domains, tmp_path: Path) -> None:
    source, target = domains
    module = plain()
    result = segshift.adapt(module, source=source, target=target, out=tmp_path / "run", options=SHORT)
    assert isinstance(result.model, Plain)
    assert differs(module, result.model)
    assert not differs(module, plain()), "the given one stays as it is"
    assert result.scores is not None and result.before is not None
    assert result.before.confusion.sum() == result.scores.confusion.sum()
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    own = {name.removeprefix("body."): tensor for name, tensor in weights.items() if name.startswith("body.")}
    fresh = Plain()
    fresh.load_state_dict(own)
    assert not differs(fresh, result.model)
    again = segshift.adapt(module, source=source, target=target, out=tmp_path / "run", options=SHORT)
    assert not differs(again.model, result.model), "a finished run is read"


def test_the_run_starts_from_the_given_weights(domains: Domains, tmp_path: Path) -> None:
    _, target = domains
    module = plain(3)
    segshift.adapt(module, target=target, method="iast", out=tmp_path / "run", options=SHORT)
    start = load_model(tmp_path / "run" / "given", module=plain(4)).network
    assert isinstance(start, Wrapped)
    assert not differs(start.body, module)


def test_a_run_that_was_killed_goes_on(domains: Domains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = domains
    whole = segshift.adapt(plain(), source=source, target=target, out=tmp_path / "whole", options=SHORT)
    save, count = checkpoint.save, 0

    def killed(path: Path, state: Any) -> None:
        nonlocal count
        save(path, state)
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            segshift.adapt(plain(), source=source, target=target, out=tmp_path / "run", options=SHORT)
    result = segshift.adapt(plain(), source=source, target=target, out=tmp_path / "run", options=SHORT)
    assert not differs(result.model, whole.model)
    with pytest.raises(RunError, match=r"holds a run with other options \(settings\)"):
        segshift.adapt(plain(), source=source, target=target, out=tmp_path / "run", options=SHORT + " --seed 9")


def test_a_model_of_hugging_face_comes_back_as_one(domains: Domains, tmp_path: Path) -> None:
    from transformers import AutoModelForSemanticSegmentation

    source, target = domains
    model = segformer(names=NAMES)
    result = segshift.adapt(model, source=source, target=target, out=tmp_path / "run", options=SHORT)
    assert type(result.model) is type(model)
    assert differs(model, result.model)
    body: Any = result.model
    body.save_pretrained(tmp_path / "back")
    assert not differs(AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "back"), result.model)
    assert kind(tmp_path / "run") == "HuggingFace"
    assert isinstance(load_model(tmp_path / "run").network, Wrapped), "such a run needs no module"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["iast", "category-adaptive", "cpsl", "advent", "adabn"])
def test_every_method_takes_a_module(method: str, domains: Domains, tmp_path: Path) -> None:
    source, target = domains
    stages = ("encoder.0", "encoder")
    result = segshift.adapt(
        plain(), source=source, target=target, method=method, out=tmp_path, options=SHORT, stages=stages
    )
    assert differs(plain(), result.model)


def test_methods_that_need_a_source_say_so(domains: Domains, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no source"):
        segshift.adapt(plain(), target=domains[1], method="cbst", out=tmp_path / "run")


def test_another_number_of_classes_is_said(domains: Domains, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    shutil.copytree(domains[1] / "train" / "images", folder / "train" / "images")
    (folder / "classes.yaml").write_text("classes: [{id: 0, name: a}, {id: 1, name: b}]")
    with pytest.raises(ConfigError, match="the model gives 5 class scores a pixel, the data has 2 classes"):
        segshift.adapt(plain(), target=folder, method="iast", out=tmp_path / "run")


def test_a_random_head_is_not_called_trained(domains: Domains, tmp_path: Path, command: Command) -> None:
    source, target = domains
    said = r"trained = True: the model has no trained head for the data's 5 classes \(it is for 7\)"
    with pytest.raises(ConfigError, match=said):
        segshift.adapt(segformer(7), source=source, target=target, out=tmp_path / "run", options=SHORT)
    spec = saved(segformer(7), tmp_path / "model")
    words = f"adapt own/cbst --model {spec} --trained True --source {source} --target {target} --out {tmp_path / 'r'}"
    status, found = command(words)
    assert (status, "no trained head for the data's 5 classes" in found) == (1, True), found


def test_what_would_be_passed_over_is_said(domains: Domains, command: Command) -> None:
    source, target = domains
    with pytest.raises(ConfigError, match="mean: describes a module at hand"):
        segshift.adapt("timm:resnet18", source=source, target=target, mean=(0, 0, 0))
    with pytest.raises(ConfigError, match="layers: says nothing of a module; expected encoder, mean, stages, std"):
        segshift.adapt(plain(), source=source, target=target, layers=("a",))
    status, found = command(f"adapt own/cbst --trained True --source {source} --target {target}")
    assert (status, "no --model that it could be said of" in found) == (1, True), found


def test_words_that_are_none_are_an_error(domains: Domains) -> None:
    with pytest.raises(ConfigError, match=r"options = '--adaptation\.stepz 2': cannot be read"):
        segshift.adapt(plain(), source=domains[0], target=domains[1], options="--adaptation.stepz 2")


# --- from the command line ---------------------------------------------------------------------------------------


def test_hugging_face_without_a_source(domains: Domains, tmp_path: Path, command: Command) -> None:
    spec = saved(segformer(names=NAMES), tmp_path / "model")
    words = f"adapt own/iast-source-free --model {spec} --target {domains[1]} --out {tmp_path / 'run'} {SHORT}"
    status, said = command(words)
    assert status == 0, said
    assert "the model stands for the warm-up" in said
    assert "given model" in said
    assert command(f"predict {tmp_path / 'run'} {domains[1] / 'test'} --out {tmp_path / 'out'}")[0] == 0
    assert command(f"export {tmp_path / 'run'} --format huggingface --out {tmp_path / 'back'}")[0] == 0
    back = network_of(str(tmp_path / "back")).build(5)
    assert not differs(back, load_model(tmp_path / "run").network)


@pytest.mark.slow
def test_a_head_for_other_classes_is_trained_first(domains: Domains, tmp_path: Path, command: Command) -> None:
    spec = saved(segformer(7), tmp_path / "model")
    source, target = domains
    free = f"adapt own/iast-source-free --model {spec} --target {target} --out {tmp_path / 'free'} {SHORT}"
    status, said = command(free)
    assert status == 1
    assert "the model is not trained on these 5 classes; expected a trained model, or a source" in said
    words = f"adapt own/cbst --model {spec} --source {source} --target {target} --out {tmp_path / 'run'} {SHORT}"
    status, said = command(words)
    assert status == 0, said
    assert "trained on the source first" in said
    assert not (tmp_path / "run" / "given").exists()


def test_a_file_with_a_function(domains: Domains, tmp_path: Path, command: Command) -> None:
    source, target = domains
    (tmp_path / "net.py").write_text(MODULE_FILE)
    run, model = tmp_path / "run", f"--model {tmp_path / 'net.py'}:build"
    status, said = command(f"adapt own/cbst {model} --source {source} --target {target} --out {run} {SHORT}")
    assert status == 0, said
    assert (kind(run), (run / "given" / "model.json").is_file()) == ("OwnModule", True)
    status, said = command(f"predict {run} {target / 'test'} --out {tmp_path / 'out'}")
    assert status == 1
    assert "which no file holds; expected it from outside: --model FILE.py:FUNCTION" in said
    status, said = command(f"predict {run} {target / 'test'} --out {tmp_path / 'out'} {model}")
    assert status == 0, said
    status, said = command(f"evaluate {run} --data {target} --split test {model}")
    assert status == 0, said
    assert command(f"resume {run}")[0] == 1
    assert command(f"resume {run} {model}")[0] == 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("segformer", "expected hf:FOLDER or hf:NAME, smp:ARCHITECTURE/ENCODER, timm:BACKBONE, or FILE.py:FUNCTION"),
        ("net.py:", "expected hf:FOLDER"),
        ("gone.py:build", "gone.py is no Python file"),
        ("NET:nothing", "expected a function without arguments"),
        ("NET:needs", "expected a function without arguments"),
        ("NET:text", "returned a str; expected a torch.nn.Module"),
        ("timm:resnet1", "which timm"),
        ("smp:none/resnet18", "expected names of segmentation_models_pytorch"),
    ],
)
def test_models_that_are_none(model: str, said: str, domains: Domains, tmp_path: Path, command: Command) -> None:
    (tmp_path / "net.py").write_text(MODULE_FILE)
    model = model.replace("NET", str(tmp_path / "net.py"))
    source, target = domains
    status, found = command(
        f"adapt own/cbst --model {model} --source {source} --target {target} --out {tmp_path / 'r'}"
    )
    assert (status, said in found) == (1, True), found


def test_two_models_to_start_from(domains: Domains, source_only: Path, command: Command) -> None:
    source, target = domains
    words = f"adapt own/cbst --model timm:resnet18 --warmup {source_only} --source {source} --target {target}"
    status, said = command(words)
    assert (status, "two models to start from" in said) == (1, True), said


def test_classes_in_another_order_are_said(domains: Domains, tmp_path: Path, command: Command) -> None:
    spec = saved(segformer(names=NAMES[::-1]), tmp_path / "model")
    source, target = domains
    status, said = command(f"adapt own/cbst --model {spec} --source {source} --target {target} --out {tmp_path / 'r'}")
    assert status == 1
    assert "the model's classes are not the data's: 0: 'ball' for 'sky'" in said


# --- the recipe --------------------------------------------------------------------------------------------------


def test_transformers_learn_slower_everywhere() -> None:
    recipe = find("own/category-adaptive")
    changed = fitted(recipe, named("timm:vit_tiny_patch16_224"))
    before: Any = dict(recipe.phases())
    after: Any = dict(changed.phases())
    for name in before:
        assert after[name].method.optimizer.lr == pytest.approx(0.2 * before[name].method.optimizer.lr)
    retained = after["adaptation"].method.retain.optimizer.lr
    assert retained == pytest.approx(0.2 * before["adaptation"].method.retain.optimizer.lr)


def test_a_trained_model_sees_images_at_their_own_size() -> None:
    recipe = find("own/cbst")
    assert fitted(recipe, around(plain())).data.short_side is None
    assert fitted(recipe, around(plain(), trained=False)).data.short_side == recipe.data.short_side


def test_a_file_is_run_for_what_it_names_alone(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(MODULE_FILE)
    spec = f"{tmp_path / 'net.py'}:build"
    given = named(spec)
    assert given.trained
    assert isinstance(given.network, OwnModule)
    assert not differs(module_of(spec), given.network.module or plain())


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--settings.devices 2", "--settings.devices 2 --settings.strategy fsdp"])
def test_two_processes_train_a_module_as_one_does(domains: Domains, tmp_path: Path, words: str) -> None:
    """One with an auxiliary head, too, whose gradients nobody waits for."""
    (tmp_path / "net.py").write_text(MODULE_FILE + ADDED)
    found = []
    for name, others in (("one", ""), ("two", words)):
        run = tmp_path / name
        options = f"--model {tmp_path / 'net.py'}:auxiliary {SHORT} {others}"
        source, target = domains
        given = f"adapt own/cbst --source {source} --target {target} --out {run} {options}"
        subprocess.run([sys.executable, "-m", "segshift", *given.split()], check=True, capture_output=True)
        lines = (run / "log.jsonl").read_text().splitlines()
        found.append([value for line in lines for value in json.loads(line)["losses"].values()])
    assert len(found[0]) >= 8
    assert found[1] == pytest.approx(found[0], abs=2e-5)


ADDED = """


def auxiliary():
    torch.manual_seed(0)
    return Auxiliary()


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.aux = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, image):
        features = self.body(image)
        return {"aux": self.aux(features), "out": self.head(features)}
"""
