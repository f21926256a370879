"""Memory format and compiler change how a network runs, not what it is: names, weights and logits stay."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.tiny import assert_resumes_everywhere, tiny, watched
from torch import nn

from segshift.errors import ConfigError
from segshift.models import execution
from segshift.models.discriminators import Discriminator
from segshift.models.execution import prepared
from segshift.models.segmenter import Segmenter
from segshift.models.small import SAFE_WIDTH, SmallNet
from segshift.run_folder import read_info

ROOT = Path(__file__).resolve().parents[2]


def small(width: int = SAFE_WIDTH) -> Segmenter:
    torch.manual_seed(0)
    return SmallNet(width=width, dilations=(1,)).build(SAFE_WIDTH)


def test_off_is_the_network_as_it_was_built() -> None:
    network = small()
    strides = [p.stride() for p in network.parameters()]
    assert prepared(network, channels_last=False, compiled=False) is network
    assert [p.stride() for p in network.parameters()] == strides


def test_channels_last_keeps_names_weights_and_optimisers() -> None:
    """Features follow the weights' format, whatever that of the image is."""
    network = small().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    image = torch.rand(2, 3, 32, 48)
    logits, before = network(image).logits, copy.deepcopy(network.state_dict())
    weights = [*network.parameters()]
    assert prepared(network, channels_last=True, compiled=False) is network
    assert all(new is old for new, old in zip(network.parameters(), weights, strict=True))
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(new, old) for new, old in zip(network.state_dict().values(), before.values(), strict=True))
    assert network.encoder[0][0][0].weight.is_contiguous(memory_format=torch.channels_last)
    shown = network(image)
    assert shown.stages[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(shown.logits, logits, rtol=1e-4, atol=1e-5)
    shown.logits.sum().backward()
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in network.parameters())


@pytest.mark.parametrize("network", [small(8), Discriminator(4, 8, 32)])
def test_narrow_networks_stay_as_they_are_on_a_cpu(network: nn.Module) -> None:
    """`SAFE_WIDTH` says why."""
    strides = [p.stride() for p in network.parameters()]
    prepared(network, channels_last=True, compiled=False)
    assert [p.stride() for p in network.parameters()] == strides


def test_a_network_of_wide_layers_is_changed_whatever_its_kind() -> None:
    network = nn.Sequential(nn.Conv2d(3, SAFE_WIDTH, 3), nn.Conv2d(SAFE_WIDTH, 1, 1))
    prepared(network, channels_last=True, compiled=False)
    kernels = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_no_compiler_is_said_before_the_first_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigError, match=r"compile = True: there is no C\+\+ compiler"):
            prepared(small(), channels_last=False, compiled=True)
    monkeypatch.setattr(execution.shutil, "which", lambda _: "/compiler")
    monkeypatch.setattr(execution.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(ConfigError, match=r"Python.h is not there"):
        prepared(small(), channels_last=False, compiled=True)
    # Others are not compiled: nothing is asked of them.
    prepared(nn.Conv2d(3, 3, 1), channels_last=False, compiled=True)


@pytest.mark.slow
def test_a_run_in_channels_last_resumes_to_the_bit(domains: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = replace(tiny("cbst", *domains, channels_last=True), network=SmallNet(width=SAFE_WIDTH, dilations=(1,)))
    run = watched(recipe, tmp_path / "run")
    assert read_info(run.folder)["recipe"]["settings"]["channels_last"] is True
    assert_resumes_everywhere(run, tmp_path)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.slow
def test_compiled_networks_train_and_resume(domains: tuple[Path, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fakes.compiled", *map(str, domains), str(tmp_path)]
    ended = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-3000:]
