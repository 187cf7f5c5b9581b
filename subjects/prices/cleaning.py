"""Repairs a price table: one pure function per rule, applied in order until nothing changes, with a log of why.

To add a rule, write one function (table in, table out; its docstring's first line is the log's reason) and name it in
`RULES`. Prices are dropped or put into one unit, never invented. Real jumps stay: only what reverts
wholly the next day goes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lepton_kit.data.cleaning import Cleaned, Rule
from lepton_kit.data.cleaning import clean as clean_by_rules
from subjects.prices import quality


def sort_by_date(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by time, whatever the order of arrival; rows of one date keep the order in which they came.

    Examples
    --------
    >>> days = pd.to_datetime(["2024-01-03", "2024-01-02"])
    >>> sort_by_date(pd.DataFrame({"date": days, "close": [1.1, 1.0]}))["close"].tolist()
    [1.0, 1.1]
    """
    return frame.sort_values("date", kind="stable")


def drop_exact_duplicates(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop a row that was delivered before; it says nothing new.

    Examples
    --------
    >>> day = pd.Timestamp("2024-01-02")
    >>> len(drop_exact_duplicates(pd.DataFrame({"date": [day, day], "close": [1.0, 1.0]})))
    1
    """
    return frame[~quality.find_exact_duplicates(frame)]


def drop_missing_prices(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop a day with an empty cell: a price invented for it would be learned as if it were real.

    Examples
    --------
    >>> days = pd.date_range("2024-01-02", periods=2)
    >>> drop_missing_prices(pd.DataFrame({"date": days, "close": [1.0, None]}))["close"].tolist()
    [1.0]
    """
    return frame[~quality.find_missing_values(frame)]


def drop_impossible_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop a row that cannot be true (high below low, price not above zero): none of its values can be trusted.

    Examples
    --------
    >>> days = pd.date_range("2024-01-02", periods=2)
    >>> drop_impossible_rows(pd.DataFrame({"date": days, "close": [1.0, -1.0]}))["close"].tolist()
    [1.0]
    """
    return frame[~quality.find_impossible_values(frame)]


def drop_repeated_dates(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep the last of several rows for one date: feeds send a correction after the value it corrects.

    Examples
    --------
    >>> day = pd.Timestamp("2024-01-02")
    >>> drop_repeated_dates(pd.DataFrame({"date": [day, day], "close": [1.0, 1.1]}))["close"].tolist()
    [1.1]
    """
    return frame[~quality.find_repeated_dates(frame)]


def drop_stale_repeats(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop days on which the feed stood still and repeated the day before: their prices are not known.

    Examples
    --------
    >>> days = pd.date_range("2024-01-02", periods=3)
    >>> frame = pd.DataFrame({"date": days, "close": [1.0, 1.0, 1.1], "volume": [50.0, 50.0, 60.0]})
    >>> drop_stale_repeats(frame)["volume"].tolist()
    [50.0, 60.0]
    """
    return frame[~quality.find_stale_repeats(frame)]


def drop_reverted_spikes(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop a day whose price jumps far away and comes wholly back the next: a feed error; jumps that stay are kept.

    Examples
    --------
    >>> close = 100 + np.sin(np.arange(40.0)); close[20] *= 1.5; close[30:] *= 0.8
    >>> frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=40), "close": close})
    >>> kept = drop_reverted_spikes(frame)
    >>> 20 in kept.index, 30 in kept.index
    (False, True)
    """
    return frame[~quality.find_reverted_spikes(frame)]


def correct_splits(frame: pd.DataFrame) -> pd.DataFrame:
    """Put prices and volumes before a split into the shares of today; only columns that jump are changed.

    Examples
    --------
    >>> close = 100 + np.sin(np.arange(40.0)); close[20:] /= 2
    >>> frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=40), "close": close})
    >>> correct_splits(frame)["close"].round().unique().tolist()
    [50.0]
    """
    corrected = frame.copy()
    for row, factor in quality.split_factors(frame).dropna().items():
        earlier = corrected["date"] < corrected.at[row, "date"]
        for column in [name for name in quality.PRICES if name in corrected.columns]:
            if _jumps_by(corrected[column], earlier, factor):
                corrected.loc[earlier, column] *= factor
        if "volume" in corrected.columns:
            corrected.loc[earlier, "volume"] = (corrected.loc[earlier, "volume"] / factor).round()
    return corrected


RULES: tuple[Rule, ...] = (
    sort_by_date,
    drop_exact_duplicates,
    drop_missing_prices,
    drop_impossible_rows,
    drop_repeated_dates,  # after the impossible rows, so that a correction that cannot be true corrects nothing
    drop_stale_repeats,
    drop_reverted_spikes,
    correct_splits,  # after the spikes, which may look like one
)


def clean(frame: pd.DataFrame, rules: tuple[Rule, ...] = RULES) -> Cleaned:
    """Apply every rule to a price table, again and again until a pass changes nothing.

    Examples
    --------
    >>> days = pd.to_datetime(["2024-01-03", "2024-01-02", "2024-01-02"])
    >>> cleaned = clean(pd.DataFrame({"date": days, "close": [7.1, 7.0, 7.0]}))
    >>> cleaned.log.loc[cleaned.log["changed"] > 0, ["rule", "rows_in", "rows_out", "changed"]].values.tolist()
    [['sort_by_date', 3, 3, 2], ['drop_exact_duplicates', 3, 2, 1]]
    """
    return clean_by_rules(frame, rules)


def _jumps_by(prices: pd.Series, earlier: pd.Series, factor: float) -> bool:
    ratio = prices[~earlier].iloc[0] / prices[earlier].iloc[-1]
    return bool(abs(np.log(ratio / factor)) < np.log(1.25))
