"""Blank batches, numbers that are not finite wherever a checkpoint would hold them, chance, and a run that is over."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.run_folder import STREET, make_run
from tests.methods.test_laws import CLASSES, batch, images, model, step
from torch import Tensor, nn

from segshift import guards
from segshift.errors import RunError, TrainingError
from segshift.guards import Blanks, measure_chance, require_finite, run_warnings
from segshift.methods.cpsl import CPSLConfig
from segshift.methods.source_only import SourceOnly, SourceOnlyConfig
from segshift.models.small import SmallNet
from segshift.parts.optimizers import Optimizer
from segshift.run_folder import read_run
from segshift.taxonomy import unnamed
from segshift.types import IGNORE, Batch, Images, Output

NO_IMAGES = Images(torch.empty(0, 3, 1, 1), torch.empty(0, 1, 1, dtype=torch.long), (), ())


# --- batches ------------------------------------------------------------------------------------------------------


def test_batches_without_a_label_are_counted() -> None:
    blanks = Blanks(["source", "target"])
    half = images(2)
    half.label[0] = IGNORE
    given = (batch(), batch(1.0), Batch(images(1, ignored=1.0), half), batch(1.0))
    found = [blanks.add(blanks.labelled(each)) for each in given]
    assert found == [[], ["target"], ["source"], ["target"]]
    source, target = blanks.findings("warm-up, round 1")
    assert source.text.startswith("warm-up, round 1: 1 of 4 source batches")
    assert target.text.startswith("warm-up, round 1: 2 of 4 target batches")
    # The source is trained on; of a target without pseudo-labels, 255 everywhere is as it should be.
    plain = Blanks(["source"])
    assert plain.add(plain.labelled(batch(1.0))) == [] and plain.findings("") == []
    assert Blanks([]).labelled(batch(1.0)) == Blanks([]).add([]) == []


def test_a_batch_is_that_of_all_processes() -> None:
    """Another process has a label of the target, so the step's loss is over some pixel."""
    blanks = Blanks(["source", "target"])
    own = blanks.labelled(Batch(images(1, ignored=1.0), images(2, ignored=1.0)))
    assert blanks.add([own[0] + 0, own[1] + 5]) == ["source"]


# --- numbers ------------------------------------------------------------------------------------------------------


def trained(config: Any = None) -> Any:
    """A method whose optimisers have momentum."""
    method = (config or SourceOnlyConfig(Optimizer("adamw", lr=1e-2, head_multiplier=1))).build(model(), 10, 0)
    step(method, batch())
    return method


METHOD = trained()
TENSORS = [name for name, tensor in METHOD.model.state_dict().items() if tensor.is_floating_point()]
BAD = st.sampled_from([float("nan"), float("inf"), float("-inf")])


def refused(method: Any, **more: Any) -> str:
    with pytest.raises(TrainingError) as error:
        require_finite(method.players(), 8, method.optimizers(), method.state_dict(), **more)
    return str(error.value)


@given(st.sampled_from(TENSORS), BAD, st.integers(0, 10**6))
@settings(max_examples=40)
def test_a_number_that_is_none_is_found_wherever_it_is(name: str, value: float, place: int) -> None:
    method = copy.deepcopy(METHOD)
    tensor = method.model.state_dict()[name].view(-1)
    tensor[place % len(tensor)] = value
    said = refused(method)
    kind = "weight" if name in dict(method.model.named_parameters()) else "buffer"
    assert said.startswith(f"after step 7: {kind} {name} of model: 1 of {len(tensor)} numbers are not finite")
    assert f"(the first is {value}); expected finite numbers" in said


def test_large_numbers_are_numbers() -> None:
    method = copy.deepcopy(METHOD)
    for tensor in method.model.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(torch.finfo(tensor.dtype).max)
    require_finite(method.players(), 8, method.optimizers(), method.state_dict())
    mixed = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2).bfloat16(), nn.Linear(3, 2).double()])
    require_finite({"model": mixed}, 1)
    with torch.no_grad():
        next(mixed[1].parameters())[0, 0] = torch.inf
    with pytest.raises(TrainingError, match=r"after step 0: weight 1\.weight of model: 1 of 6 numbers"):
        require_finite({"model": mixed}, 1)


