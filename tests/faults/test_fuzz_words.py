"""Any words on the command line: an exit status, and no work begun, whatever they are."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.fuzzing import budget, only_own_errors

from segshift import cli, demo, runs
from segshift.errors import ConfigError
from segshift.tables import run, selectors_run

COMMANDS = tuple(cli.COMMANDS)
OPTIONS = (
    "--source", "--target", "--out", "--warmup", "--weights", "--seed", "--threads", "--variant", "--retain",
    "--oracle", "--translate", "--student", "--data", "--split", "--score-as", "--flip", "--scales", "--max-pixels",
    "--on-bad-file", "--settings.precision", "--settings.devices", "--data.short-side", "--data.folds",
    "--data.classes", "--data.target-split", "--adaptation.rounds", "--adaptation.method.portion", "--warmup.batch",
    "--network.backbone", "--test.scales", "--rows", "--seeds", "--dry-run", "--folds", "--version", "-h", "--", "-",
    "--=", "-x",
)  # fmt: skip
WORDS = (
    "own/cbst", "minicity/cbst", "own/cpsl", "own/oracle", "own", "/", "cbst/table3", "folder", "none", "folder/file",
    "gta5:folder", "cityscapes:none", "nowhere:folder", ":", "folder:", "minicity", "pretrained", "source-only",
    "0", "1", "-1", "1e400", "nan", "inf", "0.5", "99999999999999999999", "True", "None", "[]", "", " ", "\t", "\n",
    "../..", "~", "*", "\x1b[31m", "[bold]", "[/]", "\u202e", "\udcff", "道路", "x" * 300, "%s", "{0}", "=", "a=b",
)  # fmt: skip
MOST = st.one_of(st.sampled_from(OPTIONS), st.sampled_from(WORDS), st.sampled_from(WORDS))
# Words of a command line hold no NUL; half a pair stands for bytes that are no UTF-8.
ANY = st.text(st.characters(exclude_characters="\0"), max_size=12)


class _BegunError(ConfigError):
    """Work would have begun here."""


@pytest.fixture(autouse=True)
def nothing_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the words ask for stops where training would start, and where a folder is not the empty one."""

    def begin(*_: Any, **__: Any) -> Any:
        raise _BegunError("begun")

    for module, name in ((runs, "start"), (demo, "demo"), (run, "run_table"), (selectors_run, "run_selectors")):
        monkeypatch.setattr(module, name, begin)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"a file")


def status(words: list[str]) -> int:
    """What a command ends with; its own errors are told by `main` itself."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            found = cli.main(words)
        except SystemExit as stop:
            found = int(stop.code or 0)
    if found == 1:
        assert said.getvalue().strip()
    return found


@budget(60)
@given(command=st.sampled_from(COMMANDS), words=st.lists(st.one_of(MOST, MOST, ANY), max_size=7))
def test_words(command: str, words: list[str]) -> None:
    with only_own_errors("words: main"):
        assert status([command, *words]) in (0, 1, 2)
    assert sorted(path.name for path in Path().iterdir()) == ["folder"]
    assert [path.name for path in Path("folder").iterdir()] == ["file"]


@budget(40)
@given(st.lists(st.one_of(st.sampled_from(COMMANDS), MOST, ANY), max_size=4))
def test_any_words(words: list[str]) -> None:
    with only_own_errors("words: main"):
        assert status(words) in (0, 1, 2)
    assert sorted(path.name for path in Path().iterdir()) == ["folder"]
