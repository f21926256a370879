"""What self-training methods share: a warm-up kept beside their own losses, for each of them alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.methods.test_iast import WARMUPS, Wrapped
from tests.methods.test_laws import OPTIMIZER, batch, model, step
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.methods.category_adaptive import CategoryAdaptiveConfig
from segshift.methods.iast import IASTConfig
from segshift.methods.source_only import SourceOnly, SourceOnlyConfig
from segshift.parts.losses import PixelMean
from segshift.parts.self_training import SelfTraining, SelfTrainingConfig, check_choice
from segshift.types import Images, Losses, MethodConfig

METHODS = pytest.mark.parametrize("method_config", [IASTConfig, CategoryAdaptiveConfig])


@METHODS
@pytest.mark.parametrize(("warmup", "players"), WARMUPS.values(), ids=WARMUPS)
def test_a_warm_ups_steps_follow_by_wrapped_players(
    method_config: Any, warmup: MethodConfig, players: list[str]
) -> None:
    method = method_config(optimizer=OPTIMIZER, retain=warmup).build(model(), 10, 0)
    plain = method_config(optimizer=OPTIMIZER).build(model(), 10, 0)
    assert list(method.players()) == list(method.optimizers()) == players
    assert list(plain.players()) == list(plain.optimizers()) == ["model"]
    expected = [*step(plain, batch()), *step(warmup.build(model(), 10, 0), batch())]
    wrapped = {name: Wrapped(player) for name, player in method.players().items()}
    for name, player in wrapped.items():
        setattr(method, name, player)
    found = []
    for losses in method.step(batch(), 0):
        torch.stack(list(losses.values())).sum().backward()
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found == expected
    assert all(player.calls > 0 for player in wrapped.values())


class Counter(SourceOnly):
    """Counts what it is told, and remembers it."""

    ended = 0

    def end_step(self, t: int) -> None:
        self.ended += 1

    def state_dict(self) -> dict[str, Any]:
        return {"ended": self.ended}

    def load_state_dict(self, state: Any) -> None:
        self.ended = state["ended"]


@dataclass(frozen=True)
class Counting(SourceOnlyConfig):
    def build(self, model: nn.Module, steps: int, seed: int) -> Any:
        return Counter(model, self, steps, seed)


@METHODS
def test_what_is_kept_is_told_of_steps_and_has_its_state_saved(method_config: Any) -> None:
    config = method_config(optimizer=OPTIMIZER, retain=Counting(OPTIMIZER))
    method, again = config.build(model(), 10, 0), config.build(model(), 10, 0)
    method.thresholds = [0.25, 0.5]
    step(method, batch(), 0)
    step(method, batch(), 1)
    assert method.state_dict() == {"thresholds": [0.25, 0.5], "retained": {"ended": 2}}
    again.load_state_dict(method.state_dict())
    assert again.state_dict() == method.state_dict()
    step(again, batch(), 2)
    assert again.state_dict()["retained"] == {"ended": 3}


def test_a_method_is_what_it_minimises_on_the_target() -> None:
    @dataclass(frozen=True)
    class Config(SelfTrainingConfig):
        batch_norm: Any = "frozen"
        augment: Any = None
        optimizer: Any = OPTIMIZER
        retain: MethodConfig | None = None

        def build(self, model: nn.Module, steps: int, seed: int) -> SelfTraining:
            return Squares(model, self, steps, seed)

    class Squares(SelfTraining):
        def target_losses(self, images: Images, t: int) -> Losses:
            def total(logits: Tensor, rows: slice) -> Tensor:
                assert logits.shape[2:] == images.label.shape[1:] and rows == slice(None)
                return logits.square().sum()

            return self.target_means(images, t, {"squares": PixelMean(total, torch.tensor(10))})

    method = Config().build(model(), 10, 0)
    assert [list(losses) for losses in step(method, batch())] == [["squares"]]
    assert method.state_dict() == {"thresholds": [], "retained": {}}
    kind: Any = SelfTraining
    with pytest.raises(TypeError, match="abstract"):
        kind(model(), Config(), 10, 0)


def test_a_wrong_choice_is_named() -> None:
    check_choice("colour", "red", ("red", "green"))
    with pytest.raises(ConfigError, match="colour = 'blue'; expected one of red, green"):
        check_choice("colour", "blue", ("red", "green"))
