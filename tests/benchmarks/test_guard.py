import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def loaded(name: str) -> ModuleType:
    """A file of benchmarks/, which is no package: it is run from its folder."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


measuring = loaded("measuring")
guard = loaded("guard")


@given(st.floats(0.01, 100), st.floats(0.01, 2))
def test_a_loss_of_more_than_a_quarter_counts_and_no_other(before, factor):
    found = guard.losses({"speed": before, "gone": 1.0}, {"speed": before * factor, "new": 0.1})
    assert bool(found) == (before * factor < 0.75 * before)
    assert all(lost.name == "speed" for lost in found)


def test_only_short_runs_are_compared_with(tmp_path):
    file = tmp_path / "x.jsonl"
    commands = "python benchmarks/x.py --short", "python benchmarks/x.py", "python benchmarks/x.py --shorter"
    file.write_text("".join(json.dumps({"command": c, "ratios": {}}) + "\n" for c in commands))
    assert [line["command"] for line in guard.short_lines(file)] == [commands[0]]
    assert guard.short_lines(tmp_path / "absent.jsonl") == []


def test_what_is_guarded_exists():
    assert all((BENCHMARKS / f"{name}.py").is_file() for name in guard.GUARDED)


def test_a_loss_is_measured_again_and_the_better_figure_counts(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    line = json.dumps({"command": "python benchmarks/x.py --short", "ratios": {"speed": 4.0}})
    (tmp_path / "results" / "x.jsonl").write_text(line + "\n")
    monkeypatch.setattr(guard.measuring, "RESULTS", tmp_path / "results")
    figures = iter([{"speed": 1.0}, {"speed": 3.9}, {"speed": 1.0}, {"speed": 1.5}])
    monkeypatch.setattr(guard, "measured", lambda *_: next(figures))
    assert guard.guard("x", guard.Options(), tmp_path) == []
    assert guard.guard("x", guard.Options(), tmp_path) == [guard.Lost("speed", 4.0, 1.5)]


def test_a_line_says_what_a_figure_depends_on(tmp_path):
    measuring.save(tmp_path / "x.jsonl", measuring.machine("cpu", 1), {"seconds": 2.0}, {"speed": 3.00001})
    (line,) = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert line["ratios"] == {"speed": 3.0}
    assert line["machine"]["threads"] == 1
    assert {"torch", "numpy", "python"} <= set(line["versions"])


def test_sides_are_timed_in_turn():
    order = []
    found = measuring.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2)
    assert order == ["a", "b"] * 3  # the first call of each warms up
    assert found["a"].runs == 2
    assert found["a"].least <= found["a"].median <= found["a"].most


def test_tables_are_aligned():
    text = "name   seconds\nours      1.50\nplain    10.00"
    assert measuring.table(["name", "seconds"], [["ours", "1.50"], ["plain", "10.00"]]) == text
