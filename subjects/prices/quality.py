"""What is wrong with a price table: one finder per fault, and one report that counts them.

A finder takes a table (columns of the kit, any row order, unique index) and returns a boolean mask over its rows. The
cleaning rules use the same finders, so that what is reported is what is repaired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from subjects.prices.trading_days import expected_days, missing_days, recurring_closures

PRICES = ("open", "high", "low", "close", "adj_close")
MEASURES = (*PRICES, "volume")

WINDOW, LEAST_DAYS = 63, 10
"""Trading days (a quarter, centred) over which a day is compared with its like, and the fewest that allow it."""

TO_SIGMA = 1 / 0.6745
"""Median absolute deviation to standard deviation of a normal law: Iglewicz and Hoaglin (1993), p. 11."""

OUTLIER = 3.5
"""Modified z-score beyond which a value is an outlier: Iglewicz and Hoaglin (1993), p. 11."""

SPIKE = 8.0
"""Robust deviations that the price must jump away, and back again, before a day is called a feed error."""

SPLIT = 10.0
"""Robust deviations that a jump must have before it is compared with a split's ratio."""

SPLIT_FACTORS = tuple(np.r_[1 / np.array([2, 3, 4, 5, 10, 20]), [2, 3, 4, 5, 10, 20]].tolist())
"""Price after over price before. 3:2 is left out: a market can fall by a third in a day (Brent, 17 January 1991)."""

SPLIT_DAYS = 5
"""Days whose median price, before and after, shows that a jump does not come back."""

SMALLEST_SIGMA = 1e-3
"""A day's robust deviation counts as at least 0.1 %, so that a price that stood still may move again."""

TOLERANCE = 1e-6
"""A close may lie outside [low, high] by one part in a million: vendors round adjusted prices."""

Mask = pd.Series
Finder = Callable[[pd.DataFrame], Mask]


# --- order, duplicates, holes -------------------------------------------------------------------------------------


def find_out_of_order(frame: pd.DataFrame) -> Mask:
    """Find rows that come after a row of a later date.

    Examples
    --------
    >>> days = pd.to_datetime(["2024-01-02", "2024-01-04", "2024-01-03", "2024-01-05"])
    >>> find_out_of_order(pd.DataFrame({"date": days})).tolist()
    [False, False, True, False]
    """
    return frame["date"] < frame["date"].cummax()


def find_exact_duplicates(frame: pd.DataFrame) -> Mask:
    """Find rows that repeat an earlier row in every column.

    Examples
    --------
    >>> day = pd.Timestamp("2024-01-02")
    >>> find_exact_duplicates(pd.DataFrame({"date": [day, day], "close": [1.0, 1.0]})).tolist()
    [False, True]
    """
    return frame.duplicated()


def find_repeated_dates(frame: pd.DataFrame) -> Mask:
    """Find rows whose date comes again further down with other values.

    Examples
    --------
    >>> day = pd.Timestamp("2024-01-02")
    >>> find_repeated_dates(pd.DataFrame({"date": [day, day], "close": [1.0, 1.1]})).tolist()
    [True, False]
    """
    distinct = frame[~frame.duplicated()]
    return _over(frame, distinct.duplicated("date", keep="last"))


def find_missing_values(frame: pd.DataFrame) -> Mask:
    """Find rows that lack a value in any price column or in the volume.

    Examples
    --------
    >>> find_missing_values(pd.DataFrame({"close": [1.0, None]})).tolist()
    [False, True]
    """
    return frame[_present(frame, MEASURES)].isna().any(axis=1)


# --- values that cannot be ----------------------------------------------------------------------------------------


def find_nonpositive_prices(frame: pd.DataFrame) -> Mask:
    """Find rows with a price of zero or below.

    Examples
    --------
    >>> find_nonpositive_prices(pd.DataFrame({"open": [1.0, 2.0], "close": [1.0, 0.0]})).tolist()
    [False, True]
    """
    return (frame[_present(frame, PRICES)] <= 0).any(axis=1)


