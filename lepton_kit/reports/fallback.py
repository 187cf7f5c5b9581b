"""Renders the report site without Quarto: plain pages, each complete in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml

from lepton_kit.files import write_atomically
from lepton_kit.reports.cards import PAGE, Card
from lepton_kit.reports.listings import split_page
from lepton_kit.reports.markup import as_text
from lepton_kit.reports.maths import markdown_as_html
from lepton_kit.reports.quarto import ADVICE
from lepton_kit.reports.story import RAW_BLOCK, html_of

NOTE = f"Quarto was not found, so these are plain pages. For the full site, {ADVICE}."
TEMPLATE = Path(__file__).parent / "plain"


@dataclass(frozen=True)
class Frame:
    """What surrounds every page of a site: its name, the links on top, style sheets, the script that searches.

    `header` is what Quarto includes in the head of its pages.
    """

    site: str
    navigation: list[tuple[str, str]]
    styles: list[str]
    script: str
    header: str


def render_words(reports: Path, target: Path, on_line: Callable[[str], None]) -> None:
    """Render the pages of words (`*.qmd`) of the Quarto project in `reports` into `target`, telling each name."""
    frame = _frame(reports)
    for source in sorted(reports.glob("*.qmd")):
        on_line(source.name)
        matter, words = split_page(source)
        _write(frame, target / f"{source.stem}.html", _parts(words), title=matter["title"])


def render_page(reports: Path, folder: Path, target: Path, card: Card) -> None:
    """Render a card's page, which lies in `folder`, into the folder `target`."""
    page = nbformat.read(folder / PAGE, as_version=4)
    _write(
        _frame(reports), target / "index.html", map(html_of, page.cells[1:]), root="../../", title=as_text(card.title),
        description=as_text(card.description),
    )  # fmt: skip


def _frame(reports: Path) -> Frame:
    website = yaml.safe_load((reports / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    links = [(item["text"], item["href"].replace(".qmd", ".html")) for item in website["navbar"]["left"]]
    styles = [TEMPLATE / "style.css", reports / "lepton.css"]
    *sheets, script = [path.read_text(encoding="utf-8") for path in [*styles, TEMPLATE / "search.js"]]
    header = reports / "header.html"  # of which a project's own Quarto project may do without
    return Frame(website["title"], links, sheets, script, header.read_text("utf-8") if header.is_file() else "")


def _write(frame: Frame, path: Path, parts: Any, *, title: str, root: str = "", description: str = "") -> None:
    about = {"frame": frame, "note": NOTE, "root": root, "title": title, "description": description, "parts": parts}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _template().render(about))


@cache
def _template() -> Any:
    from jinja2 import Template  # the import costs what only rendering should pay

    return Template((TEMPLATE / "index.html.j2").read_text(encoding="utf-8"))


def _parts(words: str) -> Iterator[str]:
    """Yield the words of a page, and the blocks of HTML between them."""
    for number, part in enumerate(RAW_BLOCK.split(words)):
        if number % 2:
            yield part
        elif part.strip():
            yield f'<section class="words">{markdown_as_html(part)}</section>'
