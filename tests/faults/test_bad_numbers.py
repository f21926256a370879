"""Runs whose numbers go wrong: they end with loss or tensor, step and images named, and with a good checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes.folder import make_folder_pair
from tests.fakes.tiny import WARMUP_STEPS, assert_same, tiny, weights
from torch import Tensor

from segshift import checkpoint
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.sampling import Feed, Packed, Stream
from segshift.errors import TrainingError
from segshift.guards import run_warnings
from segshift.parts.optimizers import Optimizer
from segshift.recipe import Recipe
from segshift.run_folder import read_run
from segshift.run_log import RunLog
from segshift.runs import resume, start
from segshift.types import IGNORE, Batch, Images, Losses

NAN, INF = float("nan"), float("inf")


def every_number(state: Any) -> Iterator[Tensor]:
    """All floats of a checkpoint, in tensors or not, however deep."""
    if isinstance(state, dict):
        for inner in state.values():
            yield from every_number(inner)
    elif isinstance(state, (list, tuple)):
        for inner in state:
            yield from every_number(inner)
    elif isinstance(state, float) or (isinstance(state, Tensor) and state.is_floating_point()):
        yield torch.as_tensor(state)


def assert_good(run: Path, said: str, t: int) -> None:
    """The run's last checkpoint is that of step t: the error names it, it verifies, and every number in it is one."""
    found = checkpoint.latest(run / "checkpoints")
    assert found.path == run / "checkpoints" / f"step-{t:06d}.safetensors"
    assert found.warning == ""
    assert f"Last good checkpoint: {found.path}" in said
    numbers = list(every_number(found.state))
    assert len(numbers) > 10
    assert all(bool(torch.isfinite(number).all()) for number in numbers)
    assert not (run / "model").exists()


def ends(recipe: Recipe, folder: Path, warmup: Path | None) -> str:
    """The text a run ends with."""
    with pytest.raises(TrainingError) as error:
        start(recipe, folder, warmup)
    return str(error.value)


def spoil(patch: pytest.MonkeyPatch, recipe: Recipe, step: Callable[..., Losses] | None, end: Any = None) -> None:
    """The losses of the recipe's last phase through `step(batch, t, losses)`; `end(method, t)` after each step."""
    config: Any = type(recipe.last[1].method)
    build = config.build

    def built(own: Any, *arguments: Any) -> Any:
        method = build(own, *arguments)
        honest, end_step = method.step, method.end_step

        def spoiled(batch: Batch, t: int) -> Iterator[Losses]:
            for losses in honest(batch, t):
                yield losses if step is None else step(batch, t, losses)

        def ended(t: int) -> None:
            end_step(t)
            if end is not None:
                end(method, t)

        method.step, method.end_step = spoiled, ended
        return method

    patch.setattr(config, "build", built)


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The logged steps of a run's last phase."""
    lines = RunLog(run / "log.jsonl").read()
    return [line for line in lines if line["phase"] == lines[-1]["phase"]]


Row = Callable[[str], Path]

LOSSES = {
    "source-only": ("source",),
    "st": ("source", "target"),
    "cbst": ("source", "target"),
    "adaptsegnet": ("source", "generator", "discriminator source", "discriminator target"),
    "advent": ("source", "generator", "discriminator source", "discriminator target"),
    "minent": ("source", "entropy"),
    "style-gap": ("style", "style discriminator source"),
    "category-adaptive": ("target",),
    "iast": ("target", "ignored", "confident"),
    "cpsl": ("source", "target", "consistency", "self-labelling"),
    "cpsl-distill": ("source", "target", "distillation"),
    "oracle": ("target (oracle)",),
}
FAST = {("cbst", "target")}
CASES = [
    pytest.param(row, loss, marks=[] if (row, loss) in FAST else pytest.mark.slow)
    for row, losses in LOSSES.items()
    for loss in losses
]


