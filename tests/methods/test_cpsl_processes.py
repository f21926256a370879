"""CPSL on two processes: the same clusters, banks and δ_pseudo on both, and those of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes.steps import assert_two_processes_match_one, three_steps
from tests.methods.test_cpsl import SMALL
from tests.methods.test_laws import model
from torch import Tensor

from segshift.methods.cpsl import CPSLConfig
from segshift.parts.processes import gather_by_slot
from segshift.parts.strong_view import StrongView

ALONE = StrongView(cutmix_probability=0)
"""No pasting: partners are of the same process, so that the views of two are others than those of one."""
CASES: dict[str, CPSLConfig] = {
    "as printed": replace(SMALL, augment=ALONE, bank=40),
    "random, from the start": replace(SMALL, augment=ALONE, sampling="random", bank_from="start", features="student"),
}


def trained(rank: int | None) -> dict[str, dict[str, Tensor]]:
    """Weights after three steps of three images (two on one process, one on the other), with bank and δ_pseudo."""
    found = {}
    for name, config in CASES.items():
        method: Any = config.build(model(), 10, seed=0)
        found[name] = three_steps(method, rank)
        state = method.clusters.state_dict()
        found[f"{name}, clusters"] = {"delta": state["delta"], "bank": state["bank"]["features"].clone()}
    return found


@pytest.mark.slow
def test_two_processes_cluster_as_one(tmp_path: Path) -> None:
    assert_two_processes_match_one(trained, tmp_path)
    alone = trained(None)
    assert len(alone["as printed, clusters"]["bank"]) == 40
    assert len(alone["random, from the start, clusters"]["bank"]) == 64


def gathered(rank: int | None) -> dict[str, dict[str, Tensor]]:
    """Rows 0 to 4 of a batch, which say their place; process 0 has three of them, in no order."""
    slots = {None: [0, 1, 2, 3, 4], 0: [4, 0, 2], 1: [3, 1]}[rank]
    rows = torch.tensor([[slot, 10 * slot] for slot in slots], dtype=torch.float32)
    return {"rows": {"all": gather_by_slot(rows, slots), "deep": gather_by_slot(rows.view(-1, 1, 2, 1), slots)}}


@pytest.mark.slow
def test_rows_are_gathered_in_the_order_of_the_batch(tmp_path: Path) -> None:
    assert_two_processes_match_one(gathered, tmp_path)
    assert gathered(None)["rows"]["all"].tolist() == [[slot, 10 * slot] for slot in range(5)]
