"""What is written of a predicted image: which files, in which ids, where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float16, UInt8
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from segshift.data.cityscapes import TRAIN_IDS
from segshift.errors import ConfigError, RunError
from segshift.extras import optional
from segshift.painting import heat, overlay, png, png_with_palette
from segshift.paths import inside
from segshift.prediction.class_maps import ClassMaps, Wanted
from segshift.taxonomy import CITYSCAPES, LabelSpace
from segshift.whole_files import atomic_file, atomic_write

Keep = Literal[
    "labels", "overlays", "confidence", "entropy", "entropy-colors", "probabilities", "coco", "geotiff", "frames"
]
"""What can be written of an image; `frames`: the labels of each frame of a video."""
Ids = Literal["own", "cityscapes"]
"""What the numbers in labels are: the model's classes, or Cityscapes' label ids."""
DEFAULT: tuple[Keep, ...] = ("labels", "overlays")


@dataclass(frozen=True)
class Outputs:
    """What is kept of each image, and the ids of its classes."""

    keep: tuple[Keep, ...] = DEFAULT
    ids: Ids = "own"

    def __post_init__(self) -> None:
        for name in self.keep:
            if name not in get_args(Keep):
                raise ConfigError(f"keep = {name!r}; expected some of {', '.join(get_args(Keep))}")
        if not self.keep:
            raise ConfigError(f"keep is empty; expected some of {', '.join(get_args(Keep))}")
        if self.ids not in get_args(Ids):
            raise ConfigError(f"ids = {self.ids!r}; expected one of {', '.join(get_args(Ids))}")

    @property
    def wanted(self) -> Wanted:
        """What must be known of an image beside its label."""
        return Wanted(
            confidence="confidence" in self.keep,
            entropy="entropy" in self.keep or "entropy-colors" in self.keep,
            probabilities="probabilities" in self.keep,
        )


def id_map(space: LabelSpace, ids: Ids) -> UInt8[np.ndarray, "256"]:
    """Class -> the number that is written; 255 stays. ConfigError where a class is none of Cityscapes'."""
    table = np.arange(256, dtype=np.uint8)
    if ids == "own":
        return table
    foreign = [name for name in space.classes if name not in CITYSCAPES.classes]
    if foreign:
        raise ConfigError(
            f"ids = cityscapes; expected a model of Cityscapes' classes, and these are none: "
            f"{', '.join(foreign):.300}. Leave --ids out"
        )
    label_ids = {train: label for label, train in TRAIN_IDS.items()}
    for number, name in enumerate(space.classes):
        table[number] = label_ids[CITYSCAPES.classes.index(name)]
    return table


def places(out: Path, keep: Sequence[Keep]) -> str:
    """In words: what lies where below `out`."""
    return ", ".join(f"{kind} in {out / ('coco.json' if kind == 'coco' else kind)}" for kind in keep)


class Writer:
    """Writes what is kept of one image after the other, each file whole or not at all."""

    def __init__(self, out: Path, space: LabelSpace, outputs: Outputs) -> None:
        """Raises ConfigError where the classes have no such ids, or a library is missing."""
        self.out, self.space, self.outputs = out, space, outputs
        self._ids = id_map(space, outputs.ids)
        self._palette = np.zeros((256, 3), np.uint8)
        self._palette[self._ids[: len(space)]] = space.colors
        self._segments: list[dict[str, Any]] = []
        self._images: list[dict[str, Any]] = []
        if "coco" in outputs.keep:
            optional("pycocotools.mask", "coco", "--keep coco")
        if "geotiff" in outputs.keep:
            optional("rasterio", "geotiff", "--keep geotiff")

    def write(
        self, name: str, path: Path, pixels: UInt8[np.ndarray, "h w 3"], maps: ClassMaps, place: Any = None
    ) -> None:
        """All that is kept of one image. `path`: the image's file; `place`: where on earth, as of `geotiff.read`."""
        label = maps.label if self.outputs.ids == "own" else self._ids[maps.label]
        if "labels" in self.outputs.keep:
            self._file("labels", name, ".png", png_with_palette(label, self._palette))
        if "overlays" in self.outputs.keep:
            self._file("overlays", name, ".png", png(overlay(pixels, maps.label, self.space)))
        if "confidence" in self.outputs.keep and maps.confidence is not None:
            self._file("confidence", name, ".png", png(maps.confidence))
        if "entropy" in self.outputs.keep and maps.entropy is not None:
            self._file("entropy", name, ".png", png(maps.entropy))
        if "entropy-colors" in self.outputs.keep and maps.entropy is not None:
            self._file("entropy-colors", name, ".png", png(heat((maps.entropy >> 8).astype(np.uint8))))
        if "probabilities" in self.outputs.keep and maps.probabilities is not None:
            self._save(inside(self.out / "probabilities", name, ".safetensors"), maps.probabilities)
        if "coco" in self.outputs.keep:
            self._add_segments(name, path, label)
        if "geotiff" in self.outputs.keep:
            from segshift.prediction.geotiff import write

            write(inside(self.out / "geotiff", name, ".tif"), label, self._palette, place)

    def write_frame(self, name: str, number: int, label: UInt8[np.ndarray, "h w"]) -> None:
        """The label of a video's frame, numbered from 0."""
        self._file("frames", f"{name}/{number:06d}", ".png", png_with_palette(self._ids[label], self._palette))

    def finish(self) -> None:
        """Write what is one file for all images."""
        if "coco" in self.outputs.keep:
            categories = [{"id": int(self._ids[i]), "name": name} for i, name in enumerate(self.space.classes)]
            content = {"images": self._images, "categories": categories, "annotations": self._segments}
            atomic_write(self.out / "coco.json", json.dumps(content).encode())

    def _file(self, kind: str, name: str, suffix: str, content: bytes) -> None:
        atomic_write(inside(self.out / kind, name, suffix), content)

    def _save(self, path: Path, probabilities: Float16[Tensor, "k h w"]) -> None:
        described = {"classes": json.dumps(self.space.classes)}
        try:
            with atomic_file(path) as temporary:
                temporary.touch()
                mode = temporary.stat().st_mode
                save_file({"probabilities": probabilities}, temporary, described)
                temporary.chmod(mode)  # it was made for its owner alone
        except SafetensorError as error:
            raise RunError(f"{path}: cannot be written ({error!s:.200}); check the disk's free space") from error

    def _add_segments(self, name: str, path: Path, label: UInt8[np.ndarray, "h w"]) -> None:
        from segshift.prediction.coco import segments

        number = len(self._images) + 1
        size = {"height": label.shape[0], "width": label.shape[1]}
        self._images.append({"id": number, "file_name": name + path.suffix, **size})
        for found in segments(label):
            self._segments.append({"id": len(self._segments) + 1, "image_id": number, **found})
