"""Faults are planted where the truth says, and the scores fall when a rule is broken."""

import pandas as pd
import pytest

from lepton_kit.errors import InputError
from subjects.prices import cleaning, faults
from subjects.prices.sources import read_prices


@pytest.fixture(scope="module")
def prices():
    return read_prices("sample:goog")


@pytest.fixture(scope="module")
def planted(prices):
    return faults.plant_faults(prices, seed=7, count=4)


def test_one_seed_plants_the_same_faults_and_another_does_not(prices, planted):
    again, other = faults.plant_faults(prices, seed=7, count=4), faults.plant_faults(prices, seed=8, count=4)
    pd.testing.assert_frame_equal(again.frame, planted.frame)
    pd.testing.assert_frame_equal(again.truth, planted.truth)
    assert not other.truth.equals(planted.truth)


def test_every_kind_is_planted_as_often_as_asked(planted):
    rows = planted.truth["kind"].value_counts().to_dict()
    assert rows.pop("feed stood still") == 4 * faults.STALE_ROWS
    assert rows == {fault.kind: 4 for fault in faults.FAULTS if fault.kind != "feed stood still"}


def test_planted_rows_do_not_overlap_and_bear_the_date_the_truth_gives(planted):
    there = planted.truth[planted.truth["row"] >= 0]
    assert there["row"].is_unique
    assert planted.frame["date"].iloc[there["row"]].tolist() == there["date"].tolist()
    gone = planted.truth.loc[planted.truth["row"] < 0, "date"]
    assert not planted.frame["date"].isin(gone).any()


def test_no_fault_is_planted_for_zero(prices):
    planted = faults.plant_faults(prices, seed=7, count=0)
    pd.testing.assert_frame_equal(planted.frame, prices)
    scores = faults.score_rules(planted)
    assert scores["planted"].sum() == scores["found"].sum() == 0
    assert scores["recall"].isna().all()


def test_planting_leaves_the_table_it_is_given(prices):
    before = prices.copy()
    faults.plant_faults(prices, seed=1, count=2)
    pd.testing.assert_frame_equal(prices, before)


def test_a_table_of_closes_alone_gets_the_faults_it_can_have(prices):
    planted = faults.plant_faults(prices[["date", "close"]], seed=7, count=2)
    assert "high and low swapped" not in set(planted.truth["kind"])
    assert faults.score_rules(planted)["recall"].min() >= 0.5


def test_more_faults_than_a_table_holds_are_refused(prices):
    with pytest.raises(InputError, match="a table of 1047 rows holds 0 to 10 of each without overlap"):
        faults.plant_faults(prices, seed=7, count=50)
    with pytest.raises(InputError, match="-1 planted faults of each of 12 kinds"):
        faults.plant_faults(prices, seed=7, count=-1)


def test_over_many_seeds_nearly_all_faults_are_found_and_little_else(prices):
    together = sum(faults.score_rules(faults.plant_faults(prices, seed, 5)).set_index("rule") for seed in range(4))
    assert (together["correct"] / together["planted"]).min() > 0.9
    assert (together["correct"] / together["found"]).min() > 0.97


def test_what_is_found_and_what_is_not_is_marked_fault_by_fault(planted):
    marked, scores = faults.mark_found(planted), faults.score_rules(planted)
    assert marked["found"].sum() == scores["correct"].sum()
    unspiked = tuple(rule for rule in cleaning.RULES if rule is not cleaning.drop_reverted_spikes)
    missed = faults.mark_found(planted, unspiked)
    assert set(missed.loc[~missed["found"], "kind"]) == {"spike for a day"}


def test_a_rule_that_does_nothing_finds_nothing(planted):
    def idle(frame: pd.DataFrame) -> pd.DataFrame:
        return frame

    for rule in cleaning.RULES:
        broken = tuple(idle if other is rule else other for other in cleaning.RULES)
        scores = faults.score_rules(planted, broken).set_index("rule")
        assert rule.__name__ not in scores.index
        assert scores.loc["idle", "found"] == 0


def test_a_rule_that_drops_too_much_loses_precision(planted, monkeypatch):
    monkeypatch.setattr(cleaning.quality, "SPIKE", 2.0)
    scores = faults.score_rules(planted).set_index("rule")
    assert scores.loc["drop_reverted_spikes", "precision"] < 0.8


def test_after_cleaning_every_price_left_is_the_original(planted):
    assert not faults.wrong_prices(planted.frame, planted.original).empty
    assert faults.wrong_prices(cleaning.clean(planted.frame).frame, planted.original).empty


def test_a_price_that_stays_wrong_or_empty_is_shown(prices):
    wrong = prices.copy()
    wrong.loc[20, "close"] = wrong.loc[20, "low"]
    wrong.loc[30, "open"] = float("nan")
    assert faults.wrong_prices(wrong, prices).index.tolist() == [20, 30]
