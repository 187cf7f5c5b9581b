"""The frame of the site: what surrounds every page, and the places in it that are filled with what pages show.

Quarto, or without it the kit's own template, renders the pages of words (`*.qmd`) and one page of nothing. What the
others show is put into the places of that one. So a page costs the same however many there are, and nothing that
somebody wrote in a notebook reaches a renderer.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Template

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.reports import quarto
from lepton_kit.reports.cards import KINDS, Card
from lepton_kit.reports.markup import PLAIN, as_line
from lepton_kit.reports.maths import markdown_as_html
from lepton_kit.reports.search import SEARCH, write_entries

NOTE = f"Quarto was not found, so these are plain pages. For the full site, {quarto.ADVICE}."
TEMPLATES = "frame"
"""The folder of a site that holds its pages with their places."""
NOT_OF_THE_FRAME = {"_site", "screenshots", "listings", *KINDS}
FILLED = re.compile(r"<!--⟦([\w-]+)⟧-->|⟦([\w-]+)⟧")
LISTED = re.compile(r"(?m)^::: \{#([\w-]+)\}\n:::$")
"""Where a page of words shows the listing of an id, as Quarto has it, or the part of a name."""
HEADING = re.compile(r'<h([23])(?=[^>]* class="anchored")[^>]* id="([^"]+)"[^>]*>(.*?)</h\1>', re.DOTALL)
OF_NOTHING = """---
title: "⟦title⟧"
description: "⟦description⟧"
date: "2001-02-03"
categories: ["⟦category⟧"]
---

