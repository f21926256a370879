"""timm networks as encoders, and their weights from a local file.

timm's `resnet101` is ResNet v1b (stride in the 3x3 convolution, RGB in [0, 1] with ImageNet mean and deviation);
the DeepLab papers used the Caffe model (stride in the first 1x1, BGR in [0, 255]): `to_caffe` turns the one into the
other.

timm takes seconds to import (it brings torchvision and torch's compiler), so only what builds a network from it does.
"""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.importer import is_caffe_deeplab, read_checkpoint, some
from segshift.models.segmenter import IMAGENET_MEAN, IMAGENET_STD
from segshift.models.self_supervised import encoder_of, plain

Triple = tuple[float, float, float]


def check_name(backbone: str) -> None:
    """Raise ConfigError, with near names, where timm has no such model."""
    import timm

    if not timm.is_model(backbone):
        near = ", ".join(difflib.get_close_matches(backbone, timm.list_models(), 3)) or "resnet101, mobilenetv2_100"
        raise ConfigError(f"backbone is {backbone!r}, which timm {timm.__version__} does not have; near it: {near}")


def build_backbone(backbone: str, output_stride: int, weights: str) -> nn.Module:
    """A timm encoder: image -> list of features, shallow to deep, the last at `output_stride`.

    `weights`: "none" (random), "pretrained" (timm downloads its own) or the path of a checkpoint with timm's
    names (see `load_backbone`). Raises ConfigError where the model, the stride or the weights cannot be had.
    """
    encoder = _created(backbone, weights, {"output_stride": output_stride}, f"features at stride {output_stride}")
    deepest = reductions(encoder)[-1]
    if deepest != output_stride:
        raise ConfigError(
            f"output_stride is {output_stride}, but the deepest stride of {backbone} is {deepest}"
            + (
                ""
                if len(set(reductions(encoder))) > 1
                else ": it is a plain transformer; take VisionTransformer for it"
            )
        )
    if weights not in ("none", "pretrained"):
        load_backbone(encoder, backbone, Path(weights))
    return encoder


def build_transformer(backbone: str, layers: int, weights: str) -> tuple[nn.Module, list[int], int]:
    """A timm transformer: image -> the maps of its last `layers` layers, their channels, and the patch in pixels.

    Images of any size in whole patches. `weights` as of `build_backbone`. ConfigError where it is no plain transformer,
    or cannot be had.
    """
    if not is_transformer(backbone):
        raise ConfigError(f"backbone {backbone} has features of several strides: take DeepLabV3Plus for it")
    options: dict[str, Any] = {"out_indices": layers, "dynamic_img_size": True}
    encoder = _created(backbone, weights, options, f"maps of its last {layers} layers")
    if weights not in ("none", "pretrained"):
        load_backbone(encoder.get_submodule("model"), backbone, Path(weights))  # around which the encoder is a shell
    return encoder, channels(encoder), reductions(encoder)[-1]


def is_transformer(backbone: str) -> bool:
    """Whether all of a timm model's features have one stride. ConfigError where it is none, or gives no features."""
    check_name(backbone)
    with torch.device("meta"):
        return len(set(reductions(_created(backbone, "none", {}, "features")))) == 1


