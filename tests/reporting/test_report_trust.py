"""A report shows names as text, loads nothing, and says what one must know before believing it."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.run_folder import STREET, make_run

from segshift.reporting.figures import results
from segshift.reporting.report import write_report
from segshift.taxonomy import LabelSpace

EVIL = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "'><svg onload=alert(3)>", "</title><b>",
    "{{ 7 * 7 }}", "$\\frac{", "&lt;b&gt;", "]]><!--",
)  # fmt: skip
HIDDEN = "a\u202egnp\x1b[2J\udcff"
SHOWN = "a\\u202egnp\\x1b[2J\\udcff"
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "h1", "h2", "h3", "p"),
    *(
        "ul",
        "li",
        "span",
        "b",
        "small",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "i",
        "img",
        "figure",
        "pre",
    ),
    *("figcaption", "details", "summary", "dl", "dt", "dd", "svg", "g", "path", "defs", "clippath", "rect", "use"),
    *("pre", "text", "a", "nav", "caption", "h4", "s"),
}
"""Every element that a page may have."""


class Elements(HTMLParser):
    """Elements with their attributes, in order; all text; the text of titles."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.comments: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.comments.append(data)


def change(run: Path, **entries: Any) -> None:
    file = run / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run in which whatever can have a name has a bad one."""
    space = LabelSpace(EVIL[0], EVIL, STREET.colors, {EVIL[1]: (0, 1)})
    run = make_run(tmp_path / "<u>run", label=EVIL[1], space=space, loss=EVIL[0], panels=1)
    (run / "evaluation/panels/target__000").rename(run / "evaluation/panels" / HIDDEN)
    change(
        run,
        name=EVIL[0], command=EVIL[2], started=EVIL[3], device=EVIL[4], versions={EVIL[0]: EVIL[1]},
        warmup_label=EVIL[3], protocol=list(EVIL), recipe={EVIL[0]: [EVIL[1]]},
        data={EVIL[0]: {"images": 1, "fingerprint": EVIL[1]}}, data_notes={EVIL[2]: [EVIL[0], HIDDEN]},
        left_out={EVIL[0]: [*EVIL, HIDDEN]},
        resumed=[{"when": EVIL[0], "step": 3, "changed": list(EVIL)}],
    )  # fmt: skip
    statistics = run / "round-1" / "statistics.json"
    content = json.loads(statistics.read_text())
    statistics.write_text(json.dumps({**content, "thresholds": {EVIL[1]: [0.5]}}))
    return run


def test_names_are_text(hostile, tmp_path):
    out = write_report([hostile], tmp_path / "report.html", title=EVIL[3])
    page = Elements(out)
    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.comments == []
    for name in EVIL:
        assert page.text.count(name) >= 3
    assert SHOWN in page.text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", out.read_text("utf-8"))
    # What stands beside the page is data: it holds the names as they are, in letters that no program runs.
    beside = (out.parent / "results.json").read_bytes()
    assert beside.isascii()
    assert json.loads(beside)["runs"][0]["left_out"] == {EVIL[0]: [*EVIL, HIDDEN]}


def test_a_page_loads_nothing(hostile, tmp_path):
    out = write_report([hostile], tmp_path / "report.html", make_run(tmp_path / "oracle", space=hostile_space(hostile)))
    page = Elements(out)
    policy = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    [rules] = [dict(rule.strip().split(" ", 1) for rule in text.split(";")) for text in policy]
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'",
        "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    at = next(i for i, (_, a) in enumerate(page.elements) if a.get("http-equiv") == "Content-Security-Policy")
    # A policy counts from where it stands.
    assert [tag for tag, _ in page.elements[:at]] == ["html", "head", "meta"]
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action", "background", "ping"):
                assert value.startswith(("data:image/", "#")), (tag, name, value)
            if name in ("style", "clip-path", "fill"):
                assert not re.search(r"url\((?!#)|expression|@import", value)
    styles = re.findall(r"<style>(.*?)</style>", out.read_text(), re.DOTALL)
    assert len(styles) == 1
    assert "url(" not in styles[0] and "@import" not in styles[0]


def hostile_space(run: Path) -> LabelSpace:
    space = json.loads((run / "run.json").read_text())["space"]
    classes, colors = zip(*((c["name"], tuple(c["color"])) for c in space["classes"]), strict=True)
    return LabelSpace("same", classes, colors)


def to_know(page: Path) -> str:
    """Text of the section, one space between words; empty where there is none."""
    found = re.search(r'<section id="to-know">(.*?)</section>', page.read_text(), re.DOTALL)
    return "" if found is None else " ".join(unescape(re.sub(r"<[^>]*>", " ", found[1])).split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Without anything to know: the class that never occurs is predicted now and then."""
    run = make_run(tmp_path / "run")
    for file in run.glob("round-*/statistics.json"):
        content = json.loads(file.read_text())
        counts = {"predicted": [1000] * 8, "kept_per_class": [200] * 8, "kept": 1600, "pixels": 8000, "coverage": 0.2}
        file.write_text(json.dumps({**content, **counts}))
    return run


