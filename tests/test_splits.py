"""Parts follow each other in time, and no target reaches from one into the next."""

import pandas as pd
import pytest

from lepton_kit.data.splits import check_no_leakage, split_by_time, time_ordered_folds
from lepton_kit.errors import InputError, LeptonError
from subjects.prices.sources import read_prices


@pytest.fixture(scope="module")
def prices():
    return read_prices("sample:goog")


def test_parts_follow_each_other_and_every_row_keeps_its_place(prices):
    split = split_by_time(prices)
    pd.testing.assert_frame_equal(split.drop(columns="split"), prices)
    assert split["split"].drop_duplicates().tolist() == ["train", "embargo", "validation", "test"]
    assert split["split"].value_counts().to_dict() == {"train": 628, "validation": 209, "test": 208, "embargo": 2}


@pytest.mark.parametrize("embargo", [1, 2, 5])
def test_no_target_within_the_embargo_reaches_the_next_part(prices, embargo):
    split = split_by_time(prices, embargo=embargo)
    for horizon in range(1, embargo + 1):
        check_no_leakage(split, horizon)
    with pytest.raises(LeptonError, match=r"the target of .* \(train\) lies on .*, in validation"):
        check_no_leakage(split, embargo + 1)


def test_parts_that_mix_in_time_are_a_leak(prices):
    mixed = split_by_time(prices)
    mixed.loc[mixed.index[-1], "split"] = "train"
    with pytest.raises(LeptonError):
        check_no_leakage(mixed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"train": 0.0}, "train share = 0.0"),
        ({"train": 1.2}, "train share = 1.2"),
        ({"validation": -0.1}, "validation share = -0.1"),
        ({"train": 0.7, "validation": 0.3}, "must leave a part below 1 for the test"),
        ({"embargo": 0}, "embargo = 0: must be at least 1 day"),
        ({"embargo": 300}, "each part needs at least 10"),
    ],
)
def test_shares_that_cannot_be_are_refused(prices, arguments, said):
    with pytest.raises(InputError) as caught:
        split_by_time(prices, **arguments)
    assert said in str(caught.value)


@pytest.mark.parametrize("rows", [1, 20, 40])
def test_a_table_too_short_is_refused(prices, rows):
    with pytest.raises(InputError, match=f"price table: too short: {rows} rows give train"):
        split_by_time(prices.head(rows))


def test_unsorted_and_repeated_dates_are_refused(prices):
    for wrong in (prices.iloc[::-1], pd.concat([prices, prices.tail(1)])):
        with pytest.raises(InputError, match="sorted, unique dates"):
            split_by_time(wrong)


def test_folds_are_scored_on_rows_after_all_that_they_learn_from():
    made = time_ordered_folds(300, folds=3, embargo=2)
    for fold in made:
        assert fold.train.start == 0
        assert fold.train.stop + 2 == fold.validation.start
        assert fold.validation.stop + 2 == fold.scored.start
    assert [fold.scored.start for fold in made] == [75, 150, 225] and made[-1].scored.stop == 300


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rows": 300, "folds": 1}, "folds = 1: must be at least 2"),
        ({"rows": 300, "validation": 1.2}, r"validation share = 1\.2"),
        ({"rows": 300, "embargo": 0}, "embargo = 0"),
        ({"rows": 30}, "30 rows are too few for 3 folds"),
        ({"rows": 80, "folds": 2, "embargo": 20}, "the shortest stretch would have 0 rows"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(asked, message):
    with pytest.raises(InputError, match=message):
        time_ordered_folds(**asked)
