"""Public data sets told by how their folders look, so that one that is named as a plain folder is named rightly."""

from __future__ import annotations

from pathlib import Path

from segshift.data.files import is_folder
from segshift.data.layout import Layout
from segshift.data.layouts import LAYOUTS
from segshift.data.shard_paths import holds_shards
from segshift.errors import DataError


def has_labels(layout: Layout, root: Path, split: str | None) -> bool:
    """Whether a folder of labels stands where the layout has those of a split, which is named as in `Layout.find`."""
    parts = [of for key, of in layout.parts.items() if key == "" or key.casefold() == (split or "").casefold()]
    return any(is_folder(root / place.folder) for of_split in parts for part in of_split for place in part.labels)


def lookalikes(root: Path) -> list[str]:
    """Names of the public data sets that a folder looks like: images and labels stand where they would."""

    def has(layout: Layout, split: str) -> bool:
        places = [part.images_in(root) for part in layout.parts[split]]
        # images/ itself, as GTA5 has it, is what anyone's folder looks like.
        return all(place and place.folder != "images" for place in places) and has_labels(layout, root, split)

    return [name for name, layout in LAYOUTS.items() if any(has(layout, split) for split in layout.parts)]


def refuse_lookalikes(root: Path, split: str | None) -> None:
    """DataError with the name it wants where a public data set in its own layout is named as a plain folder."""
    if is_folder(root / (split or "") / "images"):
        return
    if holds_shards(root):
        raise DataError(
            f"{root}: holds no {'' if split is None else f'{split}/'}images/, but tar files; expected the images of a "
            f"folder of one's own. If these are shards, name them shards:{root}"
        )
    known = lookalikes(root)
    if known:
        raise DataError(
            f"{root}: holds no {'' if split is None else f'{split}/'}images/; expected that of a folder of one's own. "
            f"It looks like {LAYOUTS[known[0]].title}: name it {' or '.join(f'{name}:{root}' for name in known)}"
        )