def find_high_below_low(frame: pd.DataFrame) -> Mask:
    """Find rows whose high lies below their low.

    Examples
    --------
    >>> find_high_below_low(pd.DataFrame({"high": [9.0, 11.0], "low": [10.0, 10.0]})).tolist()
    [True, False]
    """
    if not {"high", "low"} <= set(frame.columns):
        return _none(frame)
    return frame["high"] < frame["low"] * (1 - TOLERANCE)


def find_prices_outside_range(frame: pd.DataFrame) -> Mask:
    """Find rows whose open or close lies outside the day's own low and high.

    Examples
    --------
    >>> find_prices_outside_range(pd.DataFrame({"high": [11.0], "low": [10.0], "close": [11.5]})).tolist()
    [True]
    """
    if not {"high", "low"} <= set(frame.columns):
        return _none(frame)
    inside = frame[_present(frame, ("open", "close"))]
    above = inside.gt(frame["high"] * (1 + TOLERANCE), axis=0)
    below = inside.lt(frame["low"] * (1 - TOLERANCE), axis=0)
    return (above | below).any(axis=1) & ~find_high_below_low(frame)


def find_negative_volume(frame: pd.DataFrame) -> Mask:
    """Find rows with a volume below zero.

    Examples
    --------
    >>> find_negative_volume(pd.DataFrame({"volume": [100, -100]})).tolist()
    [False, True]
    """
    return frame["volume"] < 0 if "volume" in frame.columns else _none(frame)


def find_impossible_values(frame: pd.DataFrame) -> Mask:
    """Find rows with any value that cannot be: the four finders above together.

    Examples
    --------
    >>> find_impossible_values(pd.DataFrame({"close": [1.0, -1.0], "volume": [-5, 5]})).tolist()
    [True, True]
    """
    return (
        find_nonpositive_prices(frame)
        | find_high_below_low(frame)
        | find_prices_outside_range(frame)
        | find_negative_volume(frame)
    )


# --- values that are possible and unlikely ------------------------------------------------------------------------


def find_stale_repeats(frame: pd.DataFrame) -> Mask:
    """Find rows that only repeat the values of the day before: a feed that stood still.

    With one column, the same close four days running counts (prices quoted to a cent do stand still for two or three
    days); with more columns, two days running do.

    Examples
    --------
    >>> days = pd.date_range("2024-01-01", periods=5)
    >>> find_stale_repeats(pd.DataFrame({"date": days, "close": [7.0, 8.0, 8.0, 8.0, 8.0]})).tolist()
    [False, False, True, True, True]
    """
    usable = _usable(frame)
    values = usable[[column for column in _present(frame, MEASURES) if column != "adj_close"]]
    same = (values == values.shift()).all(axis=1)
    run_lengths = same.groupby((~same).cumsum()).transform("size")
    return _over(frame, same & (run_lengths >= (2 if values.shape[1] > 1 else 4)))


def find_outliers(frame: pd.DataFrame) -> Mask:
    """Find days whose log return lies more than 3.5 robust deviations from the median of the quarter around them.

    Median and median absolute deviation are taken over a moving window (Hampel's identifier); the threshold is that of
    Iglewicz and Hoaglin (1993), "How to detect and handle outliers", p. 11. Most of these days are news, not errors.

    Examples
    --------
    >>> close = 100 + np.sin(np.arange(40.0)); close[20:] *= 1.15
    >>> frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=40), "close": close})
    >>> np.flatnonzero(find_outliers(frame)).tolist()
    [20]
    """
    returns = daily_returns(frame)
    return _over(frame, (returns - rolling_median(returns)).abs() > OUTLIER * robust_sigma(returns))


def find_reverted_spikes(frame: pd.DataFrame) -> Mask:
    """Find single days whose price jumps away and comes wholly back the next day: the mark of a feed error.

    Both jumps exceed 8 robust deviations, and the step from the day before to the day after is ordinary. A fall that
    stays, or comes back by half (Brent in April 2020), is none; nor is the last day, whose morrow is not known.

    Examples
    --------
    >>> close = 100 + np.sin(np.arange(40.0)); close[20] *= 1.5
    >>> frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=40), "close": close})
    >>> np.flatnonzero(find_reverted_spikes(frame)).tolist()
    [20]
    """
    returns = daily_returns(frame)
    sigma = robust_sigma(returns)
    back = returns.shift(-1)
    leaves = (returns.abs() > SPIKE * sigma) & (back.abs() > SPIKE * sigma)
    returned = (returns + back).abs() < OUTLIER * np.sqrt(2) * sigma
    return _over(frame, leaves & returned)


