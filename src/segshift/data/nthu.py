"""NTHU Cross-City: street views of Rio, Rome, Taipei and Tokyo, 13 classes that Cityscapes has too.

    {Rio,Rome,Taipei,Tokyo}/Images/{Train,Test}/NAME.png        (or .jpg)
    {Rio,Rome,Taipei,Tokyo}/Labels/Test/NAME_eval.png           Cityscapes label ids

A city has 3,200 images without labels (Train) and 100 with (Test), 2048x1024 pixels as CBST §5 states it. A split is
"Rio/Test", "Rome/Train" and so on. Labels are given as the 19 Cityscapes train ids; train, none of the 13, is ignored.
`segshift.taxonomy.MERGES["nthu13"]` merges what a 19-class network predicts into the 13 (CBST §5.1). CBST adapts to 90
of a city's labelled images and scores the other 10, ten times.

Licence: for research; see its page. From yihsinchen.github.io/segmentation_adaptation. Paper: Chen et al., ICCV 2017.
"""

from __future__ import annotations

from segshift.data.cityscapes import LABEL_IDS
from segshift.data.layout import Layout, Part, Place, id_reader
from segshift.taxonomy import CITYSCAPES, IGNORE

CITIES = ("Rio", "Rome", "Taipei", "Tokyo")


def _part(city: str, half: str) -> Part:
    labels = (Place(f"{city}/Labels/Test", "_eval"),) if half == "Test" else ()
    return Part((Place(f"{city}/Images/{half}"),), labels, prefix=f"{city}/")


NTHU = Layout(
    name="nthu",
    title="NTHU Cross-City",
    space=CITYSCAPES,
    parts={f"{city}/{half}": (_part(city, half),) for city in CITIES for half in ("Train", "Test")},
    read=id_reader({**LABEL_IDS, 31: IGNORE}, "Cityscapes label ids, 0 to 33, or 255 for ignored pixels"),
)
