"""What is found out about a network that nobody described: its sizes, its stride, the layer its class scores come from.

Nothing is guessed from names. The network looks at small images of noise, and what it does with them is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError

Read = Callable[[nn.Module, Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""Run a network on normalised images: its class scores, and features it shows of its own accord, shallow to deep."""

_SIDES = (32, 64, 128, 224, 256, 384, 512, 518)
"""Square images that are tried: small ones first, for they cost least; then those that networks are often bound to."""
_MAP = 128
_MULTIPLES = (1, 2, 4, 8, 14, 16, 28, 32, 64, 128)
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d)


class Found(NamedTuple):
    """What a network turned out to be."""

    side: int
    """A side in pixels that it takes; smaller images are brought to it."""
    multiple: int
    """It takes sides that are multiples of this."""
    stride: int
    """Image pixels per class score (of the native ones, where it has any)."""
    classifier: str
    """Name of the convolution that makes the class scores, for whose input is the embedding; empty: there is none."""
    native: bool
    """Whether the network's output is nothing but the classifier's, brought to the image's size bilinearly. Then the
    classifier's own is taken: the same scores in a sixteenth of the memory, or less."""
    align_corners: bool
    unused: tuple[str, ...]
    """Parameters that class scores do not depend on, such as an auxiliary head's."""


class Seen(NamedTuple):
    """What passed through a layer."""

    inputs: Any
    output: Any


@contextmanager
def watching(body: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Seen]]:
    """Name -> what passes through that layer, meanwhile. The hooks live no longer: a copy of the network has none."""
    seen: dict[str, Seen] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen[name] = Seen(inputs[0] if inputs else None, output)

        return hook

    handles = [body.get_submodule(name).register_forward_hook(keep(name)) for name in dict.fromkeys(names)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def class_scores(found: Any) -> Tensor:
    """The class scores in what a network returned: a tensor, {"out" or "logits": tensor}, or a sequence of tensors.

    Raises ConfigError where there are none.
    """
    if isinstance(found, Mapping):
        found = next((found[key] for key in ("logits", "out") if key in found), None)
    elif not isinstance(found, Tensor) and hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor) or found.dim() != 4:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"the model returns {what}; expected class scores (batch, classes, height, width): as a tensor, as "
            'the entry "out" or "logits", or first in a tuple'
        )
    return found


def probe(body: nn.Module, read: Read, num_classes: int) -> Found:
    """Find out what a network is. It is left as it was. Raises ConfigError where it does not segment images."""
    modes = {module: module.training for module in body.modules()}
    body.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            side, logits = _smallest(body, read)
            if logits.shape[1] != num_classes:
                raise ConfigError(
                    f"the model gives {logits.shape[1]} class scores a pixel, the data has {num_classes} classes; "
                    "expected as many: merge or drop classes with a class map (--data.class-map), or give the model "
                    "another head"
                )
            multiple = _multiple(body, read, side)
            # Large enough that class scores are a map: of a single one, nobody sees how it was enlarged.
            large = -(-max(2 * side, _MAP) // multiple) * multiple
            classifier, native, align_corners, scores = _classifier(body, read, large)
            unused = _unused(body, read, large)
            stride = max(1, round(large / scores.shape[-1]))
        return Found(side, multiple, stride, classifier, native, align_corners, unused)
    finally:
        for module, training in modes.items():
            module.training = training


def noise(height: int, width: int, like: nn.Module) -> Float[Tensor, "1 3 h w"]:
    """An image of noise, the same each time, where the network is."""
    drawn = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    first = next(like.parameters(), None)
    return drawn if first is None else drawn.to(first.device, first.dtype)


_REFUSALS = (RuntimeError, ValueError, AssertionError, IndexError, TypeError, NotImplementedError)
"""What networks raise for a size they cannot take."""


@torch.no_grad()
def _smallest(body: nn.Module, read: Read) -> tuple[int, Tensor]:
    error: Exception | None = None
    for side in _SIDES:
        try:
            return side, read(body, noise(side, side, body))[0]
        except ConfigError:
            raise
        except _REFUSALS as refused:
            error = refused
    raise ConfigError(
        f"the model takes no image of 3 channels and {', '.join(map(str, _SIDES))} pixels a side "
        f"({type(error).__name__}: {error!s:.200}); expected a network from (batch, 3, height, width) to class scores"
    ) from error


@torch.no_grad()
def _multiple(body: nn.Module, read: Read, side: int) -> int:
    """The smallest number whose multiples, above `side`, the network takes: also where height and width differ."""
    error: Exception | None = None
    for multiple in _MULTIPLES:
        first = -(-side // multiple) * multiple + multiple
        try:
            read(body, noise(first, 2 * first, body))
        except _REFUSALS as refused:
            error = refused
        else:
            return multiple
    raise ConfigError(
        f"the model takes images of {side} x {side} pixels and, it seems, none whose height and width differ "
        f"({error!s:.200}); expected one that takes any (of timm's transformers: dynamic_img_size=True)"
    )


@torch.no_grad()
def _classifier(body: nn.Module, read: Read, side: int) -> tuple[str, bool, bool, Tensor]:
    """(name, native, align_corners, scores) of the layer that class scores come from: of those with as many outputs as
    there are classes, the last one that moves the network's output when its own is moved. `scores`: its own where they
    are native, else the network's."""
    image = noise(side, side, body)
    logits = read(body, image)[0]
    layers = {name: layer for name, layer in body.named_modules() if isinstance(layer, _LAYERS)}
    names = [name for name, layer in layers.items() if layer.out_channels == logits.shape[1]]
    with watching(body, names) as seen:
        read(body, image)
    for name in reversed(list(seen)):
        handle = layers[name].register_forward_hook(_doubled)
        try:
            moved = read(body, image)[0]
        finally:
            handle.remove()
        if not torch.equal(moved, logits):
            output = seen[name].output
            for align_corners in (False, True):
                if _is_upsampled(output, logits, align_corners):
                    return name, True, align_corners, output
            return name, False, False, logits
    return "", False, False, logits


def _doubled(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
    return 2 * output


def _is_upsampled(output: Tensor, logits: Tensor, align_corners: bool) -> bool:
    size = (logits.shape[2], logits.shape[3])
    larger = F.interpolate(output, size=size, mode="bilinear", align_corners=align_corners)
    return torch.allclose(larger, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max() + 1e-12))


def _unused(body: nn.Module, read: Read, side: int) -> tuple[str, ...]:
    """Trainable parameters that no gradient of the class scores reaches."""
    wanted = {name: p for name, p in body.named_parameters() if p.requires_grad}
    if not wanted:
        return ()
    with torch.enable_grad():
        logits = read(body, noise(side, side, body))[0]
        if not logits.requires_grad:
            return tuple(wanted)
        found = torch.autograd.grad(logits.square().sum(), list(wanted.values()), allow_unused=True)
    return tuple(name for name, gradient in zip(wanted, found) if gradient is None)
