"""The places of a page that hold its listings: marked when it is rendered, filled whenever something is published.

A `.qmd` page says in its front matter what it lists, as Quarto has it, so that `quarto preview` works in the project.
In the site the kit fills the listings in by itself: Quarto takes seconds for a thousand items, and would have to read
them all anew for each page that is added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.reports.listings import NOTHING, PLACE, split_page
from lepton_kit.reports.markup import SCROLL, as_text
from lepton_kit.reports.story import RAW_END, RAW_START

MARKED = re.compile(r"<!--place:([\w-]+)-->.*?<!--/place-->", re.DOTALL)
SCRIPT = Path(__file__).parent / "plain" / "listing.js"


def leave_places(source: Path) -> None:
    """Leave marks where a page to render has its listings."""
    matter, words = split_page(source)
    matter.pop("listing", None)
    marked = PLACE.sub(lambda found: f"{RAW_START}{mark(found[1])}{RAW_END}", words)
    matter_text = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    source.write_text(f"---\n{matter_text}---\n{marked}", encoding="utf-8")


def mark(name: str, content: str = "") -> str:
    """Return a place with what it holds.

    >>> mark("runs")
    '<!--place:runs--><!--/place-->'
    """
    return f"<!--place:{name}-->{content}<!--/place-->"


def fill(page: Path, contents: Mapping[str, str]) -> None:
    """Put these contents into the places of a rendered page, in place of those of before.

    Raises InputError when the page has a place for what there is not.
    """
    markup = page.read_text(encoding="utf-8")
    if missing := {found[1] for found in MARKED.finditer(markup)} - contents.keys():
        raise InputError(f"{page.name}: has a place {sorted(missing)[0]!r}; allowed are {', '.join(sorted(contents))}")
    write_atomically(page, MARKED.sub(lambda found: mark(found[1], contents[found[1]]), markup))


def contents_of(source: Path) -> dict[str, str]:
    """Return the content of each place of a `.qmd` page, as HTML: its listings, of files in `listings/`."""
    matter, _ = split_page(source)
    found, is_first = {}, True
    for listing in matter.get("listing", []):
        items = json.loads((source.parent / listing["contents"]).read_text(encoding="utf-8"))
        found[listing["id"]] = listing_html(listing, items) + (_script() if items and is_first else "")
        is_first = is_first and not items
    return found


def listing_html(listing: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """Return a listing, as Quarto declares it: a table of its fields, or a list of what stands for each page.

    The text of items is HTML already.
    """
    if not items:
        return f"<p>{NOTHING}</p>"
    if listing["type"] == "table":
        return _table(listing, items)
    return f'<ul class="cards">{"".join(map(_card, items))}</ul>'


def _table(listing: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """Return a table, of which a script makes one that is filtered, sorted and shown page by page."""
    fields, names = listing["fields"], listing.get("field-display-names", {})
    head = "".join(f'<th scope="col">{as_text(names.get(field, field.capitalize()))}</th>' for field in fields)
    rows = "".join(f"<tr>{_cells(item, fields)}</tr>\n" for item in items)
    asked = {"filter": "filter-ui", "sort": "sort-ui", "page": "page-size"}
    options = "".join(f' data-{name}="{listing[key]}"' for name, key in asked.items() if listing.get(key))
    table = f'<table class="files listing"{options}><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>'
    return SCROLL.format(table)


def _cells(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    return "".join(f'<td class="field-{field}">{_field(item, field)}</td>' for field in fields)


def _field(item: Mapping[str, Any], field: str) -> str:
    match field:
        case "image":
            return _picture(item)
        case "title":
            return f'<a href="{item["path"]}">{item["title"]}</a>'
        case "categories":
            return _categories(item)
        case _:
            return str(item.get(field, ""))


def _card(item: Mapping[str, Any]) -> str:
    return (
        f'<li><div><p class="quiet">{item["date"]}</p><p class="title"><a href="{item["path"]}">{item["title"]}</a></p>'
        f"<p>{item['description']}</p>{_categories(item)}</div>{_picture(item)}</li>\n"
    )


def _categories(item: Mapping[str, Any]) -> str:
    return " ".join(f'<span class="category">{name}</span>' for name in item.get("categories", []))


def _picture(item: Mapping[str, Any]) -> str:
    if "image" not in item:
        return ""
    return f'<div class="thumbnail"><img src="{item["image"]}" alt="{as_text(item["image-alt"])}" loading="lazy"></div>'


def _script() -> str:
    return f"<script>\n{SCRIPT.read_text(encoding='utf-8')}</script>"
