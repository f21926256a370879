"""The names of recipes and what they say for themselves: a table that reads without loading torch.

A recipe is GROUP/ROW: a group has the data, the network and the warm-up, a row what is done after it.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    "st-sp": "self-training with spatial priors from the source's labels (Eq. 9 with one threshold)",
    "cbst": "class-balanced self-training, a threshold a class (CBST paper, Eq. 8, Algorithm 2)",
    "cbst-sp": "class-balanced self-training with spatial priors (CBST paper, Eq. 9)",
    "cbst-naive": "CBST without any care: BatchNorm trained on both domains, weak augmentation, full learning rate",
    "adaptsegnet": "adversarial training on softmax maps (AdaptSegNet, Tsai et al. 2018)",
    "adaptsegnet-ls": "the same with a least-squares loss: the warm-up of the IAST paper (Eq. 2)",
    "advent": "adversarial training on entropy maps (AdvEnt, Vu et al. 2019)",
    "minent": "entropy of target predictions minimised (MinEnt, Vu et al. 2019)",
    "style-gap": "adversarial training on softmax maps and on channel means (category-adaptive paper, Eq. 5)",
    "category-adaptive": "entropy thresholds a class, self-training over style-gap, its losses kept (Eq. 1-3, 6)",
    "iast": "instance-adaptive self-training over a warm-up (IAST paper); --warmup NAME, RUN or FILE changes that",
    "iast-source-free": "IAST on a model you have, from target images alone: --warmup RUN or FILE, no --source",
    "iast-semi": "IAST on one data set of which a share is labelled (semi-supervised; IAST paper, Table 8)",
    "cpsl": "class-balanced pixel-level self-labelling: optimal transport rectifies pseudo-labels online (CPSL paper)",
    "cpsl-distill": "CPSL, then distilled in two rounds into a student of other first weights, --student (CPSL paper)",
    "oracle": "supervised training on source and target labels (CBST paper, Eq. 1): the upper bound",
}
WARMUPS = ("source-only", "adaptsegnet", "adaptsegnet-ls", "advent", "minent", "style-gap")
"""What `--warmup` can put under a recipe by name."""
CBST_ROWS = ("source-only", "adabn", "st", "st-sp", "cbst", "cbst-sp", "cbst-naive", "oracle")
"""The rows on the CBST paper's pairs and networks."""
LABELS = {
    "source-only": "source-only",
    "adabn": "AdaBN",
    "st": "ST",
    "st-sp": "ST-SP",
    "cbst": "CBST",
    "cbst-sp": "CBST-SP",
    "cbst-naive": "CBST (naive)",
    "adaptsegnet": "AdaptSegNet",
    "adaptsegnet-ls": "AdaptSegNet (LS)",
    "advent": "AdvEnt",
    "minent": "MinEnt",
    "style-gap": "style gap",
    "category-adaptive": "category-adaptive",
    "iast": "IAST",
    "iast-source-free": "IAST, source-free",
    "iast-semi": "IAST, semi-supervised",
    "cpsl": "CPSL",
    "cpsl-distill": "CPSL+distill",
    "oracle": "oracle",
}
GROUPS = {
    "minicity": ("the embedded street, day to dusk", "1-2 minutes on 2 CPU cores"),
    "camvid-dusk": ("--source CAMVID/day --target CAMVID/dusk", "5-8 minutes on 2 CPU cores"),
    "nuclei": ("--source NUCLEI/fluorescence --target NUCLEI/histology", "5-8 minutes on 2 CPU cores"),
    "own": ("--source DIR --target DIR: your own folders", "depends on your images"),
    "gta5-cityscapes-fcn8s": ("--source gta5:DIR --target cityscapes:DIR", "a GPU; CBST paper, Table 3"),
    "gta5-cityscapes-resnet38": ("--source gta5:DIR --target cityscapes:DIR", "a GPU; CBST paper, Table 3"),
    "synthia-cityscapes-fcn8s": ("--source synthia:DIR --target cityscapes:DIR", "a GPU; CBST paper, Table 2"),
    "synthia-cityscapes-resnet38": ("--source synthia:DIR --target cityscapes:DIR", "a GPU; CBST paper, Table 2"),
    "cityscapes-nthu-resnet38": (
        "--source cityscapes:DIR --target nthu:DIR --data.target-split Rome/Test (Rio, Tokyo, Taipei)",
        "a GPU; CBST paper, Table 1",
    ),
    "gta5-cityscapes-deeplab-v2": ("--source gta5:DIR --target cityscapes:DIR", "a GPU; IAST paper, Tables 1-6, 9"),
    "synthia-cityscapes-deeplab-v2": ("--source synthia:DIR --target cityscapes:DIR", "a GPU; IAST paper, Tables 7, 9"),
    "cityscapes-cityscapes-deeplab-v2": ("--source cityscapes:DIR", "a GPU; IAST paper, Table 8 (semi-supervised)"),
    "gta5-bdd-resnet38": ("--source gta5:DIR --target bdd:DIR", "a GPU; CBST paper, Table 4 (which used BDD-V)"),
}


def rows_of(group: str) -> tuple[str, ...]:
    """The rows of a group's table."""
    if group.endswith("-fcn8s"):
        # It has no BatchNorm whose statistics could be re-estimated.
        return tuple(row for row in CBST_ROWS if row != "adabn")
    if group.endswith("-resnet38"):
        return CBST_ROWS
    if group.startswith("cityscapes-cityscapes"):
        return ("iast-semi",)
    if group.endswith("-deeplab-v2"):
        return tuple(row for row in ROWS if row != "iast-semi")
    return tuple(ROWS)


def entries() -> list[Entry]:
    """All recipes, in the order of the table."""
    return [
        Entry(f"{group}/{row}", ROWS[row], data, cost)
        for group, (data, cost) in GROUPS.items()
        for row in rows_of(group)
    ]
