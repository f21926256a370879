"""The tables and figures of Li et al., CVPR 2022 (CPSL), and two of our own: all rows, and what is left open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segshift.tables import rows
from segshift.tables.declare import Panel, Row, Table
from segshift.tables.rows import DEEPLAB, MIOU, P_MIOU, PROPORTION, Change, adapted, method, own, row

if TYPE_CHECKING:
    from segshift.phase import Phase
    from segshift.recipe import Recipe

PUBLISHED = "cpsl.csv"
GTA5 = {DEEPLAB: "gta5-cityscapes-deeplab-v2"}
SYNTHIA = {DEEPLAB: "synthia-cityscapes-deeplab-v2"}
OURS, DISTILLED, WARMUP = "cpsl", "cpsl-distill", "adaptsegnet"
POINTS = 10
"""Of the curves in Fig. 4 and 7: so often is a model scored as it trains."""


# --- what rows change ----------------------------------------------------------------------------------------------


def changed(key: str, label: str, change: Change, over: str = OURS) -> Row:
    """A row that alters CPSL."""
    return rows.changed(OURS, key, label, change, over)


def _cut(phase: Phase) -> Phase:
    """The same training in POINTS rounds, which are nothing but points of report to this method."""
    if phase.target_epochs is not None:
        return replace(phase, rounds=POINTS, target_epochs=phase.rounds * phase.target_epochs / POINTS)
    return replace(phase, rounds=POINTS, steps=max(1, phase.length // POINTS))


def watched(found: Row) -> Row:
    """A row of the tables, scored POINTS times as it trains: another run, for it is told apart by its scores."""
    before = found.change

    def change(recipe: Recipe) -> Recipe:
        return adapted(_cut)(before(recipe) if before else recipe)

    return replace(found, key=f"{found.key}@{POINTS}", change=change, over="")


# --- rows ----------------------------------------------------------------------------------------------------------

SOURCE_ONLY = row("source-only")
CPSL = row(OURS)
NO_CB = changed("cpsl-no-cb", "w/o CB (PSL)", method(partition="equal", sampling="random"))
EQUAL = changed("cpsl-equal", "equal partition alone", method(partition="equal"))
NO_INIT = changed("cpsl-no-init", "w/o Init", method(initialise=False))
NO_SL = changed("cpsl-no-sl", "w/o SL", method(self_labelling=False))
ABLATIONS = (
    NO_SL,
    NO_CB,
    changed("cpsl-no-st", "w/o ST", method(self_training=False)),
    NO_INIT,
    changed("cpsl-no-aug", "w/o Aug", method(augment=None)),
    changed("cpsl-no-mom", "w/o Mom", method(momentum=0.0)),
)
"""Of Table 3, in its order."""


def sweep(option: str, key: str, name: str, values: tuple[float, ...], usual: float) -> tuple[Row, ...]:
    """A row for each value of an option; that of the recipe is the row CPSL itself."""
    found = []
    for value in values:
        label = f"{name} {value:g}"
        if value == usual:
            found.append(replace(CPSL, label=f"{label} (CPSL)"))
        else:
            found.append(changed(f"cpsl-{key}{value:g}", label, method(**{option: value}), over=""))
    return tuple(found)


# --- the paper's tables --------------------------------------------------------------------------------------------

_QUOTED = (
    "The published figures of AdaptSegNet, AdvEnt, CBST and IAST are as this paper quotes them; AdaptSegNet's on GTA5 "
    "(41.4) is 42.4 in the IAST paper."
)
_COMPARED = (
    *(row(key) for key in ("adaptsegnet", "advent", "cbst", "iast")),
    replace(CPSL, label="CPSL (ours)"),
    row(DISTILLED),
)

_TABLE1 = Table(
    "cpsl/table1",
    "GTA5 → Cityscapes: every class, beside AdaptSegNet, AdvEnt, CBST and IAST (CPSL paper, Table 1)",
    _COMPARED,
    pair="GTA5 → Cityscapes",
    groups=GTA5,
    means=(MIOU,),
    published=(PUBLISHED, "table1"),
    notes=(_QUOTED,),
)

_TABLE2 = Table(
    "cpsl/table2",
    "SYNTHIA → Cityscapes: mIoU over 16 and mIoU* over 13 classes (CPSL paper, Table 2)",
    _COMPARED,
    pair="SYNTHIA → Cityscapes",
    groups=SYNTHIA,
    means=(("mIoU", "synthia16"), ("mIoU*", "synthia13")),
    published=(PUBLISHED, "table2"),
    notes=(_QUOTED,),
)

_ABLATED = (
    "w/o SL: pseudo-labels are those of the warm-up, P_ST, throughout. w/o ST: those of the clusters, P_SL, alone. "
    "w/o CB: equal partition and random sampling, what the supplement calls PSL. w/o Init: the head starts at random. "
    "w/o Aug: the student sees the weak view. w/o Mom: the trained networks stand for the momentum ones."
)


def _varied(number: int, about: str, found: tuple[Row, ...], *reading: str) -> Table:
    """One of the tables on GTA5 that leave a part out, or vary an option."""
    return Table(
        f"cpsl/table{number}",
        f"GTA5 → Cityscapes: {about}",
        found,
        pair="GTA5 → Cityscapes",
        groups=GTA5,
        means=(MIOU,),
        published=(PUBLISHED, f"table{number}"),
        reading=reading,
    )


_TABLE3 = _varied(3, "one part left out, every class (CPSL paper, Tables 3 and 5)", (*ABLATIONS, CPSL), _ABLATED)
_TABLE4 = _varied(
    4,
    "pixels sampled from each image, M (CPSL paper, Table 4)",
    sweep("samples", "samples", "M", (64, 128, 256, 512, 1024, 2048), 512),
    "M is at most a quarter of the pixels of a crop's feature map, so that on small images all larger settings are "
    "one. The memory bank holds 128 images' samples, and 65,536 at most.",
)
_TABLE6 = _varied(
    6,
    "weight of the self-labelling loss, lambda_1 (CPSL paper, Table 6)",
    sweep("labelling_weight", "l1-", "lambda_1", (0.0, 0.01, 0.1, 0.5), 0.1),
    "At lambda_1 = 0 the head stays the prototypes it began as, and still rectifies: it is not the row w/o SL of "
    "Table 3.",
)
_TABLE7 = _varied(
    7,
    "weight of the consistency between views, lambda_2 (CPSL paper, Table 7)",
    sweep("consistency_weight", "l2-", "lambda_2", (1.0, 5.0, 10.0, 20.0, 30.0), 5.0),
)
_TABLE8 = _varied(
    8,
    "temperature of the self-labelling head, tau (CPSL paper, Table 8)",
    sweep("temperature", "tau", "tau", (0.05, 0.08, 0.1, 0.15), 0.08),
)


# --- the paper's figures -------------------------------------------------------------------------------------------

_MPA = "MPA: the mean pixel accuracy of the classes (CPSL paper, Eq. 15-16), over those that occur in the truth."
_ORACLE = "Oracle diagnostics: every point is scored on target labels, and nothing is chosen by these curves."
_POINTS = (
    f"The training is that of the tables' rows, cut into {POINTS} rounds, after each of which the model is scored; "
    "round 0 is the warm-up."
)


def _panels(legend: str, *names: str) -> tuple[Panel, Panel]:
    """mIoU on the left, MPA on the right; the first of the keys is that of CPSL itself."""
    keys = tuple(found.key for found in _WATCHED[legend])
    curves = tuple(zip(keys, names, strict=True))
    return Panel("mIoU", curves, legend, keys[0]), Panel("MPA", curves, legend, keys[0], figure="MPA")


_WATCHED = {
    "partition": tuple(watched(found) for found in (CPSL, EQUAL)),
    "row": tuple(watched(found) for found in (CPSL, NO_CB, NO_SL)),
}
"""Title of the legend -> the rows of Fig. 4 and 7."""

_FIGURE4 = Table(
    "cpsl/figure4",
    "GTA5 → Cityscapes: equal against unequal partition, mIoU and MPA in training (CPSL paper, Fig. 4)",
    _WATCHED["partition"],
    pair="GTA5 → Cityscapes",
    groups=GTA5,
    means=(MIOU,),
    accuracy=True,
    panels=_panels("partition", "unequal (CPSL)", "equal"),
    notes=(
        _ORACLE,
        _POINTS,
        "Both rows sample class-balanced; the paper does not say whether its equal partition does.",
    ),
    reading=(_MPA,),
)

_FIGURE7 = Table(
    "cpsl/figure7",
    "GTA5 → Cityscapes: mIoU and MPA in training (CPSL paper, Fig. 7)",
    _WATCHED["row"],
    pair="GTA5 → Cityscapes",
    groups=GTA5,
    means=(MIOU,),
    accuracy=True,
    panels=_panels("row", "CPSL", "w/o CB (PSL)", "w/o SL"),
    notes=(
        _ORACLE,
        _POINTS,
        "The paper's other curve is ProDA's, which is not here: in its place stand CPSL without class balance, and "
        "without self-labelling.",
    ),
    reading=(_MPA,),
)

_FIGURE8 = Table(
    "cpsl/figure8",
    "GTA5 → Cityscapes: pictures of PSL, which has no class balance, and of CPSL (CPSL paper, Fig. 8)",
    (NO_CB, CPSL),
    pair="GTA5 → Cityscapes",
    groups=GTA5,
    means=(MIOU,),
    accuracy=True,
    pictures=True,
    reading=(_MPA, "figure8.png: test images of the first seed, evenly spread over the set and not picked by score."),
)


# --- our own -------------------------------------------------------------------------------------------------------

_OURS = replace(CPSL, over=WARMUP)

_ROWS = Table(
    "cpsl/rows",
    "every row of the paper on one pair: its warm-up, CPSL, distillation, each part left out, controls and oracle",
    own(
        SOURCE_ONLY,
        row("adabn", over="source-only"),
        row(WARMUP, over="source-only"),
        _OURS,
        row(DISTILLED, over=OURS),
        *ABLATIONS,
        changed("cpsl-prototype-kl", "one-way KL of prototypes (released)", method(consistency="prototype_kl")),
        changed("cpsl-symmetric", "symmetric cross-entropy (released)", method(target_loss="symmetric")),
        row("oracle", over="source-only"),
    ),
    data="minicity",
    accuracy=True,
    labels=(PROPORTION, P_MIOU),
    reading=(_ABLATED, _MPA),
)

_CHOICES = Table(
    "cpsl/choices",
    "what the paper leaves open: bank, features, head, losses, delta's average, Sinkhorn, class balance in its parts",
    own(
        row(WARMUP),
        _OURS,
        EQUAL,
        changed("cpsl-random", "random sampling alone", method(sampling="random")),
        changed("cpsl-floor1", "at least 1 sample of a class", method(floor=1)),
        changed("cpsl-bank-start", "bank from the first step", method(bank_from="start")),
        changed("cpsl-student", "features of the student", method(features="student")),
        changed("cpsl-cosine", "cosines with prototypes (released)", method(head="cosine")),
        NO_INIT,
        changed("cpsl-symmetric", "symmetric cross-entropy (released)", method(target_loss="symmetric")),
        changed("cpsl-prototype-kl", "one-way KL of prototypes (released)", method(consistency="prototype_kl")),
        changed("cpsl-alpha0.9", "delta's average with .9", method(distribution_momentum=0.9)),
        changed("cpsl-alpha1", "delta as it began (released)", method(distribution_momentum=1.0)),
        changed("cpsl-momentum0.999", "momentum networks with .999, as printed", method(momentum=0.999)),
        changed("cpsl-sinkhorn100", "100 Sinkhorn iterations", method(iterations=100)),
        changed("cpsl-epsilon0.1", "epsilon .1", method(epsilon=0.1)),
        changed("cpsl-epsilon0.025", "epsilon .025", method(epsilon=0.025)),
    ),
    data="minicity",
    accuracy=True,
    reading=(_MPA,),
)

TABLES = (
    *(_TABLE1, _TABLE2, _TABLE3, _TABLE4, _TABLE6, _TABLE7, _TABLE8),
    *(_FIGURE4, _FIGURE7, _FIGURE8, _ROWS, _CHOICES),
)
