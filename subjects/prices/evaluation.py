"""How good a forecast of prices is: in the table's own unit, beside the interval score, and in which direction."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from lepton_kit.errors import InputError
from lepton_kit.models.tasks import covered, interval_score


def gaussian_nll(forecast: pd.DataFrame, actual: pd.Series) -> pd.Series:
    """Return the negative log-likelihood of each row under the forecast Gaussian, in nats.

    >>> gaussian_nll(pd.DataFrame({"mean": [0.0], "std": [1.0]}), pd.Series([0.0])).round(4).tolist()
    [0.9189]
    """
    return pd.Series(-norm.logpdf(actual, forecast["mean"], forecast["std"]), index=forecast.index)


def mase(actual: pd.Series, forecast: pd.Series, training_changes: pd.Series) -> float:
    """Return the mean absolute scaled error of forecast changes.

    Hyndman and Koehler (2006), "Another look at measures of forecast accuracy": the mean absolute error over that of
    the naive forecast (no change) in the training rows. So above 1 may also mean that days have become wilder.

    Parameters
    ----------
    actual, forecast
        Changes from one day to the next, in the table's unit (n,).
    training_changes
        The changes in the training rows.

    Examples
    --------
    >>> mase(pd.Series([2.0, -2.0]), pd.Series([1.0, -1.0]), training_changes=pd.Series([0.5, -0.5]))
    2.0
    """
    return float((actual - forecast).abs().mean()) / _naive_error(training_changes)


def _naive_error(training_changes: pd.Series) -> float:
    naive = float(training_changes.abs().mean())
    if not naive > 0:
        raise InputError("MASE is not defined: the training prices never change")
    return naive


def direction_accuracy(prob_up: pd.Series, actual: pd.Series) -> float:
    """Return the share of days whose direction was the likelier one; a forecast of one half counts as half right.

    >>> direction_accuracy(pd.Series([0.6, 0.6, 0.5, 0.5]), pd.Series([0.01, -0.01, 0.01, 0.01]))
    0.5
    """
    right = ((prob_up > 0.5) == (actual > 0)).astype(float)
    return float(right.mask(prob_up == 0.5, 0.5).mean())


def direction_log_loss(prob_up: pd.Series, actual: pd.Series) -> pd.Series:
    """Return the cross-entropy of each row's direction in nats; a coin gives log 2 = 0.693.

    >>> direction_log_loss(pd.Series([0.5]), pd.Series([0.01])).round(3).tolist()
    [0.693]
    """
    given = prob_up.where(actual > 0, 1 - prob_up)
    return -pd.Series(np.log(given.clip(lower=1e-12)), index=given.index)


def scores(
    forecast: pd.DataFrame, actual: pd.Series, close: pd.Series, training_changes: pd.Series
) -> dict[str, float]:
    """Return all scores of a forecast over its rows.

    Parameters
    ----------
    forecast
        As `.predict` gives it (n rows).
    actual
        The next day's log return (n,), with the same index.
    close
        Closing prices by date, in the table's unit (USD).
    training_changes
        Price changes of the training rows, in the same unit, for MASE.

    Returns
    -------
    dict
        `interval_score` (log return), `coverage`, `nll` (nats), `mae` (USD), `mase`, `direction_accuracy`,
        `direction_log_loss` (nats).
    """
    daily = daily_scores(forecast, actual, close, training_changes).mean()
    return {
        "interval_score": float(daily["interval_score"]),
        "coverage": float(daily["coverage"]),
        "nll": float(gaussian_nll(forecast, actual).mean()),
        "mae": float(daily["mae"]),
        "mase": float(daily["mase"]),
        "direction_accuracy": direction_accuracy(forecast["prob_up"], actual),
        "direction_log_loss": float(direction_log_loss(forecast["prob_up"], actual).mean()),
    }


def daily_scores(
    forecast: pd.DataFrame, actual: pd.Series, close: pd.Series, training_changes: pd.Series
) -> pd.DataFrame:
    """Return each day's part in the scores that are means over days: their means are those of `scores`.

    Parameters
    ----------
    forecast, actual, close, training_changes
        As for `scores`.

    Returns
    -------
    DataFrame
        Indexed like `actual`: `interval_score` (log return), `coverage` (0 or 1), `mae` (the absolute error, USD) and
        `mase` (the absolute error over the mean absolute change of the training rows).
    """
    change = np.expm1(actual) * close.reindex(actual.index)
    error = (change - price_change(forecast, close)["mean"]).abs()
    return pd.DataFrame(
        {
            "interval_score": interval_score(forecast["lower"], forecast["upper"], actual),
            "coverage": covered(forecast, actual).astype(float),
            "mae": error,
            "mase": error / _naive_error(training_changes),
        }
    )


def volatility_bucket(volatility: pd.Series, training_volatility: pd.Series) -> pd.Series:
    """Return for each day `calm`, `usual` or `wild`: the third of the training days among which its volatility lies.

    >>> volatility_bucket(pd.Series([0.5, 2.0, 9.0]), pd.Series([1.0, 2.0, 3.0])).tolist()
    ['calm', 'usual', 'wild']
    """
    edges = training_volatility.quantile([1 / 3, 2 / 3]).to_list()
    return pd.cut(volatility, [-np.inf, *edges, np.inf], labels=["calm", "usual", "wild"])


def price_change(forecast: pd.DataFrame, close: pd.Series) -> pd.DataFrame:
    """Turn a forecast of the log return into one of the price change, in the unit of the close (USD).

    The column `mean` becomes the change at the mean log return. For a Gaussian that is the *median* change, which is
    the right forecast under the absolute error; the mean change lies above it by about half the variance.

    Parameters
    ----------
    forecast
        Columns `mean`, `lower`, `upper` in log return.
    close
        The close of the day on which each forecast was made, found by the forecast's index.

    Examples
    --------
    >>> forecast = pd.DataFrame({"mean": [0.0], "lower": [-0.02], "upper": [0.02]})
    >>> price_change(forecast, pd.Series([100.0])).round(2).iloc[0].tolist()
    [0.0, -1.98, 2.02]
    """
    today = close.reindex(forecast.index).to_numpy(dtype=float)
    columns = {column: np.expm1(forecast[column]) * today for column in ("mean", "lower", "upper")}
    return pd.DataFrame(columns, index=forecast.index)
