"""The tables of Wang, Luo, Huang, Ge, Lu (category-adaptive domain adaptation), and two of our own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from segshift.tables import rows
from segshift.tables.declare import Row, Table
from segshift.tables.rows import DEEPLAB, MIOU, P_MIOU, PROPORTION, Change, adapted, method, own, row

if TYPE_CHECKING:
    from segshift.phase import Phase
    from segshift.recipe import Recipe

PUBLISHED = "category_adaptive.csv"
GTA5 = {DEEPLAB: "gta5-cityscapes-deeplab-v2"}
BASE = "style-gap"
OURS = "category-adaptive"


# --- what rows change ----------------------------------------------------------------------------------------------


def bridged(key: str, label: str, change: Change, over: str = "") -> Row:
    """A row that alters phase 1: training on both domains, without self-training."""
    return rows.changed(BASE, key, label, change, over)


def trained(key: str, label: str, change: Change, over: str = OURS) -> Row:
    """A row that alters self-training."""
    return rows.changed(OURS, key, label, change, over)


def _once(phase: Phase) -> Phase:
    return replace(phase, rounds=1)


def _convolved(phase: Phase) -> Phase:
    config: Any = phase.method
    judge = replace(config.style_discriminator, kind="conv1d")
    return replace(phase, method=replace(config, style_discriminator=judge))


def alone(recipe: Recipe) -> Recipe:
    """Self-training on the target alone: Eq. 6 and nothing else."""
    from segshift.recipe_rows import unretained

    return unretained(recipe)


def with_source(recipe: Recipe) -> Recipe:
    """Beside Eq. 6 the source's cross-entropy (Eq. 4), without the adversarial terms."""
    from segshift.methods.source_only import SourceOnlyConfig

    assert recipe.adaptation is not None
    config: Any = recipe.adaptation.method
    return method(retain=SourceOnlyConfig(config.optimizer, batch_norm="frozen"))(recipe)


def translating(kind: Literal["fourier", "lab"]) -> Change:
    """Source images made to look like target images in phase 1; the warm-up has seen them as they are."""

    def edit(phase: Phase) -> Phase:
        from segshift.data.translation import Translation

        return replace(phase, translation=Translation(kind))

    return adapted(edit)


# --- rows ----------------------------------------------------------------------------------------------------------

SOURCE_ONLY = row("source-only")
ADABN = row("adabn", "AdaBN (control)", over="source-only")
ORIGINAL = bridged("original", "original", method(style="none"), over="source-only")
ADV = row(BASE, "original + adv", over="original")
ONCE = trained("ssl-once", "original + adv + SSL once", adapted(_once), over=BASE)
TWICE = row(OURS, "original + adv + SSL twice", over="ssl-once")
GRAM = bridged("gram", "MSE, Gram matrix", method(style="gram"), over="original")
MEAN_STD = bridged("mean-std", "MSE, mean & std", method(style="mean_std"), over="original")
BDL = Row("bdl", "BDL: min(median, .9)", OURS, DEEPLAB, "adaptsegnet", change=method(selector="bdl"), over="original")


# --- the paper's tables --------------------------------------------------------------------------------------------

_TABLE1 = Table(
    "category-adaptive/table1",
    "GTA5 → Cityscapes: every class, beside CBST, AdvEnt and BDL (category-adaptive paper, Table 1)",
    (row("cbst"), row("advent"), replace(BDL, over=""), replace(TWICE, label="category-adaptive (Ours)", over="")),
    pair="GTA5 → Cityscapes",
    groups=GTA5,
    means=(MIOU,),
    published=(PUBLISHED, "table1"),
    notes=(
        "The published figures of CBST, AdvEnt and BDL are as this paper quotes them: CBST's is that of ResNet-38 with "
        "spatial priors and multi-scale testing. The paper's own figure and BDL's are on source images translated by "
        "CycleGAN: `--translated DIR` takes such a folder.",
    ),
    reading=(
        "The row BDL is its adversarial training and its self-training (pixels above the smaller of their class's "
        "median confidence and .9), without its image translation, in the two rounds of the others.",
    ),
)

