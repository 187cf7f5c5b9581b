"""Makes what a run says safe to show: values as text that never becomes markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

PLAIN = Path(__file__).parent / "plain"
"""The folder of templates."""
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


def render(template: str, **values: Any) -> str:
    """Return what a template makes of values; text among them never becomes markup."""
    return visible(_templates().get_template(template).render(values))


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader  # the import costs what only publishing should pay

    made = Environment(loader=FileSystemLoader(PLAIN), autoescape=True)
    made.filters["rfc822"] = lambda date: format_datetime(datetime.fromisoformat(date).replace(tzinfo=UTC), usegmt=True)
    return made
