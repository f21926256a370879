"""Any network as a `Segmenter`: what others built, made to speak this house's words. And a config: a module."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch.nn.functional as F
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.backbone import Triple
from segshift.models.probing import Found, Read, class_scores, probe, watching
from segshift.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter, check_normalisation
from segshift.types import Output

_ENCODERS = ("backbone", "encoder", "base_model")
"""What torchvision, segmentation_models_pytorch and Hugging Face call their encoders."""


class Wrapped(Segmenter):
    """A network of another library, or of the user's: `body`, whose weights keep their names below that.

    Images whose sides it cannot take are enlarged to the next it can, at most by `multiple` - 1 pixels a side; class
    scores still cover the image, no more and no less.
    """

    def __init__(
        self,
        body: nn.Module,
        read: Read,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        stages: Sequence[str] = (),
        encoder: str = "",
    ) -> None:
        """`stages`: names of layers whose outputs are `Output.stages`; else those that `read` gives. `encoder`: the
        name of the part that is no head; empty: by its usual names, else all of it.

        Raises ConfigError where the network does not give scores of `num_classes` classes, or has no such layer.
        """
        known = {name for name, _ in body.named_modules()}
        for name in (*stages, *([encoder] if encoder else [])):
            if name not in known:
                raise ConfigError(f"the model has no layer {name!r}; expected one of {_some(known)}")
        found = probe(body, read, num_classes)
        super().__init__(num_classes, found.stride, align_corners=found.align_corners, mean=mean, std=std)
        self.body, self._read, self._found, self._stages = body, read, found, tuple(stages)
        self._encoder = encoder or next((n for n in _ENCODERS if isinstance(getattr(body, n, None), nn.Module)), "")
        for name in found.unused:
            # Several processes would wait for its gradient for ever.
            body.get_parameter(name).requires_grad_(False)

    @property
    def found(self) -> Found:
        """What the network turned out to be."""
        return self._found

    def backbone(self) -> nn.Module:
        return (
            getattr(self.body, self._encoder) if self._encoder in _ENCODERS else self.body.get_submodule(self._encoder)
        )

    def encode_decode(self, image: Float[Tensor, "b 3 h w"]) -> Output:
        found = self._found
        names = [*self._stages, *([found.classifier] if found.classifier else [])]
        with watching(self.body, names) as seen:
            logits, stages = self._read(self.body, self._fitted(image))
        if self._stages:
            stages = tuple(_map_of(seen[name].output, name) for name in self._stages)
        embedding = None
        if found.classifier:
            embedding = seen[found.classifier].inputs
            logits = seen[found.classifier].output if found.native else logits
        return Output(logits, stages, embedding)

    def _fitted(self, image: Tensor) -> Tensor:
        step, least = self._found.multiple, self._found.side
        height, width = (max(-(-side // step) * step, -(-least // step) * step) for side in image.shape[2:])
        if (height, width) == tuple(image.shape[2:]):
            return image
        return F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)


def _map_of(output: object, name: str) -> Tensor:
    if isinstance(output, Tensor) and output.dim() == 4:
        return output
    what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise ConfigError(f"layer {name!r} gives {what}; expected a map (batch, channels, height, width)")


def _some(names: set[str]) -> str:
    listed = sorted(name for name in names if name and name.count(".") <= 1)
    return ", ".join(listed[:20]) + (", ..." if len(listed) > 20 else "")


def read_plain(body: nn.Module, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A `Read` of a module that takes a tensor of images and shows nothing but its output."""
    return class_scores(body(image)), ()


@dataclass(frozen=True)
class OwnModule:
    """Any `torch.nn.Module` from normalised images to class scores. A recipe cannot hold one: it comes from outside
    each time, by `segshift.adapt(model, ...)` or `--model FILE.py:FUNCTION`."""

    name: str = ""
    """What it is called in reports and messages; nothing is ever imported by it."""
    mean: Triple = IMAGENET_MEAN
    """Of red, green and blue in [0, 1], as it was trained with; 0 0 0 and a `std` of 1 1 1 where it normalises for
    itself."""
    std: Triple = IMAGENET_STD
    stages: tuple[str, ...] = ()
    """Names of layers whose outputs are encoder stages, shallow to deep: what style-gap bridging looks at."""
    encoder: str = ""
    """Name of the part that is no head (heads learn faster in some recipes); empty: backbone, encoder or base_model,
    where it has one."""
    weights: Literal["pretrained", "none"] = "pretrained"
    """The module's own, or none: layers are drawn anew, as their `reset_parameters` does."""
    module: Annotated[nn.Module | None, tyro.conf.SuppressFixed] = field(default=None, repr=False, compare=False)
    """The module itself: never written to a file."""

    def __post_init__(self) -> None:
        check_normalisation(self.mean, self.std)

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes: smaller ones are enlarged."""
        return 1

    def build(self, num_classes: int) -> Segmenter:
        """A copy of the module. ConfigError where it is not at hand, or gives other classes."""
        if self.module is None:
            raise ConfigError(
                f"the network of this run is your own module {self.name!r}, which no file holds; expected it from "
                "outside: --model FILE.py:FUNCTION, or segshift.adapt(model, ...) and load_model(folder, module=...) "
                "in Python"
            )
        body = copy.deepcopy(self.module)
        if self.weights == "none":
            _draw_anew(body)
        return Wrapped(body, read_plain, num_classes, self.mean, self.std, self.stages, self.encoder)


def _draw_anew(body: nn.Module) -> None:
    """Random weights in every layer. ConfigError where a layer with weights of its own does not say how."""
    for name, layer in body.named_modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ConfigError(
                f"layer {name or type(layer).__name__!r} has weights and no reset_parameters: it cannot start anew; "
                "start from pretrained ones"
            )
