"""Your own images, without code: `DOMAIN/classes.yaml`, `DOMAIN/SPLIT/images/STEM.jpg`, `DOMAIN/SPLIT/labels/STEM.png`.

A folder that holds `images/` itself serves as well (no split is named then). `classes.yaml` stands beside `images/`
or one folder up; `segshift.taxonomy.from_dict` describes it. Without one, a source's classes are those its labels
hold (`infer_space`), and a target is opened with the source's label space. Images are listed once, and read when asked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from segshift.data.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    MAX_PIXELS,
    image_size,
    is_folder,
    list_files,
    read_image,
    read_label,
)
from segshift.data.image_header import unreachable
from segshift.data.intake import FileRules, Intake
from segshift.data.member import File
from segshift.errors import DataError
from segshift.taxonomy import IGNORE, LabelSpace, id_table, read_classes, unnamed


class ImageFiles:
    """Images at known paths, in the order they are given: name -> path."""

    def __init__(self, images: Mapping[str, Path], intake: Intake | None = None) -> None:
        intake = intake or Intake()
        self.rules = intake.rules
        self.names: tuple[str, ...] = tuple(images)
        self.image_paths: tuple[Path, ...] = tuple(images.values())
        self.listed: tuple[str, ...] = tuple(intake.listed) or self.names
        """All images there are, in order, also those that are left out."""
        self.left_out: dict[str, str] = dict(sorted(intake.left_out.items()))
        """Images that cannot be used, which the data set goes without: name -> why, beginning with the file."""

    def image(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """The image as RGB at its own size. DataError where the file cannot be read."""
        return read_image(self.image_paths[index], self.rules.max_pixels)

    def fingerprint(self) -> str:
        """A hash of the images' names and sizes in bytes: cheap, and blind to an edit that keeps the size."""
        return _hash_of_sizes(zip(self.names, self.image_paths))


class LabelFiles(ImageFiles):
    """Images at known paths, each with a label: `labels` has the names of `images`."""

    def __init__(self, images: Mapping[str, Path], labels: Mapping[str, Path], intake: Intake | None = None) -> None:
        super().__init__(images, intake)
        self.label_paths: tuple[Path, ...] = tuple(labels[name] for name in self.names)

    def fingerprint(self) -> str:
        """As of images alone, over the labels too."""
        return self._fingerprint("")

    def _fingerprint(self, text: str) -> str:
        labels = ((f"label {name}", path) for name, path in zip(self.names, self.label_paths))
        return _hash_of_sizes([*zip(self.names, self.image_paths), *labels], text)


class ImageFolder(ImageFiles):
    """The images of a folder, and nothing else: a target for training, or what is to be predicted."""

    def __init__(self, root: Path | str, split: str | None = None, rules: FileRules | None = None) -> None:
        self.root, self.split = Path(root), split
        self.folder = locate(self.root, split)
        intake = Intake(rules)
        super().__init__(intake.taken(_images_of(self.folder, intake)), intake)

    def __repr__(self) -> str:
        return _repr(self, self.root, self.split)


class Folder(LabelFiles):
    """Images, each with its label: a source, a test set, or an oracle's target.

    `space` is for a folder without `classes.yaml`: the source's label space. A folder that has one must name the
    same classes. With neither, every label is read once to find the largest id.

    Raises DataError where an image has no label, unless `rules` say to go without it, or a `classes.yaml` cannot be
    used.
    """

    def __init__(
        self,
        root: Path | str,
        split: str | None = None,
        space: LabelSpace | None = None,
        rules: FileRules | None = None,
    ) -> None:
        self.root, self.split = Path(root), split
        self.folder = locate(self.root, split)
        self._classes = classes_file(self.folder)
        self.ignore = IGNORE
        """The id for ignored pixels in these files; in labels given out it is always 255."""
        own = None
        if self._classes is not None:
            own, self.ignore = read_classes(self._classes)
            if space is not None:
                require_same_space(space, own, str(self._classes))
        intake = Intake(rules)
        images = _images_of(self.folder, intake)
        labels = intake.taken(_labels_of(self.folder, tuple(images), intake))
        self.space: LabelSpace = space or own or _inferred(labels, intake)
        images = intake.taken(images)
        super().__init__(images, labels, intake)

    def __repr__(self) -> str:
        return _repr(self, self.root, self.split)

    def label(self, index: int) -> UInt8[Tensor, "h w"]:
        """Class ids, or 255. DataError: unreadable, ids outside `space`, or another size than the image's."""
        path, image = self.label_paths[index], self.image_paths[index]
        label = read_ids(path, self.space, self.ignore, self.rules.max_pixels)
        require_same_size(path, (label.shape[0], label.shape[1]), image, image_size(image, self.rules.max_pixels))
        return label

    def fingerprint(self) -> str:
        """As of images alone, over the labels and the text of `classes.yaml` too."""
        return self._fingerprint("" if self._classes is None else self._classes.read_text(encoding="utf-8"))


