"""The networks a recipe can name, and a trained one in a folder: `model.json` and `model.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, get_args

import cattrs
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from segshift import taxonomy
from segshift.checkpoint import atomic_write
from segshift.errors import ConfigError, RunError
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.fcn8s import FCN8s
from segshift.models.resnet38 import ResNet38
from segshift.models.segmenter import Segmenter
from segshift.models.small import SmallNet
from segshift.taxonomy import LabelSpace

Network = SmallNet | DeepLabV3Plus | DeepLabV2 | FCN8s | ResNet38
"""Add a network here to let recipes and saved models name it."""


def register(converter: cattrs.Converter) -> None:
    """Teach a converter to tell networks apart by their class name. It raises ConfigError for an unknown one."""
    kinds = {kind.__name__: kind for kind in get_args(Network)}

    def structure(content: Any, _: object) -> Network:
        fields = dict(content)
        kind = fields.pop("kind", None)
        if kind not in kinds:
            raise ConfigError(f"network kind is {kind!r}; expected one of {', '.join(kinds)}")
        return converter.structure(fields, kinds[kind])

    def unstructure(network: Network) -> dict[str, Any]:
        return {"kind": type(network).__name__, **converter.unstructure(network, type(network))}

    converter.register_structure_hook(Network, structure)
    converter.register_unstructure_hook(Network, unstructure)


_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
register(_CONVERTER)


class TrainedModel(NamedTuple):
    """A network with its weights, and what must be known to use it."""

    network: Segmenter
    space: LabelSpace
    short_side: int | None
    """Working size it was trained at: the shorter side in pixels; None: the images' own."""


def save_model(
    folder: Path, network: Network, weights: dict[str, Any], space: LabelSpace, short_side: int | None
) -> None:
    """Write `model.safetensors`, then `model.json`, each atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    atomic_write(folder / "model.safetensors", tensors_to_bytes(tensors))
    content = {
        "format": 1,
        "network": _CONVERTER.unstructure(network, Network),
        "space": space.to_dict(),
        "short_side": short_side,
    }
    atomic_write(folder / "model.json", json.dumps(content, indent=2).encode())


def load_model(folder: Path) -> TrainedModel:
    """The model a run saved. `folder` is the run or its `model/`. RunError where a file is missing or damaged."""
    folder = model_folder(folder)
    path = folder / "model.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        options = dict(content["network"])
        if "weights" in options:
            options["weights"] = "none"  # the weights it started from are not needed: all of them are in the file
        config = _CONVERTER.structure(options, Network)  # pyright: ignore[reportArgumentType]
        space, _ = taxonomy.from_dict(content["space"], str(path))
        short_side = content["short_side"]
    except (OSError, ValueError, KeyError, TypeError, ConfigError, cattrs.BaseValidationError) as error:
        raise RunError(f"{path}: cannot be read ({error!r:.200}); expected a model that segshift saved") from error
    network = config.build(len(space))
    load_weights(network, folder)
    return TrainedModel(network, space, short_side)


def load_weights(network: Segmenter, origin: Path) -> None:
    """Fill a network from a run, a `model/` folder or a safetensors file. RunError names what does not fit."""
    path = model_folder(origin) / "model.safetensors" if origin.is_dir() else origin
    try:
        tensors = tensors_from_bytes(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: cannot be read ({error}); expected weights in safetensors form") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"{path}: holds another network than the recipe's ({error!s:.600})") from error


def model_folder(folder: Path) -> Path:
    """Where `model.json` is: in a run's `model/`, or in the folder itself."""
    for candidate in (folder / "model", folder):
        if (candidate / "model.json").is_file():
            return candidate
    raise RunError(f"{folder}: holds no model/model.json; expected a finished run, or the model folder of one")
