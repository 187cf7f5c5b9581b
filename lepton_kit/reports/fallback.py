"""Renders the report site without Quarto: nbconvert makes each page, complete in one file."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat.v4 import new_markdown_cell, new_notebook

from lepton_kit.files import write_atomically
from lepton_kit.reports.cards import PAGE, Card
from lepton_kit.reports.listings import split_page
from lepton_kit.reports.markup import as_text
from lepton_kit.reports.maths import markdown_as_html
from lepton_kit.reports.quarto import ADVICE
from lepton_kit.reports.story import RAW_END, RAW_START, html_cell, html_of, split_options

NOTE = f"Quarto was not found, so these are plain pages made by nbconvert. For the full site, {ADVICE}."
TEMPLATE = Path(__file__).parent / "plain"
BLOCK = re.compile(f"({re.escape(RAW_START)}.*?{re.escape(RAW_END)})", re.DOTALL)


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


def render(reports: Path, target: Path, cards: Sequence[Card], on_line: Callable[[str], None]) -> None:
    """Render the arranged Quarto project in `reports` into `target` with nbconvert alone.

    Parameters
    ----------
    reports
        A folder with `_quarto.yml`, `*.qmd` pages of words with places for listings, and the cards' pages.
    target
        The new site's folder.
    cards
        The pages to render beside those of words.
    on_line
        Called with the name of each page.
    """
    frame = _frame(reports)
    exporter = _exporter()
    for source in sorted(reports.glob("*.qmd")):
        on_line(source.name)
        matter, words = split_page(source)
        page = new_notebook(cells=list(_cells(words)))
        _write(exporter, page, frame, target / f"{source.stem}.html", root="", title=matter["title"])
    for card in cards:
        on_line(f"{card.folder}/{PAGE}")
        page = nbformat.read(reports / card.folder / PAGE, as_version=4)
        _write(
            exporter, page, frame, target / card.folder / "index.html", root="../../", title=as_text(card.title),
            description=as_text(card.description) if card.kind == "runs" else "",  # an incident's page begins with it
        )  # fmt: skip


def _frame(reports: Path) -> Frame:
    website = yaml.safe_load((reports / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    links = [(item["text"], item["href"].replace(".qmd", ".html")) for item in website["navbar"]["left"]]
    styles = [TEMPLATE / "style.css", reports / "lepton.css"]
    texts = [path.read_text(encoding="utf-8") for path in [*styles, TEMPLATE / "search.js"]]
    header = reports / "header.html"  # of which a project's own Quarto project may do without
    return Frame(
        website["title"], links, [_code_style(), *texts[:-1]], texts[-1],
        header.read_text(encoding="utf-8") if header.is_file() else "",
    )  # fmt: skip


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped] # the import costs what only rendering should pay

    light, dark = (
        HtmlFormatter(style=style, nobackground=True).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _exporter() -> Any:
    from nbconvert import HTMLExporter  # the import costs a second that only rendering should pay

    exporter = HTMLExporter(template_name=TEMPLATE.name, extra_template_basedirs=[str(TEMPLATE.parent)])
    exporter.register_filter("options", lambda source: split_options(source, 0)[0])
    exporter.register_filter("without_options", lambda source: split_options(source, 0)[1])
    exporter.register_filter("html_of", html_of)
    exporter.register_filter("markdown_as_html", markdown_as_html)
    exporter.register_filter("encoded", _encoded)
    return exporter


def _encoded(data: str, kind: str) -> str:
    """Return a picture as base64, which an SVG in a notebook is not yet."""
    return base64.b64encode(data.encode()).decode() if kind == "image/svg+xml" else data.replace("\n", "")


def _write(exporter: Any, page: Any, frame: Frame, path: Path, *, root: str, title: str, description: str = "") -> None:
    about = {
        "site": frame.site, "navigation": frame.navigation, "styles": frame.styles, "script": frame.script,
        "header": frame.header, "note": NOTE,
        "root": root, "title": title, "description": description,
    }  # fmt: skip
    markup, _ = exporter.from_notebook_node(page, resources={"page": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, markup)


def _cells(words: str) -> Iterator[Any]:
    """Yield the words of a page, and the blocks of HTML between them."""
    for part in BLOCK.split(words):
        if part.startswith(RAW_START):
            yield html_cell(part.removeprefix(RAW_START).removesuffix(RAW_END))
        elif part.strip():
            yield new_markdown_cell(part)