def _created(backbone: str, weights: str, options: Mapping[str, Any], what: str) -> nn.Module:
    """timm's features of a model, its own weights in them where they are asked for. ConfigError where it cannot."""
    import timm

    check_name(backbone)
    pretrained = weights == "pretrained"
    try:
        with _tensors_alone():
            return timm.create_model(backbone, pretrained=pretrained, features_only=True, **options)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        if not pretrained:
            raise ConfigError(f"backbone {backbone} cannot be built with {dict(options)}: {error}") from error
        raise _not_to_be_had(backbone, error) from error
    except (AssertionError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        if pretrained and isinstance(error, TypeError):
            raise _not_to_be_had(backbone, error) from error
        raise ConfigError(
            f"backbone {backbone} cannot give {what} ({error!r:.120}); "
            "take one that can, such as resnet101, mobilenetv2_100 or convnext_tiny"
        ) from error


def pretrained_tensors(backbone: str) -> dict[str, Tensor]:
    """timm's pretrained weights of a whole model under timm's names, downloaded. Raises ConfigError where it cannot."""
    import timm

    try:
        with _tensors_alone():
            return timm.create_model(backbone, pretrained=True).state_dict()
    except (OSError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise _not_to_be_had(backbone, error) from error


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """Let torch unpickle nothing but tensors, whatever its caller asks for.

    timm does ask for it, but where a download fails with a TypeError it loads the file again without: one that was
    made to fail so would run code.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _not_to_be_had(backbone: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"weights is 'pretrained', but timm's weights for {backbone} cannot be had ({error!s:.200}); "
        "connect to the internet, or give the path of a checkpoint, or 'none'"
    )


def to_caffe(encoder: nn.Module) -> None:
    """Change a timm ResNet with bottlenecks to compute what Caffe's ResNet, dilated as in DeepLab v2, computes.

    A block's stride moves from its 3x3 to its first 1x1 convolution, every block of a dilated stage is dilated alike
    (timm dilates a stage's first block as the stage before it), and max pooling rounds sizes up. No weight changes.
    """
    from timm.models.resnet import Bottleneck

    encoder.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)
    for block in encoder.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
            block.conv2.dilation = block.conv2.padding = (block.dilation, block.dilation)


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
    default_mean, default_std = IMAGENET_MEAN, IMAGENET_STD
    if weights == "pretrained":
        import timm

        if config := timm.get_pretrained_cfg(backbone):
            default_mean, default_std = tuple(config.mean), tuple(config.std)
    return mean or default_mean, std or default_std  # type: ignore[return-value]


def load_backbone(encoder: nn.Module, backbone: str, path: Path) -> None:
    """Load a checkpoint with the names of the whole timm model into its encoder, in the encoder's precision.

    Every tensor of the encoder must be in the file, in its shape; what the file holds besides may only be
    what the whole model has after the encoder (the classifier). A checkpoint of self-supervised training may have a
    prefix before the names, and heads beside the encoder (`self_supervised.encoder_of`). Raises ConfigError naming the
    tensors otherwise.
    """
    import timm

    found = read_checkpoint(path)
    if is_caffe_deeplab(found):
        raise ConfigError(
            f"weights {path} is a DeepLab v2 of Caffe's layout (its classifier is layer5 or layer6), which timm's "
            f"{backbone} would compute wrongly: use DeepLabV2 with layout 'caffe'"
        )
    wanted = encoder.state_dict()
    with torch.device("meta"):
        whole = timm.create_model(backbone).state_dict()
    try:
        found = encoder_of(found, wanted, (*whole, *wanted))
    except ConfigError as error:
        raise ConfigError(f"weights {path}: {error}") from error
    # timm joins the names of nested stages in some encoders: stages.0.x is stages_0.x there.
    given_name = {plain(name): name for name in found}
    source = {name: given_name[plain(name)] for name in wanted if plain(name) in given_name}
    missing = [name for name in wanted if name not in source]
    misshapen = [
        f"{name} {tuple(found[source[name]].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in source and found[source[name]].shape != tensor.shape
    ]
    known = {plain(name) for name in (*whole, *wanted)}
    unexpected = [name for name in found if plain(name) not in known]
    if missing or misshapen or unexpected:
        problems = (("missing", missing), ("wrong shape", misshapen), ("not in this model", unexpected))
        listed = "; ".join(f"{kind}: {some(names)}" for kind, names in problems if names)
        raise ConfigError(
            f"weights {path} do not fit backbone {backbone}: {listed}. Expected timm's names for {backbone}"
        )
    _load(encoder, {name: found[source[name]] for name in wanted})


def _load(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies into the encoder's own tensors: float16 becomes float32 on the way."""
    encoder.load_state_dict(dict(state), strict=True)
