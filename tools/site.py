"""What `make docs` does beside mkdocs' own work: pages that lie outside docs/, and links that lead to them.

README.md is the front page, the others of `PAGES` are pages: each is written once.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
}
"""File of the project -> page of the site."""
_LINK = re.compile(r"(?P<text>\[[^\[\]]*\])\((?P<place>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """The site's pages, those from outside docs/ among them."""
    for place, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / place).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links as the site has them; of one to a file of the project that is no page, its words alone."""
    came_from = {name: place for place, name in PAGES.items()}
    here = posixpath.dirname(came_from.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    site = posixpath.dirname(page.file.src_uri)

    def there(found: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(here, found["place"]))
        if place not in PAGES and not place.startswith("docs/"):
            return found["text"].strip("[]")
        target = PAGES.get(place, place.removeprefix("docs/"))
        return f"{found['text']}({posixpath.relpath(target, site or '.')}{found['anchor'] or ''})"

    return _LINK.sub(there, markdown)