@pytest.mark.parametrize(("row_name", "loss"), CASES)
def test_a_loss_that_is_no_number(
    row: Row, domains: tuple[Path, Path], source_only: Path, tmp_path: Path, row_name: str, loss: str
) -> None:
    """In each loss of each method; mended, the run ends where it would have."""
    recipe, whole = tiny(row_name, *domains), row(row_name)
    bad = steps_of(whole)[-1]["step"]
    assert loss in steps_of(whole)[-1]["losses"]
    seen: list[str] = []

    def step(batch: Batch, t: int, losses: Losses) -> Losses:
        if t == bad:
            seen.extend((*batch.source.name, *batch.target.name))
        return {name: value * (NAN if (name, t) == (loss, bad) else 1) for name, value in losses.items()}

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, recipe, step)
        said = ends(recipe, run, None if row_name == "source-only" else source_only)
    assert said.startswith(f"step {bad}: loss {loss} = nan; expected a finite number.")
    assert seen and all(name in said for name in seen)
    assert_good(run, said, bad)
    resume(run)
    if row_name == "source-only":
        assert weights(run) == weights(whole)
    else:
        assert_same(run, whole)


PLACES = {
    "a weight": lambda method: method.players()["model"].parameters().__next__(),
    "a weight of the judge": lambda method: list(list(method.players().values())[-1].parameters())[-1],
    "a statistic of BatchNorm": lambda method: next(
        b for name, b in method.players()["model"].named_buffers() if name.endswith("running_var")
    ),
    "a momentum": lambda method: next(iter(next(iter(method.optimizers().values())).optimizer.state.values()))[
        "exp_avg"
    ],
}


@pytest.mark.parametrize("last", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["midway", "at the end"])
@pytest.mark.parametrize("place", [p if p == "a weight" else pytest.param(p, marks=pytest.mark.slow) for p in PLACES])
def test_a_tensor_that_is_no_number_after_a_step(
    row: Row, domains: tuple[Path, Path], source_only: Path, tmp_path: Path, place: str, last: bool
) -> None:
    """No checkpoint is written of it, and after the last step no model."""
    recipe, whole = tiny("adaptsegnet", *domains), row("adaptsegnet")
    bad = steps_of(whole)[-1 if last else 0]["step"]

    def end(method: Any, t: int) -> None:
        if t == bad:
            PLACES[place](method).data.view(-1)[0] = INF

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, recipe, None, end)
        said = ends(recipe, run, source_only)
    kind = {"a statistic of BatchNorm": "buffer", "a momentum": "exp_avg"}.get(place, "weight")
    assert said.startswith(f"after step {bad}: {kind} ")
    assert "numbers are not finite (the first is inf); expected finite numbers" in said
    assert_good(run, said, bad)
    assert_same(resume(run), whole)


@pytest.mark.slow
def test_without_a_checkpoint_at_the_step_the_next_one_finds_it(
    domains: tuple[Path, Path], source_only: Path, row: Row, tmp_path: Path
) -> None:
    recipe = tiny("cbst", *domains, checkpoint_steps=None, checkpoint_share=0)
    first = steps_of(row("cbst"))[0]["step"]

    def end(method: Any, t: int) -> None:
        if t == first:
            PLACES["a weight"](method).data.fill_(INF)

    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, recipe, None, end)
        said = ends(recipe, tmp_path / "run", source_only)
    assert said.startswith(f"step {first + 1}: loss source = nan")
    assert_good(tmp_path / "run", said, first)