def find_split_jumps(frame: pd.DataFrame) -> Mask:
    """Find days on which the price jumps by a split's ratio and does not come back.

    Examples
    --------
    >>> close = 100 + np.sin(np.arange(40.0)); close[20:] /= 2
    >>> frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=40), "close": close})
    >>> np.flatnonzero(find_split_jumps(frame)).tolist()
    [20]
    """
    return split_factors(frame).notna()


def split_factors(frame: pd.DataFrame) -> pd.Series:
    """Return for each split-like jump the price after over the price before (2:1 gives 0.5), and NaN for other rows.

    The day's change must lie within 10 % of the ratio (nearer in calm times), and so must, within 20 %, the median
    price of five days after over that of five days before. A jump in the last four days is left: whether it stays is
    not known.

    Examples
    --------
    >>> close = 100 + np.sin(np.arange(40.0)); close[20:] *= 3
    >>> frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=40), "close": close})
    >>> split_factors(frame).dropna().round(2).to_dict()
    {20: 3.0}
    """
    logs = np.log(_usable(frame)["close"])
    returns, sigma = logs.diff(), robust_sigma(logs.diff())
    medians = logs.rolling(SPLIT_DAYS, min_periods=1).median()
    level = logs.rolling(SPLIT_DAYS).median().shift(1 - SPLIT_DAYS) - medians.shift()
    factors = pd.Series(np.nan, index=frame.index)
    for row in returns.index[returns.abs() > SPLIT * sigma]:
        factor = min(SPLIT_FACTORS, key=lambda factor: abs(returns[row] - np.log(factor)))
        near = abs(returns[row] - np.log(factor)) < min(OUTLIER * sigma[row], 0.1)
        stays = abs(level[row] - np.log(factor)) < 0.2
        if near and stays:
            factors[row] = factor
    return factors


def daily_returns(frame: pd.DataFrame) -> pd.Series:
    """Return the log return of each usable row over the one before, in order of date, under the table's own index.

    Examples
    --------
    >>> frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=3), "close": [100.0, 101.0, 99.0]})
    >>> daily_returns(frame).round(4).tolist()
    [nan, 0.01, -0.02]
    """
    closes = _usable(frame)["close"]
    return closes.transform(np.log).diff()


def rolling_median(values: pd.Series) -> pd.Series:
    """Return the median of the quarter around each day; NaN where fewer than ten days are known.

    Examples
    --------
    >>> rolling_median(pd.Series(np.arange(12.0))).iloc[5]
    np.float64(5.5)
    """
    return values.rolling(WINDOW, center=True, min_periods=LEAST_DAYS).median()


def robust_sigma(returns: pd.Series) -> pd.Series:
    """Return the standard deviation that the moving median absolute deviation implies, at least 0.1 %.

    Examples
    --------
    >>> robust_sigma(pd.Series([0.01, -0.01] * 10)).round(4).unique().tolist()
    [0.0148]
    """
    deviations = (returns - rolling_median(returns)).abs()
    return (TO_SIGMA * rolling_median(deviations)).clip(lower=SMALLEST_SIGMA)


# --- the report ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One line of the quality report: what is looked for, how, which columns show it, and what a hit means."""

    name: str
    find: Finder
    shows: tuple[str, ...]
    meaning: str


