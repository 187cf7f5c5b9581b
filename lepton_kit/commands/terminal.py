"""What commands print with."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PIPED_WIDTH = 200
WIDE = 120
"""Columns from which on a list shows what a terminal of 80 has no room for."""


def new_console(*, stderr: bool = False, record: bool = False) -> Console:
    """Return a console for standard output (or errors) as it is now; one that records can be exported as a page.

    What is piped is not folded, unless `COLUMNS` says where.
    """
    stream = sys.stderr if stderr else sys.stdout
    given = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() or given.isdecimal() else PIPED_WIDTH
    return Console(stderr=stderr, width=width, record=record)


def say(line: str, *, stderr: bool = False) -> None:
    """Print a line as it is: nothing in it is markup, and it is not folded."""
    new_console(stderr=stderr).print(line, markup=False, highlight=False, soft_wrap=True)


def table(*headings: str) -> Table:
    """Return an empty table with headings; what is put into it is markup."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold", no_wrap=heading in ("run", "notebook", "parameter"))
    return made


def print_pairs(heading: str, pairs: Mapping[str, object]) -> None:
    """Print named facts, if there are any."""
    if pairs:
        made = Table(box=None, show_header=False, padding=(0, 2), title=escape(heading), title_justify="left")
        for name, value in pairs.items():
            made.add_row(escape(name), escape(str(value)))
        new_console().print(made)


def print_lines(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with one line for each row: its last column gives way where the terminal is too narrow.

    Examples
    --------
    >>> print_lines(Console(width=24), ["id", "what it says"], [["97af85", "a sentence that is long"]])
    id      what it says
    97af85  a sentence that…
    """
    lines = [[" ".join(text.split()) for text in row] for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        text = "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        shown = text if len(text) <= console.width else text[: console.width - 1] + "…"
        console.print(shown, style="bold" if number == 0 else "", markup=False, highlight=False, soft_wrap=True)
