"""What a run recorded of a diagnosis, read back. Light to import: `lepton watch` needs it for its pages."""

from __future__ import annotations

from datetime import datetime
from typing import Any


def rows_of(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table that a run recorded; none where it is no table."""
    if not isinstance(table, dict) or table.keys() != {"columns", "rows"}:
        return []
    return [dict(zip(table["columns"], values, strict=True)) for values in table["rows"]]


def path_words(path: Any) -> str:
    """Return a recorded path from the cause to the objective in one line; empty of none.

    >>> columns = ["step", "what", "onset", "check", "finding"]
    >>> path_words({"columns": columns, "rows": [["cause", "data", "2026-11-25T03:00:00Z", "contract", "broken"]]})
    'data (contract: broken, 03:00:00 UTC)'
    """
    told = [
        f"{row['what']} ({row['check']}: {row['finding']}, {datetime.fromisoformat(row['onset']):%H:%M:%S} UTC)"
        for row in rows_of(path)
    ]
    return " → ".join(told).replace("_", " ")
