"""Errors of a group of processes, as a process sees them that another launcher has started (torchrun, SLURM)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from segshift.errors import DataError, RunError
from segshift.launch import is_broken, together

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711\nmore"


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (RuntimeError(GLOO), True),
        (RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation"), True),
        (dist.DistBackendError("NCCL error: remote process exited"), True),
        (dist.DistNetworkError("the server socket has failed"), True),
        (RuntimeError("out of memory"), False),
        (DataError("gloo.png: cannot be read"), False),
    ],
)
def test_a_broken_group_is_told_from_other_errors(error: Exception, broken: bool) -> None:
    assert is_broken(error) is broken


def test_a_broken_group_is_an_error_the_user_can_mend(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError) as caught, together(2, tmp_path):
        raise RuntimeError(GLOO)
    assert str(caught.value) == (
        f"another process of this run has ended, or did not answer in time ({GLOO.splitlines()[0]}). "
        f"The last checkpoint is intact; go on with: segshift resume {tmp_path}"
    )


def test_other_errors_pass(tmp_path: Path) -> None:
    error = DataError("photo.png: cannot be read")
    with pytest.raises(DataError) as caught, together(2, tmp_path):
        raise error
    assert caught.value is error


def test_alone_nothing_changes(tmp_path: Path) -> None:
    error = RuntimeError(GLOO)
    with pytest.raises(RuntimeError) as caught, together(1, tmp_path):
        raise error
    assert caught.value is error
