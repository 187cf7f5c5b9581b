"""Cleaning of any table against its declaration, on tables that the kit did not make."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from lepton_kit.data import cleaning, quality
from lepton_kit.data.contracts import Contract, contract_of
from lepton_kit.errors import InputError
from lepton_kit.telemetry.declaration import Declaration

DATA = Path(os.environ.get("LEPTON_DATA", ""), "tables")


def declared(task="classification_binary", **columns) -> Declaration:
    return Declaration.model_validate({"task": task, "columns": {"target": "target", **columns}})


@pytest.fixture(scope="module")
def cancer() -> pd.DataFrame:
    return load_breast_cancer(as_frame=True).frame.iloc[:, [0, 1, 2, 4, -1]]


def counts(table, declaration) -> dict[str, int]:
    report = quality.quality_report(table, contract_of(declaration, table))
    return {check: rows for check, rows in zip(report["check"], report["rows"], strict=True) if rows}


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_diabetes])
def test_a_table_that_is_clean_loses_no_row_and_no_value(load):
    table = load(as_frame=True).frame
    task = "regression" if load is load_diabetes else "classification_multiclass"
    table = table.drop_duplicates(ignore_index=True)
    made = cleaning.clean_by(contract_of(declared(task), table), table)
    assert made.log["changed"].sum() == 0
    assert set(counts(table, declared(task))) <= {"outliers", "near-duplicates"}


def test_planted_faults_are_counted_each_under_its_name_and_repaired(cancer):
    broken = cancer.astype({"mean texture": object})
    broken.loc[3, "mean texture"] = "n/a today"
    broken.loc[7, "mean radius"] = np.nan
    broken.loc[11, "mean radius"] = 9999.0
    broken.loc[200:239, "mean perimeter"] *= 1000
    broken = pd.concat([broken, broken.iloc[[20, 21]]], ignore_index=True)
    found = counts(broken, declared())
    assert {name: found[name] for name in found if name != "outliers"} == {
        "wrong types": 1,
        "missing values": 1,
        "exact duplicates": 2,
        "impossible values": 1,
        "unit jumps": 40,
    }
    cleaned = cleaning.clean_by(contract_of(declared(), broken), broken).frame
    right = cancer.drop([3, 7, 11]).reset_index(drop=True)
    pd.testing.assert_frame_equal(cleaned[list(right)], right, check_dtype=False)


def test_outliers_and_near_duplicates_are_named_and_kept(cancer):
    twice = pd.concat([cancer, cancer.iloc[[0]] * 1.0000001], ignore_index=True)
    twice.loc[5, "mean smoothness"] = 0.9
    found = counts(twice, declared())
    assert found["near-duplicates"] == 1 and found["outliers"] > 1
    assert len(cleaning.clean_by(contract_of(declared(), twice), twice).frame) == len(twice)


def test_cleaning_twice_changes_nothing_more(cancer):
    broken = pd.concat([cancer, cancer.head(9)])
    contract = contract_of(declared(), broken)
    once = cleaning.clean_by(contract, broken).frame
    again = cleaning.clean_by(contract, once)
    assert again.log["changed"].sum() == 0


def test_the_later_row_of_an_id_is_taken_as_the_correction(cancer):
    table = cancer.assign(id=range(len(cancer)))
    corrected = pd.concat([table, table.iloc[[4]].assign(target=1 - table["target"].iloc[4])], ignore_index=True)
    contract = contract_of(declared(id="id"), corrected)
    cleaned = cleaning.clean_by(contract, corrected).frame
    assert len(cleaned) == len(table)
    assert cleaned.loc[cleaned["id"] == 4, "target"].tolist() == [1 - table["target"].iloc[4]]


def test_rows_that_were_seen_in_training_and_a_feature_that_tells_the_target_are_named(cancer):
    split = cancer.assign(split=np.where(np.arange(len(cancer)) < 400, "train", "test"))
    split.iloc[500] = split.iloc[3].copy()
    split.loc[500, "split"] = "test"
    contract = contract_of(declared(), split)
    assert np.flatnonzero(quality.find_shared_rows(split, contract)).tolist() == [500]
    leaky = cancer.assign(outcome=np.where(cancer["target"] == 1, "ok", "not ok"))
    assert quality.target_like(leaky, contract_of(declared(), leaky)) == ["outcome"]
    assert quality.target_like(cancer, contract_of(declared(), cancer)) == []


def test_the_balance_of_the_classes_names_the_scarce_one(cancer):
    few = cancer[(cancer["target"] == 1) | (cancer.index < 4)]
    balance = quality.class_balance(few, contract_of(declared(), few)).set_index("class")
    assert balance["scarce"].to_dict() == {"0": True, "1": False}


def test_rules_of_time_apply_where_rows_follow_on_each_other_and_nowhere_else():
    days = pd.date_range("2024-01-01", periods=80, tz="UTC")
    table = pd.DataFrame({"day": days, "x": np.sin(np.arange(80.0)), "target": np.arange(80.0)})
    stale = table.drop(range(30, 45)).reset_index(drop=True)
    stale.loc[50:52, "x"] = stale.loc[49, "x"]
    stale = pd.concat([stale.iloc[[10]], stale.drop(10)], ignore_index=True)
    series = declared("regression", timestamp="day").model_copy(update={"time_series": True})
    found = counts(stale, series)
    assert (found["out of order"], found["gaps"], found["stale rows"]) == (10, 1, 3)
    assert set(counts(stale.drop(columns="day"), declared("regression"))) == set()
    cleaned = cleaning.clean_by(contract_of(series, stale), stale).frame
    assert cleaned["day"].is_monotonic_increasing and len(cleaned) == len(stale) - 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"target": "outcome"}, "columns.target = 'outcome': the table has no such column"),
        ({"features": ["radius"]}, "columns.features: 'radius' names no column"),
        ({"target": None}, "columns.target: the declaration names no target"),
    ],
)
def test_a_contract_that_the_table_cannot_meet_is_refused_with_its_key(cancer, columns, message):
    with pytest.raises(InputError, match=message):
        contract_of(declared(**columns), cancer)


def test_a_column_that_is_mostly_empty_is_named_and_no_table_is_left_of_a_few_rows(cancer):
    hollow = cancer.assign(note=np.where(cancer.index < 50, 1.0, np.nan))
    with pytest.raises(InputError, match=r"cleaning left 50 of 569 rows.*note \(91% empty\)"):
        cleaning.clean_by(contract_of(declared(), hollow), hollow)


def test_private_columns_and_columns_without_a_role_are_not_in_the_clean_table(cancer):
    table = cancer.assign(email="a@b.c")
    private = declared().model_copy(update={"private": ("email",)})
    assert "email" not in cleaning.clean_by(contract_of(private, table), table).frame


@pytest.mark.skipif(not DATA.is_dir(), reason="LEPTON_DATA names no tables")
@pytest.mark.parametrize(
    ("name", "text", "target"), [("hospital", "name", "condition"), ("rayyan", "article_title", "article_language")]
)
def test_real_dirty_tables_are_read_reported_and_cleaned(name, text, target):
    table = pd.read_csv(DATA / name / "dirty.csv", dtype=str)
    features = [column for column in table if column not in {"index", "id", text, target}]
    columns = {"id": table.columns[0], "categorical": features, "text": text, "target": target}
    declaration = declared("classification_multiclass", features=[*features, text], **columns)
    contract = contract_of(declaration, table)
    report = quality.quality_report(table, contract).set_index("check")
    assert report.loc["missing values", "rows"] == table[[*features, target]].isna().any(axis=1).sum()
    if name == "hospital":
        assert len(cleaning.clean_by(contract, table).frame) > 900
    else:
        with pytest.raises(InputError, match="% empty"):
            cleaning.clean_by(contract, table)


def test_a_contract_says_which_columns_a_model_may_be_given():
    contract = Contract(numbers=("a",), categories=("b",), texts=("c",), target="y", id="i")
    assert contract.features == ("a", "b")
    assert contract.columns == ("i", "y", "a", "b", "c")
