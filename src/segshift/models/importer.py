"""Published checkpoints: read without running code, renamed to our networks, and loaded or refused by name.

A layout is recognised by its tensors' names. The mapping functions are pure; each returns None for names it does not
know. Where a checkpoint was trained on Caffe's images (BGR in [0, 255] less a mean), the first convolution's input
channels are reversed here, and the network takes `CAFFE_MEAN` and `CAFFE_STD`: the same function of an RGB image in
[0, 1].
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segshift.errors import ConfigError
from segshift.models import mxnet_file
from segshift.models.segmenter import Segmenter

CAFFE_MEAN = (122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255)
"""The ImageNet mean that Caffe's models subtract, here as red, green, blue in [0, 1]."""
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt")
_NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network")
"""Keys under which training scripts put a model's tensors beside their optimiser's."""
_DEEPEST = 16
"""Dicts in dicts that are looked into."""
_NUMBERS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
)  # fmt: skip
_WRAPPERS = ("module", "model", "net", "network", "backbone", "body", "encoder", "Scale")
"""Prefixes that say what a tensor is part of, and nothing of its layer, where all names have them."""


class Imported(NamedTuple):
    """A checkpoint's tensors under the names of one of our networks."""

    tensors: dict[str, Tensor]
    classes: int | None = None
    """Classes of its segmentation head; None: it has none, only the encoder."""
    others: tuple[str, ...] = ()
    """Its own names of tensors that belong to a head of another design."""
    caffe: bool = False
    """It expects images less CAFFE_MEAN, divided by CAFFE_STD."""


