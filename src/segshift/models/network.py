"""The networks a recipe can name, and a trained one in a folder: `model.json` and `model.safetensors`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import cattrs
import torch
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from segshift import taxonomy
from segshift.errors import ConfigError, RunError, SegshiftError
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.fcn8s import FCN8s
from segshift.models.huggingface import HuggingFace
from segshift.models.importer import (
    Imported,
    is_caffe_deeplab,
    map_caffe_deeplab,
    map_fcn8s,
    map_resnet38,
    read_checkpoint,
)
from segshift.models.importer import load as load_published
from segshift.models.resnet38 import ResNet38
from segshift.models.segmenter import Segmenter
from segshift.models.small import SmallNet
from segshift.models.smp import SegmentationModels
from segshift.models.vision_transformer import VisionTransformer
from segshift.models.wrapped import OwnModule
from segshift.plain_values import take_exactly
from segshift.sealed import open_json, seal_json
from segshift.taxonomy import LabelSpace
from segshift.whole_files import atomic_write

_FORMAT = 2
"""Of `model.json`: 1 had no digests."""
_WEIGHTS, _DESCRIPTION, _DIGEST = "model.safetensors", "model.json", "weights_sha256"

Network = (
    SmallNet
    | DeepLabV3Plus
    | DeepLabV2
    | FCN8s
    | ResNet38
    | VisionTransformer
    | HuggingFace
    | SegmentationModels
    | OwnModule
)
"""Add a network here to let recipes and saved models name it."""


_LEFT_OUT = override(omit=True)


def register(converter: cattrs.Converter) -> None:
    """Teach a converter to tell networks apart by their class name. It raises ConfigError for an unknown one."""
    kinds = {kind.__name__: kind for kind in get_args(Network)}
    # A module is in no file: who reads a config of one brings it.
    converter.register_unstructure_hook(OwnModule, make_dict_unstructure_fn(OwnModule, converter, module=_LEFT_OUT))
    converter.register_structure_hook(
        OwnModule,
        make_dict_structure_fn(OwnModule, converter, module=_LEFT_OUT, _cattrs_forbid_extra_keys=True),
    )

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
take_exactly(_CONVERTER)
register(_CONVERTER)


def without_weights(config: Network) -> Network:
    """The network with no weights to start from: for one that gets all of its weights afterwards."""
    return config if isinstance(config, OwnModule) else drawn_anew(config)


def drawn_anew(config: Network) -> Network:
    """The network with random weights."""
    return config if isinstance(config, SmallNet) else replace(config, weights="none")


class TrainedModel(NamedTuple):
    """A network with its weights, and what must be known to use it."""

    network: Segmenter
    space: LabelSpace
    short_side: int | None
    """Working size it was trained at: the shorter side in pixels; None: the images' own."""


def save_model(
    folder: Path, network: Network, weights: dict[str, Any], space: LabelSpace, short_side: int | None
) -> None:
    """Write `model.safetensors`, then `model.json`, each atomically.

    The latter holds the SHA-256 of the former: where a kill comes between the two, and an older model was there whose
    weights were others, the pair is refused.
    """
    tensors = tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    atomic_write(folder / _WEIGHTS, tensors)
    content = {
        "format": _FORMAT,
        "network": _CONVERTER.unstructure(network, Network),
        "space": space.to_dict(),
        "short_side": short_side,
        _DIGEST: hashlib.sha256(tensors).hexdigest(),
    }
    atomic_write(folder / _DESCRIPTION, seal_json(content, indent=2))


class Described(NamedTuple):
    """What `model.json` says of a trained model."""

    network: Network
    space: LabelSpace
    short_side: int | None
    digest: str | None
    """SHA-256 of `model.safetensors`, in hexadecimal digits; None: the model was saved before it was kept."""


def describe_model(folder: Path) -> Described:
    """What kind of model a run saved. `folder` is the run or its `model/`. RunError where that cannot be read."""
    path = model_folder(folder) / _DESCRIPTION
    try:
        content = open_json(path.read_text(encoding="utf-8"), _DIGEST)
        if content["format"] not in (1, _FORMAT):
            raise ValueError(f"its format is {content['format']!r}, this version of segshift knows 1 and {_FORMAT}")
        options = dict(content["network"])
        if "weights" in options and options.get("kind") != OwnModule.__name__:
            options["weights"] = "none"  # before it is checked: what it started from need not be here any more
        config = _CONVERTER.structure(options, Network)  # pyright: ignore[reportArgumentType]
        space, _ = taxonomy.from_dict(content["space"], str(path))
        short_side = content["short_side"]
        if short_side is not None and (type(short_side) is not int or short_side < 1):
            raise ValueError(f"short_side is {short_side!r}, expected a number of pixels or null")
        digest = None if content["format"] == 1 else content[_DIGEST]
        if content["format"] != 1 and not isinstance(digest, str):
            raise ValueError(f"{_DIGEST} is {digest!r}, expected hexadecimal digits")
        return Described(config, space, short_side, digest)
    except _UNREADABLE as error:
        raise RunError(f"{path}: cannot be read ({error!r:.200}); expected a model that segshift saved") from error