_TABLE2 = Table(
    "category-adaptive/table2",
    "GTA5 → Cityscapes: style-gap bridging, then one and two rounds of SSL (category-adaptive paper, Table 2)",
    (SOURCE_ONLY, ADABN, ORIGINAL, ADV, ONCE, TWICE),
    pair="GTA5 → Cityscapes",
    groups=GTA5,
    means=(MIOU,),
    labels=(PROPORTION, P_MIOU),
    published=(PUBLISHED, "table2"),
    reading=(
        "original is the output-space adversarial loss alone (Eq. 5 with lambda_style = 0), adv adds the style loss on "
        "channel means. source-only and AdaBN are no part of the paper's table: they are what all rows start from, and "
        "a control.",
    ),
)

_TABLE3 = Table(
    "category-adaptive/table3",
    "GTA5 → Cityscapes: three models of style, without self-training (category-adaptive paper, Table 3)",
    (replace(ORIGINAL, over=""), GRAM, MEAN_STD, replace(ADV, label="adversarial, mean (Ours)")),
    pair="GTA5 → Cityscapes",
    groups=GTA5,
    means=(MIOU,),
    published=(PUBLISHED, "table3"),
    reading=("lambda_style is that of Eq. 5 (.001) in every row; original has no style loss.",),
)


# --- our own -------------------------------------------------------------------------------------------------------

_ROWS = Table(
    "category-adaptive/rows",
    "every row of the paper on one pair, BDL's and a constant threshold, controls and oracle",
    own(
        SOURCE_ONLY,
        ADABN,
        ORIGINAL,
        ADV,
        GRAM,
        MEAN_STD,
        ONCE,
        TWICE,
        trained("ca-constant", "constant threshold .9 instead", method(selector="constant")),
        trained("ca-bdl", "min(median, .9) instead", method(selector="bdl")),
        trained("ca-alone", "SSL on the target alone", alone),
        trained("ca-source", "SSL and the source, not adversarial", with_source),
        row("oracle", over="source-only"),
    ),
    data="minicity",
    labels=(PROPORTION, P_MIOU),
)


def _delta(value: float) -> Row:
    return trained(f"ca-delta{value:g}", f"Delta {value:g}", method(delta=value))


_CHOICES = Table(
    "category-adaptive/choices",
    "what the paper leaves open: Delta, weighting, Eq. 6's divisor, the style discriminator, the translated source",
    own(
        replace(ORIGINAL, over=""),
        replace(ADV, label="style gap: source moved, MLP, lambda_style .001"),
        bridged("style-target", "- target moved", method(moved="target"), over=BASE),
        bridged("style-conv1d", "- 1-D convolutions, as printed", adapted(_convolved), over=BASE),
        bridged("style-x10", "- lambda_style .01", method(style_weight=0.01), over=BASE),
        bridged("style-x100", "- lambda_style .1", method(style_weight=0.1), over=BASE),
        bridged("style-fourier", "- source translated, Fourier amplitudes", translating("fourier"), over=BASE),
        bridged("style-lab", "- source translated, LAB statistics", translating("lab"), over=BASE),
        replace(TWICE, label="category-adaptive: Delta .1, confidence-weighted", over=BASE),
        *(_delta(value) for value in (0.0, 0.2, 0.4)),
        trained("ca-normalised", "Delta .1, normalised entropy", method(entropy="normalised")),
        trained("ca-mean", "plain mean (Eq. 1)", method(weighting="mean")),
        trained("ca-image", "centroids of each image", method(scope="image")),
        trained("ca-labelled", "Eq. 6 over labelled pixels", method(normalisation="labelled")),
    ),
    data="minicity",
    labels=(PROPORTION, P_MIOU),
)


TABLES = (_TABLE1, _TABLE2, _TABLE3, _ROWS, _CHOICES)