## Page {#lepton-page}
"""
"""The page of nothing as Quarto is given it."""
QUARTOS = {
    r'<section id="lepton-page".*?</section>': "<!--⟦body⟧-->",
    r'<div class="quarto-category">⟦category⟧</div>': "<!--⟦categories⟧-->",
    r'<li><a href="#lepton-page".*?</li>': "<!--⟦contents⟧-->",
    r'(?<=<p class="date">).*?(?=</p>)': "⟦date⟧",
}
"""What Quarto makes of that page, and the places that come there."""


def frame_of(reports: Path) -> list[Path]:
    """Return what every page is made with in the Quarto project."""
    return [path for path in sorted(reports.iterdir()) if path.name not in NOT_OF_THE_FRAME and path.name[0] != "."]


def make_frame(
    reports: Path, site: Path, found: quarto.Quarto | None, scratch: Path, tell: Callable[[str], None]
) -> None:
    """Make the frame of a new site, telling each line that the renderer writes.

    Raises InputError when a page of words cannot be read. Raises LeptonError when Quarto fails.
    """
    (site / TEMPLATES).mkdir(parents=True)
    made = _by_quarto(reports, site, found, scratch, tell) if found else _plainly(reports, tell)
    for name, markup in made:
        _template(site, name).write_text(markup, encoding="utf-8")
        write_entries(site / f"{name}.html", f"{name}.html", markup)


def fill(site: Path, name: str, contents: Mapping[str, str]) -> str:
    """Return a page of the frame with these contents, HTML by the name of its place.

    Raises InputError when the page has a place for what there is not.
    """
    markup = _template(site, name).read_text(encoding="utf-8")
    if missing := {one or other for one, other in FILLED.findall(markup)} - contents.keys():
        raise InputError(f"{name}.html: has a place {sorted(missing)[0]!r}; allowed are {', '.join(sorted(contents))}")
    return FILLED.sub(lambda found: contents[found[1] or found[2]], markup)


def page_html(site: Path, card: Card, body: str) -> str:
    """Return a whole page by its card, and what it shows as safe HTML."""
    categories = "".join(f'<div class="quarto-category">{as_line(name)}</div>' for name in card.categories)
    shown = {"title": as_line(card.title), "description": as_line(card.description), "date": card.date[:16]}
    return fill(site, PAGE, {**shown, "categories": categories, "contents": _contents(body), "body": body})


def split_page(source: Path) -> tuple[dict[str, Any], str]:
    """Split a `.qmd` page into its front matter and its words.

    Raises InputError when it does not begin with front matter.
    """
    parts = source.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise InputError(f"{source}: must start with YAML front matter between two lines `---`")
    return yaml.safe_load(parts[1]), parts[2]


PAGE = ".page"  # no page of words is called so


def _template(site: Path, name: str) -> Path:
    return site / TEMPLATES / f"{name}.template"


def _contents(body: str) -> str:
    """Return the headings of a page as Quarto lists them in its margin."""
    groups: list[list[str]] = []
    for level, id, words in HEADING.findall(body):
        shown = re.sub(r"<[^>]+>", "", words)
        link = f'<a href="#{id}" id="toc-{id}" class="nav-link" data-scroll-target="#{id}">{shown}</a>'
        if level == "2" or not groups:
            groups.append([link])
        else:
            groups[-1].append(f"<li>{link}</li>")
    lists = ((first, f'<ul class="collapse">{"".join(others)}</ul>' if others else "") for first, *others in groups)
    return "".join(f"<li>{first}{below}</li>" for first, below in lists)


def _by_quarto(
    reports: Path, site: Path, found: quarto.Quarto, scratch: Path, tell: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    source, made, of_nothing = scratch / "source", scratch / "made", f"runs/{TEMPLATES}/index"
    (source / of_nothing).parent.mkdir(parents=True)
    (source / f"{of_nothing}.qmd").write_text(OF_NOTHING, encoding="utf-8")
    for path in frame_of(reports):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, source / path.name)
    pages = sorted(source.glob("*.qmd"))
    for page in pages:
        matter, words = split_page(page)
        matter.pop("listing", None)
        marked = LISTED.sub("```{=html}\n<!--⟦\\1⟧-->\n```", words)
        page.write_text(f"---\n{yaml.safe_dump(matter, allow_unicode=True)}---\n{marked}", encoding="utf-8")
    settings = yaml.safe_load((source / "_quarto.yml").read_text(encoding="utf-8"))
    settings.setdefault("project", {})["render"] = ["*.qmd", f"{of_nothing}.qmd"]
    (source / "_quarto.yml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    quarto.render(found, source, made, tell)
    quarto.let_work_from_a_folder(made)
    yield PAGE, _with_places((made / f"{of_nothing}.html").read_text(encoding="utf-8"), found)
    for page in pages:
        yield page.stem, (made / f"{page.stem}.html").read_text(encoding="utf-8")
    for path in made.iterdir():  # style sheets and scripts; without a home page, Quarto makes one that leads elsewhere
        if path.name not in (*KINDS, SEARCH, "sitemap.xml") and path.suffix != ".html":  # which knows no page but these
            path.rename(site / path.name)


def _with_places(markup: str, found: quarto.Quarto) -> str:
    for pattern, place in QUARTOS.items():
        markup = re.sub(pattern, place, markup, flags=re.DOTALL)
    if "⟦body⟧" not in markup or re.search("⟦category⟧|lepton-page|2001", markup):
        raise LeptonError(f"Quarto {found.version} makes pages in a way that is not known: set {quarto.VARIABLE}=none")
    return markup


def _plainly(reports: Path, tell: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    website = yaml.safe_load((reports / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    header = reports / "header.html"  # of which a project's own Quarto project may do without
    *styles, script, template = [
        path.read_text(encoding="utf-8")
        for path in (PLAIN / "style.css", reports / "lepton.css", PLAIN / "search.js", PLAIN / "index.html.j2")
    ]
    page = Template(template)
    page.globals |= {
        "site": website["title"],
        "navigation": [(item["text"], item["href"].replace(".qmd", ".html")) for item in website["navbar"]["left"]],
        "styles": styles, "script": script, "note": NOTE,
        "header": header.read_text(encoding="utf-8") if header.is_file() else "",
    }  # fmt: skip
    of_nothing = {"title": "⟦title⟧", "description": "⟦description⟧", "parts": ["<!--⟦body⟧-->"]}
    yield PAGE, page.render(of_nothing, root="../../")
    for source in sorted(reports.glob("*.qmd")):
        tell(source.name)
        matter, words = split_page(source)
        yield source.stem, page.render(title=matter["title"], root="", parts=_parts(words))


def _parts(words: str) -> Iterator[str]:
    """Yield the words of a page, and its places between them."""
    for number, part in enumerate(LISTED.split(words)):
        if number % 2:
            yield f"<!--⟦{part}⟧-->"
        elif part.strip():
            yield f'<section class="words">{markdown_as_html(part)}</section>'
