"""What the tables of bad input share: the pair of domains that each row spoils, and recipes cut down to seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.folder import make_folder_pair
from tests.fakes.tiny import tiny
from tests.faults.fuzzing import COUNTS

from segshift import recipes
from segshift.recipe import Recipe


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with day/ and dusk/, two images a split; copy it before writing there (`bad_inputs.fresh`)."""
    root = tmp_path_factory.mktemp("pair")
    make_folder_pair(root, images=2)
    return root


@pytest.fixture
def tiny_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes that the command line finds by name are the tiny ones, without data."""

    def find(name: str, variant: str = "paper", warmup: str | None = None) -> Recipe:
        assert (variant, warmup) == ("paper", None)
        recipe = tiny(name.split("/")[1], Path(), Path())
        return replace(recipe, name=name, data=replace(recipe.data, source="", target=""))

    monkeypatch.setattr(recipes, "find", find)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How often each thing was fuzzed; of one process alone, as others keep counts of their own."""
    for what, count in sorted(COUNTS.items()):
        terminalreporter.write_line(f"fuzz: {count:8d} executions, {what}")
    if COUNTS:
        terminalreporter.write_line(f"fuzz: {sum(COUNTS.values()):8d} executions in all")
