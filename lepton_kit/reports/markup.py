"""Makes what a run says safe to show: values as text that never becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from lepton_kit.reports.values import cell

LOOK_ALIKES = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "`": "'"})
NOT_TO_SHOW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters, and what is no character at all."""


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
    shown = visible(str(value))
    return re.sub(r"(?![\w .,/])[\x00-\x7f]|_", lambda found: f"&#{ord(found[0])};", shown)


def as_words(text: str) -> str:
    """Return text on one line, with signs that look much the same for those that open tags, shortcodes and blocks.

    Quarto turns character references in a page's front matter back into characters and reads the outcome again.

    Examples
    --------
    >>> as_words("mean < {{3}}")
    'mean ‹ ((3))'
    """
    return re.sub(r":{3,}", ":", " ".join(visible(text).split())).translate(LOOK_ALIKES)


def visible(text: str) -> str:
    r"""Return text without characters that are nothing to see, and that files of text may not hold.

    >>> visible("a\x00b\tc\x1b[1m")
    'ab\tc[1m'
    """
    return NOT_TO_SHOW.sub("", text)


def guard(markup: str) -> str:
    """Keep finished HTML from ending the raw block that Quarto puts it in, or from starting a shortcode there.

    Examples
    --------
    >>> guard("<code>```</code>")
    '<code>&#96;&#96;&#96;</code>'
    """
    for mark in ("`", "{", ":::", "---"):
        markup = markup.replace(mark, f"&#{ord(mark[0])};{mark[1:]}")
    return visible(markup)


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
