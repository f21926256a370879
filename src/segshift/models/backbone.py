"""timm networks as encoders, and their weights from a local safetensors file.

timm's `resnet101` is ResNet v1b (stride in the 3x3 convolution, RGB in [0, 1] with ImageNet mean and deviation);
the DeepLab papers used the Caffe model (stride in the first 1x1, BGR in [0, 255]), whose weights do not fit here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.segmenter import IMAGENET_MEAN, IMAGENET_STD

Triple = tuple[float, float, float]


def check_name(backbone: str) -> None:
    """Raise ConfigError, with near names, where timm has no such model."""
    if not timm.is_model(backbone):
        near = ", ".join(difflib.get_close_matches(backbone, timm.list_models(), 3)) or "resnet101, mobilenetv2_100"
        raise ConfigError(f"backbone is {backbone!r}, which timm {timm.__version__} does not have; near it: {near}")


def build_backbone(backbone: str, output_stride: int, weights: str) -> nn.Module:
    """A timm encoder: image -> list of features, shallow to deep, the last at `output_stride`.

    `weights`: "none" (random), "pretrained" (timm downloads its own) or the path of a safetensors file with timm's
    names (see `load_backbone`). Raises ConfigError where the model, the stride or the weights cannot be had.
    """
    check_name(backbone)
    options = {"features_only": True, "output_stride": output_stride}
    pretrained = weights == "pretrained"
    try:
        encoder = timm.create_model(backbone, pretrained=pretrained, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise ConfigError(f"backbone {backbone} cannot be built with {options}: {error}") from error
        raise ConfigError(
            f"weights is 'pretrained', but timm's weights for {backbone} cannot be had ({error!s:.200}); "
            "connect to the internet, or give the path of a safetensors file, or 'none'"
        ) from error
    except (AssertionError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"backbone {backbone} cannot give features at stride {output_stride} ({error!r:.120}); "
            "take one that can, such as resnet101, mobilenetv2_100 or convnext_tiny"
        ) from error
    deepest = reductions(encoder)[-1]
    if deepest != output_stride:
        raise ConfigError(f"output_stride is {output_stride}, but the deepest stride of {backbone} is {deepest}")
    if weights not in ("none", "pretrained"):
        load_backbone(encoder, backbone, Path(weights))
    return encoder


def channels(encoder: nn.Module) -> list[int]:
    """Channels of each feature of an encoder, shallow to deep."""
    return _feature_info(encoder).channels()


def reductions(encoder: nn.Module) -> list[int]:
    """Stride of each feature of an encoder, shallow to deep."""
    return _feature_info(encoder).reduction()


def _feature_info(encoder: nn.Module) -> Any:
    return encoder.feature_info


def normalisation(backbone: str, weights: str, mean: Triple | None, std: Triple | None) -> tuple[Triple, Triple]:
    """(mean, std) in [0, 1]: as given; else those of timm's pretrained weights where they are used, else ImageNet's."""
    config = timm.get_pretrained_cfg(backbone) if weights == "pretrained" else None
    default_mean = tuple(config.mean) if config else IMAGENET_MEAN
    default_std = tuple(config.std) if config else IMAGENET_STD
    return mean or default_mean, std or default_std  # type: ignore[return-value]


def load_backbone(encoder: nn.Module, backbone: str, path: Path) -> None:
    """Load a safetensors file with the names of the whole timm model into its encoder, in the encoder's precision.

    Every tensor of the encoder must be in the file, in its shape; what the file holds besides may only be
    what the whole model has after the encoder (the classifier). Raises ConfigError naming the tensors otherwise.
    """
    found = _read(path)
    wanted = encoder.state_dict()
    with torch.device("meta"):
        whole = timm.create_model(backbone).state_dict()
    # timm joins the names of nested stages in some encoders: stages.0.x is stages_0.x there.
    given_name = {_plain(name): name for name in found}
    source = {name: given_name[_plain(name)] for name in wanted if _plain(name) in given_name}
    missing = [name for name in wanted if name not in source]
    misshapen = [
        f"{name} {tuple(found[source[name]].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in source and found[source[name]].shape != tensor.shape
    ]
    known = {_plain(name) for name in (*whole, *wanted)}
    unexpected = [name for name in found if _plain(name) not in known]
    if missing or misshapen or unexpected:
        problems = (("missing", missing), ("wrong shape", misshapen), ("not in this model", unexpected))
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems if names)
        raise ConfigError(
            f"weights {path} do not fit backbone {backbone}: {listed}. Expected timm's names for {backbone}"
        )
    _load(encoder, {name: found[source[name]] for name in wanted})


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(
            f"weights is {str(path)!r}, which is no file; expected 'none', 'pretrained' or a safetensors file"
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"weights {path} cannot be read as safetensors ({error}); is it whole, and no .pth?"
        ) from error


def _load(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies into the encoder's own tensors: float16 becomes float32 on the way."""
    encoder.load_state_dict(dict(state), strict=True)


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _some(names: Collection[str], show: int = 4) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - show
    return ", ".join(list(names)[:show]) + (f" and {rest} more" if rest > 0 else "")