@pytest.mark.parametrize(
    ("stream", "value"), [(Stream.SOURCE, INF), pytest.param(Stream.TARGET, NAN, marks=pytest.mark.slow)]
)
def test_an_image_that_is_no_number(
    domains: tuple[Path, Path], source_only: Path, row: Row, tmp_path: Path, stream: Stream, value: float
) -> None:
    """Strong colours end in a clamp, which makes an infinite pixel of the target white."""
    bad, feed, unpack = steps_of(row("cbst"))[1]["step"], Feed.packed, Packed.unpacked
    seen: list[Packed] = []

    def packed(own: Feed, t: int, slots: range) -> Packed:
        found = feed(own, t, slots)
        if t == bad and own.stream is stream:
            seen.append(found)
        return found

    def unpacked(own: Packed, *device: Any) -> Images:
        images = unpack(own, *device)
        if any(own is found for found in seen):
            images.image[0, 1, 2, 3] = value
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "packed", packed)
        patch.setattr(Packed, "unpacked", unpacked)
        said = ends(tiny("cbst", *domains), tmp_path / "run", source_only)
    assert said.startswith(f"step {bad}: loss {stream.name.lower()} = ")
    assert "nan; expected a finite number" in said
    assert seen and seen[0].name[0] in said
    assert_good(tmp_path / "run", said, bad)


