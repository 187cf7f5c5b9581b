"""A contract's violation is one message with column, row, value and rule."""

import numpy as np
import pandas as pd
import pytest

from lepton_kit.errors import InputError
from subjects.prices.contracts import check_clean, check_raw
from subjects.prices.sources import read_prices


@pytest.fixture
def prices():
    return read_prices("sample:goog").head(5)


def test_the_sample_meets_both_contracts(prices):
    assert check_raw(prices) is prices
    assert check_clean(prices) is prices


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("close", -1.0, "column close, row 3: value -1.0 must be above 0"),
        ("open", 0.0, "column open, row 3: value 0.0 must be above 0"),
        ("close", np.nan, "column close, row 3: value (empty) must not be missing"),
        ("volume", -5.0, "column volume, row 3: value -5.0 must not be below 0"),
        ("high", 1.0, "column high, row 3: value 1.0 must not be below low"),
        ("close", 999.0, "column close, row 3: value 999.0 must lie within low and high"),
        ("open", 999.0, "column open, row 3: value 999.0 must lie within low and high"),
        ("date", pd.Timestamp("2004-08-20"), "column date, row 3: value 2004-08-20 must come once"),
        ("date", pd.Timestamp("2004-08-18"), "column date, row 3: value 2004-08-18 must not be earlier"),
    ],
)
def test_the_clean_contract_names_column_row_value_and_rule(prices, column, value, said):
    broken = prices.copy()
    broken.loc[2, column] = value
    with pytest.raises(InputError) as caught:
        check_clean(broken, "table X")
    assert str(caught.value).startswith("table X: ")
    assert said in str(caught.value)


def test_the_raw_contract_lets_faults_of_content_pass(prices):
    broken = prices.assign(close=[1.0, -1.0, np.nan, 2.0, 3.0]).iloc[::-1]
    assert check_raw(broken) is broken


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"close": ["a", "b", "c", "d", "e"]}, "column close, row 1: value 'a' must be a number"),
        ({"volume": ["a", "b", "c", "d", "e"]}, "column volume, row 1: value 'a' must be a number"),
        ({"date": ["a", "b", "c", "d", "e"]}, "column date, row 1: value 'a' must be a date"),
        ({"ticker": "GOOG"}, "column ticker is not one of the kit's"),
    ],
)
def test_the_raw_contract_refuses_wrong_types_and_columns(prices, change, said):
    with pytest.raises(InputError, match="price table: ") as caught:
        check_raw(prices.assign(**change))
    assert said in str(caught.value)


def test_a_missing_column_and_an_empty_table_are_refused(prices):
    with pytest.raises(InputError, match="lacks column close; it has date, open"):
        check_raw(prices.drop(columns="close"))
    with pytest.raises(InputError, match="holds no rows"):
        check_clean(prices.head(0))
