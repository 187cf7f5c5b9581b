"""The diagnosis of services that the kit did not make: rows in no order, labels, categories, models of scikit-learn."""

import json
import os
from dataclasses import replace
from pathlib import Path

import models_of_others as others
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lepton_kit.diagnosis import drift_watch
from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.evidence import gather
from lepton_kit.diagnosis.onset import Criteria
from lepton_kit.diagnosis.served import served_models
from lepton_kit.models.conversion import kept_onnx, of_estimator
from lepton_kit.models.distillation import distil_table
from lepton_kit.models.flavors import load_model, said_of
from lepton_kit.models.tasks import task_of
from lepton_kit.telemetry.declaration import Versions as Declared
from lepton_kit.telemetry.health import last_periods
from lepton_kit.telemetry.recordings import FEATURE, FORMAT, Incident, Recording, read_recording, write_recording

ROWS, FROM = 900, 600  # one a second: the fault comes after ten minutes
START = pd.Timestamp("2026-03-02 09:00", tz="UTC")
TIMES = pd.date_range(START, periods=ROWS, freq="s")
SINCE = np.arange(ROWS) >= FROM
BINARY = task_of("classification_binary")


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    return others.keep_skops(tmp_path_factory.mktemp("v1") / "v1", others.classifier(others.people(2000, seed=1)))


def incident(current="v1", last_good=None, deployed=(), **said):
    return Incident.model_validate(
        {
            "format": FORMAT,
            "id": "made",
            "service": "scoring",
            "declaration": {
                "task": "classification_binary",
                "requests": {"path": "log/*.jsonl"},
                "columns": {"id": "id", "version": "version", "status": "code", "features": "inputs.*", "target": "y"},
                "deployments": "deployments.jsonl",
                "model": {"current": "models/v1"},
            },
            "window": {"start": START, "end": TIMES[-1] + pd.Timedelta("1s")},
            "versions": {"current": current, "last_good": last_good},
            "alerts": [{"name": "AccuracyFalls", "starts_at": TIMES[FROM + 120]}],
            "deployments": [{"time": time, "version": version} for version, time in deployed],
            **said,
        }
    )


def recorded(rows: pd.DataFrame, models, reference=None, current="v1", given=None, **said) -> Recording:
    """A service that answered rows in no order by a model, or by another one since the fault."""
    inputs, target = rows.drop(columns="actual"), rows["actual"].to_numpy(float)
    used = load_model(models["v1"], BINARY).predict(inputs if given is None else given)
    if current != "v1":
        later = load_model(models[current], BINARY).predict(inputs)
        used = pd.concat([used[~SINCE], later[SINCE]])
    requests = pd.DataFrame({"time": TIMES, "request_id": np.arange(ROWS).astype(str)}).assign(
        version=np.where(SINCE, current, "v1"), status=200.0, latency_ms=12.0, actual=target
    )
    requests = pd.concat(
        [requests, used.reset_index(drop=True), inputs.add_prefix(FEATURE).reset_index(drop=True)], axis=1
    )
    return Recording(
        incident(current, **said), requests=requests, models=models,
        reference=others.people(2000, seed=1) if reference is None else reference,
    )  # fmt: skip


def people(change=None) -> pd.DataFrame:
    rows = others.people(ROWS, seed=2)
    if change is not None:
        rows.loc[SINCE] = change(rows.loc[SINCE].copy())
    return rows


def findings(case) -> dict[str, str]:
    return {item.name: item.finding for item in gather(case)}


