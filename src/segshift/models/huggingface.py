"""Semantic segmentation models of Hugging Face transformers: SegFormer, UperNet, DPT, BEiT, Mask2Former and their like.

Only safetensors are read, and no code that comes with a model is run. transformers is an optional dependency, and takes
seconds to import: only what needs it does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.backbone import Triple
from segshift.models.probing import class_scores
from segshift.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter, check_normalisation
from segshift.models.wrapped import Wrapped

_MASKS = ("mask2former", "maskformer")
"""Models that give a set of masks and a class of each, of which class scores a pixel are made."""
_SMALLEST = 1e-6


@dataclass(frozen=True)
class HuggingFace:
    """A model of transformers, by the name of a folder or of the hub; what it is made of is kept, so that a trained
    one needs neither."""

    name: str = ""
    """A folder written by `save_pretrained`, or a name on the hub."""
    config: str = ""
    """Its config.json, as text; empty: that of `name`."""
    weights: Literal["pretrained", "none"] = "pretrained"
    """Those of `name`, with a new head where it has other classes; or none: random ones."""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        check_normalisation(self.mean, self.std)

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes: smaller ones are enlarged."""
        return 1

    def build(self, num_classes: int) -> Segmenter:
        """The network. ConfigError where the model, or the library, cannot be had."""
        kept = json.loads(self.config) if self.config else described(self.name).config
        config = _config_of(kept)
        config.num_labels = num_classes
        if self.weights == "pretrained":
            body, _ = _pretrained(self.name, config)
        else:
            with _quiet():
                body = _class_for(config).from_config(config)
        read = _read_masks if config.model_type in _MASKS else _read
        return Wrapped(body, read, num_classes, self.mean, self.std)


class Described(NamedTuple):
    """What a folder, or the hub, says of a model."""

    config: dict[str, Any]
    classes: tuple[str, ...] | None
    """Their names, in the order of its scores; None where it has none but LABEL_0, LABEL_1, ..."""
    num_labels: int
    mean: Triple
    std: Triple


def described(name: str) -> Described:
    """Read config.json, and preprocessor_config.json where there is one. ConfigError where there is no such model."""
    transformers = _library()
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _not_to_be_had(name, error) from error
    kept = config.to_diff_dict()
    mean, std = _normalisation(name)
    return Described(kept, _names(config), config.num_labels, mean, std)


def network_of(name: str) -> HuggingFace:
    """The config of a model by its name, complete. Raises as `described` does."""
    found = described(name)
    return HuggingFace(name, json.dumps(found.config, sort_keys=True), mean=found.mean, std=found.std)


def whole(name: str, num_classes: int) -> bool:
    """Whether a model's weights hold a head for this many classes: it was trained to segment them."""
    config = _config_of(described(name).config)
    if config.num_labels != num_classes:
        return False
    _, fresh = _pretrained(name, config)
    return not fresh


def head_of(network: HuggingFace) -> int:
    """How many classes the head of a described model is for."""
    return int(_config_of(json.loads(network.config)).num_labels)


class Around(NamedTuple):
    """What is known of a model of transformers that is at hand."""

    network: HuggingFace
    classes: tuple[str, ...] | None


def network_around(body: nn.Module) -> Around | None:
    """What a model at hand is, but for its weights; None for a module that is not of transformers.

    Its normalisation is that of the folder it was loaded from, where that is there; else ImageNet's.
    """
    config: Any = getattr(body, "config", None)
    if not (hasattr(body, "save_pretrained") and hasattr(config, "to_diff_dict")):
        return None
    folder = str(getattr(body, "name_or_path", ""))
    mean, std = _normalisation(folder) if folder and Path(folder).is_dir() else (IMAGENET_MEAN, IMAGENET_STD)
    kept = json.dumps(config.to_diff_dict(), sort_keys=True)
    return Around(HuggingFace(folder, kept, mean=mean, std=std), _names(config))


