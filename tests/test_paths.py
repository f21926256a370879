"""No name leads out of its folder, and no text does anything to the terminal it is shown on."""

import io
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from segshift import cli
from segshift.errors import DataError
from segshift.paths import inside, printable
from segshift.progress import Bar, Reporter

ANY = st.text() | st.text(st.characters(codec=None, exclude_categories=()), max_size=12)
"""Texts, halves of surrogates included."""
TRICKY = st.lists(st.sampled_from(["..", ".", "/", "\\", "C:", "~", "a", " ", "\0", "\udcff", "\ud800", "…"])).map(
    "".join
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folder").resolve()


@given(ANY | TRICKY, st.sampled_from(["", ".png", ".safetensors"]))
@example("a/../../b", "")
@example("..", ".png")
@example(".. /a", "")
@example("a\\..\\..\\b", "")
def test_a_name_is_refused_or_stays_in_the_folder(folder, name, suffix):
    try:
        path = inside(folder, name, suffix)
    except DataError as error:
        assert str(folder) in str(error)
        return
    resolved = path.resolve()
    assert folder in resolved.parents
    assert path.name.endswith(suffix)
    assert os.fsencode(path)  # a name that a file system can be asked for


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"), (".", "is empty"), ("./", "is empty"), ("/etc/passwd", "is absolute"),
        ("//server/share/x", "is absolute"), ("\\x", "is absolute"), ("C:\\x", "is absolute"), ("c:x", "is absolute"),
        ("..", "dots or spaces alone"), ("a/../b", "dots or spaces alone"), ("a\\..\\b", "dots or spaces alone"),
        (".. ", "dots or spaces alone"), ("a/ /b", "dots or spaces alone"), ("a\0.png", "NUL"),
        ("\ud800", "no file name can have"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_name_is_said(folder, name, why):
    with pytest.raises(DataError, match=why) as caught:
        inside(folder, name, ".png")
    assert "expected a relative path to a file below the folder" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", "a.png"), ("city/a.b_c", "city/a.b_c.png"), ("./a", "a.png"), ("a//b", "a/b.png"), ("…/ü", "…/ü.png"),
        ("...a", "...a.png"), ("2020-01-02T03:04", "2020-01-02T03:04.png"), ("\udcff", "\udcff.png"),
    ],
)  # fmt: skip
def test_names_that_files_have_are_taken(folder, name, path):
    assert inside(folder, name, ".png") == folder / path


def test_a_link_in_the_folder_is_its_owners(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert inside(tmp_path / "data", "linked/a", ".png").resolve() == tmp_path / "elsewhere" / "a.png"


@given(ANY)
def test_printable_text_does_nothing(text):
    shown = printable(text)
    for character in shown.replace("\n", ""):
        assert unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    assert shown.count("\n") == text.count("\n")
    assert printable(shown) == shown
    shown.encode()  # what cannot be written would end the program
    if text.isprintable():
        assert shown == text


def test_printable_shows_what_was_hidden():
    assert printable("a\x1b[2J\rb\u202egnp.exe\udcff é\n") == "a\\x1b[2J\\rb\\u202egnp.exe\\udcff é\n"


EVIL = "[red]x[/red] [/] :smile: \x1b[2J\u202e [link=file:x]y"
SHOWN = "[red]x[/red] [/] :smile: \\x1b[2J\\u202e [link=file:x]y"


def test_messages_show_names_as_they_are(capsys):
    Reporter().say(f"wrote {EVIL}.png")
    assert capsys.readouterr().out == f"wrote {SHOWN}.png\n"


def test_errors_show_names_as_they_are(capsys, tmp_path):
    assert cli.main(["report", str(tmp_path / EVIL)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/{SHOWN} is not a run folder")
    assert cli.main([EVIL]) == 2
    # The word is shown as Python would write it.
    assert repr(EVIL) in capsys.readouterr().err


def test_bars_show_names_as_they_are(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("segshift.progress.EVERY", -1.0)
    bar = Bar(Console(file=out, width=500), EVIL, 3, 0, None)
    bar.advance(EVIL)
    assert out.getvalue().startswith(f"{SHOWN}: 1/3, ")
    assert out.getvalue().endswith(f"left  {SHOWN}\n")


def test_bars_on_a_terminal_show_names_as_they_are():
    reporter = Reporter()
    out = io.StringIO()
    reporter.console = Console(file=out, width=500, force_terminal=True, color_system=None, legacy_windows=False)
    with reporter.bar(EVIL, 2) as bar:
        bar.advance(EVIL)
        bar.advance(EVIL)
    assert out.getvalue().count(SHOWN) >= 2
    assert "\x1b[2J" not in out.getvalue()
