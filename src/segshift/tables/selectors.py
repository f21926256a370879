"""The pseudo-label selectors of all papers at equal coverage: `segshift table selectors`. Its rows are models."""

from __future__ import annotations

from segshift.recipes import LABELS
from segshift.tables.declare import Row, Table

USUAL = ("adabn",)
"""Rows where none are named. No paper here trains it: it favours none of them."""
HEADLINES = (0.2, 0.5)
"""Levels of coverage that are printed; the picture and the CSV have all."""

TABLE = Table(
    "selectors",
    "the pseudo-labels that each paper's selector chooses, at equal coverage, against withheld truth (oracle)",
    tuple(
        Row(key, LABELS[key], key)
        for key in ("adabn", "source-only", "adaptsegnet", "adaptsegnet-ls", "advent", "minent", "style-gap")
    ),
    data="minicity",
    reading=(
        "How to read it: one trained model predicts the target's training images, averaged over each image and its "
        "mirror image. Each selector labels them with the knob at which the given share of all pixels gets a label "
        "(coverage); no truth is needed to find it. Then the labels are compared with target labels that neither model "
        "nor selector has seen: an oracle diagnosis, by which nothing is chosen.",
        "Accuracy: the share of labels that are right. Recall: the share of a class's pixels that are labelled, and "
        "rightly. Precision: the share of its labels that are right; of several classes, the mean over those that have "
        "a label. All are over the pixels whose truth is known.",
        "P-mIoU is a mean over the classes that occur among labelled pixels alone: who leaves rare classes out is not "
        "punished for it. Read it beside the number of classes labelled and the rarer half's recall.",
        "A selector that labels easy pixels alone is right more often and leaves the others without a label: read "
        "accuracy and recall together.",
    ),
)