def test_the_way_back_is_asked_for_when_it_is_needed() -> None:
    def never() -> str:
        raise AssertionError("no one asked")

    require_finite(METHOD.players(), 8, METHOD.optimizers(), METHOD.state_dict(), never)
    method = copy.deepcopy(METHOD)
    next(method.model.parameters()).data.fill_(torch.nan)
    assert refused(method, way_back=lambda: "Turn back.").endswith("No checkpoint is written of them. Turn back.")


def test_what_the_optimiser_keeps_is_looked_at() -> None:
    """A squared gradient of 1e20 is no float32 number: the weight would stay finite, and stand still for ever."""
    method = trained()
    name, parameter = next(iter(method.model.named_parameters()))
    method.optimizers()["model"].optimizer.state[parameter]["exp_avg_sq"].view(-1)[0] = torch.inf
    assert refused(method).startswith(f"after step 7: exp_avg_sq of weight {name} in the optimiser of model: 1 of")


def test_what_the_method_keeps_is_looked_at() -> None:
    optimizer = Optimizer("adamw", lr=1e-2, head_multiplier=1)
    method = CPSLConfig(samples=8, bank=48, momentum=0.9, optimizer=optimizer, head_optimizer=optimizer).build(
        model(), 10, 0
    )
    require_finite(method.players(), 1, method.optimizers(), method.state_dict())
    step(method, batch())
    require_finite(method.players(), 1, method.optimizers(), method.state_dict())
    teacher = method.state_dict()["teachers"]["model"]
    name = next(key for key, tensor in teacher.items() if tensor.is_floating_point())
    teacher[name].view(-1)[0] = torch.nan
    assert refused(method).startswith(f"after step 7: the method's state['teachers']['model'][{name!r}]: 1 of")
    with pytest.raises(TrainingError, match=r"the method's state\['a'\]\[1\]: 1 of 1 numbers"):
        require_finite({}, 8, state={"a": [torch.ones(1), torch.tensor([torch.nan])], "b": 3})
    require_finite({}, 8, state={"a": [float("nan")], "b": torch.tensor([3])})


def test_where_a_loss_that_is_no_number_comes_from() -> None:
    given, players = batch(), {"model": model()}
    assert guards.cause(players, given) == "All weights and pixels are finite: the step itself overflowed."
    given.target.image[1, 2, 3, 4] = torch.inf
    assert given.source.soft is not None
    given.source.soft[0, 0, 0, 0] = torch.nan
    assert guards.cause(players, given) == "Pixels or soft labels that are not finite: of 1_0, 2_1."
    assert guards.cause(players, Batch(images(1), NO_IMAGES)).startswith("All weights")
    name, weight = list(players["model"].named_parameters())[-1]
    weight.data[0] = torch.nan
    assert guards.cause(players, given).startswith(f"Weight {name} of model was not finite before: ")


# --- chance -------------------------------------------------------------------------------------------------------


