"""The public data sets that are read as they are: name -> `Layout`, and how they are named on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from segshift.data.acdc import ACDC
from segshift.data.bdd import BDD
from segshift.data.camvid import CAMVID
from segshift.data.cityscapes import CITYSCAPES
from segshift.data.dark_zurich import DARK_ZURICH
from segshift.data.gta5 import GTA5
from segshift.data.layout import Layout
from segshift.data.loveda import LOVEDA
from segshift.data.mapillary import MAPILLARY
from segshift.data.nthu import NTHU
from segshift.data.synthia import SYNTHIA
from segshift.errors import ConfigError

FOLDER = "folder"
"""The generic layout of one's own images (`segshift.data.folder`)."""
SHARDS = "shards"
"""One's own images in tar files (`segshift.data.shards`)."""
HF = "hf"
"""One's own images in a data set of the `datasets` library (`segshift.data.hf_datasets`)."""
OWN_LAYOUTS = (FOLDER, SHARDS, HF)
"""Layouts whose classes are not known beforehand."""
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (GTA5, SYNTHIA, CITYSCAPES, NTHU, BDD, MAPILLARY, ACDC, DARK_ZURICH, CAMVID, LOVEDA)
}


def layout(name: str) -> Layout:
    """The layout of this name. ConfigError with the nearest names where there is none."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    near = _near(name, LAYOUTS, cutoff=0.5)
    hint = f". Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"data set {name!r} is not known; expected one of {', '.join(LAYOUTS)}{hint}")


def parse(text: str) -> tuple[str, str]:
    """(layout, path) of `LAYOUT:PATH`; without a known layout before the colon, ("folder", the whole text).

    A "~" after the colon is the home folder, as a shell would have it. ConfigError where what stands before the colon
    is nearly, but not quite, the name of a data set.
    """
    name, colon, path = text.partition(":")
    if not colon:
        return FOLDER, text
    if name in (*OWN_LAYOUTS, *LAYOUTS):
        return name, str(Path(path).expanduser()) if path.startswith("~") else path
    near = _near(name, (SHARDS, *LAYOUTS), cutoff=0.75)
    if near and "/" not in name and not Path(text).exists():
        raise ConfigError(f"{text}: data set {name!r} is not known; did you mean {near[0]}:{path}?")
    return FOLDER, text


def _near(name: str, among: Iterable[str], cutoff: float) -> list[str]:
    among = list(among)
    alike = difflib.get_close_matches(name.lower().replace("-", "_"), among, n=2, cutoff=cutoff)
    return alike or [known for known in among if known in name.lower()][:2]
