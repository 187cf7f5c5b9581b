"""Turns the cells of an executed notebook into the cells of a page that any renderer shows safely and readably."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from lepton_kit.errors import InputError
from lepton_kit.notebook import EXPECTATION, INPUT, RESULT
from lepton_kit.reports.markup import as_text, clean_html, data_table, pre
from lepton_kit.reports.svg import clean_svg
from lepton_kit.reports.values import in_words, is_table

RAW_START, RAW_END = "```{=html}\n", "\n```"
PICTURES = ("image/svg+xml", "image/png", "image/jpeg")
LARGEST_SVG = 200_000
"""Characters of the largest SVG that a page shows; a larger one is shown as PNG where there is one, or not at all."""
ERROR_MARKERS = "papermill-error-cell-tag"  # papermill tags so the two cells by which it points at an error


def story_cells(notebook: Any, published: Collection[str] = ()) -> list[Any]:
    """Return the cells of a notebook's page, between its facts and its provenance.

    Every output is a picture or HTML that has been made safe; the first heading is left to the page's title; links to
    notebooks lead to their newest run among those published.

    Raises
    ------
    InputError
        When the `#|` lines of a cell are not YAML.
    """
    cells: list[Any] = []
    for index, cell in enumerate(_without_title(notebook.cells)):
        if cell.cell_type == "markdown" and not _is_error_marker(cell):
            cells.append(new_markdown_cell(_with_links_to_pages(_with_attachments(cell), published)))
        elif cell.cell_type == "code" and cell.source.strip():
            cells += _code_cells(cell, index)
    return _with_fewer_folds(cells)


def html_cell(markup: str) -> Any:
    """Return a cell that shows HTML and no code."""
    return new_code_cell("#| echo: false", outputs=[_html(markup)])


def html_of(output: Any) -> str:
    """Return the HTML in an output of a page, or nothing where it is a picture."""
    raw = str(output.data.get("text/markdown", ""))
    return raw.removeprefix(RAW_START).removesuffix(RAW_END)


class Picture(NamedTuple):
    """A figure of a notebook: as PNG, what it shows in words, and as SVG where that is small."""

    png: bytes
    alt: str
    svg: str | None


def first_figure(notebook: Any) -> Picture | None:
    """Return the first figure of a notebook that is there as PNG."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                options, _ = split_options(cell.source, index)
                alt = options.get("fig-alt", options.get("fig-cap", ""))
                return Picture(base64.b64decode(output.data["image/png"]), str(alt), _svg_of(output.data))
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
    except yaml.YAMLError as error:
        raise InputError(f"cell {index}: its `#|` lines are not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputError(f"cell {index}: its `#|` lines must read `#| name: value`, got {found!r}")
    return found, code


def _with_fewer_folds(cells: list[Any]) -> list[Any]:
    """Join code that showed nothing with the code right below it: to a reader one fold is better than three."""
    kept: list[Any] = []
    for cell in cells:
        if _is_plain_code(cell) and kept and _is_plain_code(kept[-1]) and not kept[-1].outputs:
            cell.source = f"{kept.pop().source.rstrip()}\n\n\n{cell.source}"
        kept.append(cell)
    return kept


def _is_plain_code(cell: Any) -> bool:
    return cell.cell_type == "code" and not cell.source.startswith("#|")


def _without_title(cells: list[Any]) -> list[Any]:
    """Return the cells with the first heading of level 1 taken away; raw cells are not for this page at all."""
    kept = [nbformat.from_dict(dict(cell)) for cell in cells if cell.cell_type != "raw"]
    for cell in kept:
        if cell.cell_type == "markdown" and (found := re.search(r"(?m)^# .*\n?", cell.source)):
            cell.source = (cell.source[: found.start()] + cell.source[found.end() :]).strip("\n")
            break
    return kept


def _with_attachments(cell: Any) -> str:
    """Return the words of a cell with the pictures that were pasted into it; for a missing one, what it shows."""
    held = cell.get("attachments", {})

    def replace(found: re.Match[str]) -> str:
        address = _address_of(held.get(found["name"], {}))
        return f"![{found['alt']}]({address})" if address else found["alt"]

    return re.sub(r"!\[(?P<alt>[^\]]*)\]\(attachment:(?P<name>[^()\s]+)\)", replace, cell.source)


def _address_of(pasted: Mapping[str, Any]) -> str | None:
    """Return a pasted picture as an address that holds it; None where it is none, or no safe one."""
    for kind in ("image/png", "image/jpeg"):
        if kind in pasted:
            return f"data:{kind};base64,{''.join(pasted[kind]).replace(chr(10), '')}"
    drawn = clean_svg("".join(pasted.get("image/svg+xml", "")))
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()}" if drawn else None


def _with_links_to_pages(words: str, published: Collection[str]) -> str:
    """Point links to notebooks at their newest page; where there is none, keep the words alone."""
    pages = {run_id.partition("-")[2].rpartition("-")[0]: run_id for run_id in sorted(published)}

    def replace(found: re.Match[str]) -> str:
        page = pages.get(PurePosixPath(found["target"]).stem)
        return f"[{found['text']}](../{page}/index.html)" if page else found["text"]

    return re.sub(r"\[(?P<text>[^\]]*)\]\((?!\w+://)(?P<target>[^()\s]+\.ipynb)\)", replace, words)


