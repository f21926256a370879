"""The figures of benchmarks/label_free.py, against values by hand."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
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


if "measuring" not in sys.modules:
    loaded("measuring")
label_free = loaded("label_free")


@pytest.mark.parametrize(
    ("x", "y", "spearman", "kendall"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1, 1),
        ([1, 2, 3, 4], [9, 7, 5, 3], -1, -1),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8, 2 / 3),
        ([1, 1, 2], [1, 2, 3], math.sqrt(3) / 2, 2 / math.sqrt(6)),
    ],
)
def test_rank_correlation(x: list[float], y: list[float], spearman: float, kendall: float) -> None:
    a, b = np.array(x, float), np.array(y, float)
    assert label_free.spearman(a, b) == pytest.approx(spearman)
    assert label_free.kendall(a, b) == pytest.approx(kendall)


def test_a_constant_score_has_no_rank() -> None:
    assert math.isnan(label_free.spearman(np.ones(3), np.arange(3.0)))


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12, unique=True), st.integers(0, 100))
def test_only_order_counts(values: list[float], seed: int) -> None:
    x = np.array(values)
    truth = np.random.default_rng(seed).permutation(len(x)).astype(float)
    for figure in (label_free.spearman, label_free.kendall):
        assert -1 - 1e-9 <= figure(x, truth) <= 1 + 1e-9
        assert figure(label_free.ranks(x) ** 3, truth) == pytest.approx(figure(x, truth))


def test_regret_is_what_the_choice_costs() -> None:
    assert label_free.regret(np.array([0.1, 0.9, 0.5]), np.array([0.3, 0.25, 0.31])) == pytest.approx(6)


def line(run: int, seed: int, family: str, snd: float, truth: float) -> dict[str, Any]:
    scores = {"entropy": 0.5, "information": snd, "snd": snd, "source": None}
    return {"group": "minicity", "run": f"r{run}", "seed": seed, "family": family, "scores": scores, "truth": truth}


def test_rows_leave_out_the_oracle_and_small_parts() -> None:
    lines = [line(i, i % 2, "CBST" if i < 5 else "IAST", i, i / 10) for i in range(7)]
    found = label_free.rows([*lines, line(9, 0, "Oracle", -1, 1.0)])
    assert {row[0] for row in found} == {"minicity, all", "minicity, CBST"}
    assert {row[2] for row in found} == {"mean entropy", "information maximisation", "soft neighbourhood density"}
    assert [row[3].split()[0] for row in found if row[2].startswith("soft")] == ["1.00", "1.00"]
