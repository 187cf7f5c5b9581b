"""The path of an incident, from its cause to the objective that alerted."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from helpers import ROOT

from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.path import IncidentPath, Step
from lepton_kit.diagnosis.recorded import path_words, rows_of
from lepton_kit.ops.drills import path_flaw
from lepton_kit.telemetry.recordings import read_recording
from lepton_kit.telemetry.slo import read_objectives

BEGAN = pd.Timestamp("2026-01-05T12:00:00Z")


@pytest.fixture(scope="module")
def diagnosis():
    return diagnose(read_recording(ROOT / "runbooks/recordings/diverged-retrain"))


@pytest.fixture(scope="module")
def coverage():
    return next(one for one in read_objectives(ROOT / "slo/goog") if one.name == "goog-coverage")


def test_the_path_of_a_bad_version_goes_from_its_deployment_over_the_misses_to_the_objective(diagnosis, coverage):
    path = diagnosis.path(coverage)
    assert [(one.kind, one.what) for one in path.steps] == [
        ("cause", "model"), ("signal", "deployment of v3"), ("signal", "misses"), ("objective", "Forecast coverage"),
    ]  # fmt: skip
    assert path.steps[0].check == "answering_version"
    assert path.steps[-1].alert == "GoogCoverageBudgetBurn"
    assert path.is_in_order
    onsets = [one.onset for one in path.steps]
    assert all(BEGAN < one < BEGAN + pd.Timedelta(minutes=30) for one in onsets)


def test_every_step_names_a_question_that_was_answered_or_a_series_that_moved(diagnosis, coverage):
    answered = {one.name for one in diagnosis.evidence if one.checked}
    for step in diagnosis.path(coverage).steps:
        assert step.check in answered | {"change point", "its SLI over time", "start of the alert"}


def test_an_objective_that_did_not_alert_is_no_end_of_the_path(diagnosis):
    other = next(one for one in read_objectives(ROOT / "slo/goog") if one.name == "goog-latency")
    path = diagnosis.path(other)
    assert [one.kind for one in path.steps].count("objective") == 0
    assert "objective: no alert of an objective is in the recording" in path.not_checked


def test_evidence_without_a_date_makes_no_step(diagnosis, coverage):
    undated = tuple(
        dataclasses.replace(one, evidence_for=tuple(dataclasses.replace(e, onset=None) for e in one.evidence_for))
        for one in diagnosis.ranking
    )
    path = dataclasses.replace(diagnosis, ranking=undated).path(coverage)
    assert not [one for one in path.steps if one.kind == "cause"]
    assert "model: no evidence for it is dated before the objective fell" in path.not_checked


def test_evidence_that_chance_explains_dates_no_cause(diagnosis, coverage):
    weak = tuple(
        dataclasses.replace(one, evidence_for=tuple(dataclasses.replace(e, p_value=0.2) for e in one.evidence_for))
        for one in diagnosis.ranking
    )
    assert not [one for one in dataclasses.replace(diagnosis, ranking=weak).path(coverage).steps if one.kind == "cause"]


def test_an_unknown_cause_begins_no_path(diagnosis, coverage):
    path = dataclasses.replace(diagnosis, cause="unknown").path(coverage)
    assert not [one for one in path.steps if one.kind == "cause"]
    assert "cause: the evidence does not decide" in path.not_checked


def test_the_summary_of_a_diagnosis_records_its_path(diagnosis, coverage):
    summary = diagnosis.summary(coverage)
    assert summary["path"].iloc[0].to_dict()["what"] == "model"
    table = {"columns": list(summary["path"]), "rows": summary["path"].to_numpy().tolist()}
    words = path_words(table)
    assert words.startswith("model (answering version: changed, 12:06:15 UTC) → ")
    assert len(rows_of(table)) == len(summary["path"])
    assert path_words(None) == ""


def test_the_words_of_a_path_are_in_utc_with_the_date_where_it_spans_days_and_leave_names_as_they_are():
    columns = ["step", "what", "onset", "check", "finding"]
    rows = [
        ["cause", "data", "2026-11-25T23:30:00-02:00", "missing_values", "more"],
        ["signal", "queue_depth", "2026-11-27T03:00:00", "change point", "moved (my_group)"],
    ]
    assert path_words({"columns": columns, "rows": rows}) == (
        "data (missing values: more, 2026-11-26 01:30:00 UTC) → "
        "queue_depth (change point: moved (my_group), 2026-11-27 03:00:00 UTC)"
    )
    assert path_words({"columns": columns, "rows": rows[:1]}) == "data (missing values: more, 01:30:00 UTC)"


def steps(*seconds, cause="data"):
    kinds = ["cause", *["signal"] * (len(seconds) - 2), "objective"]
    return tuple(
        Step(kind, cause if kind == "cause" else kind, BEGAN + pd.Timedelta(seconds=at), "check", "finding",
             "Alert" if kind == "objective" else "")
        for kind, at in zip(kinds, seconds, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "flaw"),
    [
        (steps(0, 5, 9), "valid"),
        (steps(9, 5, 0), "valid"),  # within the slack of 10 s
        (steps(60, 65, 9), "out of order"),
        (steps(-60, 5, 9), "before the fault"),
        (steps(0, 9, cause="model"), "wrong cause"),
        (steps(0, 5, 9)[1:], "no cause"),
        (steps(0, 5, 9)[:-1], "other objective"),
    ],
)
def test_a_drill_scores_a_path_by_the_injected_fault_the_order_and_the_alert(found, flaw):
    path = IncidentPath(found, (), pd.Timedelta(seconds=10))
    assert path_flaw(path, ["data"], "Alert", BEGAN) == flaw


def test_a_path_that_ends_in_another_objective_is_not_valid():
    path = IncidentPath(steps(0, 5, 9), (), pd.Timedelta(seconds=10))
    assert path_flaw(path, ["data"], "OtherAlert", BEGAN) == "other objective"
