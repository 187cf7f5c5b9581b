"""What a price table must be: `RAW` as it is read, `CLEAN` as every later step may rely on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa

from lepton_kit.errors import InputError
from subjects.prices import quality

COLUMNS = ("date", "open", "high", "low", "close", "volume", "adj_close")
REQUIRED = ("date", "close")


FINITE = pa.Check(lambda values: ~np.isinf(values), error="must be finite")
POSITIVE = pa.Check(lambda prices: prices > 0, error="must be above 0")
NOT_NEGATIVE = pa.Check(lambda volume: volume >= 0, error="must not be below 0")


def _date() -> pa.Column:
    return pa.Column("datetime64[us]", nullable=False)


def _number(name: str, *checks: pa.Check, nullable: bool) -> pa.Column:
    return pa.Column("float64", list(checks), nullable=nullable, required=name in REQUIRED)


def _outside_range(frame: pd.DataFrame, column: str) -> quality.Mask:
    return quality.find_prices_outside_range(frame.filter([column, "high", "low"]))


def _without(find: quality.Finder, error: str) -> pa.Check:
    return pa.Check(lambda frame: ~find(frame), error=error)


RAW = pa.DataFrameSchema(
    {"date": _date(), **{name: _number(name, FINITE, nullable=True) for name in quality.MEASURES}},
    strict=True,
    name="RAW",
)
"""Types and columns only; faults of content are for `quality` to report and for `cleaning` to repair."""

CLEAN = pa.DataFrameSchema(
    {
        "date": _date(),
        **{name: _number(name, FINITE, POSITIVE, nullable=False) for name in quality.PRICES},
        "volume": _number("volume", FINITE, NOT_NEGATIVE, nullable=False),
    },
    checks=[
        _without(lambda frame: frame["date"].duplicated(), "date must come once"),
        _without(quality.find_out_of_order, "date must not be earlier than the row above"),
        _without(quality.find_high_below_low, "high must not be below low"),
        _without(lambda frame: _outside_range(frame, "open"), "open must lie within low and high"),
        _without(lambda frame: _outside_range(frame, "close"), "close must lie within low and high"),
    ],
    strict=True,
    name="CLEAN",
)
"""Dates sorted and unique, prices positive, low <= open, close <= high, volume >= 0, nothing missing."""


def check_raw(frame: pd.DataFrame, origin: str = "price table") -> pd.DataFrame:
    """Return the table if it meets `RAW`.

    Raises
    ------
    InputError
        Names the column, the row (counted from 1), the value and the rule of the first violation.

    Examples
    --------
    >>> check_raw(pd.DataFrame({"date": ["today"], "close": [1.0]}))
    Traceback (most recent call last):
    lepton_kit.errors.InputError: price table: column date, row 1: value 'today' must be a date
    """
    return _validated(frame, RAW, origin)


def check_clean(frame: pd.DataFrame, origin: str = "price table") -> pd.DataFrame:
    """Return the table if it meets `CLEAN`.

    Raises
    ------
    InputError
        Names the column, the row (counted from 1), the value and the rule of the first violation.

    Examples
    --------
    >>> days = pd.to_datetime(["2024-01-02", "2024-01-03"]).astype("datetime64[us]")
    >>> check_clean(pd.DataFrame({"date": days, "close": [7.0, -7.0]}))
    Traceback (most recent call last):
    lepton_kit.errors.InputError: price table: column close, row 2: value -7.0 must be above 0
    """
    return _validated(frame, CLEAN, origin)


def _validated(frame: pd.DataFrame, schema: pa.DataFrameSchema, origin: str) -> pd.DataFrame:
    if frame.empty:
        raise InputError(f"{origin}: holds no rows; at least one day with a price is needed")
    numbered = frame.reset_index(drop=True)
    try:
        schema.validate(numbered, lazy=True)
    except pa.errors.SchemaErrors as error:
        raise InputError(f"{origin}: {_first_failure(error.failure_cases, numbered)}") from error
    return frame


def _first_failure(cases: pd.DataFrame, frame: pd.DataFrame) -> str:
    of_frame = cases["schema_context"] == "DataFrameSchema"  # a value wrong in itself says more than one beside others
    case = cases.loc[of_frame.sort_values(kind="stable").index[0]]
    rule = str(case["check"])
    if rule == "column_in_dataframe":
        return f"lacks column {case['failure_case']}; it has {', '.join(frame.columns)}"
    if rule == "column_in_schema":
        return f"column {case['failure_case']} is not one of the kit's: {', '.join(COLUMNS)}"
    column = rule.split()[0] if case["schema_context"] == "DataFrameSchema" else str(case["column"])
    row = 0 if pd.isna(case["index"]) else int(case["index"])
    return f"column {column}, row {row + 1}: value {_shown(frame[column].iloc[row])} {_requirement(rule, column)}"


def _requirement(rule: str, column: str) -> str:
    if rule == "not_nullable":
        return "must not be missing"
    if rule.startswith("dtype("):
        return "must be a date" if column == "date" else "must be a number"
    return rule.removeprefix(f"{column} ")


def _shown(value: Any) -> str:
    if pd.isna(value):
        return "(empty)"
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d}"
    return repr(value.item() if hasattr(value, "item") else value)
