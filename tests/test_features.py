import numpy as np
import pandas as pd
import pytest
from models_sample import google_prices

from lepton_kit.errors import InputError
from subjects.prices.features import (
    MONTH,
    ewma_volatility,
    log_returns,
    next_day_change,
    next_day_return,
    price_features,
    read_clean_prices,
)


@pytest.fixture(scope="module")
def prices():
    return google_prices()


@pytest.mark.parametrize("column", ["close", "high", "low", "volume"])
def test_changing_any_future_price_changes_no_feature(prices, column):
    day = 500
    future = prices.copy()
    generator = np.random.default_rng(0)
    later = future.index > day
    future[column] = future[column].astype(float)
    future.loc[later, column] *= generator.uniform(0.5, 2.0, later.sum())
    known = prices["date"][day]
    expected, found = price_features(prices).loc[:known], price_features(future).loc[:known]
    assert found.equals(expected)
    assert not price_features(future).equals(price_features(prices))


def test_a_row_does_not_depend_on_how_much_later_history_the_table_holds(prices):
    short = price_features(prices.head(300)).iloc[-1]
    pd.testing.assert_series_equal(short, price_features(prices).loc[short.name])


def test_lag_zero_is_the_day_itself_and_lag_one_the_day_before(prices):
    features, returns = price_features(prices, lookback=3), log_returns(prices.set_index("date")["close"])
    day, before = features.index[10], features.index[9]
    assert features.loc[day, "return_0"] == returns[day]
    assert features.loc[day, "return_1"] == returns[before]


def test_a_table_with_closes_only_gives_returns_and_volatilities(prices):
    columns = price_features(prices[["date", "close"]], lookback=2).columns
    assert list(columns) == ["return_0", "return_1", "volatility_ewma", "volatility_week", "volatility_month"]


def test_unmoving_prices_give_finite_features():
    still = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=60), "close": 5.0, "volume": 0})
    assert np.isfinite(price_features(still)).all().all()


def test_prices_in_another_currency_give_the_same_features(prices):
    other = prices.assign(close=prices["close"] * 8, high=prices["high"] * 8, low=prices["low"] * 8)
    pd.testing.assert_frame_equal(price_features(other), price_features(prices))


def test_ewma_volatility_is_the_textbook_recursion_once_the_start_is_forgotten(prices):
    returns = log_returns(prices["close"]).dropna()
    variance = returns.iloc[0] ** 2
    for value in returns.iloc[1:]:
        variance = 0.94 * variance + 0.06 * value**2
    assert ewma_volatility(returns).iloc[-1] == pytest.approx(np.sqrt(variance), rel=1e-9)


def test_the_last_day_has_no_next_day(prices):
    assert np.isnan(next_day_change(prices).iloc[-1]) and np.isnan(next_day_return(prices).iloc[-1])
    assert next_day_change(prices).iloc[0] == pytest.approx(prices["close"][1] - prices["close"][0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.drop(columns="close"), "lacks column close"),
        (lambda t: t.iloc[::-1], "sorted and unique"),
        (lambda t: t.head(1), "has 1 rows"),
        (lambda t: t.assign(close=t["close"].astype(str)), "must hold numbers"),
        (lambda t: t.assign(close=t["close"].where(t.index != 7, -3.0)), r"close = -3 on 2004-08-30"),
        (lambda t: t.assign(close=t["close"].where(t.index != 7)), r"close = nan on 2004-08-30"),
        (lambda t: t.assign(volume=t["volume"].where(t.index != 7, -1)), r"volume = -1 on 2004-08-30"),
    ],
)
def test_a_bad_table_is_refused_with_the_reason(prices, damage, message):
    with pytest.raises(InputError, match=message):
        price_features(damage(prices))


def test_a_lookback_below_one_day_is_refused(prices):
    with pytest.raises(InputError, match="lookback = 0"):
        price_features(prices, lookback=0)


@pytest.mark.parametrize(
    ("columns", "rows"), [(["date", "close"], MONTH + 1), (["date", "close", "volume"], MONTH + 4)]
)
def test_the_smallest_table_gives_one_row_and_one_row_less_is_refused(prices, columns, rows):
    assert len(price_features(prices[columns].head(rows), lookback=5)) == 1
    with pytest.raises(InputError, match=f"need at least {rows}"):
        price_features(prices[columns].head(rows - 1), lookback=5)


def test_an_empty_parquet_file_is_refused_by_name(tmp_path):
    path = tmp_path / "clean.parquet"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"clean.parquet: not a readable Parquet file"):
        read_clean_prices(path)


def test_a_table_without_parts_is_refused(prices, tmp_path):
    prices.drop(columns="split").to_parquet(tmp_path / "clean.parquet")
    with pytest.raises(InputError, match="lacks split"):
        read_clean_prices(tmp_path / "clean.parquet")
