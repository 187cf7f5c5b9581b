"""What the report counts is there, and what is news or a holiday is not called a fault."""

import numpy as np
import pandas as pd
import pytest

from subjects.prices import quality
from subjects.prices.sources import read_prices
from subjects.prices.trading_days import closed_days, missing_days, recurring_closures, traded_weekdays


@pytest.fixture
def prices():
    return read_prices("sample:goog")


def calm(rows: int = 80) -> pd.DataFrame:
    close = 100 + np.sin(np.arange(rows) * 1.7)
    return pd.DataFrame({"date": pd.bdate_range("2024-01-01", periods=rows), "close": close})


def test_the_sample_has_outliers_one_unexplained_day_and_no_other_fault(prices):
    report = quality.quality_report(prices).set_index("check")
    assert report.loc[report["rows"] > 0, "rows"].to_dict() == {
        "missing days": 1,
        "recurring closures": 36,
        "outliers": 18,
    }
    assert report.loc["missing days", "example"] == "Tue 2007-01-02"


def test_holidays_of_new_york_are_recognised_from_the_dates_alone(prices):
    closed = recurring_closures(prices["date"]).strftime("%Y-%m-%d").tolist()
    good_friday, thanksgiving, christmas_moved, independence = "2005-03-25", "2006-11-23", "2004-12-24", "2007-07-04"
    assert {good_friday, thanksgiving, christmas_moved, independence} <= set(closed)


def test_lost_days_are_found_among_the_holidays(prices):
    lost = prices["date"].iloc[[100, 400, 900]]
    found = missing_days(prices["date"].drop(lost.index))
    assert set(found) == {*lost, pd.Timestamp("2007-01-02")}


def test_a_hole_of_years_is_a_gap_and_no_holiday():
    days = pd.Series(pd.bdate_range("2015-01-01", "2024-12-31"))
    kept = days[(days < "2018-01-01") | (days >= "2022-01-01")]
    closed = closed_days(kept)
    assert not closed["recurs"].any()
    assert len(closed) == len(days) - len(kept)


def test_weekdays_traded_are_read_from_the_data():
    every_day = pd.Series(pd.date_range("2024-01-01", "2024-06-30"))
    sunday_to_thursday = every_day[~every_day.dt.day_of_week.isin([4, 5])]
    assert traded_weekdays(every_day) == [0, 1, 2, 3, 4, 5, 6]
    assert traded_weekdays(sunday_to_thursday) == [0, 1, 2, 3, 6]


def test_a_table_of_less_than_two_years_says_that_holidays_cannot_be_known():
    report = quality.quality_report(calm()).set_index("check")
    assert "no holiday can be recognised" in report.loc["missing days", "meaning"]


def test_the_quality_of_a_single_row_can_be_told():
    report = quality.quality_report(read_prices("sample:goog").head(1))
    assert report["rows"].sum() == 0


def test_the_example_names_row_date_and_values(prices):
    prices.loc[4, ["high", "low"]] = [1.0, 2.0]
    report = quality.quality_report(prices).set_index("check")
    assert report.loc["high below low", ["rows", "example"]].tolist() == [1, "row 5, 2004-08-25: high 1, low 2"]
    assert report.loc["outside low to high", "rows"] == 0


def test_finders_agree_whatever_the_order_of_rows(prices):
    prices.loc[300, ["open", "high", "low", "close", "adj_close"]] *= 1.6
    prices.loc[700, prices.columns[1:]] = prices.loc[699, prices.columns[1:]]
    shuffled = prices.sample(frac=1, random_state=3)
    for find in (quality.find_reverted_spikes, quality.find_stale_repeats, quality.find_outliers):
        assert set(prices.index[find(prices)]) == set(shuffled.index[find(shuffled)])
    assert prices.index[quality.find_reverted_spikes(shuffled).sort_index()].tolist() == [300]
    assert prices.index[quality.find_stale_repeats(shuffled).sort_index()].tolist() == [700]


@pytest.mark.parametrize(("run", "stale"), [(2, 0), (3, 0), (4, 3)])
def test_a_lone_close_must_stand_still_for_four_days(run, stale):
    frame = calm()
    frame.loc[30 : 30 + run - 1, "close"] = 55.0
    assert quality.find_stale_repeats(frame).sum() == stale


def test_a_crash_that_stays_or_comes_half_back_is_neither_spike_nor_split():
    # Brent in April 2020: 17.36, 9.12, 13.77, 15.06 dollars
    frame = calm()
    frame.loc[40:, "close"] *= 0.75
    frame.loc[40, "close"] = frame.loc[39, "close"] * 0.525
    assert quality.find_outliers(frame)[40]
    assert not quality.find_reverted_spikes(frame).any()
    assert not quality.find_split_jumps(frame).any()


def test_a_fall_by_a_third_is_kept_though_a_split_of_three_to_two_looks_like_it():
    frame = calm()
    frame.loc[40:, "close"] *= 2 / 3
    assert not quality.find_split_jumps(frame).any()


@pytest.mark.parametrize("factor", [1 / 2, 1 / 3, 1 / 20, 2, 10])
def test_a_split_is_found_with_its_factor(factor):
    frame = calm()
    frame.loc[40:, "close"] *= factor
    assert quality.split_factors(frame).dropna().to_dict() == pytest.approx({40: factor})


def test_a_spike_on_the_last_day_is_kept_because_tomorrow_is_not_known():
    frame = calm()
    frame.loc[len(frame) - 1, "close"] *= 2
    assert not quality.find_reverted_spikes(frame).any()
    assert not quality.find_split_jumps(frame).any()


def test_rounding_of_adjusted_prices_is_not_impossible(prices):
    prices.loc[3, "close"] = prices.loc[3, "high"] * (1 + 1e-9)
    assert not quality.find_impossible_values(prices).any()


@pytest.mark.parametrize("first_year", [1, 300, 5000, 9998])
def test_a_table_at_either_end_of_the_calendar_is_reported(first_year):
    days = pd.date_range(f"{first_year:04}-01-01", f"{first_year + 1:04}-12-31", unit="us").to_series()
    days = days[days.dt.day_of_week < 5].drop(days.index[[3, 70]], errors="ignore").reset_index(drop=True)
    kept = days.drop([60, len(days) - 3])
    report = quality.quality_report(pd.DataFrame({"date": kept, "close": np.linspace(7, 8, len(kept))})).set_index(
        "check"
    )
    assert report.loc["missing days", "rows"] >= 2
