"""What a run records of its circumstances, and what is said where they have changed."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from segshift.environment import LIBRARIES, VARIABLES, changes_since, differences, environment
from segshift.errors import RunError


def test_all_of_it_is_json_and_stays_so() -> None:
    found = environment("cpu")
    assert json.loads(json.dumps(found)) == found
    assert differences(found, environment("cpu")) == []
    assert set(LIBRARIES) == found["libraries"].keys()


def test_no_path_no_host_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_TOKEN", "s3cret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = environment("cpu")
    written = json.dumps(found)
    hidden = ("s3cret", str(Path.home()), str(Path.cwd()), os.uname().nodename)
    assert not [text for text in hidden if re.search(rf"\b{re.escape(text)}\b", written)]
    assert found["variables"]["OMP_NUM_THREADS"] == "1"
    assert found["variables"].keys() <= set(VARIABLES)


def test_switches_of_torch_are_seen() -> None:
    before, threads = environment("cpu"), torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(threads + 1)
    try:
        after = environment("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(threads)
    assert differences(before, after) == [
        f"torch's number of threads was {threads}, is {threads + 1}",
        "torch's switch for deterministic algorithms was off, is on",
        "the precision of float32 matrix products was highest, is high",
    ]


def changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    whole = environment("cpu")
    return differences(whole | then, whole | now)


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({"python": "3.11.1"}, {"python": "3.12.0"}, ["Python was 3.11.1, is 3.12.0"]),
        ({"libraries": {"torch": "2.15"}}, {"libraries": {"torch": "2.16"}}, ["torch was 2.15, is 2.16"]),
        ({"variables": {"MKL_CBWR": "AVX2"}}, {"variables": {}}, ["MKL_CBWR was AVX2, is not set"]),
        ({"variables": {}}, {"variables": {"OMP_NUM_THREADS": "4"}}, ["OMP_NUM_THREADS was not set, is 4"]),
        ({"device": "cpu"}, {"device": "cuda", "gpu": "some GPU"}, ["the device was cpu, is cuda"]),
        # What only one side knows says nothing: an older version of the package did not ask.
        ({"libraries": {}}, {}, []),
        ({"asked_later": 1}, {}, []),
    ],
)
def test_differences_are_sentences(then: dict[str, Any], now: dict[str, Any], said: list[str]) -> None:
    assert changed(then, now) == said


def test_a_run_without_a_record_warns_of_nothing() -> None:
    assert differences({}, environment("cpu")) == differences(environment("cpu"), {}) == []


def test_a_change_of_anything_recorded_has_a_sentence() -> None:
    """Also of what only a GPU has."""
    whole = environment("cpu") | dict.fromkeys(
        ("gpu", "gpu_capability", "cuda", "cudnn", "cudnn_deterministic", "cudnn_benchmark", "cudnn_tf32"), "a"
    )
    for key in whole.keys() - {"libraries", "variables"}:
        (sentence,) = differences(whole, whole | {key: "b"})
        assert re.fullmatch(r"[^_]+ was .+, is b", sentence)


def test_a_model_knows_what_it_was_trained_with(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert changes_since(tmp_path / "model", "cpu") == []  # a model without its run
    file = tmp_path / "run.json"
    info = {"label": "CBST", "space": {}}
    file.write_text(json.dumps(info))  # of a version that did not ask
    assert changes_since(tmp_path, "cpu") == []
    file.write_text(json.dumps(info | {"environment": environment("cpu")}))
    assert changes_since(tmp_path, "cpu") == changes_since(tmp_path / "model", "cpu") == []
    file.write_text(json.dumps(info | {"environment": environment("cpu") | {"device": "cuda"}}))
    assert changes_since(tmp_path, "cpu") == ["the device was cuda, is cpu"]
    file.write_text("{")
    with pytest.raises(RunError, match=r"run\.json: cannot be read"):
        changes_since(tmp_path, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_named() -> None:
    found = environment("cuda")
    assert json.loads(json.dumps(found)) == found
    assert found["gpu"] == torch.cuda.get_device_name() and found["cuda"] == torch.version.cuda
