"""A download that would run code: timm falls back on full unpickling where the careful load fails with a TypeError."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import timm

from segshift.errors import ConfigError
from segshift.models.backbone import build_backbone, pretrained_tensors

NAME = "mobilenetv2_035"


def crafted(marker: Path) -> bytes:
    """A pickle that gives an OrderedDict the state None (careful unpicklers: a TypeError), then makes a folder."""
    return (
        b"\x80\x02ccollections\nOrderedDict\n)RNb0"
        + b"cos\nmkdir\n"
        + b"X"
        + len(str(marker)).to_bytes(4, "little")
        + str(marker).encode()
        + b"\x85R."
    )


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where code would show that it has run; timm gets the crafted file for every model's weights."""
    marker, file = tmp_path / "it-ran", tmp_path / "weights.pth"
    file.write_bytes(crafted(marker))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
    overlay = {"url": file.as_uri(), "hf_hub_id": None}
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, pretrained_cfg_overlay=overlay))
    return marker


def test_the_file_does_run_code_where_nothing_is_done_about_it(marker: Path) -> None:
    with suppress(Exception):  # it is no checkpoint either
        timm.create_model(NAME, pretrained=True)
    assert marker.is_dir()


def test_a_download_runs_no_code(marker: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be had"):
        build_backbone(NAME, 8, "pretrained")
    with pytest.raises(ConfigError, match="cannot be had"):
        pretrained_tensors(NAME)
    assert not marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
