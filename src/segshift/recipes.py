"""Named experiments as Python values, and a table of them that reads without loading torch.

A recipe states its command, what it costs and the table it belongs to; the command line only overrides it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from segshift.errors import ConfigError

if TYPE_CHECKING:
    from segshift.phase import Phase
    from segshift.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """What `segshift recipes` prints of a recipe."""

    name: str
    summary: str
    data: str
    cost: str


ROWS = {
    "source-only": "supervised training on the source alone: the warm-up, and the row all others are measured against",
    "adabn": "source-only, then BatchNorm statistics re-estimated on target images; no training (control)",
    "st": "self-training with one threshold for all classes (CBST paper, Eq. 5, Algorithm 1)",
    "cbst": "class-balanced self-training, a threshold a class (CBST paper, Eq. 8, Algorithm 2)",
    "cbst-naive": "CBST without any care: BatchNorm trained on both domains, weak augmentation, full learning rate",
    "oracle": "supervised training on source and target labels (CBST paper, Eq. 1): the upper bound",
}
LABELS = {
    "source-only": "source-only",
    "adabn": "AdaBN",
    "st": "ST",
    "cbst": "CBST",
    "cbst-naive": "CBST (naive)",
    "oracle": "oracle",
}
GROUPS = {
    "minicity": ("the embedded street, day to dusk", "1-2 minutes on 2 CPU cores"),
    "camvid-dusk": ("--source CAMVID/day --target CAMVID/dusk", "5-8 minutes on 2 CPU cores"),
    "nuclei": ("--source NUCLEI/fluorescence --target NUCLEI/histology", "5-8 minutes on 2 CPU cores"),
    "own": ("--source DIR --target DIR: your own folders", "depends on your images"),
}


def entries() -> list[Entry]:
    """All recipes, in the order of the table."""
    return [
        Entry(f"{group}/{row}", summary, data, cost)
        for group, (data, cost) in GROUPS.items()
        for row, summary in ROWS.items()
    ]


def find(name: str) -> Recipe:
    """The recipe of a name. ConfigError suggests the nearest where there is none."""
    names = [entry.name for entry in entries()]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"there is no recipe {name!r}.{hint} `segshift recipes` lists them")
    group, row = name.split("/")
    base = {"minicity": _minicity, "camvid-dusk": _camvid_dusk, "nuclei": _nuclei, "own": _own}[group](name)
    return _row(base, row)


def _row(base: Recipe, row: str) -> Recipe:
    """A row of the table: the same warm-up, then what the row is about."""
    adaptation = {
        "source-only": lambda: None,
        "adabn": lambda: _adabn(base.warmup),
        "st": lambda: _self_training(base.warmup, "global"),
        "cbst": lambda: _self_training(base.warmup, "class_balanced"),
        "cbst-naive": lambda: _naive(base.warmup),
        "oracle": lambda: _oracle(base.warmup),
    }[row]()
    return replace(base, label=LABELS[row], adaptation=adaptation)


def _rounds(warmup: Phase) -> dict[str, Any]:
    """Three rounds of an eighth of the warm-up's steps each: the budget of every row that trains."""
    return {"rounds": 3, "steps": max(1, warmup.length // 8), "clip": warmup.clip, "batch": warmup.batch}


def _self_training(warmup: Phase, selection: str) -> Phase:
    """CBST with every care that needs no target label (docs/methods.md says what each is worth)."""
    from segshift.methods.cbst import CBSTConfig
    from segshift.phase import Phase
    from segshift.scan import Views

    method = CBSTConfig(selection=selection, optimizer=_slower(warmup))  # pyright: ignore[reportArgumentType]
    return Phase(
        method,
        **_rounds(warmup),
        source_view=warmup.source_view,
        target_view=warmup.target_view,
        scan=Views(flip=True),
        adabn_before="target",
        adabn_after="target",
    )


def _naive(warmup: Phase) -> Phase:
    from segshift.methods.cbst import CBSTConfig
    from segshift.phase import Phase

    method = CBSTConfig(batch_norm="both", augment=None, optimizer=_warmup_optimizer(warmup))
    return Phase(method, **_rounds(warmup), source_view=warmup.source_view, target_view=warmup.target_view)


def _oracle(warmup: Phase) -> Phase:
    from segshift.methods.oracle import OracleConfig
    from segshift.phase import Phase

    method = OracleConfig(optimizer=_warmup_optimizer(warmup))
    return Phase(method, **_rounds(warmup), source_view=warmup.source_view, target_view=warmup.target_view)


def _adabn(warmup: Phase) -> Phase:
    from segshift.phase import Phase

    return Phase(warmup.method, rounds=0, adabn_after="target")


def _warmup_optimizer(warmup: Phase):
    return warmup.method.optimizer  # pyright: ignore[reportAttributeAccessIssue]


def _slower(warmup: Phase):
    """Fine-tuning on labels that are partly wrong: a fifth of the warm-up's learning rate."""
    optimizer = _warmup_optimizer(warmup)
    return replace(optimizer, lr=optimizer.lr / 5)


def _minicity(name: str) -> Recipe:
    from segshift.data.transforms import View
    from segshift.methods.source_only import SourceOnlyConfig
    from segshift.models.small import SmallNet
    from segshift.parts.optimizers import Optimizer
    from segshift.phase import Phase
    from segshift.recipe import Recipe

    view = View(crop=(96, 192), scale=(1.0, 1.5))
    optimizer = Optimizer(kind="adamw", lr=3e-3, head_multiplier=1.0, weight_decay=1e-2)
    warmup = Phase(SourceOnlyConfig(optimizer), steps=400, batch=8, source_view=view, target_view=view)
    return Recipe(name, name, SmallNet(), warmup)


def _camvid_dusk(name: str) -> Recipe:
    return _photographs(name, short_side=240, crop=(240, 320))


def _nuclei(name: str) -> Recipe:
    return _photographs(name, short_side=256, crop=(256, 256))


def _own(name: str) -> Recipe:
    return _photographs(name, short_side=256, crop=(256, 256))


def _photographs(name: str, short_side: int, crop: tuple[int, int]) -> Recipe:
    """Photographs from folders: DeepLab-v3+ on MobileNetV2, pretrained on ImageNet."""
    from segshift.data.open_data import DataConfig
    from segshift.data.transforms import View
    from segshift.methods.source_only import SourceOnlyConfig
    from segshift.models.deeplab import DeepLabV3Plus
    from segshift.parts.optimizers import Optimizer
    from segshift.phase import Phase
    from segshift.recipe import Recipe

    network = DeepLabV3Plus("mobilenetv2_100", weights="pretrained", aspp_channels=128)
    view = View(crop=crop, scale=(1.0, 1.5))
    # Chosen by the score on daylight validation images of CamVid, before anything was adapted.
    optimizer = Optimizer(kind="adamw", lr=3e-4, head_multiplier=10.0, weight_decay=1e-2)
    warmup = Phase(
        SourceOnlyConfig(optimizer), steps=320, batch=4, source_view=view, target_view=view, adabn_before="source"
    )
    return Recipe(name, name, network, warmup, data=DataConfig(short_side=short_side))
