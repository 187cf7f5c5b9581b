"""Makes what a run says safe to show: values as text that never becomes markup, HTML without anything that acts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from bleach.css_sanitizer import CSSSanitizer  # type: ignore[import-untyped] # bleach ships no types
from bleach.sanitizer import Cleaner  # type: ignore[import-untyped]

from lepton_kit.reports.values import cell

TAGS = [
    "a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "details", "div", "dl", "dt",
    "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "mark", "ol", "p",
    "pre", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th",
    "thead", "tr", "u", "ul", "var",
]  # fmt: skip
ATTRIBUTES = {
    "align", "alt", "class", "colspan", "height", "open", "rowspan", "scope", "span", "style", "title", "width",
}  # fmt: skip
NUMBER = re.compile(r"([-+−±]?[\d.,]+(e[-+]?\d+)?\s?%?|[-+]?(nan|NaN|inf)|NaT|None|–|<NA>|\d{4}-\d\d-\d\d.{,15}|)")
LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "`": "'"})


def as_text(value: Any) -> str:
    """Return a value as HTML in which every character that could mean something is a character reference.

    Quarto reads pages as Markdown first, so more than HTML's own characters can mean something: a backtick could end
    the block, `{{<` start a shortcode, a line `---` start metadata.

    Examples
    --------
    >>> as_text("a < b")
    'a &#60; b'
    >>> as_text("{{< env HOME >}}")
    '&#123;&#123;&#60; env HOME &#62;&#125;&#125;'
    """
    return re.sub(r"(?![\w .,/])[\x00-\x7f]|_", lambda found: f"&#{ord(found[0])};", str(value))


def as_words(text: str) -> str:
    """Return text on one line, with signs that look much the same for those that open tags, shortcodes and blocks.

    Quarto turns character references in a page's front matter back into characters and reads the outcome again.

    Examples
    --------
    >>> as_words("mean < {{3}}")
    'mean ‹ ((3))'
    """
    return re.sub(r":{3,}", ":", " ".join(text.split())).translate(LOOK_ALIKES)


def clean_html(markup: str) -> str:
    """Return HTML without scripts, event handlers, styles that act, and anything fetched from elsewhere.

    Tables, text and embedded images stay as they are.

    Examples
    --------
    >>> clean_html("<p onclick='steal()'>3<script>steal()</script></p>")
    '<p>3</p>'
    >>> clean_html("here <img src='https://example.org/pixel.png' alt='dot'>")
    'here '
    """
    # bleach keeps the words inside a tag that it takes away; those of a script or a style sheet are nothing to read.
    words_only = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", "", markup)
    shown = _CLEANER.clean(words_only)
    shown = re.sub(r"<img(?![^>]*\ssrc=)[^>]*>", "", shown)  # of a picture from elsewhere only the tag is left
    return guard(_with_tidy_tables(shown) if "<table" in shown else shown)


def guard(markup: str) -> str:
    """Keep finished HTML from ending the raw block that Quarto puts it in, or from starting a shortcode there.

    Examples
    --------
    >>> guard("<code>```</code>")
    '<code>&#96;&#96;&#96;</code>'
    """
    for mark in ("`", "{", ":::", "---"):
        markup = markup.replace(mark, f"&#{ord(mark[0])};{mark[1:]}")
    return markup


def pre(text: str) -> str:
    """Return terminal text, colours included, as one line of HTML."""
    from nbconvert.filters import ansi2html  # the import costs what only rendering should pay

    return f'<pre class="output">{guard(ansi2html(text)).replace(chr(10), "&#10;")}</pre>'


def table(rows: list[list[str]], head: list[str], kind: str) -> str:
    """Return an HTML table of cells that are HTML already; each knows its column, whose head a phone does not show."""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    cells = (
        "".join(f'<td data-label="{name}">{one}</td>' for name, one in zip(head, row, strict=True)) for row in rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return SCROLL.format(
        f'<table {PLAIN_TABLE} class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    )


def data_table(head: Sequence[str], rows: Sequence[Sequence[Any]], is_words: Sequence[bool]) -> str:
    """Return a table of recorded values; columns of words stand to the left, numbers to the right."""

    def row(cells: Iterable[str], tag: str) -> str:
        sides = [' class="words"' if words else "" for words in is_words]
        return "".join(f"<{tag}{side}>{as_text(text)}</{tag}>" for side, text in zip(sides, cells, strict=True))

    body = "".join(f"<tr>{row(map(cell, values), 'td')}</tr>" for values in rows)
    top = f"<thead><tr>{row(map(str, head), 'th')}</tr></thead>"
    return SCROLL.format(f'<table {PLAIN_TABLE} class="data">{top}<tbody>{body}</tbody></table>')


# A table that is too wide scrolls by itself, also for those who have no mouse.
SCROLL = '<div class="scroll" role="region" aria-label="Table" tabindex="0">{}</div>'
# Quarto would otherwise read an HTML table as Markdown and write another in its place.
PLAIN_TABLE = 'data-quarto-disable-processing="true"'


def _with_tidy_tables(markup: str) -> str:
    """Mark data tables, and in them columns of words: these belong to the left, where pandas has them to the right."""
    from bs4 import BeautifulSoup  # the import costs what only rendering should pay

    soup = BeautifulSoup(markup, "html.parser")
    for found in soup.select("table"):
        found.attrs = {"class": "data", "data-quarto-disable-processing": "true"}
        rows = [row.find_all(["th", "td"], recursive=False) for row in found.select("tr")]
        body = [row for row in rows if any(cell.name == "td" for cell in row)]
        for column in range(max(map(len, body), default=0)):
            if any(len(row) > column and not NUMBER.fullmatch(row[column].text.strip()) for row in body):
                for cell in (row[column] for row in rows if len(row) > column):
                    cell["class"] = "words"
        found.wrap(
            soup.new_tag("div", attrs={"class": "scroll", "role": "region", "aria-label": "Table", "tabindex": "0"})
        )
    return str(soup)


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return tag == "a" and not value.lower().startswith("data:")
    if name == "src":
        return tag == "img" and value.startswith("data:image/")
    return name in ATTRIBUTES


_CLEANER = Cleaner(
    tags=TAGS,
    attributes=_allowed,
    protocols=["http", "https", "mailto", "data"],
    strip=True,
    css_sanitizer=CSSSanitizer(),
)
