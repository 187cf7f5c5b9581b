"""What always agrees between consecutive rows, and whether it still does.

Inputs made of a series repeat each other, and the actuals, one row later: the return of yesterday is the actual of the
row before.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

RELATED = 0.9
"""Two columns are related where the one's value is the other's of the row before in this share of the rows."""

LOOK_BACK = 20
"""The row that another one follows is looked for among this many rows before it: several series may take turns."""

UNMISTAKABLE, LOOK_AROUND = 3, 100
"""This many values that agree at once are no chance: the followed row may then lie this many judged rows before or
after, as a busy service takes rows out of order, with those of a crowd between them."""

MOST_ALIKE, MOST_STAYING = 0.1, 0.5
"""A column varies where two of its values are alike with this probability at most, and this share of them at most stays
from one row to the next."""

FIRST, FEWEST = 0.25, 20
"""The relations are learnt from this part of the rows, the first ones, if they are as many at least."""


def following(table: pd.DataFrame) -> pd.Series:
    """Tell for each row whether it follows on another one in all values that agreed at first.

    `table` holds inputs and `actual`, in order of time. Rows that repeat a recent one in all are left out: they are
    asked again. Those whose actual is not known, where others are, may be followed, but are not judged: a flood of
    requests reports none. Empty where no values agree, or too few rows decide.

    >>> today = pd.Series(np.arange(100.0))
    >>> table = pd.DataFrame({"yesterday": today.shift().where(today < 80, -1.0), "actual": today})
    >>> kept = following(table)
    >>> int((~kept).sum()), int(kept.idxmin())
    (20, 80)
    """
    rows = asked_anew(table)
    judged = rows[rows["actual"].notna()] if rows["actual"].notna().any() else rows
    first = judged.head(int(FIRST * len(judged)))
    if len(first) < FEWEST:
        return pd.Series(dtype=bool)
    shares = agreement(first)
    known = list(shares.index[shares >= RELATED])
    position = np.cumsum(rows.index.isin(judged.index))
    return follows(rows, known, position)[judged.index] if known else pd.Series(dtype=bool)


def asked_anew(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that differ from the `LOOK_BACK` rows before: a repeated request repeats all values.

    >>> asked_anew(pd.DataFrame({"a": [1, 1, 2, 1, 3], "b": [0, 0, 0, 0, 0]}))["a"].tolist()
    [1, 2, 3]
    """
    code = pd.Series(pd.util.hash_pandas_object(table, index=False).to_numpy())
    rows_since_last = pd.Series(np.arange(len(table))).groupby(code).diff()
    return table[~(rows_since_last <= LOOK_BACK).to_numpy()]


def agreement(table: pd.DataFrame) -> pd.Series:
    """Return in which share of the rows each value is that of a column in the row before, by both names.

    Values agree to six digits. A column that does not vary agrees with whatever it is compared with, which says
    nothing: its shares are 0.

    >>> prices = pd.DataFrame({"today": [1.0, 2.0, 3.0, 4.0], "yesterday": [0.0, 1.0, 2.0, 3.0], "unit": 1.0})
    >>> shares = agreement(prices)
    >>> float(shares[("yesterday", "today")]), float(shares[("unit", "unit")])
    (1.0, 0.0)
    """
    names = pd.MultiIndex.from_product([table.columns, table.columns])
    values = _six_digits(table.to_numpy(float))
    finite = np.isfinite(values)
    told, known = (_in_lines(side, varying(table)) for side in (values[1:], values[:-1]))
    same = told.merge(known, on=["row", "value"])  # as long as the values that agree are many: linear in the columns
    counts = np.zeros((table.shape[1], table.shape[1]))
    np.add.at(counts, (same["column_x"].to_numpy(), same["column_y"].to_numpy()), 1)
    both = finite[1:].T.astype(float) @ finite[:-1].astype(float)
    return pd.Series((counts / np.maximum(both, 1)).ravel(), index=names)


