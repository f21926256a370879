"""Files called classes.yaml that are hostile or mistaken: refused in their own words, within seconds, unexecuted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.faults.bad_inputs import assert_refused, begins, fresh, run

from segshift.taxonomy import LARGEST_FILE, read_classes

NAMES = ("sky", "hill", "ground", "block", "ball")
GOOD = "classes:\n" + "".join(f"  - {{id: {i}, name: {name}}}\n" for i, name in enumerate(NAMES))
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefghi", "bcdefghij")
)
"""A billion laughs: j stands for 9^10 words."""
ENTRY = "expected {id: 0, name: road, color: [128, 64, 128]}"
MAPPING = "expected a mapping with a list `classes` of {id, name, color}; found"
YAML = "cannot be read as YAML"


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


ROWS: tuple[tuple[str, str | bytes, str], ...] = (
    ("no YAML", "{{{", f"{YAML} (while parsing a flow node"),
    ("tabs", "classes:\n\t- {id: 0, name: a}\n", f"{YAML} (while scanning for the next token found character '\\t'"),
    ("a call", "classes: !!python/object/apply:os.system ['touch MARK']", f"{YAML} (could not determine a constructor"),
    ("an object", "!!python/object/new:pathlib.Path [MARK]", f"{YAML} (could not determine a constructor for the tag"),
    ("a name to import", "classes: !!python/name:os.system", f"{YAML} (could not determine a constructor for the tag"),
    ("a list in itself", "classes: &a [*a]\n", f"class entry [[[[...]]]]; {ENTRY}"),
    ("a class in itself", "&a {classes: [{id: 0, name: *a}]}\n", "name of class 0 is {'classes': [{'id': 0, 'name':"),
    ("a colour in itself", "classes: &x\n - {id: 0, name: a, color: *x}\n", "colour of a is [{'color': [{...}],"),
    ("laughs for classes", LAUGHS + "classes: *j\n", "class entry [[[[...], [...]"),
    ("laughs for a name", LAUGHS + "classes:\n - {id: 0, name: *j}\n", "name of class 0 is [[[[...]"),
    ("laughs for a colour", LAUGHS + "classes:\n - {id: 0, name: a, color: *j}\n", "colour of a is [[[[...]"),
    ("laughs for a subset", LAUGHS + GOOD + "subsets: {a: *j}\n", "subset a is [[[[...]"),
    ("laughs for the ignored id", LAUGHS + GOOD + "ignore: *j\n", "ignore is [[[[...]"),
    ("laughs alone", LAUGHS, MAPPING),
    ("a thousand brackets", "[" * 1000, f"{YAML} (lists in lists, too deep)"),
    ("a thousand braces", "{a: " * 1000, f"{YAML} (lists in lists, too deep)"),
    ("too long", "#" * (LARGEST_FILE + 1), f"holds {LARGEST_FILE + 1} bytes; expected at most {LARGEST_FILE}"),
    ("empty", "", f"{MAPPING} None"),
    ("a comment", "# to be done\n", f"{MAPPING} None"),
    ("a word", "hello", f"{MAPPING} 'hello'"),
    ("a list", "[sky, hill]", f"{MAPPING} ['sky', 'hill']"),
    ("no list of classes", "classes:\n", f"{MAPPING} {{'classes': None}}"),
    ("a date for classes", "classes: 2001-01-01\n", f"{MAPPING} {{'classes': datetime.date(2001, 1, 1)}}"),
    ("no such date", "classes: 2001-99-99\n", f"{YAML} (month must be in 1..12)"),
    ("words for classes", "classes: [sky, hill]\n", f"class entry 'sky'; {ENTRY}"),
    ("a class by its name", "classes: {sky: 0, hill: 1}\n", f"{MAPPING} {{'classes': {{'hill': 1, 'sky': 0}}}}"),
    ("no ids", "classes: [{name: sky}]\n", f"class entry {{'name': 'sky'}}; {ENTRY}"),
    ("no names", "classes: [{id: 0}]\n", f"class entry {{'id': 0}}; {ENTRY}"),
    ("a name twice", changed("hill", "sky"), "label space day: class names used twice: sky"),
    ("an id twice", changed("id: 1", "id: 0"), "id 0 is given twice"),
    ("a key twice", GOOD + "classes: [{id: 0, name: all}]\n", f"{YAML} (key 'classes' is given twice)"),
    ("a key of a class twice", changed("id: 1", "id: 1, id: 4"), f"{YAML} (key 'id' is given twice)"),
    ("a gap", changed("id: 1", "id: 7"), "ids are 0, 2, 3, 4, 7; expected 0 to 4 without a gap"),
    ("ids from 1", "classes: [{id: 1, name: a}, {id: 2, name: b}]", "ids are 1, 2; expected 0 to 1 without a gap"),
    ("a negative id", changed("id: 1", "id: -1"), "ids are -1, 0, 2, 3, 4; expected 0 to 4 without a gap"),
    ("an id that is NaN", changed("id: 4", "id: .nan"), f"class entry {{'id': nan, 'name': 'ball'}}; {ENTRY}"),
    ("an id that is true", changed("id: 1", "id: true"), f"class entry {{'id': True, 'name': 'hill'}}; {ENTRY}"),
    ("an id that is text", changed("id: 1", "id: '1'"), f"class entry {{'id': '1', 'name': 'hill'}}; {ENTRY}"),
    ("an id of 31 digits", changed("id: 4", f"id: 1{'0' * 30}"), f"ids are 0, 1, 2, 3, 1{'0' * 30}; expected 0 to 4"),
    ("an id of 5001 digits", changed("id: 4", f"id: 1{'0' * 5000}"), f"{YAML} (Exceeds the limit"),
    ("an id of 5000 hex digits", changed("id: 4", f"id: 0x{'f' * 5000}"), "ids are 0, 1, 2, 3, a int that is too long"),
    (
        "300 classes",
        "classes:\n" + "".join(f"- {{id: {i}, name: c{i}}}\n" for i in range(300)),
        "300 classes; expected",
    ),
    ("256 as ignored", GOOD + "ignore: 256\n", "ignore is 256; expected a number from 0 to 255"),
    ("NaN as ignored", GOOD + "ignore: .nan\n", "ignore is nan; expected a number from 0 to 255"),
    ("a class as ignored", GOOD + "ignore: 2\n", "ignore is 2, which is also the id of ground; expected an unused id"),
    (
        "a colour out of range",
        changed("name: sky", "name: sky, color: [0, 0, 256]"),
        "colour of sky is [0, 0, 256]; exp",
    ),
    (
        "a colour by name",
        changed("name: sky", "name: sky, color: red"),
        "colour of sky is 'red'; expected three numbers",
    ),
    (
        "a colour in hex",
        changed("name: sky", "name: sky, color: 0xff8000"),
        "colour of sky is 16744448; expected three",
    ),
    (
        "NaN in a colour",
        changed("name: sky", "name: sky, color: [.nan, 0, 0]"),
        "colour of sky is [nan, 0, 0]; expected",
    ),
    (
        "four channels",
        changed("name: sky", "name: sky, color: [1, 2, 3, 4]"),
        "colour of sky is [1, 2, 3, 4]; expected",
    ),
    ("a list for a name", changed("name: sky", "name: [a]"), "name of class 0 is ['a']; expected text"),
    (
        "null for a name",
        changed("name: sky", "name: null"),
        "name of class 0 is None; expected text (a word such as no",
    ),
    ("no for a name", changed("name: sky", "name: no"), "name of class 0 is False; expected text (a word such as no"),
    ("an empty name", changed("name: sky", "name: ''"), "name of class 0 is ''; expected 1 to 200 characters"),
    ("spaces for a name", changed("name: sky", "name: '  '"), "name of class 0 is '  '; expected 1 to 200 characters"),
    ("ESC in a name", changed("name: sky", 'name: "\\e[31m"'), "name of class 0 is '\\x1b[31m'; expected 1 to 200"),
    ("a line break in a name", changed("name: sky", 'name: "a\\nb"'), "name of class 0 is 'a\\nb'; expected 1 to 200"),
    (
        "half a pair in a name",
        changed("name: sky", 'name: "\\ud83d"'),
        "name of class 0 is '\\ud83d'; expected 1 to 200",
    ),
    ("a name of 20000 letters", changed("name: sky", f"name: {'s' * 20000}"), "name of class 0 is 'sss…'; expected 1"),
    ("a list for the set's name", GOOD + "name: [a]\n", "name is ['a']; expected text"),
    ("an unknown id in a subset", GOOD + "subsets: {a: [9]}", "label space day: subset a is (9,); expected ids 0 to 4"),
    ("a name in a subset", GOOD + "subsets: {a: [sky]}", "subset a is ['sky']; expected a list of class ids"),
    ("half an id in a subset", GOOD + "subsets: {a: [0.5]}", "subset a is [0.5]; expected a list of class ids"),
    ("an empty subset", GOOD + "subsets: {a: []}", "label space day: subset a is (); expected ids 0 to 4, each once"),
    ("an id twice in a subset", GOOD + "subsets: {a: [0, 0]}", "label space day: subset a is (0, 0); expected ids 0"),
    ("a subset called all", GOOD + "subsets: {all: [0]}", "label space day: subset all is (0,); expected another name"),
    ("a list of subsets", GOOD + "subsets: [1]", "subsets is [1]; expected names with lists of ids"),
    ("two documents", f"{GOOD}---\n{GOOD}", f"{YAML} (expected a single document in the stream"),
    ("YAML of the future", f"%YAML 9.9\n---\n{GOOD}", f"{YAML} (found incompatible YAML document"),
    ("text that is called a number", "a: !!int abc\n", f"{YAML} (invalid literal for int() with base 10: 'abc')"),
    ("text that is called true", "a: !!bool abc\n", f"{YAML} ("),
    ("text that is called a time", "a: !!timestamp abc\n", f"{YAML} ("),
    ("a list as a key", "? [a]\n: b\n", f"{YAML} (while constructing a mapping"),
    ("a NUL", "\0", f"{YAML} (unacceptable character #x0000"),
    ("UTF-16", GOOD.encode("utf-16"), f"{YAML} ('utf-8' codec can't decode byte 0xff in position 0"),
    ("Latin-1", GOOD.replace("hill", "hügel").encode("latin-1"), f"{YAML} ('utf-8' codec can't decode byte 0xfc"),
    ("a PNG", b"\x89PNG\r\n\x1a\n", f"{YAML} ('utf-8' codec can't decode byte 0x89 in position 0"),
)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_refused(
    row: tuple[str, str | bytes, str], pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, content, expected = row
    monkeypatch.chdir(tmp_path)
    place = fresh(pair, tmp_path)
    path = place.classes(content.encode() if isinstance(content, str) else content)
    started = time.monotonic()
    assert_refused(run("check", place.day, "--sheet", "none"), f"problem: {path}: {expected}")
    assert time.monotonic() - started < 5
    assert not (tmp_path / "MARK").exists()


@pytest.mark.usefixtures("tiny_recipes")
@pytest.mark.parametrize("name", ["a call", "laughs for a name", "a thousand brackets"])
def test_a_run_says_the_same(name: str, pair: Path, tmp_path: Path) -> None:
    content, expected = next((row[1], row[2]) for row in ROWS if row[0] == name)
    place = fresh(pair, tmp_path)
    assert isinstance(content, str)
    path = place.classes(content.encode())
    out = tmp_path / "run"
    said = run("adapt", "own/source-only", "--source", place.day, "--target", place.dusk, "--out", out)
    assert_refused(said, f"{path}: {expected}")
    assert not out.exists()


FINE: tuple[tuple[str, str | bytes, tuple[str, ...]], ...] = (
    ("byte order mark", b"\xef\xbb\xbf" + GOOD.encode(), NAMES),
    ("lines of Windows", GOOD.replace("\n", "\r\n"), NAMES),
    ("ids in any order", "classes:\n" + "".join(reversed(GOOD.splitlines(keepends=True)[1:])), NAMES),
    ("JSON", '{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]}', ("a", "b")),
    ("numbers as names", "classes: [{id: 0, name: 7}, {id: 1, name: 1.5}]", ("7", "1.5")),
    (
        "any script",
        "classes: [{id: 0, name: Straße}, {id: 1, name: 道路}, {id: 2, name: 🚗}]",
        ("Straße", "道路", "🚗"),
    ),
    ("quotes", "classes: [{id: 0, name: 'no'}, {id: 1, name: 'null'}]", ("no", "null")),
    ("anchors", "classes: [{id: 0, name: a, color: &c [1, 2, 3]}, {id: 1, name: b, color: *c}]", ("a", "b")),
    ("markup", "classes: [{id: 0, name: '<script>'}, {id: 1, name: '[bold]'}]", ("<script>", "[bold]")),
    ("255 classes", "classes:\n" + "".join(f"- {{id: {i}, name: c{i}}}\n" for i in range(255)), ()),
)


@pytest.mark.parametrize("row", FINE, ids=[row[0] for row in FINE])
def test_odd_but_fine(row: tuple[str, str | bytes, tuple[str, ...]], tmp_path: Path) -> None:
    _, content, names = row
    path = tmp_path / "classes.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    space, ignore = read_classes(path)
    assert ignore == 255
    assert space.classes == (names or tuple(f"c{i}" for i in range(255)))


def test_the_tables_compare_line_by_line() -> None:
    """The comparison that all tables rest on can fail."""
    said = "checked\nerror: target: day/a.png: is a GIF; expected BMP\n"
    assert begins(said, "day/a.png: is a GIF")
    assert begins(said, "day/…: is a GIF…BMP")
    assert not begins(said, "a.png: is a GIF")
    assert not begins(said, "checked…GIF")
