"""The network, data and warm-up of each group of recipes: what all rows of its table share."""

from __future__ import annotations

from segshift.data.open_data import DataConfig
from segshift.data.transforms import View
from segshift.methods.source_only import SourceOnlyConfig
from segshift.models.deeplab import DeepLabV2, DeepLabV3Plus
from segshift.models.small import SmallNet
from segshift.parts.optimizers import Optimizer
from segshift.phase import Phase
from segshift.recipe import Recipe

PAPER_NETWORKS = ("fcn8s", "resnet38", "deeplab-v2")
"""How the names of groups on the papers' pairs end."""


def follows_paper(group: str) -> bool:
    """Whether a group's rows are set up as their paper prints them, without cares of our own."""
    return group.endswith(tuple(f"-{network}" for network in PAPER_NETWORKS))


def base(group: str, name: str) -> Recipe:
    """The warm-up of a group; `name` is that of the recipe."""
    if group.endswith("-deeplab-v2"):
        return _deeplab_v2(name, group.removesuffix("-deeplab-v2"))
    if follows_paper(group):
        pair, _, network = group.rpartition("-")
        return _published(name, pair, network)
    return {"minicity": _minicity, "camvid-dusk": _camvid_dusk, "nuclei": _nuclei, "own": _own}[group](name)


def _published(name: str, pair: str, network: str) -> Recipe:
    """Appendix A: SGD at 1e-6 and batch 1 for FCN8s, 1e-4 and batch 2 for ResNet-38, 500 x 500 crops.

    Momentum, weight decay and the length of the training on the source are not printed: the later release's, and
    90,000 steps. Scaling and mirroring are printed for ResNet-38 alone.
    """
    from segshift.models.fcn8s import FCN8s
    from segshift.models.resnet38 import ResNet38

    fcn8s = network == "fcn8s"
    optimizer = Optimizer("sgd", lr=1e-6 if fcn8s else 1e-4, head_multiplier=1.0, momentum=0.9, power=0.0)
    view = View(crop=(500, 500), flip=False) if fcn8s else View(crop=(500, 500), scale=(0.7, 1.3))
    network_config = FCN8s("pretrained") if fcn8s else ResNet38()
    # The authors train with the statistics that the ImageNet weights came with, as batches of 2 have none worth having.
    method = SourceOnlyConfig(optimizer, batch_norm="frozen")
    warmup = Phase(method, steps=90_000, batch=1 if fcn8s else 2, source_view=view, target_view=view)
    return Recipe(name, name, network_config, warmup, data=_paper_data(pair))


def _deeplab_v2(name: str, pair: str) -> Recipe:
    """IAST, §5.1: DeepLab-v2 on ResNet-101, frozen BatchNorm, windows resized to 1024 x 512, batches of 6.

    The warm-up's optimiser is AdaptSegNet's (SGD at 2.5e-4, ten times that for the head, poly). Its length is not
    printed: 25,000 steps, as many images as AdaptSegNet's 150,000 steps of one.
    """
    source, target = pair.split("-")
    heights = {"gta5": (341, 950), "synthia": (341, 640), "cityscapes": (341, 1000)}
    source_view = View(crop=(512, 1024), window=heights[source])
    target_view = View(crop=(512, 1024), window=heights[target])
    method = SourceOnlyConfig(Optimizer(), batch_norm="frozen")
    warmup = Phase(method, steps=25_000, batch=6, source_view=source_view, target_view=target_view)
    classes = "synthia16" if source == "synthia" else None
    data = DataConfig("", "", source, target, classes=classes)
    return Recipe(name, name, DeepLabV2("resnet101", weights="pretrained"), warmup, data=data)


def _paper_data(pair: str) -> DataConfig:
    """The data sets in their own layouts, split as in §5."""
    source, target = pair.split("-")
    if target == "nthu":
        # 90 images adapted to, 10 scored: `--data.fold` 0 to 9, or all of them with `segshift table cbst/table1`.
        return DataConfig("", "", source, target, target_split="Rome/Test", score_as="nthu13", folds=10, fold=0)
    # "The validation set of Cityscapes is treated as target domain": the images adapted to are the ones scored.
    return DataConfig("", "", source, target, target_split="val", transductive=True)


def _minicity(name: str) -> Recipe:
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
    network = DeepLabV3Plus("mobilenetv2_100", weights="pretrained", aspp_channels=128)
    view = View(crop=crop, scale=(1.0, 1.5))
    # Chosen by the score on daylight validation images of CamVid, before anything was adapted.
    optimizer = Optimizer(kind="adamw", lr=3e-4, head_multiplier=10.0, weight_decay=1e-2)
    warmup = Phase(
        SourceOnlyConfig(optimizer), steps=320, batch=4, source_view=view, target_view=view, adabn_before="source"
    )
    return Recipe(name, name, network, warmup, data=DataConfig(short_side=short_side))
