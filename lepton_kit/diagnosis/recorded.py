"""What a run recorded of a diagnosis, read back. Light to import: `lepton watch` needs it for its pages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def rows_of(table: Any) -> list[dict[str, Any]]:
    """Return the rows of a table that a run recorded; none where it is no table."""
    if not isinstance(table, dict) or table.keys() != {"columns", "rows"}:
        return []
    return [dict(zip(table["columns"], values, strict=True)) for values in table["rows"]]


def path_words(path: Any) -> str:
    """Return a recorded path from the cause to the objective in one line; empty of none.

    Times are in UTC, with their date where the steps span more than one day.

    >>> columns = ["step", "what", "onset", "check", "finding"]
    >>> path_words({"columns": columns, "rows": [["cause", "data", "2026-11-25T05:00:00+02:00", "contract", "broken"]]})
    'data (contract: broken, 03:00:00 UTC)'
    """
    rows = rows_of(path)
    times = [_utc(datetime.fromisoformat(row["onset"])) for row in rows]
    form = "%H:%M:%S" if len({time.date() for time in times}) <= 1 else "%Y-%m-%d %H:%M:%S"
    told = [
        f"{row['what']} ({row['check'].replace('_', ' ')}: {row['finding']}, {time:{form}} UTC)"
        for row, time in zip(rows, times, strict=True)
    ]
    return " → ".join(told)


def _utc(time: datetime) -> datetime:
    """Return a time in UTC; one without a zone is in UTC already."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