_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    SegshiftError,
    cattrs.BaseValidationError,
)
"""What describing a model may raise where `model.json` is damaged, or says something else."""


def load_model(folder: Path | str, device: str = "cpu", module: nn.Module | None = None) -> TrainedModel:
    """The model a run saved. `folder` is the run, its `model/`, or what `segshift export` wrote.

    `device`: as of `device_of`. `module`: the user's own, where that is what was trained; its weights do not count.
    Raises RunError where a file is missing or damaged, ConfigError where the module is needed, or is another one.
    """
    folder, place = Path(folder), device_of(device)
    config, space, short_side, _ = describe_model(folder)
    network = with_module(config, module).build(len(space))
    load_weights(network, folder)
    return TrainedModel(network.to(place), space, short_side)


def with_module(config: Network, module: nn.Module | None) -> Network:
    """The config with the user's module in it, where it is one of a module. ConfigError where it is of no module."""
    if module is None:
        return config
    if not isinstance(config, OwnModule):
        raise ConfigError(
            f"module = {type(module).__name__}: the saved network is a {type(config).__name__}, which is built without "
            "one; leave it out"
        )
    return replace(config, module=module)


def device_of(name: str) -> torch.device:
    """The device of a name of torch's (cpu, cuda, cuda:1, mps), or for "auto" a GPU where there is one, else the cpu.

    Raises ConfigError where this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ConfigError(
            f"device = {name!r}: {reason} Expected a device of this machine, as torch names it (cpu, cuda, cuda:1, "
            "mps), or auto"
        ) from error


def load_weights(network: Segmenter, origin: Path, config: Network | None = None) -> None:
    """Fill a network from a run, a `model/` folder or a file of weights. RunError names what does not fit.

    A file has the names of our own networks; or, where `config` says which one it is, those of a published one of the
    same design, with a head for as many classes (`importer` says which names).
    """
    path = model_folder(origin) / _WEIGHTS if origin.is_dir() else origin
    _require_described(path)
    try:
        tensors = read_checkpoint(path)
        imported = _published(config, tensors)
    except ConfigError as error:
        end = "" if str(error).endswith("?") else "."
        raise RunError(
            f"{error}{end} Expected a model to start from: a run of Segshift, or a file of weights"
        ) from error
    if imported is None:
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise RunError(f"{path}: holds another network than the recipe's ({error!s:.600})") from error
        return
    if imported.classes != network.num_classes:
        found = "no head" if imported.classes is None else f"a head of {imported.classes} classes"
        raise RunError(f"{path}: holds {found}; expected a trained model of {network.num_classes} classes")
    load_published(network, imported, path)


def _require_described(path: Path) -> None:
    """RunError unless the weights of a saved model are those that the `model.json` beside them speaks of."""
    if path.name != _WEIGHTS or not path.is_file() or not path.with_name(_DESCRIPTION).is_file():
        return
    expected = describe_model(path.parent).digest
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error}); expected a model's weights") from error
    if expected is not None and found != expected:
        raise RunError(
            f"{path}: is damaged, or belongs to another model: its SHA-256 is {found[:16]}..., model.json beside it "
            f"expects {expected:.16}... Put the file back; or resume the run, if it was not finished: both are then "
            "written again"
        )


def _published(config: Network | None, tensors: dict[str, Tensor]) -> Imported | None:
    """A published checkpoint under our names; None where no mapping of that network knows its names."""
    if isinstance(config, DeepLabV2) and is_caffe_deeplab(tensors):
        if config.layout != "caffe":
            raise ConfigError(
                "the weights are of a Caffe DeepLab: set network.layout to caffe (--network.layout caffe)"
            )
        return map_caffe_deeplab(tensors, len(config.dilations), config.auxiliary)
    if isinstance(config, FCN8s):
        return map_fcn8s(tensors)
    return map_resnet38(tensors) if isinstance(config, ResNet38) else None


def model_folder(folder: Path) -> Path:
    """Where `model.json` is: in a run's `model/`, or in the folder itself."""
    for candidate in (folder / "model", folder):
        if (candidate / _DESCRIPTION).is_file():
            return candidate
    raise RunError(f"{folder}: holds no model/model.json; expected a finished run, or the model folder of one")
