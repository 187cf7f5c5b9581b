"""Turns the cells of an executed notebook into safe HTML: words, code, figures, and what was printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import yaml

from lepton_kit.errors import InputError
from lepton_kit.notebook import was_not_run
from lepton_kit.reports.charts import CLOSER, SCRIPT_HTML, chart_html
from lepton_kit.reports.clean import Draft, Links
from lepton_kit.reports.markup import as_text
from lepton_kit.reports.maths import highlighted
from lepton_kit.reports.outputs import draft_of, not_shown, output_html, picture_of, words_html
from lepton_kit.reports.pictures import Picture, png_of, svg_of
from lepton_kit.reports.terminal import left_out_note, shortened
from lepton_kit.runs.notebooks import title_of

LABEL = re.compile(r"(fig|tbl)-[\w-]+")
ERROR_MARKERS = "papermill-error-cell-tag"  # papermill tags so the two cells by which it points at an error


def story_html(
    notebook: Any, published: Collection[str] = (), beside: Callable[[str], bytes] = lambda path: b""
) -> str:
    """Return what a notebook's page shows between its facts and its provenance, as safe HTML.

    The first heading is left to the page's title; links to notebooks lead to their newest run among those published.
    `beside` reads a file by its path from the notebook.

    Raises InputError when the `#|` lines of a cell are not YAML.
    """
    pages = {run_id.partition("-")[2].rpartition("-")[0]: run_id for run_id in sorted(published)}
    links = Links(pages, beside)
    words = _words_of(notebook, links)  # all of them first: a link may lead to a heading further down
    language = str(notebook.metadata.get("kernelspec", {}).get("language", "python"))
    parts: list[str] = []
    codes: list[str] = []  # code that showed nothing yet is joined with the code below: one fold is better than three
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and cell.source.strip():
            options, code = split_options(cell.source, index)
            codes += [code.strip()] if options.get("echo", True) and code.strip() else []
            if shown := _shown(cell, options, links):
                parts += [_fold(codes, language) + shown]
                codes = []
        elif index in words:
            parts += [_fold(codes, language), _words_html(words[index])]
            codes = []
    shown = "\n".join(filter(None, [*parts, _fold(codes, language)]))
    return shown + SCRIPT_HTML * (CLOSER in shown)


def figure_html(address: str, caption: str, alt: str, name: str = "", chart: str = "") -> str:
    """Return a figure as HTML, by the address that holds it, its caption (HTML), its words, and its id on the page.

    `chart` is the button by which a reader looks closer, as HTML.
    """
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    named = f' id="{as_text(name)}"' if name else ""
    return f'<figure{named}><img src="{address}" alt="{as_text(alt)}">{chart}{below}</figure>'


def first_figure(notebook: Any) -> Picture | None:
    """Return the first figure of a notebook that is there as PNG."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if content := png_of(output.get("data", {})):
                options, _ = split_options(cell.source, index)
                alt = _nth(options, "fig-alt", 0) or _nth(options, "fig-cap", 0)
                return Picture(content, alt, svg_of(output.data))
    return None


def split_options(source: str, index: int) -> tuple[dict[str, Any], str]:
    r"""Split a cell's `#|` lines, read as YAML, from its code.

    Examples
    --------
    >>> split_options("#| fig-alt: two bars\nplot()", 0)
    ({'fig-alt': 'two bars'}, 'plot()')
    """
    lines = source.splitlines(keepends=True)
    options = [line for line in lines if line.startswith("#|")]
    code = "".join(line for line in lines if not line.startswith("#|"))
    try:
        found = yaml.safe_load("".join(line.removeprefix("#|").removeprefix(" ") for line in options)) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"cell {index}: its `#|` lines are not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"cell {index}: its `#|` lines must read `#| name: value`, got {options[0].strip()[:200]!r}")
    return found, code


def _words_of(notebook: Any, links: Links) -> dict[int, Draft]:
    """Return the words of each cell, without the title of all; raw cells are not for this page at all."""
    drafts = {
        index: draft_of(cell.source, links, cell.get("attachments", {}))
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown" and ERROR_MARKERS not in cell.metadata.get("tags", [])
    }
    if title_of(notebook, ""):  # which stands on top of the page
        any(draft.take_title() for draft in drafts.values())
    for draft in drafts.values():
        draft.give_anchors()
    return drafts


def _words_html(draft: Draft) -> str:
    kinds, shown = draft.left_out(), draft.html()
    return (f'<section class="words">{shown}</section>' if shown.strip() else "") + (not_shown(kinds) if kinds else "")


def _shown(cell: Any, options: dict[str, Any], links: Links) -> str:
    """Return what a cell showed, and a note where it did not run; a caption and a label belong to its figures."""
    shown, figures = "", 0
    for output in cell.outputs:
        if address := picture_of(output):
            caption, alt = _nth(options, "fig-cap", figures), _nth(options, "fig-alt", figures)
            label = str(options.get("label", "")) if figures == 0 else ""
            label = label if LABEL.fullmatch(label) else ""
            below = words_html(caption, links).strip().removeprefix("<p>").removesuffix("</p>")
            shown += figure_html(address, below, alt or caption, label, chart_html(output.get("data", {})))
            figures += 1
        else:
            shown += output_html(output, links)
    return (f'<div class="cell-output">{shown}</div>' if shown else "") + _not_run(cell)


def _nth(options: dict[str, Any], name: str, number: int) -> str:
    """Return an option of a figure, which Quarto takes as one text or as a list of them."""
    given = options.get(name, "")
    given = given[min(number, len(given) - 1)] if isinstance(given, list) and given else given
    return given if isinstance(given, str) else ""


def _fold(codes: list[str], language: str) -> str:
    if not codes:
        return ""
    head, left_out, tail = shortened("\n\n\n".join(codes))
    parts = [highlighted(part, language) for part in (head, tail) if part]
    shown = (left_out_note(left_out) if left_out else "").join(parts)
    return f'<details class="code"><summary>Code</summary>{shown}</details>'


def _not_run(cell: Any) -> str:
    """Return a note below a cell that did not run, or did not run to its end."""
    if was_not_run(cell):
        return ""  # its output says why
    state = cell.metadata.get("papermill", {}).get("status")
    if state in ("failed", "interrupted"):
        words = "stopped" if state == "failed" else "was stopped"
        return f'<p class="cell-note failed" id="stopped-here">The run {words} in this cell.</p>'
    if state in ("not run", "pending") or cell.execution_count is None:
        return '<p class="cell-note">This cell was not run.</p>'
    return ""
