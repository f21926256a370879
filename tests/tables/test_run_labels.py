"""Figures of pseudo-labels from finished runs, and IAST's tables from end to end on tiny images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tables.test_run import figures, lines

from segshift.label_quality import measure_run
from segshift.tables import iast

Table = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("small")


def run_of(out: Path, key: str) -> Path:
    (folder,) = (out / "runs").glob(f"*/seed-0/{key}-????????")
    return folder


def statistics(run: Path, n: int) -> dict[str, Any]:
    return json.loads((run / f"round-{n}" / "statistics.json").read_text())


def test_a_line_says_how_right_the_pseudo_labels_were(table: Table, tmp_path: Path) -> None:
    assert table("cbst/rows --data own --seeds 0 --rows source-only cbst cbst+mst")[0] == 0
    out = tmp_path / "out"
    entries = lines(out)
    assert [entry["labels"] is None for entry in entries] == [True, False, False]
    found = entries[1]["labels"]
    assert found == entries[2]["labels"], "one run, scored twice"
    run = run_of(out, "cbst")
    measured = measure_run(run)
    assert measured is not None
    assert list(found) == ["1", "2"]
    for n, quality in measured.items():
        assert found[str(n)]["proportion"] == statistics(run, n)["coverage"]
        assert (found[str(n)]["accuracy"], found[str(n)]["miou"]) == (quality.accuracy, quality.miou)
        assert set(found[str(n)]["iou"]) == set(found[str(n)]["kept"]) == set(quality.space.classes)


@pytest.mark.parametrize("left", [0, 2])
def test_a_target_without_labels_or_with_some_still_has_its_line(
    table: Table, tmp_path: Path, domains: tuple[Path, Path], left: int
) -> None:
    """No label at all is usual; some are an oversight that is said, and cost no finished run its line."""
    target = tmp_path / "target"
    shutil.copytree(domains[1], target)
    labels = sorted((target / "train" / "labels").iterdir())
    assert len(labels) > left
    for path in labels[left:]:
        path.unlink()
    if not left:
        (target / "train" / "labels").rmdir()
    code, said, err = table("cbst/rows --data own --seeds 0 --rows cbst", target)
    assert (code, err) == (0, "")
    (entry,) = lines(tmp_path / "out")
    assert [list(figures) for figures in entry["labels"].values()] == [["proportion"]] * 2
    assert ("how right its pseudo-labels are cannot be said" in " ".join(said.split())) is (left > 0)


def test_iast_on_its_warmups(table: Table, tmp_path: Path) -> None:
    words = "iast/rows --data own --seeds 0 --rows source-only adaptsegnet-ls iast iast@source-only iast-source-free"
    code, said, err = table(words)
    assert (code, err) == (0, "")
    out = tmp_path / "out"
    assert len(lines(out)) == 5
    assert len(list((out / "runs" / "warmups").glob("*/*"))) == 1
    written = {row["row"]: row for row in figures(out / "iast" / "rows" / "own" / "table.csv")}
    mean = next(name for name in written["IAST"] if name.startswith("mIoU ("))
    over = float(written["IAST"][mean]) - float(written["AdaptSegNet (LS)"][mean])
    assert float(written["IAST"]["Δ"]) == pytest.approx(over, abs=0.11)
    for label, key in (("IAST", "iast"), ("IAST on source-only", "iast@source-only")):
        measured = measure_run(run_of(out, key))
        assert measured is not None
        for n, quality in measured.items():
            coverage = statistics(run_of(out, key), n)["coverage"]
            assert written[label][f"Proportion, round {n}"] == f"{100 * coverage:.1f}"
            assert written[label][f"P-mIoU, round {n}"] == (f"{100 * quality.miou:.1f}" if coverage else "")
    # Self-training looks at target images alone: without a source it is the same run.
    free, with_source = (written[label] for label in ("IAST, source-free", "IAST on source-only"))
    assert {**free, "row": ""} == {**with_source, "row": ""}
    assert "iast over adaptsegnet-ls" in " ".join(said.split())
    # Another table has these runs already.
    table("iast/table9 --data own --seeds 0 --rows source-only iast@source-only")
    assert len(lines(out)) == 5


def test_the_plan_counts_all_warmups_below_a_run(table: Table) -> None:
    _, said, _ = table("iast/table3 --data own --seeds 0 --dry-run")
    assert "8 scores from 10 runs, 10 of them not finished" in said


@pytest.mark.slow
def test_every_table_runs(table: Table, tmp_path: Path) -> None:
    """All in one folder, so that a row is trained once for all the tables that have it."""
    out, keys = tmp_path / "out", set()
    for declared in iast.TABLES:
        code, said, err = table(f"{declared.name} --data own --seeds 0")
        assert (code, err) == (0, "")
        assert "Not finished yet" not in said
        rows = declared.on("own")
        written = figures(out / declared.name / "own" / "table.csv")
        assert [(row["row"], row["seeds"]) for row in written] == [(row.label, "1") for row in rows]
        for found, row in zip(written, rows, strict=True):
            assert (found.get("Δ", "") != "") is (row.over != "")
        keys |= {row.key for row in rows}
    assert len(lines(out)) == len(keys)