@pytest.mark.parametrize("kind", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_learning_rate_of_a_million(
    domains: tuple[Path, Path], source_only: Path, row: Row, tmp_path: Path, kind: Any
) -> None:
    recipe = tiny("cbst", *domains)
    phase = recipe.adaptation
    assert phase is not None
    method: Any = phase.method
    optimizer = Optimizer(kind, lr=1e6, head_multiplier=1)
    recipe = replace(recipe, adaptation=replace(phase, method=replace(method, optimizer=optimizer)))
    said = ends(recipe, tmp_path / "run", source_only)
    first = steps_of(row("cbst"))[0]["step"]
    assert said.startswith(f"step {first + 1}: loss source = nan")
    assert "Lower the learning rate" in said
    assert_good(tmp_path / "run", said, first + 1)


# --- what is only suspicious: warn or stop -----------------------------------------------------------------------

Labels = tuple[Tensor, Tensor]


def no_labels(label: Tensor, predicted: Tensor) -> Labels:
    return torch.full_like(label, IGNORE), predicted


def a_few_columns(label: Tensor, predicted: Tensor) -> Labels:
    return label.masked_fill(torch.arange(label.shape[1]) % 12 != 0, IGNORE), predicted


def no_ground(label: Tensor, predicted: Tensor) -> Labels:
    return label.masked_fill(label == 2, IGNORE), predicted


def sky_everywhere(label: Tensor, predicted: Tensor) -> Labels:
    return label, torch.zeros_like(predicted)


SUSPICIOUS = {
    no_labels: "adaptation, round 2: none of the target's 11,520 pixels got a pseudo-label",
    a_few_columns: r"adaptation, round 2: \d.\d % of the target's pixels got a pseudo-label, after \d+.\d % in round 1",
    no_ground: r"adaptation, round 2: vanished from the pseudo-labels since round 1, though still predicted: ground \(",
    sky_everywhere: "adaptation, round 2: class sky is 100.0 % of what is predicted of the target",
}


def spoil_round(patch: pytest.MonkeyPatch, spoiled: Callable[[Tensor, Tensor], Labels]) -> None:
    """What the second round writes, through a function of label and prediction."""
    write = PseudoLabels.write

    def writes(store: PseudoLabels, name: str, label: Tensor, predicted: Tensor) -> None:
        write(store, name, *(spoiled(label, predicted) if store.round == 2 else (label, predicted)))

    patch.setattr(PseudoLabels, "write", writes)


@pytest.mark.parametrize(
    "spoiled", [f if f is no_ground else pytest.param(f, marks=pytest.mark.slow) for f in SUSPICIOUS]
)
def test_a_suspicious_round_stops_the_run_that_asks_for_it(
    domains: tuple[Path, Path], source_only: Path, row: Row, tmp_path: Path, spoiled: Any
) -> None:
    run, first = tmp_path / "run", steps_of(row("cbst"))[0]["step"]
    with pytest.MonkeyPatch.context() as patch:
        spoil_round(patch, spoiled)
        with pytest.raises(TrainingError, match=SUSPICIOUS[spoiled]) as error:
            start(tiny("cbst", *domains, on_bad_numbers="stop"), run, source_only)
    assert "on_bad_numbers = stop" in str(error.value)
    assert_good(run, str(error.value), first + 2)
    assert [line["round"] for line in steps_of(run)] == [1, 1]
    assert_same(resume(run), row("cbst"))


@pytest.mark.parametrize(
    "spoiled", [f if f is no_labels else pytest.param(f, marks=pytest.mark.slow) for f in SUSPICIOUS]
)
def test_by_default_it_is_said_and_the_run_goes_on(
    domains: tuple[Path, Path], source_only: Path, tmp_path: Path, spoiled: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        spoil_round(patch, spoiled)
        run = start(tiny("cbst", *domains), tmp_path / "run", source_only)
    said = run_warnings(read_run(run))
    matching = [text for text in said if text.startswith("adaptation, round 2: ")]
    assert matching
    printed = capsys.readouterr()
    flat = " ".join((printed.out + printed.err).split())
    assert all(f"warning: {text}" in flat for text in said)
    blank = [line["step"] for line in steps_of(run) if "target" in line.get("blank", ())]
    if spoiled is no_labels:
        assert blank == [line["step"] for line in steps_of(run) if line["round"] == 2]
        assert any("adaptation, round 2: 2 of 2 target batches had no labelled pixel" in text for text in said)


@pytest.mark.slow
def test_a_sound_round_stops_no_run(domains: tuple[Path, Path], source_only: Path, row: Row, tmp_path: Path) -> None:
    """And the setting changes no weight."""
    run = start(tiny("cbst", *domains, on_bad_numbers="stop"), tmp_path / "run", source_only)
    assert_same(run, row("cbst"))


def relabelled(root: Path, label: Callable[[np.random.Generator], np.ndarray]) -> tuple[Path, Path]:
    """A tiny pair of domains whose source's training labels are others."""
    source, target = make_folder_pair(root, images=3)
    rng = np.random.default_rng(0)
    for path in sorted((source / "train" / "labels").glob("*.png")):
        Image.fromarray(label(rng).astype(np.uint8)).save(path)
    return source, target


def noise(rng: np.random.Generator) -> np.ndarray:
    """Labels that have nothing to do with the images."""
    return rng.integers(0, 5, (64, 64))


def ignored(_: np.random.Generator) -> np.ndarray:
    return np.full((64, 64), IGNORE)


def test_a_warm_up_no_better_than_chance_stops_the_run_that_asks_for_it(tmp_path: Path) -> None:
    pair, run = relabelled(tmp_path / "data", noise), tmp_path / "run"
    said = ends(tiny("cbst", *pair, on_bad_numbers="stop"), run, None)
    assert said.startswith("warmup: mean class accuracy on 3 source images is ")
    assert "a prediction that never looks at the image has 20.0 % (1 of 5 classes)" in said
    assert_good(run, said, WARMUP_STEPS)


def test_so_do_source_labels_that_are_all_ignored(tmp_path: Path) -> None:
    pair, run = relabelled(tmp_path / "data", ignored), tmp_path / "run"
    said = ends(tiny("cbst", *pair, on_bad_numbers="stop"), run, None)
    assert said.startswith("warmup, round 1: 3 of 3 source batches had no labelled pixel")
    assert [line["blank"] for line in RunLog(run / "log.jsonl").read()] == WARMUP_STEPS * [["source"]]
    assert_good(run, said, WARMUP_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("label", [noise, ignored])
def test_by_default_the_report_says_so(tmp_path: Path, label: Any) -> None:
    run = start(tiny("cbst", *relabelled(tmp_path / "data", label)), tmp_path / "run")
    said = "\n".join(run_warnings(read_run(run)))
    measured = json.loads((run / "chance.json").read_text())
    assert measured["images"] == ["day_000", "day_001", "day_002"]
    if label is noise:
        assert said.startswith("warm-up: mean class accuracy on 3 source images")
    else:
        assert said.startswith("warm-up: none of 3 source images looked at has a labelled pixel")
        assert "\nwarmup, round 1: 3 of 3 source batches had no labelled pixel" in said
