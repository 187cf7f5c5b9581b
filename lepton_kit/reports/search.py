"""The search index of the site: what each page says, without its code.

Quarto's own index runs the cells of a table together, and holds the code of each run. So pages are read here, once,
when they are rendered; their entries lie beside them, a line each, and the whole index is these lines put together.
Neither takes more memory the more pages there are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from lepton_kit.reports.markup import visible

SEARCH, SEARCH_SCRIPT = "search.json", "search.json.js"
LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›"})
LONGEST = 1200
"""Characters of a section that can be found."""

NOT_SEARCHED = "script, style, nav, header, .sourceCode, details.code, details.code-fold, .downloads, button.closer"


def write_entries(page: Path, href: str, markup: str) -> None:
    """Write the search entries of a page (`href` from the root) beside it, where `write_index` finds them."""
    lines = [json.dumps(entry, ensure_ascii=False) for entry in entries_of(markup, href)]
    _entries(page).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def entries_of(markup: str, href: str) -> list[dict[str, Any]]:
    """Return a page as entries of Quarto's search: one of what stands on top, and one for each heading of level 2.

    Examples
    --------
    >>> page = '<main><h1>Why?</h1><table><tr><th scope="row">Cause</th><td>data</td></tr></table></main>'
    >>> entries_of(page, "runs/a/index.html")[0]["text"]
    'Cause: data'
    """
    from bs4 import BeautifulSoup  # the import costs what only rendering should pay

    soup = BeautifulSoup(markup, "html.parser")
    if soup.main is None:
        return []
    title = _title(soup.h1.get_text(" ")) if soup.h1 else ""
    for part in soup.main.select(f"{NOT_SEARCHED}, h1"):
        part.decompose()
    _punctuate(soup.main)
    return [
        {
            "objectID": f"{href}{anchor}", "href": f"{href}{anchor}", "title": title, "section": _title(section),
            "text": escape(text[:LONGEST], quote=False), "crumbs": [],
        }
        for anchor, section, text in _sections(soup.main)
        if text
    ]  # fmt: skip


def _punctuate(main: Any) -> None:
    """Put between cells what a reader sees as lines: a colon after a name, a semicolon after what it names."""
    for name in main.select("th[scope=row], dt"):
        name.append(":")
    for end in main.select("tr, dd"):
        end.append(";")
    for place in main.select("wbr"):
        place.decompose()
    main.smooth()  # what stood before such a place and behind it is one word


def _sections(main: Any) -> Iterator[tuple[str, str, str]]:
    """Yield the anchor, heading and words of each part of a page."""
    from bs4.element import NavigableString

    words: list[str] = []
    anchor = section = ""
    for node in main.descendants:
        if node.name == "h2":
            yield anchor, section, _tidy(words)
            found = node.get("id") or (node.parent.get("id") if node.parent.name == "section" else None)
            anchor, section, words = f"#{found}" if found else "", node.get_text(" "), []
        elif type(node) is NavigableString and node.find_parent("h2") is None:  # a comment is another type
            words.append(node)
    yield anchor, section, _tidy(words)


def _tidy(words: Iterable[str]) -> str:
    """Join the words of a page as they are read: no space before a comma, no semicolon after another."""
    text = re.sub(r" +(?=[,.;:)])", "", re.sub(r"\s+", " ", " ".join(words)))
    return re.sub(r"(?<=[.!?;:]);+", "", text).strip(" ;")


def _title(text: str) -> str:
    """Return text on one line, with signs that look much the same for those of tags: Quarto shows it as HTML."""
    return " ".join(visible(text).split()).translate(LOOK_ALIKES)


def write_index(site: Path, pages: Iterable[str]) -> None:
    """Write the index of a site's pages, as JSON and as the script that `reports/header.html` loads in its place."""
    with (
        (site / SEARCH).open("w", encoding="utf-8") as plain,
        (site / SEARCH_SCRIPT).open("w", encoding="utf-8") as script,
    ):
        script.write(f'leptonFetched["{SEARCH}"]("')
        for text in _pieces(site, pages):
            plain.write(text)
            script.write(json.dumps(text, ensure_ascii=False)[1:-1])
        script.write('");\n')


def _pieces(site: Path, pages: Iterable[str]) -> Iterator[str]:
    """Yield the JSON text of the whole index, an entry at a time."""
    start = "["
    for page in pages:
        with _entries(site / page).open(encoding="utf-8") as lines:
            for line in lines:
                yield start + line.rstrip("\n")
                start = ",\n"
    yield "[]\n" if start == "[" else "]\n"


def _entries(page: Path) -> Path:
    return page.with_suffix(".jsonl")
