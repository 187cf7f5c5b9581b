"""Splits a table by time, so that nothing a model is tested on was known, or aimed at, when it was trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.model_selection import TimeSeriesSplit

from lepton_kit.errors import InputError, LeptonError

PARTS = ("train", "validation", "test")
EMBARGO = "embargo"
MOST_CLASSES = 20
LEAST_ROWS = 10
"""Fewest rows of a part: below, not even a standard deviation of its returns is known."""


def split_by_time(
    frame: pd.DataFrame, train: float = 0.6, validation: float = 0.2, embargo: int = 1, time: str = "date"
) -> pd.DataFrame:
    """Label each row with its part: the oldest rows train, the next validate, the newest test.

    The first `embargo` rows after each border are labelled `embargo` and belong to no part. They stay in the table,
    because features may look back over a border; a target that reaches `embargo` days ahead cannot look forward over
    it. (Purging and embargo: López de Prado (2018), "Advances in Financial Machine Learning", section 7.4.)

    Parameters
    ----------
    frame
        A clean table: column `time` sorted and unique.
    train, validation
        Shares of all rows, between 0 and 1; the test part is what remains.
    embargo
        Rows kept out after each border, at least the days that a target reaches ahead: 1 for the next day.

    Returns
    -------
    DataFrame
        The table with a column `split` of `train`, `validation`, `test` or `embargo`.

    Raises
    ------
    InputError
        When a share or the embargo is out of range, dates are not sorted and unique, or a part is below 10 rows.

    Examples
    --------
    >>> days = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=60)})
    >>> split_by_time(days)["split"].value_counts(sort=False).to_dict()
    {'train': 36, 'embargo': 2, 'validation': 11, 'test': 11}
    """
    _check_dates(frame[time])
    sizes = part_sizes(len(frame), train, validation, embargo)
    blocks = [PARTS[0], EMBARGO, PARTS[1], EMBARGO, PARTS[2]]
    labels = np.repeat(blocks, [sizes[PARTS[0]], embargo, sizes[PARTS[1]], embargo, sizes[PARTS[2]]])
    return frame.assign(split=pd.Series(labels, index=frame.index, dtype="str"))


def split_by_class(
    table: pd.DataFrame, target: str, train: float = 0.6, validation: float = 0.2, seed: int = 0
) -> pd.DataFrame:
    """Label rows that do not follow on each other with their part, by lot, each class in its share in every part.

    Rows that are alike in all but the target go into one part, so that none is judged that was learnt from.

    Parameters
    ----------
    target
        Its column that comes true; of more than 20 values, none is a class, and the lot alone decides.
    train, validation
        Shares of all rows, between 0 and 1; the test part is what remains.

    Raises
    ------
    InputError
        When a share is out of range, or a part or a class of it would be too small.

    Examples
    --------
    >>> table = pd.DataFrame({"x": range(100), "y": [0, 1, 1, 1] * 25})
    >>> split_by_class(table, "y").groupby("split")["y"].mean().round(2).to_dict()
    {'test': 0.75, 'train': 0.75, 'validation': 0.75}
    """
    part_sizes(len(table), train, validation, origin="table")
    alike = pd.util.hash_pandas_object(table.drop(columns=target).astype("string"), index=False)
    firsts = table.loc[~alike.duplicated().to_numpy()]
    order = firsts.sample(frac=1, random_state=seed)
    groups = order[target] if table[target].nunique() <= MOST_CLASSES else pd.Series(0, index=order.index)
    place = (groups.groupby(groups).cumcount() + 0.5) / groups.groupby(groups).transform("size")
    part = pd.cut(place, [0, train, train + validation, 1], labels=list(PARTS)).astype(str)
    by_hash = pd.Series(part.reindex(firsts.index).to_numpy(), index=alike[firsts.index])
    return table.assign(split=by_hash.reindex(alike).to_numpy())


def part_sizes(
    rows: int, train: float = 0.6, validation: float = 0.2, embargo: int = 1, origin: str = "price table"
) -> dict[str, int]:
    """Return how many rows each part of `split_by_time` gets; `origin` says in errors where the table is from.

    Raises
    ------
    InputError
        When a share or the embargo is out of range, or a part would have fewer than 10 rows.

    Examples
    --------
    >>> part_sizes(100)
    {'train': 60, 'validation': 19, 'test': 19}
    """
    _check_shares(train, validation, embargo)
    first, second = round(train * rows), round((train + validation) * rows)
    sizes = dict(zip(PARTS, (first, second - first - embargo, rows - second - embargo), strict=True))
    if min(sizes.values()) < LEAST_ROWS:
        described = ", ".join(f"{part} {max(size, 0)}" for part, size in sizes.items())
        raise InputError(
            f"{origin}: too short: {rows} rows give {described}; each part needs at least {LEAST_ROWS}: "
            "give more rows, other shares or a shorter embargo"
        )
    return sizes


@dataclass(frozen=True)
class Fold:
    """Three stretches of rows, one after another in time: to train on, to stop early on, and to score."""

    train: slice
    validation: slice
    scored: slice


def time_ordered_folds(rows: int, folds: int = 3, validation: float = 0.2, embargo: int = 1) -> list[Fold]:
    """Return folds for choosing settings, oldest first: each scores rows that come after all that it was trained on.

    Every fold trains on all rows from the first on (forward chaining: Hyndman and Athanasopoulos (2021), "Forecasting:
    principles and practice", section 5.10). The rows to stop early on are the last of those before the scored ones, so
    that no score comes from rows which decided when to stop.

    Parameters
    ----------
    rows
        How many rows there are, in time order; those of a test part must not be among them.
    folds
        How many stretches are scored, at least 2.
    validation
        Share of each fold's known rows that early stopping sees.
    embargo
        Rows kept out between two stretches, at least the days that a target reaches ahead.

    Raises
    ------
    InputError
        When a number is out of range, or a stretch would have fewer than 10 rows.

    Examples
    --------
    >>> time_ordered_folds(200, folds=2)[0]
    Fold(train=slice(0, 53, None), validation=slice(54, 67, None), scored=slice(68, 134, None))
    """
    if folds < 2:
        raise InputError(f"folds = {folds}: must be at least 2")
    _check_share("validation", validation)
    _check_embargo(embargo)
    if rows // (folds + 1) < LEAST_ROWS:
        raise InputError(f"{rows} rows are too few for {folds} folds of at least {LEAST_ROWS} rows each")
    made = [
        _fold(len(known), scored, validation, embargo)
        for known, scored in TimeSeriesSplit(folds, gap=embargo).split(np.arange(rows))
    ]
    least = min(part.stop - part.start for part in (made[0].train, made[0].validation, made[0].scored))
    if least < LEAST_ROWS:
        raise InputError(
            f"{rows} rows are too few for {folds} folds: the shortest stretch would have {max(least, 0)} rows, and "
            f"needs at least {LEAST_ROWS}"
        )
    return made


def _fold(known: int, scored: np.ndarray, validation: float, embargo: int) -> Fold:
    border = round((1 - validation) * known)
    train, stop_on = slice(0, border - embargo), slice(border, known)
    return Fold(train, stop_on, slice(int(scored[0]), int(scored[-1]) + 1))


def check_no_leakage(frame: pd.DataFrame, horizon: int = 1) -> None:
    """Check that the parts follow each other in time and that no target, `horizon` rows ahead, lies in a later part.

    Raises
    ------
    LeptonError
        Names the first row whose target another part may see, or the parts that overlap.

    Examples
    --------
    >>> days = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=60)})
    >>> check_no_leakage(split_by_time(days, embargo=1), horizon=2)
    Traceback (most recent call last):
    lepton_kit.errors.LeptonError: the target of 2024-02-05 (train) lies on 2024-02-07, in validation
    """
    split, target = frame["split"], frame["split"].shift(-horizon)
    is_leak = split.isin(PARTS) & target.isin(PARTS) & (split != target)
    if is_leak.any():
        day = int(np.flatnonzero(is_leak)[0])
        row, ahead = frame.iloc[day], frame.iloc[day + horizon]
        raise LeptonError(
            f"the target of {row['date']:%Y-%m-%d} ({row['split']}) lies on {ahead['date']:%Y-%m-%d}, "
            f"in {ahead['split']}"
        )
    spans = frame[split.isin(PARTS)].groupby("split")["date"].agg(["min", "max"]).reindex(PARTS)
    if not (spans["max"].shift().dropna() < spans["min"].iloc[1:]).all():
        raise LeptonError(f"parts overlap in time: {spans.astype(str).to_dict('index')}")


def _check_shares(train: float, validation: float, embargo: int) -> None:
    _check_share("train", train)
    _check_share("validation", validation)
    if train + validation >= 1:
        raise InputError(
            f"train share + validation share = {train + validation:g}: must leave a part below 1 for the test"
        )
    _check_embargo(embargo)


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise InputError(f"{name} share = {share}: must lie between 0 and 1")


def _check_embargo(embargo: int) -> None:
    if embargo < 1:
        raise InputError(f"embargo = {embargo}: must be at least 1 day, the reach of a next-day target")


def _check_dates(dates: pd.Series) -> None:
    if not (dates.is_monotonic_increasing and dates.is_unique):
        raise InputError("a split by time needs sorted, unique dates; clean the table first")
