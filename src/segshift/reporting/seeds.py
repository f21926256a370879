"""Runs of one recipe that differ in their seed alone, taken together: mean, spread, differences, the headline."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from segshift.reporting.rows import Row


class Spread(NamedTuple):
    """Of one figure over seeds, as fractions of 1."""

    mean: float | None
    """None where the figure is nowhere defined."""
    sd: float | None
    """Sample standard deviation (over n - 1); None of fewer than two."""
    n: int


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and standard deviation of the values that there are (None and nan are none)."""
    known = [v for v in values if v is not None and not math.isnan(v)]
    if not known:
        return Spread(None, None, 0)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Group:
    """Rows of one name whose seeds differ, or a row by itself."""

    label: str
    kind: str
    rows: tuple[Row, ...]

    @property
    def seeds(self) -> list[Any]:
        return [row.run.info.get("seed") for row in self.rows]


def grouped(rows: Sequence[Row]) -> list[Group]:
    """The scored rows, those of one recipe and several seeds together, in order of their first.

    Where two of a name have the same seed, nobody can say what their spread would mean: they stay apart.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.scores is not None:
            found.setdefault((row.kind, row.name), []).append(row)
    groups = []
    for (kind, name), members in found.items():
        seeds = [str(row.run.info.get("seed")) for row in members]
        if len(set(seeds)) == len(seeds):
            groups.append(Group(name, kind, tuple(members)))
        else:
            groups += [Group(row.label, kind, (row,)) for row in members]
    return sorted(groups, key=lambda group: (group.kind == "oracle", rows.index(group.rows[0])))


def group_figures(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each group: `label`, `kind`, `seeds`, `compared_with`, `miou` (subset -> value and difference, each with mean, sd
    and n) and `iou` (class -> mean, sd, n). A difference is paired: each run's to the row it is compared with."""
    return [_figures(group, rows) for group in grouped(rows)]


def _figures(group: Group, rows: Sequence[Row]) -> dict[str, Any]:
    pairs = [(row, None if row.base is None else rows[row.base]) for row in group.rows]
    bases = {base.name for _, base in pairs if base is not None and base.scores is not None}
    space = _scores(group.rows[0]).space
    return {
        "label": group.label,
        "kind": group.kind,
        "seeds": group.seeds,
        "compared_with": bases.pop() if len(bases) == 1 else None,
        "miou": {
            subset: {
                "value": spread(_scores(row).mean_iou(subset) for row in group.rows)._asdict(),
                "difference": spread(_difference(row, base, subset) for row, base in pairs)._asdict(),
                "classes": len(_scores(group.rows[0]).counted(subset)),
                "of": len(space.subsets[subset]),
            }
            for subset in space.subsets
        },
        "iou": {
            name: spread(float(_scores(row).iou[c]) for row in group.rows)._asdict()
            for c, name in enumerate(space.classes)
        },
    }


def _scores(row: Row) -> Any:
    assert row.scores is not None
    return row.scores


def _difference(row: Row, base: Row | None, subset: str) -> float | None:
    if base is None or base.scores is None:
        return None
    return _scores(row).mean_iou(subset) - base.scores.mean_iou(subset)


def headline(rows: Sequence[Row], groups: Sequence[dict[str, Any]]) -> list[str]:
    """What the report says first, in plain words: a sentence for each adapted model or recipe, and one on its trust."""
    adapted = [group for group in groups if group["kind"] == "adapted"]
    oracle = next((group for group in groups if group["kind"] == "oracle"), None)
    sentences = [_sentence(group, rows) for group in adapted]
    if oracle is not None and adapted:
        value = oracle["miou"]["all"]["value"]["mean"]
        sentences.append(f"The oracle, trained on target labels, has {_percent(value)} %: an upper bound.")
    if adapted and all(len(group["seeds"]) == 1 for group in adapted):
        sentences.append("One seed: no uncertainty is known. Runs of other seeds, given together, show it.")
    return sentences


def _sentence(group: dict[str, Any], rows: Sequence[Row]) -> str:
    entry = group["miou"]["all"]
    value, difference, n = entry["value"], entry["difference"], len(group["seeds"])
    row = next(row for row in rows if row.kind == "adapted" and group["label"] in (row.name, row.label))
    classes = f"{entry['classes']}{'' if entry['classes'] == entry['of'] else ' of ' + str(entry['of'])} classes"
    over = f"mean ± standard deviation over {n} seeds, " if n > 1 else ""
    begun = f"Adapted by {group['label']}" if group["compared_with"] else group["label"]
    said = f"{begun}: {_percent(value['mean'])}{_plus_minus(value['sd'])} % mIoU ({over}{classes}) on {_tested(row)}"
    mean = difference["mean"]
    if mean is None or group["compared_with"] is None:
        return f"{said}."
    paired = ", paired by seed" if n > 1 else ""
    points = f"{_percent(abs(mean))}{_plus_minus(difference['sd'])} points"
    side = "above" if mean >= 0 else "below"
    return f"{said}, {points} {side} {group['compared_with']}{paired}."


def _tested(row: Row) -> str:
    """`62 test images of dusk`."""
    images = _scores(row).images
    recipe = row.run.info.get("recipe")
    data = recipe.get("data") if isinstance(recipe, dict) else None
    target = data.get("target") if isinstance(data, dict) else None
    of = f" of {target.rstrip('/').rsplit('/', 1)[-1]}" if isinstance(target, str) and target.strip("/") else ""
    return f"{images} test image{'' if images == 1 else 's'}{of}"


def _percent(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}"


def _plus_minus(sd: float | None) -> str:
    return "" if sd is None else f" ± {100 * sd:.1f}"
