"""The documentation: built without a warning, and naming nothing that is not there."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = re.findall(r"\| `(segshift\.[\w.]+)` \|", (ROOT / "docs" / "paper_to_code.md").read_text(encoding="utf-8"))


def found(name: str) -> object:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[end:], module)
    raise AssertionError(name)


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_every_equation_is_where_the_map_says(name: str) -> None:
    thing = found(name)
    assert getattr(thing, "__doc__", None), f"{name} has no docstring"


def test_the_map_is_of_all_papers() -> None:
    papers = {"cbst", "advent", "adversarial", "category_adaptive", "style_gap", "iast", "cpsl", "distillation"}
    assert papers <= {name.split(".")[2].split("_selector")[0] for name in NAMES}


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """`strict: true` makes every warning an error: broken links, missing anchors, pages that are nowhere."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=quiet, check=False)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference" / "methods.html").read_text(encoding="utf-8")
    assert "segshift.methods.cbst.class_thresholds" in reference
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'(?:src|href)="(https?://[^"]+)"[^>]*(?:rel="stylesheet"|></script>)', text)
        assert loaded == [], f"{page.name} loads from elsewhere"