# --- reading ---------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors, PyTorch (.pth, .pt, .tar, .bin, .ckpt) or MXNet (.params) file, on the CPU.

    What training scripts wrap around the tensors is taken off: {"state_dict": ...} and its like, the prefix
    "module.", one such as "model." that all names share. Dicts in dicts become names with dots. Raises ConfigError for
    a file that is missing, cut short, no checkpoint, or one that needs more than tensors to be unpickled.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise ConfigError(
                f"weights is {str(path)!r}, which is no file; expected 'none', 'pretrained' or a checkpoint "
                "(.safetensors, .pth or .params)"
            )
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise ConfigError(f"weights {path} cannot be read ({error.strerror}); expected a checkpoint") from error
    if start[:2] == b"PK" or path.suffix in _TORCH_SUFFIXES:
        content = _read_torch(path)
    elif mxnet_file.is_mxnet(start):
        content = mxnet_file.read(path)
    else:
        try:
            content = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(
                f"weights {path} cannot be read as safetensors ({error}); is it whole? "
                "A file of torch.save must be named .pth"
            ) from error
    tensors = _once(list(_flatten(_unwrap(content))), path)
    if not tensors:
        raise ConfigError(f"weights {path} holds no tensors; expected a model's state_dict")
    return _without_prefix(_plain(tensors, path), path)


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _refuse_compression(path)
        with warnings.catch_warnings():
            # torch has things to say of kinds of tensors that are refused here anyway.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    # Bytes that are no pickle end in whatever the unpickler's stack happens to hold: KeyError, TypeError, ...
    except Exception as error:
        needed = re.search(r"(?:Unsupported (?:global|class)\S*|unsupported GLOBAL) (?:GLOBAL )?(\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and needed:
            raise ConfigError(
                f"weights {path} holds more than tensors: {needed[1]} would have to be unpickled, which could run any "
                "code. Where the file comes from, load it and save its model.state_dict() alone, best as safetensors"
            ) from error
        # torch's advice on what cannot be unpickled is to let it run code, which must not be passed on.
        telling = isinstance(error, RuntimeError) and not isinstance(error, RecursionError)
        text = " ".join(str(error).split()).partition(". ")[0] if telling else "it is none, or cut short"
        raise ConfigError(
            f"weights {path} cannot be read as a PyTorch checkpoint ({text:.160}); is it whole?"
        ) from error


def _refuse_compression(path: Path) -> None:
    """torch.save stores its numbers as they are: a file of few bytes must not unpack to gigabytes."""
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ConfigError(f"weights {path} is a compressed archive; expected a file of torch.save, or safetensors")


def _unwrap(content: Any) -> Any:
    seen: set[int] = set()
    while isinstance(content, Mapping) and id(content) not in seen:
        seen.add(id(content))
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _flatten(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    # A dict may hold itself.
    for name, value in content.items() if isinstance(content, Mapping) and depth < _DEEPEST else ():
        if isinstance(value, Tensor) and isinstance(name, str):
            yield prefix + name, value
        elif isinstance(value, Mapping) and not str(name).startswith("optim"):
            yield from _flatten(value, f"{prefix}{name}.", depth + 1)


def _once(named: list[tuple[str, Tensor]], path: Path) -> dict[str, Tensor]:
    tensors = dict(named)
    if len(tensors) < len(named):
        twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
        raise ConfigError(f"weights {path} holds two tensors of one name: {some(twice)}; expected each once")
    return tensors


def _plain(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors as they are. ConfigError names one that is no array of finite numbers."""
    for name, tensor in tensors.items():
        found = None
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _NUMBERS:
            kind = f"{tensor.dtype}".removeprefix("torch.")
            found = f"{kind}, {tensor.layout}, {tensor.device}".replace("torch.", "")
        elif tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            found = f"of shape {tuple(tensor.shape)}, which is more than the file holds"
        elif tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            found = f"not finite in {int((~tensor.isfinite()).sum())} of {tensor.numel()} places (NaN, infinity)"
        if found:
            raise ConfigError(
                f"weights {path}: tensor {name} is {found}; expected plain finite numbers. Save it without"
            )
    return tensors


def _without_prefix(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    tensors = _once([(name.removeprefix("module."), tensor) for name, tensor in tensors.items()], path)
    while (wrapper := next(iter(tensors)).partition(".")[0]) in _WRAPPERS:
        if not all(name.startswith(f"{wrapper}.") for name in tensors):
            break
        tensors = {name.removeprefix(f"{wrapper}."): tensor for name, tensor in tensors.items()}
    return tensors


# --- mapping ---------------------------------------------------------------------------------------------------

_VGG_CONVS = {
    0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3",
    17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3",
}  # fmt: skip
_VGG_NAMES = {f"features.{i}": name for i, name in _VGG_CONVS.items()}
_VGG_NAMES |= {"classifier.0": "fc6", "classifier.3": "fc7"}  # torchvision's
_VGG_NAMES |= {"pre_logits.fc1": "fc6", "pre_logits.fc2": "fc7"}  # timm's


def map_fcn8s(tensors: Mapping[str, Tensor]) -> Imported | None:
    """FCN-8s from pytorch-fcn's names (the Caffe release, converted), or its encoder from VGG16's.

    VGG16 is taken with torchvision's or timm's names, its fully connected layers reshaped to convolutions;
    these weights are those of torchvision (RGB): VGG16 converted from Caffe under the same names cannot be told from
    them. The release's last deconvolution is left out, as the network has none. A checkpoint of the "at once"
    variant computes something else, as its network scales the skips outside of its weights.
    """

    def published(name: str) -> str | None:
        return name if name.startswith(("score_", "upscore")) else f"encoder.{name}"

    def vgg16(name: str) -> str | None:
        layer, _, kind = name.rpartition(".")
        return f"encoder.{_VGG_NAMES[layer]}.{kind}" if layer in _VGG_NAMES else name

    if "conv1_1.weight" in tensors:
        kept = {name: tensor for name, tensor in tensors.items() if name != "upscore8.weight"}
        imported = _renamed(kept, published, "score_fr.weight")
        return imported._replace(tensors=_rgb(_convolutional(imported.tensors), "encoder.conv1_1.weight"), caffe=True)
    if "features.0.weight" in tensors:
        kept = {name: t for name, t in tensors.items() if not name.startswith(("classifier.6.", "head.fc."))}
        imported = _renamed(kept, vgg16, None)
        return imported._replace(tensors=_convolutional(imported.tensors))
    return None


def _convolutional(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fully connected layers as convolutions: fc6 over 7x7 pixels, fc7 over one."""
    kernels = {"encoder.fc6.weight": 7, "encoder.fc7.weight": 1}
    flat = {name: size for name, size in kernels.items() if name in tensors and tensors[name].dim() == 2}
    return tensors | {name: tensors[name].unflatten(1, (-1, size, size)) for name, size in flat.items()}


_PREFIX = r"(?:.*\.)?"
_ABN = re.compile(_PREFIX + r"mod([2-7])\.block(\d+)\.(?:convs\.)?(bn|conv|proj_conv)(\d?)(?:\.0)?\.(\w+)")
_AFFINITY = re.compile(
    _PREFIX + r"b(?P<level>[2-7])(?:_(?P<block>\d+))?\.(?P<layer>bn|conv)_branch(?P<branch>1|2a|2b\d)\.(?P<kind>\w+)"
)
_MXNET = re.compile(
    r"(?:arg:|aux:)?(?P<layer>bn|res)(?P<level>[2-7])(?:a|b(?P<block>\d+))_branch(?P<branch>1|2a|2b\d)_(?P<kind>\w+)"
)
_ENDS = re.compile(r"(?:arg:|aux:)?(?:.*\.)?(conv1a|mod1\.conv1|bn7|bn_out(?:\.0)?|conv6a|linear\d+)[._](\w+)")
_MXNET_KINDS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
_CLASSIFIERS = ("classifier.", "fc.", "linear1000_", "arg:linear1000_")
"""What ImageNet's 1000 classes are read from."""


def map_resnet38(tensors: Mapping[str, Tensor]) -> Imported | None:
    """ResNet-38 from the names of the authors (MXNet: bn2a_branch2a_gamma), AffinityNet or inplace_abn.

    The authors' segmentation networks come with their top. AffinityNet's names (b2.bn_branch2a.weight) and those
    of inplace_abn's WiderResNet and WiderResNetA2 (mod2.block1.bn1.weight, or bn1.0.weight) give the encoder; any other
    head in the file is left out. The networks of inplace_abn itself have leaky ReLU of slope 0.01 where this
    one, like the published, has ReLU.
    """
    if not any(pattern.fullmatch(name) for name in tensors for pattern in (_ABN, _AFFINITY, _MXNET)):
        return None
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_CLASSIFIERS)}
    return _renamed(kept, _resnet38_name, "classifier.weight")


def _resnet38_name(name: str) -> str | None:
    if match := _ABN.fullmatch(name):
        level, block, layer, number, kind = match.groups()
        part = "shortcut" if layer == "proj_conv" else f"{layer.replace('bn', 'norm')}s.{int(number or 1) - 1}"
        return f"encoder.level{level}.{int(block) - 1}.{part}.{kind}"
    if match := _AFFINITY.fullmatch(name) or _MXNET.fullmatch(name):
        part = _branch(match["layer"], match["branch"])
        return f"encoder.level{match['level']}.{int(match['block'] or 0)}.{part}.{_kind(match['kind'])}"
    if match := _ENDS.fullmatch(name):
        layer, kind = match.groups()
        ends = {"conv1a": "encoder.conv1", "mod1.conv1": "encoder.conv1", "conv6a": "top"}
        other = "encoder.norm" if layer.startswith("bn") else "classifier"
        return f"{ends.get(layer, other)}.{_kind(kind)}"
    return None


def _branch(layer: str, branch: str) -> str:
    """branch1 is the shortcut; branch2a, 2b1 and 2b2 are the convolutions, each with the BatchNorm before it."""
    if branch == "1":
        return "shortcut"
    index = 0 if branch == "2a" else int(branch[2:])
    return f"{'norms' if layer == 'bn' else 'convs'}.{index}"


def _kind(name: str) -> str:
    return _MXNET_KINDS.get(name, name)


_DEEPLAB_HEAD = re.compile(r"layer([56])\.conv2d_list\.(\d+)\.(\w+)")


def is_caffe_deeplab(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are of the AdaptSegNet family: a ResNet with a classifier layer5 or layer6."""
    return any(_DEEPLAB_HEAD.fullmatch(name) for name in tensors)


def map_caffe_deeplab(tensors: Mapping[str, Tensor], branches: int, auxiliary: bool) -> Imported | None:
    """DeepLab v2 from the names of the AdaptSegNet family (conv1, layer1 to layer4, layer5, layer6), or its ResNet.

    layer6 is the classifier where there is one, and layer5 the auxiliary one; else layer5 is the classifier. Only the
    first `branches` of a classifier's convolutions are taken: AdaptSegNet's own network holds four and runs two
    (`dilations=(6, 12)`), its followers' run all four. Without `auxiliary` that classifier is left out.
    """
    if "conv1.weight" not in tensors or "layer1.0.conv1.weight" not in tensors:
        return None
    two = any(name.startswith("layer6.") for name in tensors)

    def name_of(name: str) -> str | None:
        if match := _DEEPLAB_HEAD.fullmatch(name):
            layer, branch, kind = match.groups()
            return f"{'auxiliary' if two and layer == '5' else 'classifier'}.branches.{branch}.{kind}"
        return f"encoder.{name}" if name.startswith(("conv1.", "bn1.", "layer")) else None

    def wanted(name: str) -> bool:
        match = _DEEPLAB_HEAD.fullmatch(name)
        return not match or (int(match[2]) < branches and (auxiliary or not (two and match[1] == "5")))

    kept = {name: tensor for name, tensor in tensors.items() if wanted(name) and not name.startswith("fc.")}
    imported = _renamed(kept, name_of, "classifier.branches.0.weight")
    return imported._replace(tensors=_rgb(imported.tensors, "encoder.conv1.weight"), caffe=True)


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str | None], classifier: str | None) -> Imported:
    """`rename` gives our name, or None for what belongs to another head."""
    names = {name: rename(name) for name in tensors}
    mapped = {new: tensors[name] for name, new in names.items() if new is not None}
    classes = mapped[classifier].shape[0] if classifier in mapped else None
    return Imported(mapped, classes, tuple(name for name, new in names.items() if new is None))


def _rgb(tensors: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    return tensors | {first: tensors[first].flip(1)}


# --- loading ---------------------------------------------------------------------------------------------------


def load(network: Segmenter, imported: Imported, source: Path | str) -> None:
    """Copy a checkpoint into a network, whose encoder's names begin with "encoder.", in the network's precision.

    The whole network is loaded where the checkpoint has a head for as many classes; otherwise the encoder, and the
    head stays new. A head in the file that is not used is said in a warning, with its classes or names. Raises
    ConfigError that names each tensor that is missing, of another shape, or not in this network; `source` is the file.
    """
    wanted = {name: tensor for name, tensor in network.state_dict().items() if name not in ("mean", "std")}
    given = imported.tensors
    if imported.classes != network.num_classes:
        wanted, given = ({n: t for n, t in part.items() if n.startswith("encoder.")} for part in (wanted, given))
    check(wanted, given, source, type(network).__name__.lstrip("_"))
    network.load_state_dict(given, strict=False)
    reasons = []
    if imported.classes not in (None, network.num_classes):
        reasons.append(f"its head has {imported.classes} classes and this network {network.num_classes}")
    if imported.others:
        reasons.append(f"this network has no {some(imported.others)}")
    if reasons:
        kept = "encoder and head" if imported.classes == network.num_classes else "encoder; the head starts new"
        warnings.warn(f"weights {source}: loaded the {kept}: {'; '.join(reasons)}", stacklevel=2)


def check(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: Path | str, network: str) -> None:
    """Raise ConfigError, naming tensors, unless `given` has all of `wanted` in their shapes and nothing else.

    BatchNorm's count of batches may be missing: files older than it lack it.
    """
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    unexpected = [name for name in given if name not in wanted]
    problems = (("missing", missing), ("wrong shape", misshapen), ("not in this network", unexpected))
    listed = "; ".join(f"{kind}: {some(names)}" for kind, names in problems if names)
    if listed:
        raise ConfigError(f"weights {source} do not fit {network}: {listed}. Is it the same architecture?")


def unknown_layout(path: Path, tensors: Mapping[str, Tensor], expected: str) -> ConfigError:
    """The error for a checkpoint whose names nothing here maps."""
    return ConfigError(f"weights {path} has names that are not known here: {some(tensors)}; expected {expected}")


def some(names: Collection[str], show: int = 4) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - show
    return ", ".join(list(names)[:show]) + (f" and {rest} more" if rest > 0 else "")
