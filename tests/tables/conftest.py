"""`segshift table` on the tiny domains, with recipes of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.tiny import tiny

from segshift import recipes
from segshift.cli import main
from segshift.recipe import Recipe


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, domains: tuple[Path, Path]) -> None:
    """`recipes.find` gives the tiny versions, whatever the group."""

    def find(name: str, _: str = "paper", warmup: str | None = None) -> Recipe:
        recipe = replace(tiny(name.split("/")[1], *domains), name=name)
        if warmup is None:
            return recipe
        below = tiny(warmup, *domains)
        label = "" if below.adaptation is None else below.label
        return replace(recipe, alignment=below.adaptation, alignment_label=label)

    monkeypatch.setattr(recipes, "find", find)


@pytest.fixture
def table(
    domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `segshift table NAME …` on the tiny domains, in one folder: (exit code, stdout, stderr)."""

    def run(words: str, target: Path | None = None) -> tuple[int, str, str]:
        places = f"--source {domains[0]} --target {target or domains[1]}"
        code = main(f"table {words} {places} --threads 1 --out {tmp_path / 'out'}".split())
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
