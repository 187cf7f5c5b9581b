"""Shows an output of a cell: for each kind there is a rule, and what a page cannot show it names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lepton_kit.notebook import END, EXPECTATION, INPUT, RESULT
from lepton_kit.reports.clean import Draft, Held, Links
from lepton_kit.reports.markup import as_text, render
from lepton_kit.reports.maths import markdown_as_html
from lepton_kit.reports.pictures import address_of, as_string
from lepton_kit.reports.terminal import left_out_note, pre
from lepton_kit.reports.values import cell, in_words
from lepton_kit.runs.manifest import Result, is_table, title_of

HEAD_ROWS, TAIL_ROWS = 60, 20
"""Rows at the beginning and at the end of a long table that a page shows."""
LONGEST_HTML = 300_000
"""Characters of HTML, without its pictures, that a page shows."""
LONGEST_WORDS = 60_000
"""Characters of Markdown that a page shows as such."""
NAMES = {
    r"application/vnd\.plotly\.": "a Plotly chart",
    r"application/vnd\.vega(lite)?\.": "a Vega chart",
    r"application/vnd\.bokehjs|application/vnd\.holoviews": "a Bokeh chart",
    r"application/vnd\.jupyter\.widget": "an interactive widget",
    r"application/geo\+json": "a map (GeoJSON)",
    r"(application|text)/javascript": "a script",
    r"application/pdf": "a PDF",
    r"audio/": "sound",
    r"video/": "a video",
    r"image/": "an invalid, too large or unsupported picture",
}
"""What a page cannot show, by its kind."""
OWN_TEXT = '[class*="text-repr-fallback"], [class*="sk-text-repr"]'
"""Where the HTML of an object brings the object's text form along, as that of scikit-learn and xarray does."""


def output_html(output: Any, links: Links) -> str:
    """Return an output as safe HTML; nothing where there is nothing to read."""
    kind = output.get("output_type")
    if kind == "stream":
        return pre(as_string(output.get("text", "")))
    if kind == "error":
        trace = "\n".join(map(str, output.get("traceback") or []))
        return pre(trace or f"{output.get('ename')}: {output.get('evalue')}")
    data = output.get("data", {})
    if INPUT in data:
        return ""  # the provenance lists inputs, with their hashes
    if EXPECTATION in data:
        return _expectation_html(data[EXPECTATION], as_string(data.get("text/plain", "")))
    if END in data:
        return f'<p class="cell-note">{as_text(as_string(data.get("text/plain", "")))}</p>'
    if RESULT in data and (shown := _result_html(data[RESULT])):
        return shown
    return _data_html(data, links)


def _expectation_html(stated: Any, plain: str) -> str:
    """Return an expectation with the values that show it in words, or its plain text where it is not the kit's."""
    is_passed = isinstance(stated, Mapping) and stated.get("passed") is True
    line = plain
    if isinstance(stated, Mapping) and isinstance(stated.get("values"), Mapping) and "message" in stated:
        values = ", ".join(f"{name} = {in_words(value)}" for name, value in stated["values"].items())
        line = f"{'✓' if is_passed else '✗'} {stated['message']}" + (f" ({values})" if values else "")
    return f'<p class="expectation {"passed" if is_passed else "failed"}">{as_text(line)}</p>'


def _result_html(recorded: Any) -> str:
    """Return a result under its title, its value in words and a table as a table; nothing where it is not the kit's."""
    try:
        result = Result.model_validate({name: recorded[name] for name in Result.model_fields if name in recorded})
        title = title_of(str(recorded["name"]), result)
        if not is_table(result.value):
            return f"<p><strong>{as_text(title)}</strong> = {as_text(in_words(result.value, result.unit))}</p>"
        columns, rows = result.value["columns"], result.value["rows"]
        label = title + (f" ({result.unit})" if result.unit not in ("", "1") else "")
        is_words = [not all(isinstance(row[place], int | float) for row in rows) for place in range(len(columns))]
        return render("result.html.j2", title=label, columns=columns, rows=rows, is_words=is_words, cell=cell)
    except (ValueError, TypeError, LookupError):
        return ""


def picture_of(output: Any) -> str | None:
    """Return the picture in an output as an address that holds it, where it is one to show."""
    data = output.get("data", {})
    return address_of(data) if not {EXPECTATION, INPUT} & data.keys() else None


