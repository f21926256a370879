"""What many test files share: checked shapes, one thread, the tiny domains, and runs trained once a session."""

# ruff: noqa: E402 (the hook must stand before the first import of the package)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tests.fakes.shapes
import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

# The drawing of MiniCity is thousands of calls an image: checked, it is four times slower, and has no tensors.
SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES = [".".join(file.relative_to(SOURCE).with_suffix("").parts) for file in SOURCE.glob("segshift/**/*.py")]
CHECKED = [name for name in MODULES if not name.startswith("segshift.data.minicity") and not name.endswith("__init__")]
install_import_hook(CHECKED, f"{tests.fakes.shapes.__name__}.check")

from tests.fakes.folder import make_folder_pair
from tests.fakes.tiny import Watched, tiny, watched

from segshift.runs import start

# Kernels differ in the last bit between thread counts, and two processes share two cores.
torch.set_num_threads(1)

# `make test` judges a change, so it draws the same examples each time; `make test-all` looks for new ones.
settings.register_profile("segshift", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("segshift")


@pytest.fixture
def wrong_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that passes a wrong shape and reads what the package itself says to it."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five images a split: an odd number, so that two processes get different shares."""
    return make_folder_pair(tmp_path_factory.mktemp("domains"), images=5)


@pytest.fixture(scope="session")
def source_only(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished source-only run: the warm-up of all others."""
    return start(tiny("source-only", *domains), tmp_path_factory.mktemp("runs") / "source-only")


@pytest.fixture(scope="session")
def cbst(domains: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A whole CBST run from its own warm-up, and a copy of its folder as it was at each checkpoint."""
    return watched(tiny("cbst", *domains), tmp_path_factory.mktemp("runs") / "cbst")


@pytest.fixture(scope="session")
def row(
    domains: tuple[Path, Path], source_only: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Finished runs by the name of their row, each from the shared warm-up."""
    finished = {"source-only": source_only}

    def run(name: str) -> Path:
        if name not in finished:
            finished[name] = start(tiny(name, *domains), tmp_path_factory.mktemp("rows") / name, source_only)
        return finished[name]

    return run
