"""Each rule does what it says and no more; cleaning twice changes nothing; real jumps stay."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lepton_kit.errors import InputError, LeptonError
from subjects.prices import cleaning
from subjects.prices.contracts import check_clean
from subjects.prices.faults import plant_faults
from subjects.prices.sources import read_prices

BRENT = (
    Path(os.environ.get("LEPTON_DATA", Path(__file__).parents[2] / "shared" / "data")) / "prices" / "brent-daily.csv"
)
PRICES = ["open", "high", "low", "close", "adj_close"]


@pytest.fixture
def prices():
    return read_prices("sample:goog")


def test_the_sample_is_clean_already(prices):
    cleaned = cleaning.clean(prices)
    pd.testing.assert_frame_equal(cleaned.frame, prices)
    assert cleaned.log["changed"].sum() == 0
    assert cleaned.log["rule"].tolist() == [rule.__name__ for rule in cleaning.RULES]


@pytest.mark.parametrize("day", ["2004-10-22", "2006-01-20", "2008-04-18", "2008-09-29", "2008-10-13"])
def test_earnings_days_and_the_autumn_of_2008_are_kept(prices, day):
    faulty = plant_faults(prices, seed=11, count=2)
    planted_on = set(faulty.truth["date"].astype(str))
    assert day in planted_on or day in set(cleaning.clean(faulty.frame).frame["date"].astype(str))
    assert day in set(cleaning.clean(prices).frame["date"].astype(str))


def test_no_day_of_four_decades_of_brent_is_dropped():
    if not BRENT.exists():
        pytest.skip(f"{BRENT} is not there; set LEPTON_DATA to the folder of shared data")
    prices = read_prices(str(BRENT), {"Price": "close"})
    pd.testing.assert_frame_equal(cleaning.clean(prices).frame, prices)


@pytest.mark.parametrize("seed", range(3))
def test_cleaning_twice_changes_nothing(prices, seed):
    once = cleaning.clean(plant_faults(prices, seed=seed, count=6).frame)
    twice = cleaning.clean(once.frame)
    assert twice.log["changed"].sum() == 0
    pd.testing.assert_frame_equal(check_clean(twice.frame), once.frame)


def test_no_rule_changes_the_table_it_is_given(prices):
    faulty = plant_faults(prices, seed=1, count=3).frame
    before = faulty.copy()
    for rule in cleaning.RULES:
        rule(faulty)
    pd.testing.assert_frame_equal(faulty, before)


def test_the_log_chains_rows_in_to_rows_out_and_says_why(prices):
    faulty = plant_faults(prices, seed=1, count=3).frame
    cleaned = cleaning.clean(faulty)
    log = cleaned.log
    assert log["rows_in"].iloc[0] == len(faulty)
    assert log["rows_out"].iloc[-1] == len(cleaned.frame)
    assert (log["rows_in"].iloc[1:].to_numpy() == log["rows_out"].iloc[:-1].to_numpy()).all()
    assert log["why"].str.len().min() > 20


def test_of_two_rows_for_one_date_the_possible_one_stays(prices):
    impossible = prices.iloc[[50]].assign(close=-1.0)
    faulty = pd.concat([prices.iloc[:51], impossible, prices.iloc[51:]], ignore_index=True)
    pd.testing.assert_frame_equal(cleaning.clean(faulty).frame, prices)


def test_a_correction_that_arrives_late_replaces_the_draft(prices):
    draft = prices.copy()
    draft.loc[50, "close"] = prices.loc[50, "high"]
    corrected_at_the_end = pd.concat([draft, prices.iloc[[50]]], ignore_index=True)
    pd.testing.assert_frame_equal(cleaning.clean(corrected_at_the_end).frame, prices)


def test_a_split_is_undone_in_prices_and_volume(prices):
    earlier = prices.index < 600
    faulty = prices.copy()
    faulty.loc[earlier, PRICES] *= 4
    faulty.loc[earlier, "volume"] /= 4
    corrected = cleaning.clean(faulty).frame
    pd.testing.assert_frame_equal(corrected, prices, check_exact=False, rtol=1e-6)


def test_prices_adjusted_before_are_not_adjusted_again(prices):
    faulty = prices.copy()
    faulty.loc[:599, ["open", "high", "low", "close"]] *= 2
    corrected = cleaning.correct_splits(faulty)
    pd.testing.assert_frame_equal(corrected[PRICES], prices[PRICES])


def test_missing_days_are_never_filled(prices):
    assert len(cleaning.clean(prices.drop(index=[10, 11, 400])).frame) == len(prices) - 3


def test_a_table_with_no_true_row_is_refused(prices):
    with pytest.raises(InputError, match="cleaning left no row: drop_missing_prices dropped the last 1047"):
        cleaning.clean(prices.assign(close=np.nan))


def test_rules_that_undo_each_other_are_stopped(prices):
    with pytest.raises(LeptonError, match="two rules undo each other"):
        cleaning.clean(prices, rules=(cleaning.sort_by_date, lambda frame: frame.iloc[::-1]))


def test_a_single_row_is_clean(prices):
    assert len(cleaning.clean(prices.head(1)).frame) == 1


def test_a_rule_is_added_as_one_function_and_one_entry(prices):
    def drop_fridays(frame: pd.DataFrame) -> pd.DataFrame:
        """Drop Fridays, for the sake of this test."""
        return frame[frame["date"].dt.day_of_week != 4]

    log = cleaning.clean(prices, rules=(*cleaning.RULES, drop_fridays)).log.set_index("rule")
    fridays = int((prices["date"].dt.day_of_week == 4).sum())
    assert log.loc["drop_fridays", ["changed", "why"]].tolist() == [fridays, "Drop Fridays, for the sake of this test."]