def _is_error_marker(cell: Any) -> bool:
    return ERROR_MARKERS in cell.metadata.get("tags", [])


def _code_cells(cell: Any, index: int) -> list[Any]:
    """Return a code cell; other outputs than a figure's, and a note where it did not run, get cells of their own.

    A caption and a label belong to a cell's one figure: with other outputs beside it, Quarto would call each of them a
    part of the figure.
    """
    outputs = [safe for output in cell.outputs if (safe := _safe_output(output)) is not None]
    pictures = [output for output in outputs if any(kind in output.data for kind in PICTURES)]
    others = [output for output in outputs if output not in pictures]
    options, code = split_options(cell.source, index)
    made = [*_code(code, others, shown=options.get("echo", True)), *_figure(options, pictures)]
    return made + _not_run(cell)


def _code(code: str, outputs: list[Any], shown: bool) -> list[Any]:
    if not shown:
        return [new_code_cell("#| echo: false", outputs=outputs)] if outputs else []
    if "{{<" in code:  # Quarto would follow an include even here, before it knows what is code
        folded = f'<details class="code"><summary>Code</summary>{pre(code)}</details>'
        return [html_cell(folded), *_code("", outputs, shown=False)]
    return [new_code_cell(code, outputs=outputs)]


def _figure(options: dict[str, Any], pictures: list[Any]) -> list[Any]:
    if not pictures:
        return []
    lines = yaml.safe_dump(options | {"echo": False}, sort_keys=False, allow_unicode=True, width=10_000).splitlines()
    return [new_code_cell("".join(f"#| {line}\n" for line in lines), outputs=pictures)]


def _not_run(cell: Any) -> list[Any]:
    """Return a note below a cell that did not run, or did not run to its end."""
    state = cell.metadata.get("papermill", {}).get("status")
    if state in ("failed", "interrupted"):
        words = "stopped" if state == "failed" else "was stopped"
        return [html_cell(f'<p class="cell-note failed" id="stopped-here">The run {words} in this cell.</p>')]
    if state in ("not run", "pending") or cell.execution_count is None:
        return [html_cell('<p class="cell-note">This cell was not run.</p>')]
    return []


def _safe_output(output: Any) -> Any | None:
    """Return an output as a picture or as safe HTML, or None when it is nothing to read."""
    if output.output_type == "stream":
        return _html(pre(output.text))
    if output.output_type == "error":
        return _html(pre("\n".join(output.traceback) or f"{output.ename}: {output.evalue}"))
    if svg := _svg_of(output.data):
        return new_output("display_data", data={"image/svg+xml": svg})
    for kind in ("image/png", "image/jpeg"):
        if kind in output.data:
            return new_output("display_data", data={kind: output.data[kind]})
    return _safe_data(output.data)


def _svg_of(data: Any) -> str | None:
    """Return a picture as an SVG that is safe to show, where it is there and small."""
    drawn = data.get("image/svg+xml", "")
    if not 0 < len(drawn) <= LARGEST_SVG:
        return None
    return clean_svg(drawn, base64.b64decode(data["image/png"]) if "image/png" in data else None)


def _safe_data(data: Any) -> Any | None:
    if INPUT in data:
        return None  # the provenance lists inputs, with their hashes
    if EXPECTATION in data:
        return _html(_expectation_html(data[EXPECTATION]))
    if RESULT in data:
        return _html(_result_html(data[RESULT]))
    if "text/html" in data:
        return _html(clean_html(data["text/html"]))
    if "text/markdown" in data:
        from nbconvert.filters import markdown2html

        return _html(clean_html(markdown2html(data["text/markdown"])))
    return _html(pre(data["text/plain"])) if data.get("text/plain", "").strip() else None


def _expectation_html(stated: Mapping[str, Any]) -> str:
    """Return an expectation with the values that show it, in words."""
    state, mark = ("passed", "✓") if stated["passed"] else ("failed", "✗")
    values = ", ".join(f"{name} = {in_words(value)}" for name, value in stated["values"].items())
    line = f"{mark} {stated['message']}" + (f" ({values})" if values else "")
    return f'<p class="expectation {state}">{as_text(line)}</p>'


def _result_html(recorded: Mapping[str, Any]) -> str:
    """Return a result under its title, its value in words; a table as a table."""
    title = recorded.get("title") or str(recorded["name"]).replace("_", " ")
    value, unit = recorded["value"], recorded["unit"]
    if not is_table(value):
        return f"<p><strong>{as_text(title)}</strong> = {as_text(in_words(value, unit))}</p>"
    label = title + (f" ({unit})" if unit not in ("", "1") else "")
    is_words = [not all(isinstance(row[i], int | float) for row in value["rows"]) for i in range(len(value["columns"]))]
    return f"<p><strong>{as_text(label)}</strong></p>" + data_table(value["columns"], value["rows"], is_words)


def _html(markup: str) -> Any:
    """Return HTML as an output: as `text/html`, Quarto would fetch require.js and jQuery for it from the network."""
    return new_output("display_data", data={"text/markdown": f"{RAW_START}{markup}{RAW_END}"})