def varying(table: pd.DataFrame) -> np.ndarray:
    """Tell of each column whether its values are seldom alike, nor stay as they are, so that agreement is no chance.

    Days that are asked about in turns come again and again; what tells is that few others have their value.

    >>> rows = {"price": [1.0, 2.0, 3.0] * 9, "is_open": [1.0, 1.0, 0.0] * 9, "unit": 1.0, "hour": np.arange(27) // 3}
    >>> varying(pd.DataFrame(rows).assign(day=np.arange(27) % 12)).tolist()
    [False, False, False, False, True]
    """
    return np.array([_is_varying(values) for _, values in table.items()], dtype=bool)


def _is_varying(values: pd.Series) -> bool:
    known = values.dropna()
    counts, rows = known.value_counts(), len(known)
    if rows < 2:
        return False
    alike = (counts * (counts - 1)).sum() / (rows * (rows - 1))
    return bool(alike <= MOST_ALIKE and (known.to_numpy()[1:] == known.to_numpy()[:-1]).mean() <= MOST_STAYING)


def _in_lines(values: np.ndarray, chosen: np.ndarray) -> pd.DataFrame:
    """Return the finite values of the chosen columns, a line each: `row`, `column`, `value`."""
    row, column = np.nonzero(np.isfinite(values) & chosen)
    return pd.DataFrame({"row": row, "column": column, "value": values[row, column]})


def follows(table: pd.DataFrame, known: list[tuple[str, str]], position: np.ndarray | None = None) -> pd.Series:
    """Tell for each row whether all pairs of columns agree in it and one of the `LOOK_BACK` rows before it.

    Where the pairs are `UNMISTAKABLE`, one that is at most `LOOK_AROUND` positions away will do; the positions are
    those of the rows in the table, unless given. A value that is missing agrees with all, if another one of the rows
    before agrees.

    >>> rows = pd.DataFrame({"today": [1.0, 2.0, 3.0, 9.0], "yesterday": [0.0, 1.0, 2.0, 7.0]})
    >>> follows(rows, [("yesterday", "today")]).tolist()
    [True, True, True, False]
    """
    own, earlier = (
        table[[pair[0] for pair in known]].to_numpy(float),
        table[[pair[1] for pair in known]].to_numpy(float),
    )
    found = _held_nearby(own, earlier, np.arange(len(table)) if position is None else position)
    found[:1] = True  # nothing is before the first row
    for lag in range(1, min(LOOK_BACK, len(table) - 1) + 1):
        now, last = own[lag:], earlier[:-lag]
        same = _is_same(now, last)
        found[lag:] |= (same | np.isnan(now) | np.isnan(last)).all(axis=1) & same.any(axis=1)
    return pd.Series(found, index=table.index)


def _held_nearby(own: np.ndarray, other: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Tell for each row of `own` whether all its values, to six digits, are those of a row of `other` nearby."""
    if own.shape[1] < UNMISTAKABLE:
        return np.zeros(len(own), dtype=bool)
    told, known = (
        pd.DataFrame({"code": _codes(values), "position": position})[np.isfinite(values).all(axis=1)]
        for values in (own, other)
    )
    again = told.groupby("code")["position"].diff() <= LOOK_AROUND  # a feed that is stuck follows on one row for ever
    nearest = pd.merge_asof(
        told[~again].reset_index(),
        known.assign(found=True),
        on="position",
        by="code",
        direction="nearest",
        tolerance=LOOK_AROUND,
    )
    held = np.zeros(len(own), dtype=bool)
    held[nearest.loc[nearest["found"].notna(), "index"]] = True
    return held


def _codes(values: np.ndarray) -> np.ndarray:
    codes: np.ndarray = pd.util.hash_pandas_object(pd.DataFrame(_six_digits(values)), index=False).to_numpy()
    return codes


def _six_digits(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        size = 10.0 ** (5 - np.floor(np.log10(np.abs(values))))
        rounded: np.ndarray = np.where(np.isfinite(size), np.round(values * size) / size, values)
    return rounded


def _is_same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    same: np.ndarray = np.abs(one - other) <= 1e-6 * np.abs(one) + 1e-12
    return same