def flipped(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(actual=1 - rows["actual"])


def test_a_service_without_faults_is_no_fault_and_questions_of_order_are_not_applicable(v1):
    found = diagnose(recorded(people(), {"v1": v1}, last_good="v1"))
    told = {item.name: item.finding for item in found.evidence}
    assert found.cause == "none" and told["promise"] == "held" and told["contract"] == "kept"
    assert {name for name, finding in told.items() if finding == "not applicable"} == {
        "relations", "inputs_and_actuals", "actuals",
    }  # fmt: skip


def test_what_a_declaration_does_not_name_is_said_to_be_not_checked(v1):
    bare = recorded(people(), {"v1": v1})
    stripped = bare.incident.model_copy(
        update={"declaration": bare.incident.declaration.model_copy(update={"task": None})}
    )
    case = build_case(replace(bare, incident=stripped, requests=bare.requests.assign(latency_ms=np.nan, status=np.nan)))
    told = {item.name: item for item in gather(case)}
    assert told["promise"].summary == "the declaration names no task"
    assert told["latency"].summary == "no signal `latency` is declared"
    assert told["errors"].summary == "no signal `errors` is declared; no signal `requests_total` is declared"
    assert told["ratings"].summary == "the declaration names no columns.rating and no labels.rating"


def test_an_accuracy_that_falls_is_found_within_its_minute_and_asks_for_action(v1):
    fallen = recorded(people(flipped), {"v1": v1}, last_good="v1")
    found = diagnose(fallen)
    assert abs(found.onset - TIMES[FROM]) <= pd.Timedelta("1min")
    assert found.cause not in ("unknown", "model", "compute")
    assert "Close the alert" not in found.next_action
    periods = last_periods(fallen)
    table = drift_watch.effects(drift_watch.compared(fallen, periods), periods, drift_watch.Limits())
    verdict = drift_watch.verdict(build_case(fallen), table)
    assert verdict.act and "of the right class" in verdict.sentence


def test_the_objective_of_right_answers_dates_the_onset_by_its_own_counters(v1):
    fallen = recorded(people(flipped), {"v1": v1}, last_good="v1")
    hits = 1 - BINARY.misses(fallen.requests)
    counted = pd.DataFrame({"time": TIMES[::10], "good": hits.cumsum()[::10], "all": np.arange(ROWS)[::10]})
    metrics = pd.concat(
        pd.DataFrame({"time": counted["time"], "metric": name, "labels": "{}", "value": counted[column].astype(float)})
        for name, column in (("app_right_total", "good"), ("app_labels_total", "all"))
    )
    promise = {
        "name": "scoring-accuracy", "title": "Accuracy", "service": "scoring", "target": 0.7, "window_s": 86400,
        "events": "good", "selector": "app_right_total", "total": "app_labels_total", "minimum": 10,
    }  # fmt: skip
    alert = {"name": "SLO", "starts_at": TIMES[FROM + 60], "labels": {"slo": "scoring-accuracy"}}
    told = incident(last_good="v1", promises=[promise], alerts=[alert])
    unlabelled = replace(fallen, incident=told, metrics=metrics, requests=fallen.requests.assign(actual=np.nan))
    case = build_case(unlabelled)
    assert str(case.dated) == "change point of the SLI of Accuracy"
    assert abs(case.onset - TIMES[FROM]) <= pd.Timedelta("1min")
    assert findings(case)["objective"] == "missed"
    assert diagnose(unlabelled).cause != "none"  # the promise is broken, whatever else was not checked


def test_a_column_ten_times_as_large_is_data_and_the_column_is_named(tmp_path):
    bunch = load_breast_cancer(as_frame=True)
    table = bunch.frame.rename(columns={"target": "actual"}).rename(columns=lambda name: name.replace(" ", "_"))
    learnt, asked = table.iloc[::2], table.iloc[1::2].sample(ROWS, replace=True, random_state=0).reset_index(drop=True)
    columns = list(table.columns.drop("actual"))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(learnt[columns], learnt["actual"])
    v1 = others.keep_skops(tmp_path / "v1", model, categorical=[], columns=columns)
    asked.loc[SINCE, "mean_concavity"] *= 10
    found = diagnose(recorded(asked, {"v1": v1}, reference=learnt, last_good="v1"))
    units = next(item for item in found.evidence if item.name == "units")
    assert found.cause == "data" and units.finding == "another unit" and "mean_concavity × 10" in units.summary


def test_a_really_bad_version_is_the_model_by_the_replay(v1, tmp_path):
    wrong = others.keep_skops(tmp_path / "v2", others.classifier(flipped(others.people(500, seed=3))))
    made = recorded(
        people(),
        {"v1": v1, "v2": wrong},
        current="v2",
        last_good="v1",
        deployed=[("v1", START - pd.Timedelta("1D")), ("v2", TIMES[FROM])],
    )
    found = diagnose(made)
    assert found.cause == "model" and found.probability >= 0.95
    assert {item.name: item.finding for item in found.evidence}["replay_of_last_good"] == "last good better"


def test_a_compressed_version_that_stands_in_is_not_called_a_changed_model_by_its_replay(v1, tmp_path):
    """A student is put into service: what it answers differs a little, and its card says why."""
    original, learnt = load_model(v1, BINARY), others.people(2000, seed=1)
    fitted = distil_table(original, learnt[others.COLUMNS], "linear")
    graph = of_estimator(fitted, original.columns, original.categorical)
    kept_onnx(graph, said_of(original), tmp_path / "v2")
    declared = incident().declaration.model_copy(update={"model": Declared(current="v2", last_good="v1")})
    (tmp_path / "v1").symlink_to(v1)
    told = {}
    for card in ({}, {"compressed_from": "v1"}):
        (tmp_path / "v2/card.json").write_text(json.dumps(card))
        (scratch := tmp_path / f"scratch{len(card)}").mkdir()
        served = served_models(declared, tmp_path, ["v1", "v2"], scratch)
        made = recorded(
            people(), served.models, current="v2", deployed=[("v1", START - pd.Timedelta("1D")), ("v2", TIMES[FROM])]
        )
        made = replace(made, incident=made.incident.model_copy(update={"versions": served.versions}))
        case = replace(build_case(made), criteria=Criteria(output_difference=1e-4))
        told[served.versions.stands_in_for] = findings(case), diagnose(made).cause
    assert told["v1"][0]["replay_of_last_good"] == "differ as a stand-in"
    assert (told["v1"][0]["answering_version"], told["v1"][0]["deployment"]) == ("stand-in", "stand-in")
    assert told["v1"][1] != "model"
    assert told[None][0]["replay_of_last_good"] == "differ"


@pytest.mark.parametrize("change", [None, flipped], ids=["calm", "fallen"])
def test_a_version_that_answers_alike_is_never_the_model(v1, change):
    made = recorded(
        people(change),
        {"v1": v1, "v2": v1},
        current="v2",
        last_good="v1",
        deployed=[("v1", START - pd.Timedelta("1D")), ("v2", TIMES[FROM])],
    )
    found = diagnose(made)
    told = {item.name: item.finding for item in found.evidence}
    assert told["deployment"] == told["answering_version"] == "answers alike"
    likely = {item.cause: item.probability for item in found.ranking}
    assert found.cause != "model" and likely["model"] < 0.1


def test_a_category_with_new_values_is_data_and_the_alert_is_never_closed(v1):
    found = diagnose(
        recorded(people(lambda rows: rows.assign(colour=rows["colour"].str.upper())), {"v1": v1}, last_good="v1")
    )
    told = {item.name: item for item in found.evidence}
    assert found.cause == "data" and told["contract"].finding == "broken"
    assert told["drift"].finding == "drifted" and "colour (a category" in told["drift"].summary
    assert told["joint_drift"].finding == "told apart"
    assert "Close the alert" not in found.next_action


def test_ratings_that_fall_are_evidence_with_their_own_onset(v1):
    made = recorded(people(), {"v1": v1}, last_good="v1")
    rating = np.where(SINCE, 2.0, 4.5) + np.random.default_rng(0).choice([-0.5, 0.5], ROWS)
    case = build_case(
        replace(made, requests=made.requests.assign(rating=np.where(np.arange(ROWS) % 3, np.nan, rating)))
    )
    found = {item.name: item for item in gather(case)}["ratings"]
    assert found.finding == "fell" and abs(found.onset - TIMES[FROM]) <= pd.Timedelta("1min")


def test_a_recording_of_a_classifier_is_read_as_it_was_written_and_damaged_columns_are_named(v1, tmp_path):
    made = recorded(people(), {"v1": v1}, last_good="v1")
    whole = read_recording(write_recording(made, tmp_path / "whole"))
    assert not whole.problems and "lower" not in whole.requests
    assert list(whole.categories(whole.requests)) == ["colour"] and whole.requests["proba"].notna().all()
    mixed = made.requests.assign(feature_age=made.requests["feature_age"].astype(str).where(~SINCE, "old"))
    mixed["feature_colour"] = mixed["feature_colour"].astype(object).where(~SINCE, None)
    damaged = read_recording(write_recording(replace(made, requests=mixed.drop(columns="proba")), tmp_path / "damaged"))
    assert any("feature_age" in problem and "300 of 900" in problem for problem in damaged.problems)
    assert any("lacks column proba" in problem for problem in damaged.problems)


# --- real rows of other makers ---

DATA = Path(os.environ.get("LEPTON_DATA", ROOT.parent / "shared" / "data"))
HOUSING, EMPLOYMENT = DATA / "housing" / "california_housing", DATA / "employment" / "employment_MA"
needs_data = pytest.mark.skipif(
    not (HOUSING.parent.is_dir() and EMPLOYMENT.parent.is_dir()), reason="LEPTON_DATA holds no housing and employment"
)


def monitored(rows: pd.DataFrame, learnt: pd.DataFrame, columns: list[str]) -> Recording:
    """A classifier's production rows (`time`, `proba`, `actual`, features), without the model itself."""
    common = {"request_id": np.arange(len(rows)).astype(str), "version": "v1", "status": np.nan, "latency_ms": np.nan}
    requests = rows[["time", "proba", "actual"]].assign(**common).join(rows[columns].add_prefix(FEATURE))
    window = {"start": rows["time"].iloc[0], "end": rows["time"].iloc[-1]}
    told = incident(window=window, alerts=[])
    return Recording(told, requests=requests.reset_index(drop=True), reference=learnt[[*columns, "actual"]])


@needs_data
@pytest.mark.parametrize(("until", "changed"), [("2021-07-15", "2021-06-21"), ("2022-05-10", "2021-08-20")])
def test_the_fall_of_a_real_classifier_is_dated_to_two_days_and_no_feed_is_blamed(until, changed):
    learnt, rows, labels = (pd.read_csv(f"{HOUSING}_{part}.csv") for part in ("reference", "analysis", "analysis_gt"))
    rows = rows.merge(labels, on="id").assign(time=lambda table: pd.to_datetime(table["timestamp"], utc=True))
    names = {"y_pred_proba": "proba", "clf_target": "actual"}
    rows, learnt = rows.rename(columns=names).query("timestamp < @until"), learnt.rename(columns=names)
    columns = [name for name in learnt if name not in ("id", "timestamp", "proba", "actual", "y_pred")]
    found = diagnose(monitored(rows, learnt, columns))
    assert abs(found.onset - pd.Timestamp(changed, tz="UTC")) <= pd.Timedelta("2D")
    assert {item.name: item.finding for item in found.evidence}["promise"] in ("fell", "held")
    assert found.cause != "data" and found.remedy is None


@needs_data
def test_a_classifier_that_ages_over_years_is_no_fault_of_its_feed():
    learnt, rows, labels = (
        pd.read_parquet(f"{EMPLOYMENT}_{part}.parquet") for part in ("reference", "analysis", "analysis_target")
    )
    rows = rows.merge(labels, on="id").iloc[::10].reset_index(drop=True)
    names = {"predicted_probability": "proba", "employed": "actual"}
    rows, learnt = rows.rename(columns=names), learnt.rename(columns=names).iloc[::10]
    columns = [name for name in learnt if name not in ("id", "year", "proba", "actual", "prediction")]
    categories = dict.fromkeys(columns[1:], "str")
    rows["time"] = pd.date_range("2016-01-01", "2018-12-31", periods=len(rows), tz="UTC")
    found = diagnose(monitored(rows.astype(categories), learnt.astype(categories), columns))
    assert found.cause not in ("data", "model", "compute") and found.remedy is None
