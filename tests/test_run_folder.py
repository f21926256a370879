"""Whatever a damaged run folder holds, it is read, or an error names the file."""

import json
import shutil
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.run_folder import STREET, make_run

from segshift.errors import RunError, SegshiftError
from segshift.json_shape import misfit, require
from segshift.label_views import FILE as VIEWS
from segshift.reporting.figures import results
from segshift.reporting.report import write_report
from segshift.run_folder import read_run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NUMBER = dict.fromkeys(STREET.classes, 0.5)
QUALITY = {
    "round": 1, "proportion": 0.5, "accuracy": None, "miou": 0.5, "miou_classes": 1, "iou": NUMBER, "recall": NUMBER,
    "precision": NUMBER, "rarer_half": dict.fromkeys(("share_of_truth", "share_of_labels", "precision", "recall"), 0.5),
}  # fmt: skip
LABEL_VIEWS = {
    "round": 1, "images": 2, "distributions": {"delta_pseudo": [0.5]}, "agree": 0.5, "outcomes": {"both right": 0.5},
    "outcomes_per_class": {name: {"both right": None} for name in STREET.classes}, "accuracy": {"rectified": 0.5},
}  # fmt: skip
MORE = {
    "protocol": ["said"], "data_notes": {"source": ["said"]}, "left_out": {"source": ["a: why"]},
    "resumed": [{"when": "then", "step": 1, "changed": ["torch"]}], "scored_space": STREET.to_dict(),
    "alignment_label": "", "adaptation_label": None, "files": {},
}  # fmt: skip
FILES = ("run.json", "round-1/statistics.json", "evaluation/final.json", "evaluation/labels-1.json", str(VIEWS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every file that a report reads, and every field that run.json may have."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run", rounds=1, panels=0)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, **{k: v for k, v in MORE.items() if k != "files"}}))
    (run / "evaluation" / "labels-1.json").write_text(json.dumps(QUALITY))
    (run / VIEWS).write_text(json.dumps(LABEL_VIEWS))
    (run / "log.jsonl").write_text('{"phase": "other", "round": 1, "step": 1, "losses": {"source": 1.5}}\n')
    write_report([run], run / "report.html")
    return run


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything inside a JSON value; of a list, its first entry."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    return [at, *(path for key, each in inner for path in paths_in(each, (*at, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("file", FILES)
def test_a_wrong_value_anywhere_is_shown_or_named(whole: Path, file: str, data: st.DataObject):
    content = json.loads((whole / file).read_text())
    path = data.draw(st.sampled_from(paths_in(content)), "place")
    new = data.draw(JSON, "value")
    original = (whole / file).read_bytes()
    (whole / file).write_text(json.dumps(replaced(content, path, new)))
    try:
        write_report([whole], whole / "report.html")
    except SegshiftError as error:
        assert str(whole) in str(error) or "label space" in str(error)
    finally:
        (whole / file).write_bytes(original)


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*FILES, "log.jsonl"]), st.binary(max_size=30), st.floats(0, 1))
def test_bytes_in_the_middle_of_a_file_are_shown_or_named(whole, file, noise, share):
    original = (whole / file).read_bytes()
    cut = int(share * len(original))
    (whole / file).write_bytes(original[:cut] + noise + original[cut + len(noise) :])
    try:
        write_report([whole], whole / "report.html")
    except SegshiftError as error:
        assert str(whole) in str(error)
    finally:
        (whole / file).write_bytes(original)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"label": 3}, r"run\.json: label is 3, expected a text; the run is damaged, run it again$"),
        ({"space": []}, r"run\.json: space is \[\], expected an object"),
        (
            {"data": {"source": {"images": "x", "fingerprint": ""}}},
            r"data\.source\.images is 'x', expected a whole",
        ),
        ({"left_out": {"source": ["a", None]}}, r"left_out\.source\[1\] is None, expected a text"),
        ({"resumed": [{"when": "", "step": 1}]}, r"resumed\[0\] has no changed"),
        ({"seed": True}, r"seed is True, expected a whole number"),
        ({"threads": []}, r"threads is \[\], expected a whole number or null"),
    ],
)
def test_the_field_of_run_json_is_named(tmp_path, entry, message):
    run = make_run(tmp_path / "run", rounds=0, panels=0)
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, **entry}))
    with pytest.raises(RunError, match=message):
        read_run(run)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kept_per_class": [1]}, r"statistics\.json: kept_per_class has 1 numbers for 8 classes"),
        ({"predicted": [1] * 9}, r"statistics\.json: predicted has 9 numbers for 8 classes"),
        ({"coverage": "all"}, r"statistics\.json: coverage is 'all', expected a number"),
        ({"files": {}}, r"statistics\.json: cannot be read as JSON \(its SHA-256 is not the one written in it\)"),
    ],
)
def test_statistics_are_of_the_classes_of_the_run(tmp_path, entry, message):
    run = make_run(tmp_path / "run", rounds=1, panels=0)
    file = run / "round-1" / "statistics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entry}))
    with pytest.raises(RunError, match=message):
        read_run(run)