def _repr(dataset: object, root: Path, split: str | None) -> str:
    part = "" if split is None else f", split={split!r}"
    return f"{type(dataset).__name__}({str(root)!r}{part})"


def _images_of(folder: Path, intake: Intake) -> dict[str, Path]:
    paths = list_files(folder / "images", IMAGE_SUFFIXES)
    if not paths:
        raise DataError(
            f"{folder / 'images'}: holds no image; expected at least 1 file named {' '.join(IMAGE_SUFFIXES)}"
        )
    intake.sees(paths)
    return one_each(paths, intake)


def locate(root: Path, split: str | None) -> Path:
    """The folder that holds `images/`. DataError says which splits there are."""
    folder = root if split is None else root / split
    if is_folder(folder / "images"):
        return folder
    if not is_folder(root):
        raise DataError(f"{root}: {'is no folder' if root.exists() else 'does not exist'}; expected a folder of images")
    splits = ", ".join(splits_of(root)) or "none"
    if split is None:
        raise DataError(f"{root}: holds no images/; expected it there, or a split to be named. Splits found: {splits}")
    hint = ". The folder holds images/ itself: name no split" if is_folder(root / "images") else ""
    raise DataError(f"{root}: has no split {split!r} ({folder / 'images'} is missing). Splits found: {splits}{hint}")


def splits_of(root: Path) -> tuple[str, ...]:
    """Names of the folders in `root` that hold `images/`, in order. DataError where `root` cannot be listed."""
    try:
        children = sorted(root.iterdir())
    except OSError as error:
        raise unreachable(root, error, "a folder") from error
    return tuple(child.name for child in children if is_folder(child / "images"))


def one_each(paths: Mapping[str, list[Path]], intake: Intake | None = None, prefix: str = "") -> dict[str, Path]:
    """The one path of each name. Where two files share a stem, which is meant, nobody knows: DataError, or left out.

    `prefix`: what stands before these names in the data set.
    """
    intake = intake or Intake()
    for name, same in paths.items():
        if len(same) > 1:
            files = ", ".join(path.name for path in same)
            found = f"{same[0].parent}: {files} share the name {name}; expected one. Rename or delete the rest"
            intake.refuse(prefix + name, found)
    return {name: same[0] for name, same in paths.items() if len(same) == 1}


def _labels_of(folder: Path, names: tuple[str, ...], intake: Intake) -> dict[str, Path]:
    labels = folder / "labels"
    if not is_folder(labels):
        raise DataError(f"{labels}: is missing; expected a label STEM.png there for each image of {folder / 'images'}")
    paths = list_files(labels, LABEL_SUFFIXES)
    missing = [name for name in names if name not in paths]
    more = f" ({len(missing)} of {len(names)} images have none)" if len(missing) > 1 and not intake.rules.skips else ""
    for name in missing:
        text = f"the label of image {name} is missing{more}. Add it, or leave such images out: --on-bad-file skip"
        intake.refuse(name, f"{labels / name}.png: {text}")
    return one_each({name: paths[name] for name in names if name in paths}, intake)


def classes_file(folder: Path) -> Path | None:
    """The `classes.yaml` of a folder that holds `images/`: in it, or one folder up.

    DataError for one that is there and is no file, such as a link to nowhere: without it, ids are other classes.
    """
    for path in (folder / "classes.yaml", folder.parent / "classes.yaml"):
        if path.is_file():
            return path
        if os.path.lexists(path):
            found = "a link to nowhere" if path.is_symlink() and not path.exists() else "no file"
            raise DataError(f"{path}: is {found}; expected a file that names the classes. Restore it, or delete it")
    return None


