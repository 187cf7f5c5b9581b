"""Makes what a run says safe to show: values as text that never becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from lepton_kit.reports.values import cell

NOT_TO_SHOW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Control characters, and what is no character at all."""


def as_text(value: Any) -> str:
    """Return a value as HTML that shows it, also within the quotes of an attribute.

    Examples
    --------
    >>> as_text("a < b")
    'a &lt; b'
    """
    return escape(visible(str(value)))


def as_line(text: str) -> str:
    """Return text as HTML on one line."""
    return " ".join(as_text(text).split())


def visible(text: str) -> str:
    r"""Return text without characters that are nothing to see, and that files of text may not hold.

    >>> visible("a\x00b\tc\x1b[1m")
    'ab\tc[1m'
    """
    return NOT_TO_SHOW.sub("", text)


def table(rows: list[list[str]], head: list[str], kind: str) -> str:
    """Return an HTML table of cells that are HTML already; each knows its column, whose head a phone does not show."""
    top = "".join(f'<th scope="col">{name}</th>' for name in head)
    cells = (
        "".join(f'<td data-label="{name}">{one}</td>' for name, one in zip(head, row, strict=True)) for row in rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return SCROLL.format(f'<table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>')


def data_table(head: Sequence[str], rows: Sequence[Sequence[Any]], is_words: Sequence[bool]) -> str:
    """Return a table of recorded values; columns of words stand to the left, numbers to the right."""

    def row(cells: Iterable[str], tag: str) -> str:
        sides = [' class="words"' if words else "" for words in is_words]
        return "".join(f"<{tag}{side}>{as_text(text)}</{tag}>" for side, text in zip(sides, cells, strict=True))

    body = "".join(f"<tr>{row(map(cell, values), 'td')}</tr>" for values in rows)
    top = f"<thead><tr>{row(map(str, head), 'th')}</tr></thead>"
    return SCROLL.format(f'<table class="data">{top}<tbody>{body}</tbody></table>')


# A table that is too wide scrolls by itself, also for those who have no mouse.
SCROLL = '<div class="scroll" role="region" aria-label="Table" tabindex="0">{}</div>'
