"""Which domain's images BatchNorm looks at: policies while training, and AdaBN afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segshift.errors import ConfigError, DataError, TrainingError

Policy = Literal["source", "frozen", "target", "both"]
"""The domains whose images BatchNorm normalises by their own statistics, and keeps running statistics of."""
Domain = Literal["source", "target"]


def check_policy(policy: str) -> None:
    """Raise ConfigError where `policy` is none of `Policy`."""
    if policy not in get_args(Policy):
        raise ConfigError(f"batch_norm is {policy!r}; expected one of {', '.join(get_args(Policy))}")


def set_batch_norm(model: nn.Module, policy: Policy, domain: Domain) -> None:
    """Prepare every BatchNorm layer of a model for a forward over images of `domain`.

    A layer in train mode uses the batch's statistics and updates the running ones, in eval mode it uses the
    running ones and keeps them. Scale and shift are weights and train under every policy; no other layer is touched.
    """
    check_policy(policy)
    if domain not in get_args(Domain):
        raise ConfigError(f"domain is {domain!r}; expected source or target")
    for layer in batch_norm_layers(model).values():
        layer.train(policy in ("both", domain))


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """Name -> BatchNorm layer, of one device or synchronised, timm's with activation included."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}


@torch.no_grad()
def re_estimate(
    model: nn.Module,
    batches: Iterable[Float[Tensor, "b 3 h w"]],
    merge: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """AdaBN (Li et al. 2016): replace all running statistics by those of the given images.

    One pass; each layer normalises by the statistics of the batch at hand. Mean and (unbiased) variance of a
    layer's inputs are pooled over all their values in all batches, summed in float64: no average of
    averages, no momentum. `merge` sums a tensor over processes, each of which may bring any number of batches. The rest
    of the model runs in eval mode, and all modes are as before afterwards. A layer that no batch reaches keeps its
    statistics.

    Raises ConfigError where the model has no BatchNorm, DataError where there is no batch, TrainingError where
    statistics are not finite (then the model is unchanged).
    """
    layers = {name: layer for name, layer in batch_norm_layers(model).items() if layer.track_running_stats}
    if not layers:
        raise ConfigError("the model has no BatchNorm layer with running statistics: leave AdaBN out for it")
    device = next(iter(layers.values())).running_mean.device  # type: ignore[union-attr]
    sums = {
        name: torch.zeros(3, layer.num_features, dtype=torch.float64, device=device) for name, layer in layers.items()
    }
    with _batch_statistics(model, layers), _watched(layers, sums):
        count = 0
        for image in batches:
            model(image)
            count += 1
    # One tensor over all layers, so that processes meet once.
    packed = torch.cat(
        [torch.tensor([float(count)], dtype=torch.float64, device=device), *(s.flatten() for s in sums.values())]
    )
    total, *parts = (merge(packed) if merge else packed).split(
        [1, *(3 * layer.num_features for layer in layers.values())]
    )
    if total.item() == 0:
        raise DataError("AdaBN: there is no batch of images; expected at least 1")
    pooled = {name: _pooled(name, part.view(3, -1)) for name, part in zip(layers, parts) if part[0] > 0}
    for name, (mean, variance) in pooled.items():
        _store(layers[name], mean, variance, int(total.item()))


def _pooled(name: str, sums: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, unbiased variance) from count, sum and sum of squares, one column a channel."""
    count, total, squares = sums
    mean = total / count
    variance = (squares - count * mean.square()).clamp(min=0) / (count - 1).clamp(min=1)
    if not (mean.isfinite().all() and variance.isfinite().all()):
        raise TrainingError(
            f"AdaBN: the inputs of layer {name} are not finite; look for NaN in the images, or weights that diverged"
        )
    return mean, variance


def _store(layer: _BatchNorm, mean: Tensor, variance: Tensor, batches: int) -> None:
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance)
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(batches)


@contextmanager
def _watched(layers: dict[str, _BatchNorm], sums: dict[str, Tensor]) -> Iterator[None]:
    """Add count, sum and sum of squares of each layer's inputs to `sums`, per channel, at every forward."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0].to(torch.float64).transpose(0, 1).flatten(1)
            sums[name][0] += values.shape[1]
            sums[name][1] += values.sum(1)
            sums[name][2] += values.square().sum(1)

        return add

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _batch_statistics(model: nn.Module, layers: dict[str, _BatchNorm]) -> Iterator[None]:
    """The model in eval mode, its BatchNorm without running statistics: so each normalises by its batch.

    In eval mode a synchronised layer does not wait for other processes, whose number of batches may differ.
    """
    modes = {module: module.training for module in model.modules()}
    kept = {name: (layer.running_mean, layer.running_var) for name, layer in layers.items()}
    model.eval()
    for layer in layers.values():
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for name, (mean, variance) in kept.items():
            layers[name].running_mean, layers[name].running_var = mean, variance
        for module, training in modes.items():
            module.training = training
