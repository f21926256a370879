"""`segshift check shards:TEXT`: shards as they lie on disk, all their splits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor

from segshift.data.doctor import Findings, Listed, Problem, Reading, name_notes
from segshift.data.files import MAX_PIXELS, read_image, read_label
from segshift.data.folder import read_ids, require_same_space
from segshift.data.member import Member
from segshift.data.shard_index import Index, index_of, others_of
from segshift.data.shard_paths import classes_beside, find_shards, splits_in
from segshift.errors import DataError
from segshift.taxonomy import read_classes


def list_shards(text: str, max_pixels: int = MAX_PIXELS) -> Listed:
    """The images of shards, by split; images and labels of more than `max_pixels` will be refused.

    A shard or a sample that cannot be used is a problem. Without `classes.yaml` any id is a class. Raises DataError
    where there is no shard to look at.
    """
    findings, readings = Findings(f"shards {text}"), []
    splits = splits_in(text)
    for split in splits or (None,):
        shards = find_shards(text, split)
        indices = [index for shard in shards if (index := _index(shard, findings)) is not None]
        reader = _label_reader(text, shards, findings, max_pixels)
        labelled = any(index.has_labels for index in indices)
        found = [reading for index in indices for reading in _of_shard(index, labelled, reader, max_pixels, findings)]
        findings.files[split or ""] = [image for image, _ in found]
        if split is not None:
            findings.splits[split] = len(found)
        readings += [reading for _, reading in found]
        findings.notes += others_of(indices)
    return Listed(findings, readings)


def _index(shard: Path, findings: Findings) -> Index | None:
    try:
        return index_of(shard)
    except DataError as error:
        findings.problems.append(Problem(str(shard), str(error)))
        return None


def _of_shard(
    index: Index, labelled: bool, reader: Callable[[Member], Tensor], max_pixels: int, findings: Findings
) -> list[tuple[Member, Reading]]:
    """The images of one shard, and how each and its label are read; what cannot be used is told."""
    faults, label_faults = index.faults("image"), index.faults("label")
    unlabelled = set(index.unlabelled())
    found = []
    for i in range(len(index)):
        if i in faults:
            findings.problems.append(Problem(str(index.shard), faults[i]))
            continue
        image, label = index.image(i), None
        if i in label_faults:
            findings.problems.append(Problem(str(index.shard), label_faults[i]))
        elif i in unlabelled and labelled:
            text = "has no label; expected a member KEY.seg.png, KEY.label.png or KEY.mask.png of the same key"
            findings.problems.append(Problem(str(image), text))
        elif i not in unlabelled:
            label = index.label(i)
        reading = None if label is None else partial(reader, label)
        found.append((image, Reading(str(image), str(label), partial(read_image, image, max_pixels), reading)))
    findings.problems += [
        Problem(f"{index.shard}:{label}", "is a label without an image; expected one of the same key")
        for label in index.orphans
    ]
    findings.notes += name_notes([index.key(i) for i in range(len(index))], f"{index.shard}: ")
    return found


def _label_reader(
    text: str, shards: tuple[Path, ...], findings: Findings, max_pixels: int
) -> Callable[[Member], Tensor]:
    """How labels are read: against `classes.yaml`, or as they are where there is none that can be used."""
    try:
        path = classes_beside(shards, text)
        if path is None:
            return partial(read_label, max_pixels=max_pixels)
        space, ignore = read_classes(path)
        findings.space = findings.space or space
        require_same_space(findings.space, space, str(path))
    except DataError as error:
        findings.problems.append(Problem(text, str(error)))
        return partial(read_label, max_pixels=max_pixels)
    return partial(read_ids, space=space, ignore=ignore, max_pixels=max_pixels)