@pytest.mark.parametrize(
    "text", [b"\xff\xfe{}\n{}\n", b"[" * 100_000 + b"\n{}\n", b'{"phase": 1}\n{}\n', b"null\n{}\n"]
)
def test_a_damaged_line_of_the_log_is_named(tmp_path, text):
    run = make_run(tmp_path / "run", rounds=0, panels=0)
    (run / "log.jsonl").write_bytes(text)
    with pytest.raises(RunError, match=r"log\.jsonl, line 1: cannot be read"):
        read_run(run)


def test_nesting_without_end_is_an_error(tmp_path):
    run = make_run(tmp_path / "run", rounds=0, panels=0)
    (run / "run.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"run\.json: cannot be read as JSON"):
        read_run(run)


def test_a_class_without_figures_is_named(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / VIEWS).write_text(json.dumps({**LABEL_VIEWS, "outcomes_per_class": {}}))
    with pytest.raises(RunError, match=r"label-views\.json: outcomes_per_class has no road, sidewalk"):
        results([run])
    (run / VIEWS).unlink()
    (run / "evaluation" / "labels-1.json").write_text(json.dumps({**QUALITY, "iou": {}}))
    with pytest.raises(RunError, match=r"labels-1\.json: iou has no road, sidewalk"):
        results([run])


def test_scores_that_are_no_counts_are_named(tmp_path):
    run = make_run(tmp_path / "run", rounds=0, panels=0)
    file = run / "evaluation" / "final.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "confusion": [[1.5, "x"]]}))
    with pytest.raises(RunError, match=r"final\.json: confusion\[0\]\[0\] is 1\.5, expected a whole number; score"):
        read_run(run)


class _Point(TypedDict):
    x: int
    name: str | None


class _More(_Point, total=False):
    near: list["_Point"]


@pytest.mark.parametrize(
    ("value", "hint", "said"),
    [
        (1, int, ""), (1, float, ""), (1.5, float, ""), (None, int | None, ""), ("x", Any, ""), ([], list[int], ""),
        ({"a": [1]}, dict[str, list[int]], ""), ({"x": 1, "name": None, "z": 0}, _Point, ""),
        (True, int, " is True, expected a whole number"), (1.0, int, " is 1.0, expected a whole number"),
        ("1", float, " is '1', expected a number"), (None, str, " is None, expected a text"),
        ([1, "x"], list[int], "[1] is 'x', expected a whole number"), ({}, list[int], " is {}, expected a list"),
        ({"a": {"b": [None]}}, dict[str, dict[str, list[int]]], "a.b[0] is None, expected a whole number"),
        ("x", int | None, " is 'x', expected a whole number or null"), ({"x": 1}, _Point, " has no name"),
        ({"x": 1, "name": 2}, _Point, "name is 2, expected a text or null"), ([], _Point, " is [], expected an object"),
        ({"x": 1, "name": "", "near": [{}]}, _More, "near[0] has no name, x"),
        ({"x": {}}, dict[str, _Point | None], "x has no name, x"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(value, hint, said):
    assert misfit(value, hint) == said
    if said:
        with pytest.raises(RunError, match=r"^here: .*; mend it$"):
            require(value, hint, "here", "mend it")
    else:
        require(value, hint, "here", "mend it")