def _names(config: Any) -> tuple[str, ...] | None:
    labels = tuple(str(config.id2label[index]) for index in sorted(config.id2label))
    generic = all(label == f"LABEL_{index}" for index, label in enumerate(labels))
    return None if generic else labels


def save(network: Segmenter, classes: Sequence[str], folder: Path) -> None:
    """Write a trained network as `save_pretrained` does, with its classes' names and a preprocessor_config.json.

    ConfigError where it is no model of transformers.
    """
    body = network.body if isinstance(network, Wrapped) else None
    if body is None or network_around(body) is None:  # others have a save_pretrained of their own
        raise ConfigError(
            f"format = huggingface: the network is a {type(body or network).__name__}, no model of Hugging Face; "
            "expected one, or format = model, onnx or torch-export"
        )
    config: Any = body.config
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: index for index, name in enumerate(classes)}
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        body.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    mean, std = ([round(value, 6) for value in values.flatten().tolist()] for values in (network.mean, network.std))
    processor = {
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": mean, "image_std": std,
        "do_resize": False, "image_processor_type": "SegformerImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1), encoding="utf-8")


# --- the library -------------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            'model = hf:...: transformers is not installed; expected it: pip install "segshift[huggingface]"'
        ) from error
    return transformers


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own notes and bars: a new head is no surprise here."""
    logging = _library().logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def _config_of(kept: dict[str, Any]) -> Any:
    known = {key: value for key, value in kept.items() if key != "auto_map"}  # names code that would come with it
    try:
        return _library().AutoConfig.for_model(**known)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"network.config: transformers {_library().__version__} cannot build a {known.get('model_type')!r} "
            f"({error!s:.200}); expected a model that it knows"
        ) from error


def _class_for(config: Any) -> Any:
    transformers = _library()
    masks = config.model_type in _MASKS
    return transformers.AutoModelForUniversalSegmentation if masks else transformers.AutoModelForSemanticSegmentation


def _pretrained(name: str, config: Any) -> tuple[nn.Module, bool]:
    """The model with its weights, and whether some layer had none that fit (a new head)."""
    try:
        with _quiet():
            body, found = _class_for(config).from_pretrained(
                name, config=config, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True,
                trust_remote_code=False, dtype=torch.float32,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_to_be_had(name, error) from error
    return body, bool(found["missing_keys"] or found["mismatched_keys"])


def _not_to_be_had(name: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())
    return ConfigError(
        f"model = hf:{name}: cannot be had ({reason:.240}); expected a folder that save_pretrained wrote "
        "(config.json, model.safetensors), or the name of a semantic segmentation model on the hub that is in the "
        "cache, or can be downloaded"
    )


def _normalisation(name: str) -> tuple[Triple, Triple]:
    """What the model's preprocessor does to images in [0, 1]; ImageNet's where it has none."""
    transformers = _library()
    try:
        with _quiet():
            found, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):
        return IMAGENET_MEAN, IMAGENET_STD
    if not found.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = found.get("image_mean", IMAGENET_MEAN), found.get("image_std", IMAGENET_STD)
    check_normalisation(mean, std)
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def _read(body: nn.Module, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A `probing.Read`: class scores, and those hidden states that are maps."""
    found = body(pixel_values=image, output_hidden_states=True)
    return class_scores(found), tuple(state for state in found.hidden_states or () if state.dim() == 4)


def _read_masks(body: nn.Module, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Likewise of a model of masks: a pixel's score of a class is the logarithm of what its masks give the class, as
    in Mask2Former (Cheng et al., CVPR 2022), §3.1: Σ_q p_q(c) · m_q; what no mask claims has equal scores."""
    found = body(pixel_values=image)
    classes = found.class_queries_logits.softmax(-1)[..., :-1]
    scores = torch.einsum("bqc,bqhw->bchw", classes, found.masks_queries_logits.sigmoid())
    return scores.clamp_min(_SMALLEST).log(), ()
