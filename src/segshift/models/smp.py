"""Networks of segmentation_models_pytorch, by the names of architecture and encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segshift.errors import ConfigError
from segshift.models.backbone import Triple
from segshift.models.importer import read_checkpoint, some
from segshift.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter, check_normalisation
from segshift.models.wrapped import Wrapped, read_plain


@dataclass(frozen=True)
class SegmentationModels:
    """`segmentation_models_pytorch.create_model(architecture, encoder)`."""

    architecture: str = "unet"
    """unet, unetplusplus, fpn, pspnet, deeplabv3plus, segformer, upernet, ...: the library's own names."""
    encoder: str = "resnet34"
    weights: str = "none"
    """"none"; "imagenet", or another of the library's names of encoder weights, which it downloads; or the path of a
    checkpoint of the whole network."""
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD

    def __post_init__(self) -> None:
        check_normalisation(self.mean, self.std)

    @property
    def minimum_size(self) -> int:
        """Shortest side of an image, in pixels, that the network takes: smaller ones are enlarged."""
        return 1

    def build(self, num_classes: int) -> Segmenter:
        """The network. ConfigError where the library or its weights cannot be had, or a checkpoint does not fit."""
        library = _library()
        file = self.weights if self.weights.endswith((".pth", ".pt", ".safetensors", ".bin", ".ckpt")) else None
        named = None if file or self.weights == "none" else self.weights
        try:
            body = library.create_model(self.architecture, self.encoder, encoder_weights=named, classes=num_classes)
        except Exception as error:  # the library and its hub raise whatever they like
            raise ConfigError(
                f"model = smp:{self.architecture}/{self.encoder}, weights = {self.weights!r}: cannot be had "
                f"({' '.join(str(error).split()):.240}); expected names of segmentation_models_pytorch "
                f"{library.__version__}, and weights none, a file, or a name it can download"
            ) from error
        if file:
            _load(body, file)
        return Wrapped(body, read_plain, num_classes, self.mean, self.std)


def _load(body: Any, file: str) -> None:
    tensors, wanted = read_checkpoint(file), body.state_dict()
    wrong = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name].shape]
    extra = [name for name in tensors if name not in wanted]
    if wrong or extra:
        raise ConfigError(
            f"weights {file} do not fit: missing or of another shape: {some(wrong) or 'none'}; unknown: "
            f"{some(extra) or 'none'}. Expected the state_dict of this architecture, encoder and number of classes"
        )
    body.load_state_dict(tensors)


def _library() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise ConfigError(
            'model = smp:...: segmentation_models_pytorch is not installed; expected it: pip install "segshift[smp]"'
        ) from error
    return segmentation_models_pytorch
