"""BatchNorm policies change or keep exactly what they say; AdaBN's statistics are those of all pixels."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from segshift.errors import ConfigError, DataError, TrainingError
from segshift.parts.batch_norm import Domain, Policy, re_estimate, set_batch_norm


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))


def images(count: int, seed: int = 0, size: int = 6) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 + 3


def statistics(model: nn.Module) -> list[Tensor]:
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return [s.clone() for m in layers for s in (m.running_mean, m.running_var) if s is not None]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


LEARNS = [
    ("source", "source", True), ("source", "target", False), ("frozen", "source", False), ("frozen", "target", False),
    ("target", "source", False), ("target", "target", True), ("both", "source", True), ("both", "target", True),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "domain", "learns"), LEARNS)
def test_policy(policy: Policy, domain: Domain, learns: bool) -> None:
    model = net().train()
    before = statistics(model)
    set_batch_norm(model, policy, domain)
    model(images(4)).sum().backward()
    # Learning statistics and normalising by the batch go together.
    assert equal(statistics(model), before) is not learns
    normalised = model[0](images(4))
    assert torch.allclose(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-4) is learns
    assert model[3].training
    assert model.training
    assert model[0].weight.grad is not None


def test_wrong_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="source, frozen, target, both"):
        set_batch_norm(net(), "none", "source")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="source or target"):
        set_batch_norm(net(), "both", "test")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=20)
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_first_layer_has_the_statistics_of_all_pixels(sizes: list[int], seed: int) -> None:
    model = net()
    everything = images(sum(sizes), seed)
    re_estimate(model, everything.split(sizes))
    pixels = everything.double().transpose(0, 1).flatten(1)
    assert torch.allclose(model[0].running_mean.double(), pixels.mean(1), rtol=1e-6)
    assert torch.allclose(model[0].running_var.double(), pixels.var(1), rtol=1e-5)
    assert model[0].num_batches_tracked == len(sizes)


def test_batches_of_other_sizes_count_by_their_pixels() -> None:
    model: Any = nn.Sequential(nn.BatchNorm2d(3))
    small, large = images(1, 1, size=2), images(2, 2, size=9) + 5
    re_estimate(model, [small, large])
    pixels = torch.cat([x.double().transpose(0, 1).flatten(1) for x in (small, large)], dim=1)
    assert torch.allclose(model[0].running_mean.double(), pixels.mean(1), rtol=1e-6)
    assert torch.allclose(model[0].running_var.double(), pixels.var(1), rtol=1e-5)


def test_one_batch_equals_torch_with_momentum_one() -> None:
    model, reference = net(), net()
    for layer in reference:
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    reference[3].p = 0.0
    reference.train()(images(5))
    re_estimate(model, [images(5)])
    for ours, theirs in zip(statistics(model), statistics(reference)):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_one_pass_is_enough_and_nothing_else_changes() -> None:
    model = net().train()
    model[3].eval()
    weights = {name: p.clone() for name, p in model.named_parameters()}

    def once() -> Iterator[Tensor]:
        yield images(3)
        yield images(2, 1)

    re_estimate(model, once())
    assert [m.training for m in model] == [True, True, True, False, True]
    assert [m.momentum for m in model if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_two_shards_merged_equal_one() -> None:
    batches = [images(2, seed) for seed in range(5)]
    alone = net()
    re_estimate(alone, batches)
    for shards in ((batches[:1], batches[1:]), ([], batches)):
        partial: list[Tensor] = []

        def keep(tensor: Tensor, to: list[Tensor] = partial) -> Tensor:
            to.append(tensor)
            return tensor + 1  # no process is empty after the sum

        for shard in shards:
            re_estimate(net(), shard, merge=keep)
        merged = net()
        re_estimate(merged, shards[0], merge=lambda _, parts=partial: parts[0] + parts[1])
        for ours, theirs in zip(statistics(merged), statistics(alone)):
            assert torch.allclose(ours, theirs, rtol=1e-6)
        assert merged[0].num_batches_tracked == len(batches)


def test_synchronised_layers_on_one_process() -> None:
    plain = net()
    synchronised: Any = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3)))
    re_estimate(plain, [images(4)])
    re_estimate(synchronised, [images(4)])
    assert torch.equal(synchronised[0].running_mean, plain[0].running_mean)


def test_a_layer_that_is_not_reached_keeps_its_statistics() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model: Any = Branch()
    re_estimate(model, [images(2)])
    assert torch.equal(model.unused.running_mean, torch.zeros(3))
    assert (model.used.running_mean > 3).all()


def test_errors_leave_the_model_as_it_was() -> None:
    with pytest.raises(ConfigError, match="no BatchNorm"):
        re_estimate(nn.Conv2d(3, 3, 1), [images(1)])
    model = net().train()
    before = statistics(model)
    with pytest.raises(DataError, match="no batch"):
        re_estimate(model, [])
    with pytest.raises(TrainingError, match="layer 0"):
        re_estimate(model, [images(2), images(2) * float("nan")])
    with pytest.raises(RuntimeError):
        re_estimate(model, [images(2), torch.zeros(1, 5, 4, 4)])
    assert equal(statistics(model), before)
    assert model[0].training
