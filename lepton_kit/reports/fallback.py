"""Renders the report site without Quarto: nbconvert makes each page, complete in one file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat.v4 import new_markdown_cell, new_notebook

from lepton_kit.errors import InputError
from lepton_kit.files import write_atomically
from lepton_kit.reports.facts import STATUS_WORDS, utc
from lepton_kit.reports.markup import as_text, table
from lepton_kit.reports.page import FIGURE, summary
from lepton_kit.reports.quarto import ADVICE
from lepton_kit.reports.story import html_cell, html_of, split_options
from lepton_kit.runs.manifest import Manifest

NOTE = f"Quarto was not found, so these are plain pages made by nbconvert. For the full site, {ADVICE}."
TEMPLATE = Path(__file__).parent / "plain"


@dataclass(frozen=True)
class Frame:
    """What surrounds every page of a site: its name, the links on top, and the style sheets."""

    site: str
    navigation: list[tuple[str, str]]
    styles: list[str]


def render(reports: Path, target: Path, runs: list[Manifest], on_line: Callable[[str], None]) -> None:
    """Render the arranged Quarto project in `reports` into `target` with nbconvert alone.

    Parameters
    ----------
    reports
        A folder with `_quarto.yml`, `*.qmd` pages of words and one listing each, and `runs/<run id>/index.ipynb`.
    target
        The new site's folder.
    runs
        The runs that have a page.
    on_line
        Called with the name of each page.
    """
    frame = _frame(reports)
    exporter = _exporter()
    for source in sorted(reports.glob("*.qmd")):
        on_line(source.name)
        matter, words = _split_front_matter(source)
        page = new_notebook(cells=[new_markdown_cell(words), html_cell(_listing(matter, runs, reports))])
        _write(exporter, page, frame, target / f"{source.stem}.html", root="", title=matter["title"])
    for run in runs:
        source = reports / "runs" / run.run_id
        on_line(f"runs/{run.run_id}/index.ipynb")
        page = nbformat.read(source / "index.ipynb", as_version=4)
        _write(
            exporter, page, frame, target / "runs" / run.run_id / "index.html", root="../../", title=as_text(run.title),
            description=as_text(summary(run)),
        )  # fmt: skip
        if (source / FIGURE).exists():
            (target / "runs" / run.run_id / FIGURE).write_bytes((source / FIGURE).read_bytes())


def _frame(reports: Path) -> Frame:
    website = yaml.safe_load((reports / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    links = [(item["text"], item["href"].replace(".qmd", ".html")) for item in website["navbar"]["left"]]
    styles = [TEMPLATE / "style.css", reports / "lepton.css"]
    return Frame(website["title"], links, [_code_style(), *(path.read_text(encoding="utf-8") for path in styles)])


def _code_style() -> str:
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped] # the import costs what only rendering should pay

    return str(HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight"))


def _exporter() -> Any:
    from nbconvert import HTMLExporter  # the import costs a second that only rendering should pay

    exporter = HTMLExporter(
        template_name=TEMPLATE.name, extra_template_basedirs=[str(TEMPLATE.parent)], exclude_anchor_links=True
    )
    exporter.register_filter("options", lambda source: split_options(source, 0)[0])
    exporter.register_filter("without_options", lambda source: split_options(source, 0)[1])
    exporter.register_filter("html_of", html_of)
    return exporter


def _write(exporter: Any, page: Any, frame: Frame, path: Path, *, root: str, title: str, description: str = "") -> None:
    about = {
        "site": frame.site, "navigation": frame.navigation, "styles": frame.styles, "note": NOTE,
        "root": root, "title": title, "description": description,
    }  # fmt: skip
    markup, _ = exporter.from_notebook_node(page, resources={"page": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, markup)


def _split_front_matter(source: Path) -> tuple[dict[str, Any], str]:
    """Split a `.qmd` page into its metadata and its words."""
    parts = source.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        raise InputError(f"{source}: must start with YAML front matter between two lines `---`")
    return yaml.safe_load(parts[1]), parts[2]


def _listing(matter: dict[str, Any], runs: list[Manifest], reports: Path) -> str:
    contents = matter["listing"]["contents"]
    patterns = [contents] if isinstance(contents, str) else contents  # Quarto takes both
    newest_first = sorted(runs, key=lambda run: run.started, reverse=True)
    pages = {run.run_id: f"runs/{run.run_id}/index.ipynb" for run in runs}
    listed = [run for run in newest_first if any(fnmatch(pages[run.run_id], pattern) for pattern in patterns)]
    rows = [_row(run, reports) for run in listed]
    return table(rows, ["Started", "Run", "Status", ""], "files listing") if rows else "<p>No run is published yet.</p>"


def _row(run: Manifest, reports: Path) -> list[str]:
    folder = f"runs/{as_text(run.run_id)}"
    status = f'<span class="status {as_text(run.status)}">{STATUS_WORDS[run.status]}</span>'
    picture = f'<div class="thumbnail"><img src="{folder}/{FIGURE}" alt=""></div>'
    return [
        utc(run.started)[:16],
        f'<a href="{folder}/index.html">{as_text(run.title)}</a><br>{as_text(summary(run))}',
        status,
        picture if (reports / "runs" / run.run_id / FIGURE).exists() else "",
    ]
