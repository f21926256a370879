"""The reliability diagram of a report: how often a model is right, against how sure it is. An inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from segshift.paths import printable

_LEFT, _TOP, _SIDE, _BELOW = 44, 10, 260, 46
"""Of the picture's own units: room for the y axis, the square, the strip of pixel counts."""
_DASHES = {"warmup": "6 3", "alignment": "2 3", "adaptation": "2 3", "adapted": "none", "oracle": "9 3 2 3"}


def reliability(models: Sequence[dict[str, Any]]) -> Markup:
    """The diagram of models as `report_sections.calibration_figures` has them; colours are the page's.

    Lines differ in dashes too, and the strip below has the pixels of each bin of the last model.
    """
    said = "; ".join(f"{m['label']}: expected calibration error {100 * m['ece']:.1f} %" for m in models)
    height = _TOP + _SIDE + _BELOW + 44
    parts = [
        Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}">').format(
            _LEFT + _SIDE + 16, height, printable(f"Share of right pixels against confidence. {said}.")
        ),
        _axes(),
        *(_line(model) for model in models),
        _strip(models[-1]),
        Markup("</svg>"),
    ]
    return Markup("").join(parts)


def _at(x: float, y: float) -> str:
    return f"{_LEFT + _SIDE * x:.1f} {_TOP + _SIDE * (1 - y):.1f}"


def _axes() -> Markup:
    lines = "".join(f"M{_at(0, v)}L{_at(1, v)}" for v in (0, 0.25, 0.5, 0.75, 1))
    bottom = _TOP + _SIDE + _BELOW
    texts = [
        *(_text(_LEFT - 7, _TOP + _SIDE * (1 - v) + 4, f"{100 * v:.0f}", "end") for v in (0, 0.25, 0.5, 0.75, 1)),
        *(_text(_LEFT + _SIDE * v, bottom + 16, f"{100 * v:.0f}", "middle") for v in (0, 0.25, 0.5, 0.75, 1)),
        _text(_LEFT + _SIDE / 2, bottom + 36, "confidence, %", "middle"),
        Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">right, %</text>').format(
            _TOP + _SIDE / 2
        ),
    ]
    grid = Markup('<path d="{}" class="grid"/><path d="M{}L{}" class="diagonal"/>').format(lines, _at(0, 0), _at(1, 1))
    return grid + Markup("").join(texts)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(f"{x:.1f}", f"{y:.1f}", anchor, words)


def _line(model: dict[str, Any]) -> Markup:
    points = [
        _at(confidence, right)
        for confidence, right in zip(model["confidence"], model["right"], strict=True)
        if confidence is not None and right is not None
    ]
    dots = "".join(f"M{point}h0" for point in points)
    return Markup(
        '<g class="{kind}"><path d="M{path}" class="line" stroke-dasharray="{dashes}"/>'
        '<path d="{dots}" class="dots"/></g>'
    ).format(kind=model["kind"], path=escape("L".join(points)), dashes=_DASHES[model["kind"]], dots=dots)


def _strip(model: dict[str, Any]) -> Markup:
    """Bars of the pixels in each bin, under the diagram."""
    most, bins = max(*model["pixels"], 1), len(model["pixels"])
    base, width = _TOP + _SIDE + _BELOW, _SIDE / bins
    bars = "".join(
        f"M{_LEFT + width * i + 1:.1f} {base}v{-(_BELOW - 12) * n / most:.1f}h{width - 2:.1f}V{base}z"
        for i, n in enumerate(model["pixels"])
    )
    return Markup('<g class="{}"><path d="{}" class="area"/></g>').format(model["kind"], bars)