CHECKS = (
    Check("out of order", find_out_of_order, (), "a later date stands above it"),
    Check("exact duplicates", find_exact_duplicates, (), "the same row was delivered twice"),
    Check("repeated dates", find_repeated_dates, ("close",), "two different rows; the later is taken as a correction"),
    Check("missing values", find_missing_values, (), "a cell is empty; no price is invented for it"),
    Check("price not above 0", find_nonpositive_prices, PRICES, "no share costs nothing; often a placeholder"),
    Check("high below low", find_high_below_low, ("high", "low"), "columns swapped or mistyped"),
    Check("outside low to high", find_prices_outside_range, PRICES, "the day's range contradicts its open or close"),
    Check("volume below 0", find_negative_volume, ("volume",), "a sign or overflow error"),
    Check("stale repeats", find_stale_repeats, ("close",), "the feed stood still and repeated the day before"),
    Check("split-like jumps", find_split_jumps, ("close",), "prices before and after are in different units"),
    Check("spikes that revert", find_reverted_spikes, ("close",), "one day far away and wholly back: a feed error"),
    Check("outliers", find_outliers, ("close",), "beyond 3.5 robust deviations; mostly news, and kept unless a spike"),
)  # fmt: skip


def quality_report(frame: pd.DataFrame) -> pd.DataFrame:
    """Count each kind of fault in a price table; nothing is changed.

    Parameters
    ----------
    frame
        A table as `sources.read_prices` returns it, raw or clean.

    Returns
    -------
    DataFrame
        One row per check: `check`, `rows` (touched; for the two calendar checks: days), `share` (of all rows; of all
        expected days), `example` (the first), `meaning`.

    Examples
    --------
    >>> frame = pd.DataFrame({"date": pd.bdate_range("2024-01-01", periods=5), "close": [7.0, 7.1, -1.0, 7.2, 7.1]})
    >>> report = quality_report(frame)
    >>> report.loc[report["rows"] > 0, ["check", "rows", "share", "example"]].values.tolist()
    [['price not above 0', 1, 0.2, 'row 3, 2024-01-03: close -1']]
    """
    lines = [*_calendar_lines(frame), *(_line(check, frame) for check in CHECKS)]
    return pd.DataFrame(lines, columns=["check", "rows", "share", "example", "meaning"])


def _line(check: Check, frame: pd.DataFrame) -> tuple[str, int, float, str, str]:
    found = check.find(frame).to_numpy()
    return check.name, int(found.sum()), float(found.mean()), _first(check, frame, found), check.meaning


def _first(check: Check, frame: pd.DataFrame, found: np.ndarray) -> str:
    if not found.any():
        return ""
    position = int(found.argmax())
    row = frame.iloc[position]
    values = ", ".join(f"{column} {row[column]:.6g}" for column in check.shows if column in frame.columns)
    return f"row {position + 1}, {row['date']:%Y-%m-%d}" + (f": {values}" if values else "")


def _calendar_lines(frame: pd.DataFrame) -> list[tuple[str, int, float, str, str]]:
    dates = frame["date"]
    gaps, holidays, expected = missing_days(dates), recurring_closures(dates), len(expected_days(dates))
    unknown = "a lost row, or a closure that happened once: the data cannot tell"
    if (dates.max() - dates.min()).days < 2 * 365:
        unknown += "; under two years of dates no holiday can be recognised"
    return [
        ("missing days", len(gaps), len(gaps) / max(expected, 1), _first_day(gaps), unknown),
        ("recurring closures", len(holidays), len(holidays) / max(expected, 1), _first_day(holidays),
         "closed on the like day of most years around: market holidays, no fault"),
    ]  # fmt: skip


def _first_day(days: pd.DatetimeIndex) -> str:
    return f"{days[0]:%a %Y-%m-%d}" if len(days) else ""


# --- helpers ------------------------------------------------------------------------------------------------------


def _usable(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that can be true, in order of date, the last of each date: what a neighbour is compared with."""
    possible = frame[~(find_missing_values(frame) | find_impossible_values(frame))]
    return possible.sort_values("date", kind="stable").drop_duplicates("date", keep="last")


def _over(frame: pd.DataFrame, found: Mask) -> Mask:
    return found.reindex(frame.index, fill_value=False)


def _none(frame: pd.DataFrame) -> Mask:
    return pd.Series(False, index=frame.index)


def _present(frame: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    return [column for column in columns if column in frame.columns]
