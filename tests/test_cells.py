"""Wrong cells of a table: found from a few labelled rows, explained, repaired and taken back."""

import numpy as np
import pandas as pd
import pytest

from lepton_kit.data.cells import Cells, repair, undo
from lepton_kit.errors import InputError

ROWS = 240


@pytest.fixture(scope="module")
def shop():
    """A table, and where it is wrong: slips of the pen, a broken dependency, disguised holes, another unit."""
    rng = np.random.default_rng(5)
    cities = {"Bremen": "28195", "Hamburg": "20095", "Leipzig": "04109", "Dresden": "01067", "Potsdam": "14467"}
    city = rng.choice(list(cities), ROWS)
    table = pd.DataFrame(
        {
            "order": [f"A{100 + number}" for number in range(ROWS)],
            "city": city,
            "zip": [cities[one] for one in city],
            "paid": rng.choice(["cash", "card", "transfer"], ROWS),
            "weight": [f"{kilos:.1f}" for kilos in rng.uniform(1, 9, ROWS)],
        },
        index=[f"row {number}" for number in range(ROWS)],
    )
    right = table.copy()
    places = iter(rng.permutation(ROWS))
    for column, spoilt, count in (
        ("city", lambda value: value[0] + "x" + value[2:], 8),
        ("paid", lambda value: value.replace("a", "ä"), 8),
        ("zip", lambda value: "04109" if value != "04109" else "28195", 8),
        ("weight", lambda value: f"{1000 * float(value):.0f}", 8),
        ("weight", lambda _: "-999", 6),
    ):
        for _ in range(count):
            row = table.index[next(places)]
            table.loc[row, column] = spoilt(table.loc[row, column])
    return table, table != right, right


@pytest.fixture(scope="module")
def found(shop):
    table, wrong, _ = shop
    cells, labels = Cells(table), wrong.head(0)
    for _ in range(20):
        labels = pd.concat([labels, wrong.loc[[cells.next_row(labels)]]])
    return labels, cells.find(labels)


def test_twenty_labelled_rows_are_enough_to_find_the_wrong_cells(shop, found):
    _, wrong, _ = shop
    labels, findings = found
    assert len(set(labels.index)) == 20
    called = set(zip(findings["row"], findings["column"], strict=True))
    true = {(row, column) for column in wrong for row in wrong.index[wrong[column]]}
    assert 2 * len(called & true) / (len(called) + len(true)) > 0.9
    known = {(row, column) for column in labels for row in labels.index[labels[column]]}
    assert known <= called
    certain = findings[findings["probability"] == 1]
    assert known <= set(zip(certain["row"], certain["column"], strict=True))


@pytest.mark.parametrize(
    ("column", "value", "rule", "why"),
    [
        ("city", "Bxemen", "dependency", "other rows with this zip most have 'Bremen'"),
        ("weight", "-999", "missing in disguise", "'-999' stands for a missing value"),
    ],
)
def test_a_finding_says_which_rule_and_why(found, column, value, rule, why):
    _, findings = found
    one = findings[(findings["column"] == column) & (findings["value"] == value)].iloc[0]
    assert one["rule"] == rule
    assert why in one["why"]


def test_a_number_far_out_is_explained_by_its_distance_and_proposes_nothing(found):
    _, findings = found
    far = findings[findings["rule"] == "number"]
    assert set(far["column"]) == {"weight"}
    assert far["why"].str.contains("quartile ranges from the median").all()
    assert far["proposal"].isna().all()


def test_proposals_are_right_where_rows_tell_and_are_taken_back_by_their_log(shop, found):
    table, _, right = shop
    _, findings = found
    repaired, log = repair(table, findings)
    cities = log[log["column"] == "city"]
    assert len(cities) >= 6
    assert [right.loc[row, "city"] for row in cities["row"]] == cities["after"].tolist()
    assert (repaired != right).to_numpy().sum() < (table != right).to_numpy().sum()
    assert undo(repaired, log).equals(table.astype(object))
    part = undo(repaired, log.head(1))
    assert (part != repaired).to_numpy().sum() == 1
    changed = repaired.copy()
    changed.loc[log["row"][0], log["column"][0]] = "by hand"
    with pytest.raises(InputError, match="'by hand': the repair wrote"):
        undo(changed, log)


def test_the_same_labels_find_the_same_cells(shop, found):
    labels, findings = found
    assert Cells(shop[0]).find(labels).equals(findings)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda labels: labels.rename(index={labels.index[0]: "row 999"}), "row 'row 999' is not in the table"),
        (lambda labels: labels.assign(colour=True), "column 'colour' is not in the table"),
        (lambda labels: labels.drop(columns="zip"), "column 'zip' is missing"),
        (lambda labels: labels.astype(object).assign(zip="yes"), "column 'zip' = 'yes': must be True or False"),
        (lambda labels: pd.concat([labels, labels.head(1)]), "is given twice"),
        (lambda labels: labels & False, "none of their cells are wrong"),
        (lambda labels: labels.head(0), "none of their cells are wrong"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused_with_their_place(shop, found, spoil, said):
    with pytest.raises(InputError, match=said):
        Cells(shop[0]).find(spoil(found[0]))


def test_a_table_without_another_row_to_compare_with_is_refused():
    with pytest.raises(InputError, match="must have two rows or more"):
        Cells(pd.DataFrame({"a": [1]}))


def test_missing_values_numbers_and_constant_columns_are_cells_as_others():
    table = pd.DataFrame({"a": [1.5, None, 2.5, 3.5] * 5, "b": "same", "c": pd.date_range("2026-01-01", periods=20)})
    labels = table.isna().head(8)
    findings = Cells(table).find(labels)
    assert set(zip(findings["row"], findings["column"], strict=True)) == {(row, "a") for row in range(1, 20, 4)}
    assert set(findings["rule"]) == {"missing"}
    assert findings["value"].isna().all()


def test_a_labelled_cell_is_what_its_label_says_whatever_its_likes_are_labelled():
    table = pd.DataFrame({"a": ["x", "x", "y", "y"], "b": ["1", "1", "2", "3"]})
    labels = pd.DataFrame({"a": [True, False], "b": False})
    findings = Cells(table).find(labels)
    judged = findings[findings["row"].isin([0, 1])]
    assert judged[["row", "column", "probability"]].to_numpy().tolist() == [[0, "a", 1.0]]


def test_another_date_or_number_is_no_slip_of_a_frequent_one():
    table = pd.DataFrame({"day": ["11/21/2007"] * 12 + ["11/22/2007"] * 2 + ["11/21/200?"]})
    labels = pd.DataFrame({"day": [False, True]}, index=[0, 12])
    findings = Cells(table).find(labels)
    dates = findings[findings["value"] == "11/22/2007"]
    assert len(dates) == 2
    assert dates["proposal"].isna().all()
    assert "nearly another" not in set(dates["rule"])