def draft_of(source: str, links: Links, attachments: Mapping[str, Any] | None = None) -> Draft:
    """Return Markdown as HTML that is not cleaned yet; what is too long or too deep for that as the text that it is."""
    held = Held()
    words = held.without_pictures(source)
    try:
        if len(words) > LONGEST_WORDS:
            raise RecursionError
        return Draft(markdown_as_html(words, held.keep), links, attachments, held)
    except RecursionError:
        return Draft(held.keep(pre(source)), links, {}, held)


def words_html(source: str, links: Links) -> str:
    """Return Markdown as safe HTML."""
    return draft_of(source, links).html()


def not_shown(kinds: list[str]) -> str:
    """Return the line that names what a page cannot show."""
    said = as_text(", ".join(kinds))
    return f'<p class="left-out">Not shown on this page: {said}. See <a href="notebook.ipynb">notebook.ipynb</a>.</p>\n'


def _data_html(data: Mapping[str, Any], links: Links) -> str:
    plain = as_string(data.get("text/plain", ""))
    others = [kind for kind in data if kind.startswith(("application/", "audio/", "video/", "image/", "text/java"))]
    others = [kind for kind in others if kind != "application/json"]
    if any(re.match(r"application/vnd\.jupyter\.widget", kind) for kind in others):
        return not_shown([_name_of(others[0])])
    if "text/html" in data and (shown := _html_output(as_string(data["text/html"]), plain, links, others)):
        return shown
    if "text/markdown" in data:
        return _words_output(as_string(data["text/markdown"]), links)
    if "text/latex" in data:
        return _words_output(as_string(data["text/latex"]), links)
    if others:
        is_readable = plain.strip() and not any(re.match(kind, other) for kind in NAMES for other in others)
        beside = pre(plain) if is_readable and not _is_internal(plain) else ""
        return not_shown(list(dict.fromkeys(map(_name_of, others)))) + beside
    if "application/json" in data:
        return pre(json.dumps(data["application/json"], ensure_ascii=False, indent=2))
    if plain.strip() and not (_is_internal(plain) and "text/html" in data):  # HTML that is empty shows nothing
        return pre(plain)
    unknown = [kind for kind in data if kind not in ("text/plain", "text/html") and data[kind]]
    return not_shown([f"an output of the kind {kind}" for kind in unknown]) if unknown else ""


def _html_output(markup: str, plain: str, links: Links, others: list[str]) -> str:
    """Return HTML of an output made safe, with a line of what is left out of it."""
    held = Held()
    short, note = _without_middle_rows(held.without_pictures(markup))
    if len(short) > LONGEST_HTML:
        return left_out_note(f"{len(markup):,} characters of HTML") + (pre(plain) if plain.strip() else "")
    try:
        draft = Draft(short, Links(links.pages, links.beside), {}, held)
        if draft.soup.select_one(OWN_TEXT):
            return pre(plain)
        kinds = draft.left_out()
        shown = draft.html()
    except RecursionError:
        return not_shown(["HTML that is nested too deep"])
    if not _has_content(shown) and markup.strip():
        kinds = kinds or list(dict.fromkeys(map(_name_of, others)))
        if not kinds and plain.strip() and not _is_internal(plain):
            return pre(plain)
        return not_shown(kinds or ["HTML that shows nothing by itself"])
    return note + shown + (not_shown(kinds) if kinds else "")


def _words_output(source: str, links: Links) -> str:
    draft = draft_of(source, links)
    kinds = draft.left_out()
    return draft.html() + (not_shown(kinds) if kinds else "")


def _without_middle_rows(markup: str) -> tuple[str, str]:
    """Return HTML without the middle of its rows where there are very many, and the line that says so."""
    rows = [found.start() for found in re.finditer(r"<tr\b", markup, re.IGNORECASE)]
    between = len(rows) - HEAD_ROWS - TAIL_ROWS
    if between <= HEAD_ROWS:
        return markup, ""
    start, end = rows[HEAD_ROWS], rows[-TAIL_ROWS]
    gap = '<tr><td colspan="1000">…</td></tr>'
    return f"{markup[:start]}{gap}{markup[end:]}", left_out_note(f"{between:,} of {len(rows):,} rows of a table")


def _has_content(shown: str) -> bool:
    return bool(re.sub(r"<(?!img\b|hr\b)[^>]*>|\s|&nbsp;", "", shown))


def _is_internal(plain: str) -> bool:
    """Whether a text form is only the name of an object in memory, such as `<IPython.core.display.HTML object>`."""
    return re.fullmatch(r"<[\w.]+ (object|at 0x\w+).*>", plain.strip(), re.DOTALL) is not None


def _name_of(kind: str) -> str:
    found = next((name for pattern, name in NAMES.items() if re.match(pattern, kind)), None)
    return found or f"an output of the kind {kind}"