def test_nothing_is_said_where_there_is_nothing(run, tmp_path):
    out = write_report([run], tmp_path / "report.html")
    assert to_know(out) == ""
    figures = json.loads((tmp_path / "results.json").read_text())["runs"][0]
    assert (figures["left_out"], figures["resumed"], figures["warnings"]) == ({}, [], [])
    change(run, left_out={"source": []}, resumed=[])
    assert to_know(write_report([run], tmp_path / "report.html")) == ""


def test_files_left_out_are_counted_and_named(run, tmp_path):
    change(run, left_out={"source": ["a.png: it is cut short"], "target": [f"{i}.png: no image" for i in range(30)]})
    said = to_know(write_report([run], tmp_path / "report.html"))
    assert said.startswith("What to know about this run 1 file left out of the source images: a.png: it is cut short")
    assert "30 files left out of the target images: 0.png: no image" in said
    assert "19.png: no image and 10 more, which results.json names" in said
    assert "20.png" not in said
    assert len(results([run])["runs"][0]["left_out"]["target"]) == 30


def test_breaks_are_told_with_what_had_changed(run, tmp_path):
    first = {
        "when": "2026-01-02T03:04:05+00:00",
        "step": 12,
        "changed": ["torch was 2.6, is 2.7", "threads was 1, is 2"],
    }
    change(run, resumed=[first, {**first, "step": 40, "changed": []}])
    said = to_know(write_report([run], tmp_path / "report.html"))
    assert "Resumed on 2026-01-02T03:04:05+00:00 at step 12, where other things than" in said
    assert "torch was 2.6, is 2.7 threads was 1, is 2" in said
    assert said.endswith("Resumed on 2026-01-02T03:04:05+00:00 at step 40")
    assert results([run])["runs"][0]["resumed"][0] == first


def test_warnings_of_a_run_are_repeated(run, tmp_path):
    file = run / "round-3" / "statistics.json"
    nothing = {"kept": 0, "coverage": 0.0, "kept_per_class": [0] * 8}
    file.write_text(json.dumps({**json.loads(file.read_text()), **nothing}))
    [warning] = results([run])["runs"][0]["warnings"]
    assert "round 3" in warning and "none of the target's 8,000 pixels" in warning
    assert warning in to_know(write_report([run], tmp_path / "report.html"))


def test_each_run_and_the_oracle_have_their_own(run, tmp_path):
    oracle = make_run(tmp_path / "oracle", rounds=0)
    change(oracle, left_out={"target": ["b.png: empty"]})
    change(run, left_out={"source": ["a.png: empty"]})
    said = to_know(write_report([run], tmp_path / "report.html", oracle))
    assert said == (
        "What to know about these runs CBST run 1 file left out of the source images: a.png: empty "
        "CBST oracle 1 file left out of the target images: b.png: empty"
    )
