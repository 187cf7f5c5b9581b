"""What a model may know on the evening of a day: features from that day's prices and earlier ones, never later ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lepton_kit.errors import InputError

RISKMETRICS_DECAY = 0.94
"""Weight of yesterday's variance in today's: RiskMetrics Technical Document, 4th ed. (1996), section 5.3."""

WEEK, MONTH = 5, 22
"""Trading days over which Corsi (2009), "A simple approximate long-memory model of realized volatility", averages."""

LOWEST_VOLATILITY = 1e-4
"""A day's volatility counts as at least one hundredth of a percent, so that unmoving prices can be divided by it."""


def read_clean_prices(path: Path) -> pd.DataFrame:
    """Return the table that notebook 01-data-cleaning leaves, with its column `split`.

    Raises
    ------
    InputError
        When the file is not Parquet, or lacks a column that training needs.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    missing = {"date", "close", "split"} - set(table.columns)
    if missing:
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; notebook 01-data-cleaning makes such a table")
    return table


def price_features(prices: pd.DataFrame, lookback: int = 10) -> pd.DataFrame:
    """Return one row of features per day; one row is one request to a model.

    Parameters
    ----------
    prices
        Columns `date` (sorted, unique) and `close`; `high`, `low` and `volume` are used where present.
    lookback
        Number of past days whose values stand in a row, at least 1.

    Returns
    -------
    DataFrame
        Index `date`; columns, of which the day itself is number 0 and the day before number 1:
        `return_0 …` (log return), `range_0 …` (log of high over low, where present), `volume_0 …` (log of the volume
        over its average of the past month, where present), and `volatility_ewma`, `volatility_week`,
        `volatility_month` (standard deviation of the log return per day). The first days lack history and have no row.

    Raises
    ------
    InputError
        When a column is missing, dates are not sorted and unique, a price is not positive, or too few rows are given.

    Examples
    --------
    >>> prices = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=30), "close": np.arange(100.0, 130.0)})
    >>> features = price_features(prices, lookback=2)
    >>> list(features.columns)
    ['return_0', 'return_1', 'volatility_ewma', 'volatility_week', 'volatility_month']
    >>> round(float(features["return_0"].iloc[-1]), 5) == round(float(np.log(129 / 128)), 5)
    True
    """
    _check(prices, lookback)
    indexed = prices.set_index("date")
    returns = log_returns(indexed["close"])
    columns = _lagged("return", returns, lookback)
    if {"high", "low"} <= set(indexed.columns):
        columns |= _lagged("range", _log(indexed["high"] / indexed["low"]), lookback)
    if "volume" in indexed.columns:
        columns |= _lagged("volume", _relative_volume(indexed["volume"]), lookback)
    columns |= _volatilities(returns)
    return pd.DataFrame(columns).dropna()


def log_returns(close: pd.Series) -> pd.Series:
    """Return each day's log return; the first day has none.

    Examples
    --------
    >>> log_returns(pd.Series([100.0, 101.0, 99.0])).round(4).tolist()
    [nan, 0.01, -0.02]
    """
    return _log(close.astype(float)).diff().rename("return")


def next_day_change(prices: pd.DataFrame) -> pd.Series:
    """Return how much the close changes to the next day, in the table's unit (USD); the last day has none.

    Examples
    --------
    >>> dates = pd.date_range("2024-01-01", periods=3)
    >>> next_day_change(pd.DataFrame({"date": dates, "close": [100.0, 101.0, 99.0]})).tolist()
    [1.0, -2.0, nan]
    """
    close = prices.set_index("date")["close"].astype(float)
    return close.diff().shift(-1).rename("next_day_change")


def next_day_return(prices: pd.DataFrame) -> pd.Series:
    """Return the log return to the next day, what the models forecast; the last day has none.

    Examples
    --------
    >>> dates = pd.date_range("2024-01-01", periods=3)
    >>> next_day_return(pd.DataFrame({"date": dates, "close": [100.0, 101.0, 99.0]})).round(4).tolist()
    [0.01, -0.02, nan]
    """
    return log_returns(prices.set_index("date")["close"]).shift(-1).rename("next_day_return")


def ewma_volatility(returns: pd.Series, decay: float = RISKMETRICS_DECAY) -> pd.Series:
    """Return the exponentially weighted volatility of returns about zero (RiskMetrics), per day.

    Weights are normalised over the days there are, so that the first days are not pulled to an arbitrary start.

    Examples
    --------
    >>> ewma_volatility(pd.Series([0.01, -0.01, 0.01])).round(4).tolist()
    [0.01, 0.01, 0.01]
    """
    return _floored(returns.pow(2).ewm(alpha=1 - decay).mean())


def _lagged(name: str, values: pd.Series, lookback: int) -> dict[str, pd.Series]:
    return {f"{name}_{lag}": values.shift(lag) for lag in range(lookback)}


def _relative_volume(volume: pd.Series) -> pd.Series:
    shares = volume.astype(float) + 1.0  # a day without trade has a logarithm too
    return _log(shares / shares.rolling(MONTH).mean())


def _log(values: pd.Series) -> pd.Series:
    return pd.Series(np.log(values), index=values.index)


def _volatilities(returns: pd.Series) -> dict[str, pd.Series]:
    squares = returns.pow(2)
    return {
        "volatility_ewma": ewma_volatility(returns),
        "volatility_week": _floored(squares.rolling(WEEK).mean()),
        "volatility_month": _floored(squares.rolling(MONTH).mean()),
    }


def _floored(variance: pd.Series) -> pd.Series:
    return variance.pow(0.5).clip(lower=LOWEST_VOLATILITY)


def _check(prices: pd.DataFrame, lookback: int) -> None:
    if lookback < 1:
        raise InputError(f"lookback = {lookback}: must be at least 1 day")
    missing = {"date", "close"} - set(prices.columns)
    if missing:
        raise InputError(f"price table lacks column {', '.join(sorted(missing))}; it has {', '.join(prices.columns)}")
    if not (prices["date"].is_monotonic_increasing and prices["date"].is_unique):
        raise InputError("price table: dates must be sorted and unique; clean it first (notebook 01-data-cleaning)")
    needed = 1 + max(lookback, MONTH, lookback + MONTH - 2 if "volume" in prices.columns else 0)
    if len(prices) < needed:
        raise InputError(f"price table has {len(prices)} rows; features over {lookback} days need at least {needed}")
    for column, lowest in {"close": 0, "high": 0, "low": 0, "volume": -1}.items():
        if column in prices.columns:
            _check_above(prices, column, lowest)


def _check_above(prices: pd.DataFrame, column: str, lowest: int) -> None:
    if not pd.api.types.is_numeric_dtype(prices[column]):
        raise InputError(f"price table: column {column} holds {prices[column].dtype}; it must hold numbers")
    values = prices[column].to_numpy(dtype=float, na_value=np.nan)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > lowest)))
    if wrong.size:
        day, value = prices["date"].iloc[wrong[0]], values[wrong[0]]
        raise InputError(f"price table: {column} = {value:g} on {day:%Y-%m-%d}; must be a number above {lowest}")
