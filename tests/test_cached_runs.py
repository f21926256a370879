"""Whole runs with a folder of decoded images: the same weights as without, also where that folder is gone on resume."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.fakes.tiny import Watched, assert_same, tiny, watched, weights
from tests.faults.runs import Job, make

from segshift.errors import ConfigError
from segshift.runs import resume, start


def test_a_run_is_the_same_with_a_cache_and_goes_on_without_it(
    domains: tuple[Path, Path], cbst: Watched, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    run = watched(tiny("cbst", *domains, cache=str(cache)), tmp_path / "run")
    assert_same(run.folder, cbst.folder)
    assert json.loads((run.folder / "run.json").read_text())["recipe"]["settings"]["cache"] == str(cache)
    kept = sorted(cache.rglob("*.npy"))
    assert kept
    shutil.rmtree(cache)
    assert_same(resume(run.copies[len(run.copies) // 2]), cbst.folder)
    assert sorted(cache.rglob("*.npy")) == kept


def test_a_folder_that_cannot_be_is_an_error_before_a_run_begins(domains: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"settings\.cache: .*/file: cannot be written"):
        start(tiny("cbst", *domains, cache=str(tmp_path / "file")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_runs_that_fill_a_cache_at_once_and_one_that_is_killed(
    domains: tuple[Path, Path], source_only: Path, tmp_path: Path
) -> None:
    """Three processes begin with nothing; one is killed as it fills the folder. The others are as if alone."""
    cache = tmp_path / "cache"
    jobs = [Job("source-only", *domains, tmp_path / f"run-{i}", {"cache": str(cache)}) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        ended = [pool.submit(make, job, job.folder, after=0.3 if i == 2 else None) for i, job in enumerate(jobs)]
    assert [e.result().status for e in ended[:2]] == [0, 0]
    for job in jobs[:2]:
        assert weights(job.folder) == weights(source_only)
    before = {file: file.read_bytes() for file in cache.rglob("*.npy")}
    assert len(before) == 25
    ended_again = make(jobs[2].at(tmp_path / "again"), tmp_path / "again")
    assert ended_again.status == 0, ended_again.said
    assert weights(tmp_path / "again") == weights(source_only)
    assert "0.0 MB of it yet to be written" in ended_again.said
    assert {file: file.read_bytes() for file in cache.rglob("*.npy")} == before
