"""What commands print with."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table


def new_console() -> Console:
    """Return a console for standard output as it is now; what is piped shall not be folded at 80 columns."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def table(*headings: str) -> Table:
    """Return an empty table with headings."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold", no_wrap=heading in ("run", "notebook", "parameter"))
    return made
