"""What a round's counts, a round's batches and a model's accuracy say is wrong: each case, and what holds for all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.run_folder import STREET

from segshift.errors import RunError
from segshift.findings import Chance, Finding, blank_finding, one_class, round_findings
from segshift.taxonomy import unnamed

SPACE = unnamed(4)
IMAGES = 10


def statistics(
    kept: list[int], predicted: list[int] | None, n: int = 1, pixels: int = 100_000, **more: Any
) -> dict[str, Any]:
    """As `PseudoLabels.finish` writes them."""
    return {
        "round": n, "images": IMAGES, "pixels": pixels, "kept": sum(kept), "coverage": sum(kept) / max(pixels, 1),
        "kept_per_class": kept, "predicted": predicted, "thresholds": {}, **more,
    }  # fmt: skip


SOUND = statistics([8000, 6000, 4000, 2000], [40_000, 30_000, 20_000, 10_000])


def after(kept: list[int], predicted: list[int] | None = None, **more: Any) -> list[Finding]:
    """The findings of a second round, after a sound first one."""
    return round_findings(statistics(kept, predicted, 2, **more), SOUND, SPACE)


def first(kept: list[int], predicted: list[int] | None, **more: Any) -> list[Finding]:
    return round_findings(statistics(kept, predicted, **more), None, SPACE)


def kinds(found: list[Finding]) -> list[str]:
    return [finding.kind for finding in found]


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, found
    return found[0]


def test_a_round_without_labels() -> None:
    found = only(first([0, 0, 0, 0], SOUND["predicted"]))
    assert found.kind == "no labels" and found.stops
    assert found.text.startswith("round 1: none of the target's 100,000 pixels got a pseudo-label; expected some")
    # A store of no pixels at all is no division by zero.
    assert kinds(first([0, 0, 0, 0], None, pixels=0)) == ["no labels"]


def test_less_than_a_hundredth_is_few() -> None:
    found = only(first([400, 300, 200, 99], SOUND["predicted"]))
    assert found.kind == "few labels" and found.stops
    assert "round 1: 1.0 % of the target's pixels got a pseudo-label (999 of 100,000)" in found.text
    assert first([400, 300, 200, 100], SOUND["predicted"]) == []


def test_coverage_that_collapses() -> None:
    found = only(after([2000, 1500, 1000, 499]))
    assert found.kind == "coverage collapsed" and found.stops
    assert "5.0 % of the target's pixels got a pseudo-label, after 20.0 % in round 1" in found.text
    assert after([2000, 1500, 1000, 500]) == []
    assert round_findings(statistics([2000, 1500, 1000, 499], None), None, SPACE) == []


def test_a_class_that_is_forgotten() -> None:
    found = only(after([8000, 6000, 4000, 0], [40_000, 30_000, 29_998, 2]))
    assert found.kind == "vanished class" and found.stops
    assert "since round 1: class_3 (2,000 pixels then, 2 still predicted); expected" in found.text
    assert "forgetting" in found.text
    assert "class_3 (2,000 pixels then);" in only(after([8000, 6000, 4000, 0])).text


def test_a_class_that_is_shut_out() -> None:
    found = only(after([8000, 6000, 4000, 0], SOUND["predicted"]))
    assert found.kind == "vanished class" and found.stops
    assert "though still predicted: class_3 (2,000 pixels then, 10,000 still predicted)" in found.text
    assert "The thresholds shut" in found.text


def test_a_class_of_a_few_pixels_may_go() -> None:
    before = statistics([8000, 6000, 4000, 9], [40_000, 30_000, 29_950, 50])
    now = statistics([8000, 6000, 4000, 0], [40_000, 30_000, 29_960, 40], 2)
    assert round_findings(now, before, SPACE) == []


def test_a_class_that_is_never_selected_is_said_once() -> None:
    found = only(first([8000, 6000, 4000, 0], SOUND["predicted"]))
    assert found.kind == "unselected class" and not found.stops
    assert "predicted, but in no pseudo-label: class_3 (10,000 pixels)" in found.text
    starved = statistics([8000, 6000, 4000, 0], SOUND["predicted"])
    assert round_findings({**starved, "round": 2}, starved, SPACE) == []
    # At the round's coverage of 18 %, 55 predicted pixels let 9.9 labels be expected.
    few = statistics([8000, 6000, 4000, 0], [40_000, 30_000, 29_945, 55])
    assert round_findings(few, None, SPACE) == []
    assert kinds(round_findings({**starved, "round": 2}, few, SPACE)) == ["unselected class"]


def test_a_class_that_is_never_predicted_is_said_once() -> None:
    found = only(first([8000, 6000, 0, 0], [40_000, 60_000, 0, 0]))
    assert found.kind == "absent class" and not found.stops
    assert "no target pixel is predicted as class_2, class_3. This is usual" in found.text
    absent = statistics([8000, 6000, 0, 0], [40_000, 60_000, 0, 0])
    assert round_findings({**absent, "round": 2}, absent, SPACE) == []


def test_one_class_in_the_predictions() -> None:
    found = only(first([20_000, 10, 10, 10], [99_000, 500, 250, 250]))
    assert found.kind == "one class predicted" and found.stops
    assert found.text.startswith("round 1: class class_0 is 99.0 % of what is predicted of the target; expected")
    assert first([20_000, 210, 10, 10], [98_999, 501, 250, 250]) == []


def test_one_class_in_the_labels_alone() -> None:
    found = only(first([20_000, 10, 10, 10], SOUND["predicted"]))
    assert found.kind == "one class labelled" and found.stops
    assert "class class_0 is 99.9 % of what is selected" in found.text
    # Of a handful of labels it says nothing that "few labels" does not.
    assert kinds(first([20, 0, 0, 0], [99_970, 10, 10, 10])) == ["one class predicted", "few labels"]
    assert "few labels" in kinds(first([20, 0, 0, 0], SOUND["predicted"]))
    assert "one class labelled" not in kinds(first([20, 0, 0, 0], SOUND["predicted"]))


def test_one_class_of_a_model_without_a_round() -> None:
    found = one_class([0, 0, 7, 0], SPACE)
    assert found is not None
    assert "the target: class class_2 is 100.0 %" in found.text
    assert one_class([0, 0, 0, 0], SPACE) is None
    assert one_class([5], unnamed(1)) is None


def test_images_without_labels() -> None:
    found = only(first(SOUND["kept_per_class"], SOUND["predicted"], unlabelled_images=6))
    assert found.kind == "images without labels" and not found.stops
    assert "6 of 10 target images" in found.text
    assert first(SOUND["kept_per_class"], SOUND["predicted"], unlabelled_images=5) == []


def counts() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 3) | st.integers(0, 10**9), min_size=4, max_size=4)


def rounds(n: int) -> st.SearchStrategy[dict[str, Any]]:
    """Statistics that can be: no more labels of a class than pixels, predictions known or not."""

    def made(predicted: list[int], parts: list[float], known: bool, spare: int) -> dict[str, Any]:
        kept = [int(p * part) for p, part in zip(predicted, parts, strict=True)]
        return statistics(kept, predicted if known else None, n, sum(predicted) + spare)

    parts = st.lists(st.floats(0, 1), min_size=4, max_size=4)
    return st.builds(made, counts(), parts, st.booleans(), st.integers(0, 10**6))


@given(rounds(1) | st.none(), rounds(2), st.permutations(range(4)))
def test_the_order_of_classes_does_not_matter(
    before: dict[str, Any] | None, now: dict[str, Any], order: list[int]
) -> None:
    def moved(given: dict[str, Any]) -> dict[str, Any]:
        lists = {key: given[key] and [given[key][i] for i in order] for key in ("kept_per_class", "predicted")}
        return {**given, **lists}

    found = round_findings(now, before, SPACE)
    again = round_findings(moved(now), before and moved(before), SPACE)
    assert kinds(found) == kinds(again)
    assert all(finding.text.startswith("round 2: ") and len(finding.text) < 600 for finding in found)
    assert len(set(found)) == len(found)


@given(rounds(1) | st.none(), rounds(2))
def test_nothing_is_found_exactly_where_all_is_well(before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    kept, predicted, share = now["kept_per_class"], now["predicted"], now["coverage"]
    well = share >= 0.01 and max(kept) < 0.99 * sum(kept) and min(kept) > 0
    well = well and (predicted is None or max(predicted) < 0.99 * sum(predicted))
    well = well and (before is None or share >= before["coverage"] / 4)
    if well:
        assert round_findings(now, before, SPACE) == []
    elif min(kept) > 0:
        assert round_findings(now, before, SPACE) != []


# --- batches and models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("blank", "stops"), [(1, False), (5, False), (6, True), (10, True)])
def test_blank_batches(blank: int, stops: bool) -> None:
    found = blank_finding("adaptation, round 2", "target", blank, 10)
    assert found is not None and found.stops is stops
    assert found.text.startswith(f"adaptation, round 2: {blank} of 10 target batches had no labelled pixel")


def test_no_blank_batch() -> None:
    assert blank_finding("adaptation, round 2", "source", 0, 10) is None


NAMES = ("a", "b")


@given(st.dictionaries(st.sampled_from(STREET.classes), st.floats(0, 1), min_size=2))
def test_chance_is_what_learns_nothing(accuracy: dict[str, float]) -> None:
    chance = Chance(NAMES, accuracy)
    k = len(accuracy)
    assert (chance.finding() is None) is (sum(accuracy.values()) / k > 1 / k + 0.05 * (1 - 1 / k))
    assert Chance.from_dict(chance.to_dict(), "chance.json") == chance


@pytest.mark.parametrize("k", [2, 5, 19])
def test_any_constant_prediction_is_chance_and_a_right_one_is_not(k: int) -> None:
    accuracy = {f"class_{i}": float(i == 1) for i in range(k)}
    chance = Chance(NAMES, accuracy)
    assert chance.mean == chance.chance == 1 / k
    found = chance.finding()
    assert found is not None and found.kind == "no better than chance" and found.stops
    assert f"has {100 / k:.1f} % (1 of {k} classes)" in found.text
    assert Chance(NAMES, dict.fromkeys(accuracy, 1.0)).finding() is None


def test_where_nothing_can_be_compared() -> None:
    found = Chance(NAMES, {}).finding()
    assert found is not None and found.kind == "unlabelled source"
    assert "none of 2 source images looked at has a labelled pixel (a, b)" in found.text
    assert Chance(NAMES, {"road": 0.0}).finding() is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"images": ["a"]},
        {"images": 3, "class_accuracy": {}},
        {"images": [], "class_accuracy": {"a": "x"}},
    ],
)
def test_another_file_is_no_chance(content: Any) -> None:
    with pytest.raises(RunError, match=r"chance\.json: cannot be read .*; expected images and class_accuracy"):
        Chance.from_dict(content, "chance.json")
