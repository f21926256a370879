"""The page in a real browser: narrow and wide, light and dark, by keyboard, on paper. It loads nothing but itself."""

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.fakes.run_folder import add_candidates, add_details, make_run

from segshift.reporting.report import write_report

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python library is not installed")
pytestmark = pytest.mark.skipif(FOUND is None, reason=f"no browser here: none of {', '.join(BROWSERS)}")

CONTRAST = """() => {
  const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = c => {
    const [r, g, b] = c.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const c = channels(getComputedStyle(at).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("p, li, th, td, caption, figcaption, h3, h4, dt, dd, a, small, .n")) {
    const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
    if (!own || node.matches(".matrix td, .skip") || !node.checkVisibility()) continue;
    const ink = light(channels(getComputedStyle(node).color).slice(0, 3));
    const [a, b] = [ink, light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(node.tagName + " " + node.className + " " + ratio.toFixed(2));
  }
  return poor;
}"""
NAMELESS = """() => [...document.querySelectorAll("svg, img, [role=img], [role=region], table")]
  .filter(node => !(node.getAttribute("alt") || node.getAttribute("aria-label") || (node.caption || {}).textContent))
  .map(node => node.outerHTML.slice(0, 90))"""
# A box that scrolls must be reached by the keyboard.
UNREACHED = """() => [...document.querySelectorAll("body *")]
  .filter(node => node.scrollWidth > node.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(node).overflowX))
  .filter(node => node.tabIndex < 0 || !node.getAttribute("aria-label")).map(node => node.outerHTML.slice(0, 90))"""
HEADINGS = "() => [...document.querySelectorAll('h1, h2, h3, h4')].map(node => Number(node.tagName[1]))"
SIDEWAYS = "() => [document.scrollingElement.scrollWidth, innerWidth]"


class Opened(NamedTuple):
    """A page in a browser, and what it has said and asked for."""

    page: "sync_api.Page"
    file: Path
    said: list[str]
    asked: list[str]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The report of two seeds, an earlier version's run and an oracle: everything that a page can hold."""
    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / f"cbst-{seed}", seed=seed) for seed in (0, 1)]
    runs.append(make_run(folder / "iast", label="a rather long name of a method: IAST", rate=0.3))
    oracle = make_run(folder / "oracle", label="supervised", rate=0.1)
    for run, seed, rate in ((runs[0], 0, 0.25), (runs[1], 1, 0.25), (oracle, 0, 0.1)):
        add_details(run, seed, rate)
    add_candidates(runs[0])
    file = write_report(runs, folder / "report.html", oracle)
    said: list[str] = []
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        yield Opened(page, file, said, asked)
        browser.close()


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("details", [False, True])
def test_nothing_stands_out_at_the_side(opened, width, details):
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.page.evaluate("open => document.querySelectorAll('details').forEach(each => each.open = open)", details)
    wide, inner = opened.page.evaluate(SIDEWAYS)
    assert wide <= inner == width
    assert opened.page.evaluate(UNREACHED) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(opened, scheme):
    opened.page.emulate_media(color_scheme=scheme)
    assert opened.page.evaluate(CONTRAST) == []
    paper = opened.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, re.findall(r"\d+", paper)[:3])) / 3
    assert bright > 200 if scheme == "light" else bright < 60


def test_figures_and_tables_have_words(opened):
    assert opened.page.evaluate(NAMELESS) == []
    levels = opened.page.evaluate(HEADINGS)
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in pairwise(levels))


def test_the_keyboard_reaches_everything(opened):
    page = opened.page
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the figures"
    assert page.evaluate("() => document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.evaluate("() => document.querySelectorAll('details').forEach(each => each.open = false)")
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("() => document.activeElement.ariaLabel || document.activeElement.tagName"))
    assert {"Means of each model", "Coverage of each round", "SUMMARY"} <= seen
    # Anchors of the contents are there.
    broken = "() => [...document.querySelectorAll('a')].filter(a => !document.querySelector(a.hash)).length"
    assert page.evaluate(broken) == 0


def test_it_prints(opened):
    assert len(re.findall(rb"/Type\s*/Page\b", opened.page.pdf(format="A4", print_background=True))) >= 4
    opened.page.emulate_media(media="print")
    shown = "() => [...document.querySelectorAll('nav, .skip')].filter(node => node.checkVisibility()).length"
    assert opened.page.evaluate(shown) == 0
    assert opened.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.page.emulate_media(media="screen")


def test_it_says_nothing_and_asks_for_nothing(opened):
    assert opened.said == []
    outside = [url for url in opened.asked if not url.startswith("data:")]
    assert outside == [opened.file.as_uri()]
    assert opened.file.stat().st_size < 3_000_000
