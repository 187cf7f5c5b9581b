"""Tables of numbers as tables of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lepton_kit.reports.blocks import Table


def recorded_table(value: Any) -> pd.DataFrame | None:
    """Return a table that a run recorded, or None for anything else."""
    if not (isinstance(value, Mapping) and value.keys() == {"columns", "rows"}):
        return None
    return pd.DataFrame(value["rows"], columns=value["columns"])


def table_of(frame: pd.DataFrame, names: Mapping[str, str]) -> Table:
    """Return a table with its columns' names, or those given for them, without the columns that say nothing."""
    rows = [[plain_cell(value) for value in row] for row in frame.itertuples(index=False)]
    said = [place for place in range(len(frame.columns)) if any(row[place] for row in rows)]
    head = [names.get(str(name), str(name).capitalize().replace("_", " ")) for name in frame]
    return Table([head[place] for place in said], [[row[place] for place in said] for row in rows])


def with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns `x_low` and `x_high` are one: a page is not wide enough for both.

    >>> with_intervals(pd.DataFrame({"share": [0.5], "low": [0.4], "high": [0.6]})).to_dict("list")
    {'share': [0.5], 'interval': ['0.4 to 0.6']}
    """
    joined = {}
    for name in frame:
        stem = str(name).removesuffix("low")
        if str(name).endswith("low") and f"{stem}high" in frame:
            bounds = zip(frame[name].map(plain_cell), frame[f"{stem}high"].map(plain_cell), strict=True)
            joined[f"{stem}interval"] = [f"{low} to {high}" if low and high else "" for low, high in bounds]
        elif not (str(name).endswith("high") and f"{str(name).removesuffix('high')}low" in frame):
            joined[str(name)] = list(frame[name])
    return pd.DataFrame(joined)


def plain_cell(value: Any) -> str:
    """Return a value as people write it, and nothing for one that is missing.

    >>> plain_cell(0.123456), plain_cell(None), plain_cell(True), plain_cell(12)
    ('0.1235', '', 'yes', '12')
    """
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
