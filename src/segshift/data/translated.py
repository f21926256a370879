"""Translated source images: pixels from a folder (those of an image-to-image network), labels from the source.

As the category-adaptive paper trains (§3.2): GTA5 translated by CycleGAN, with GTA5's labels. A translated image is
found by the name of its source image.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from segshift.data.files import IMAGE_SUFFIXES, image_size, is_folder, list_files
from segshift.data.folder import Folder, ImageFiles
from segshift.data.intake import Intake
from segshift.data.layout import LayoutLabelled
from segshift.data.protocols import notes_of
from segshift.data.resizing import resize_label
from segshift.errors import DataError
from segshift.taxonomy import LabelSpace

TOLERANCE = 0.02
"""How far the aspect of a translated image may be from its label's: sizes rounded to what a network takes."""
_SHOWN = 3


class Translated:
    """A labelled source seen through translated images: a `LabelledDataset` of the source's names, classes and labels.

    `folder`: the translated images, or a folder whose `images/` holds them. Raises DataError where it is none; where a
    source image has no translated one, or several, unless the source's rules say to go without it.
    """

    def __init__(self, source: Folder | LayoutLabelled, folder: Path | str) -> None:
        root = Path(folder)
        if not is_folder(root):
            state = "is no folder" if root.exists() else "does not exist"
            raise DataError(f"{root}: {state}; expected a folder of translated source images")
        self.folder = root / "images" if is_folder(root / "images") else root
        files = list_files(self.folder, IMAGE_SUFFIXES)
        stems = [path.stem for path in source.image_paths]
        intake = Intake(source.rules)
        intake.sees(source.names)
        found = intake.taken(match(source.names, stems, files, self.folder, intake))
        self._source, self._images = source, ImageFiles(found, intake)
        self._at = [i for i, name in enumerate(source.names) if name in found]
        used = set(found.values())
        self._extra = [path for paths in files.values() for path in paths if path not in used]
        self._resized: dict[int, str] = {}
        self.names: tuple[str, ...] = self._images.names
        self.image_paths = self._images.image_paths
        self.label_paths = tuple(source.label_paths[i] for i in self._at)
        self.listed = source.listed
        self.left_out = dict(sorted((source.left_out | intake.left_out).items()))
        self.space: LabelSpace = source.space

    def __repr__(self) -> str:
        return f"{self._source!r}, translated images from {self.folder}"

    @property
    def notes(self) -> list[str]:
        """Those of the source; files that are no source image's; that labels were resized, as far as they were read."""
        found = notes_of(self._source)
        if self._extra:
            found.append(f"{self._extra[0]}: is no source image's; {len(self._extra)} such file(s) in all, left aside")
        if self._resized:
            first = self._resized[min(self._resized)]
            found.append(f"{first}: {len(self._resized)} label(s) in all were resized to such images (nearest pixel)")
        return found

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """The translated image as RGB, at its own size. DataError where the file cannot be read."""
        return self._images.image(index)

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """The source's label, resized where the translated image has another size (nearest pixel).

        DataError as of the source; and where the aspects differ, as the label would then not lie on the image.
        """
        label, path = self._source.label(self._at[index]), self.image_paths[index]
        height, width = image_size(path, self._source.rules.max_pixels)
        found = (label.shape[0], label.shape[1])
        if found == (height, width):
            return label
        sizes = f"{path}: is {height}x{width} pixels (height x width), its label {found[0]}x{found[1]}"
        if abs(width * found[0] / (height * found[1]) - 1) > TOLERANCE:
            raise DataError(
                f"{sizes}: the aspects differ by more than {TOLERANCE:.0%}, so the label of {self.names[index]} would "
                "not lie on it; expected the whole source image, at any size. Translate it without cropping or padding"
            )
        self._resized[index] = sizes
        return resize_label(label, (height, width))

    def fingerprint(self) -> str:
        """The source's, mixed with that of the translated images."""
        both = ("translated", self._source.fingerprint(), self._images.fingerprint())
        return hashlib.sha256(repr(both).encode()).hexdigest()[:16]


def match(
    names: Sequence[str],
    stems: Sequence[str],
    files: Mapping[str, list[Path]],
    folder: Path,
    intake: Intake | None = None,
) -> dict[str, Path]:
    """The translated image of each source image: name -> path, in the order of `names`.

    `stems`: what the source images' files are called (a public data set's names may be shorter); `files`: name below
    `folder` -> paths. A file has the image's name, sub-folders included; or, anywhere in the folder, its last part,
    where no other source image shares that. DataError where an image has none, or several, unless `intake` leaves it
    out.
    """
    intake = intake or Intake()
    flat: dict[str, list[Path]] = {}
    for name, paths in files.items():
        flat.setdefault(_last(name), []).extend(paths)
    alone = Counter(word for name, stem in zip(names, stems, strict=True) for word in {_last(name), stem})
    found: dict[str, Path] = {}
    missing: list[str] = []
    for name, stem in zip(names, stems, strict=True):
        whole = dict.fromkeys((name, name[: len(name) - len(_last(name))] + stem))
        last = dict.fromkeys(word for word in (_last(name), stem) if alone[word] == 1)
        paths = [p for word in whole for p in files.get(word, ())] or [p for word in last for p in flat.get(word, ())]
        if len(paths) > 1:
            several = (
                f"{folder}: {', '.join(str(path.relative_to(folder)) for path in paths)} may each be the translated "
                f"image of {name}; expected one file of that name. Delete or rename the rest"
            )
            intake.refuse(name, several)
        elif paths:
            found[name] = paths[0]
        else:
            missing.append(name)
    # Where nothing fits, the folder is another one: no fault of its files.
    if missing and not (intake.rules.skips and found):
        raise _missing(missing, len(names), len(found), folder)
    for name in missing:
        intake.refuse(name, f"{folder}: holds no translated image of {name}")
    return found


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _missing(missing: Sequence[str], of: int, found: int, folder: Path) -> DataError:
    shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    cure = "Translate these too" if found else "Name the folder that holds the translated images"
    return DataError(
        f"{folder}: {len(missing)} of {of} source images have no translated one: {shown}; expected a file of the "
        f"image's name, such as {missing[0]}.png ({' '.join(IMAGE_SUFFIXES)}), in the source's sub-folders, or in any "
        f"folder where no other source image has that file name. {cure}, or leave translated out"
    )