def infer_space(labels: Iterable[Path], max_pixels: int = MAX_PIXELS) -> LabelSpace:
    """class_0 .. class_n, where n is the largest id in these label files (255 aside). Every file is read."""
    return _inferred({str(path): path for path in labels}, Intake(FileRules(max_pixels)))


def _inferred(labels: Mapping[str, Path], intake: Intake) -> LabelSpace:
    """As `infer_space`, of labels by the names of their images; one that cannot be read is left out where that is so.

    A label that fits no image, or not the size of its own, is still looked at: what is then left out for it is opened
    again without.
    """

    def largest(path: Path) -> int | DataError:
        try:
            return _largest_id(read_label(path, intake.rules.max_pixels))
        except DataError as error:
            return error

    ids = [-1]
    with ThreadPoolExecutor(worker_threads()) as pool:
        for name, found in zip(labels, pool.map(largest, labels.values())):
            if isinstance(found, int):
                ids.append(found)
            elif intake.rules.skips:
                intake.refuse(name, str(found))
            else:
                raise found
    if max(ids) < 0:
        where = next(iter(labels.values())).parent if labels else "labels"
        raise DataError(f"{where}: every pixel is {IGNORE} (ignored); expected ids")
    return unnamed(max(ids) + 1)


def worker_threads() -> int:
    """Threads for reading files: Pillow decodes without holding Python's lock."""
    return min(8, os.cpu_count() or 1)


def _largest_id(label: Tensor) -> int:
    used = label[label != IGNORE]
    return int(used.max()) if used.numel() else -1


def read_ids(path: File, space: LabelSpace, ignore: int = IGNORE, max_pixels: int = MAX_PIXELS) -> UInt8[Tensor, "h w"]:
    """A label file with ids of `space`; the file's `ignore` id becomes 255. DataError names any other id."""
    raw = read_label(path, max_pixels)
    table = id_table({i: i for i in range(len(space))})
    table[ignore] = IGNORE
    label = torch.from_numpy(table[raw.numpy()])
    foreign = raw[(label == IGNORE) & (raw != ignore) & (raw != IGNORE)]
    if foreign.numel():
        raise DataError(
            f"{path}: holds ids {foreign.unique().tolist()}; expected 0 to {len(space) - 1} ({space.name}), or {ignore}"
            " for ignored pixels. Mend the file, or name the classes in classes.yaml"
        )
    return label


def require_same_size(label: Path | str, found: tuple[int, int], image: Path | str, expected: tuple[int, int]) -> None:
    """DataError where a label's (height, width) is not its image's."""
    if found != expected:
        raise DataError(
            f"{label}: is {found[0]}x{found[1]} pixels (height x width), but {image} is {expected[0]}x{expected[1]};"
            " expected the same size. One of the two belongs to another image, or was resized"
        )


def require_same_space(source: LabelSpace, target: LabelSpace, where: str = "target") -> None:
    """DataError unless both name the same classes in the same order; `where` is what the message points to."""
    if source.classes == target.classes:
        return
    if len(source) != len(target):
        found = f"{len(target)} classes, the source has {len(source)}"
    else:
        first = next(i for i, (a, b) in enumerate(zip(source.classes, target.classes)) if a != b)
        found = f"id {first} is {target.classes[first]!r}, in the source it is {source.classes[first]!r}"
    raise DataError(
        f"{where}: {found}; expected the source's classes in the same order: {', '.join(source.classes)}."
        " Make the two classes.yaml agree, or delete the target's if its ids are the source's; or bring both to common"
        " classes: segshift check SOURCE TARGET prints a class map to start from, for --data.class-map FILE"
    )


def _hash_of_sizes(files: Iterable[tuple[str, Path]], text: str = "") -> str:
    digest = hashlib.sha256(text.encode())
    for name, path in files:
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: is gone ({error.strerror}); expected the file listed at the start") from error
        digest.update(f"\n{name}\t{size}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]