class Source:
    """Twenty labelled images of stripes; the last class is shown by none, and a corner is ignored."""

    space = unnamed(CLASSES)
    names = tuple(f"image_{i:02}" for i in range(20))

    def __init__(self, only: int | None = None) -> None:
        self.only = only
        self.looked: list[int] = []

    def image(self, index: int) -> Tensor:
        self.looked.append(index)
        return (self._stripes(index) * 60).to(torch.uint8).expand(3, -1, -1).contiguous()

    def label(self, index: int) -> Tensor:
        label = self._stripes(index) if self.only is None else torch.full((12, 16), self.only)
        label[:3, :3] = IGNORE
        return label.to(torch.uint8)

    def _stripes(self, index: int) -> Tensor:
        return ((torch.arange(16) + index) // 5 % (CLASSES - 1)).expand(12, 16).clone()

    def fingerprint(self) -> str:
        return ""


class Says(nn.Module):
    """A network that says one class everywhere, or (None) what the stripes are."""

    align_corners = False

    def __init__(self, answer: int | None) -> None:
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Output:
        assert not self.training
        level = image[:, 0] if self.answer is None else torch.full_like(image[:, 0], self.answer * 60 / 255)
        distance = (level[:, None] - torch.arange(CLASSES).view(1, -1, 1, 1) * 60 / 255).abs()
        return Output(-distance)


@pytest.mark.parametrize("answer", range(CLASSES - 1))
def test_one_class_everywhere_is_chance_exactly(answer: int) -> None:
    source = Source()
    found = measure_chance(Says(answer), source, None, seed=3)
    assert found.mean == found.chance == 1 / (CLASSES - 1)
    assert list(found.accuracy) == ["class_0", "class_1", "class_2"]
    assert len(found.images) == len(set(source.looked)) == 16
    finding = found.finding()
    assert finding is not None and finding.kind == "no better than chance"


def test_a_class_that_does_not_occur_is_worse_than_chance() -> None:
    found = measure_chance(Says(CLASSES - 1), Source(), None, seed=3)
    assert found.mean == 0
    assert found.finding() is not None


def test_what_looks_at_the_image_is_better() -> None:
    network = Says(None).train()
    found = measure_chance(network, Source(), None, seed=3)
    assert found.mean == 1 and found.finding() is None
    assert network.training
    assert measure_chance(nn.DataParallel(Says(None)), Source(), None, seed=3) == found


def test_the_images_are_the_seed_s() -> None:
    found = [measure_chance(Says(0), Source(), None, seed, 4).images for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert list(found[0]) == sorted(found[0])
    assert len(measure_chance(Says(0), Source(), None, 1, 99).images) == 20


def test_labels_that_are_all_ignored_are_said() -> None:
    found = measure_chance(Says(0), Source(only=IGNORE), None, seed=3)
    finding = found.finding()
    assert found.accuracy == {} and finding is not None and finding.kind == "unlabelled source"


def test_a_trained_network_has_learned_its_source() -> None:
    torch.manual_seed(0)
    network: Any = SmallNet(width=8, dilations=(1,)).build(CLASSES)
    source = Source()
    pixels = torch.stack([source.image(i) for i in range(8)]) / 255
    label = torch.stack([source.label(i) for i in range(8)]).long()
    names, method = tuple(map(str, range(8))), SourceOnly(network, SourceOnlyConfig(Optimizer("adamw", lr=1e-2)), 30, 0)
    for t in range(30):
        step(method, Batch(Images(pixels, label, names), NO_IMAGES), t)
    assert measure_chance(network, source, None, 0).finding() is None


# --- a finished run -----------------------------------------------------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_a_report_says_of_a_sound_run(tmp_path: Path) -> None:
    said = run_warnings(read_run(make_run(tmp_path / "run")))
    assert len(said) == 1
    assert said[0].startswith("adaptation, round 1: no target pixel is predicted as train. This is usual")


def test_what_a_report_says_of_a_run_that_went_wrong(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rounds=3)
    third = json.loads((run / "round-3" / "statistics.json").read_text())
    nothing = [0] * len(STREET)
    edit(run / "round-3" / "statistics.json", kept=0, coverage=0, kept_per_class=nothing, predicted=nothing)
    distilled = run / "distillation" / "round-1"
    distilled.mkdir(parents=True)
    alone = [third["pixels"], *nothing[1:]]
    (distilled / "statistics.json").write_text(
        json.dumps(third | {"round": 1, "predicted": alone, "kept_per_class": alone, "kept": third["pixels"]})
    )
    chance = {"images": ["a"], "class_accuracy": {"road": 1.0, "sky": 0.0}}
    (run / "chance.json").write_text(json.dumps(chance))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in lines:
        if line["phase"] == "warmup" and line["step"] <= 3:
            line["blank"] = ["source"]
        if line["phase"] == "adaptation" and line["round"] == 2:
            line["blank"] = ["source", "target"]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = run_warnings(read_run(run))
    starts = (
        "warm-up: mean class accuracy on 1 source images is 50.0 % (road 100 %, sky 0 %)",
        "warmup, round 0: 3 of 300 source batches",
        "adaptation, round 1: no target pixel is predicted as train",
        "adaptation, round 2: 60 of 60 source batches",
        "adaptation, round 2: 60 of 60 target batches",
        "adaptation, round 3: none of the target's 276,480 pixels",
        "distillation, round 1: class road is 100.0 % of what is predicted",
    )
    assert [text[: len(start)] for text, start in zip(said, starts, strict=False)] == list(starts)


def test_a_damaged_measure_of_chance(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    for content in ("{", "[]", '{"images": []}'):
        (run.path / "chance.json").write_text(content)
        with pytest.raises(RunError, match=r"chance\.json: cannot be read .*delete the file"):
            run_warnings(run)
