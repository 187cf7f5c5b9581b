"""Whether a repair worked: the verdict, and the indicator it rests on."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from incident_variants import failing, fault_time, slow, wrong_model

from lepton_kit.diagnosis.recovery import (
    LEAST_DRAWN,
    LEAST_PERIODS,
    MOST_PERIODS,
    Ratio,
    SideEffect,
    judge_recovery,
    objective_of,
    sli_over_time,
    sli_ratio,
)
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import read_recording
from lepton_kit.telemetry.slo import read_objectives

OBJECTIVES = {one.name.removeprefix("goog-"): one for one in read_objectives(ROOT / "slo/goog")}
WELL, BAD = Ratio(990, 1000), Ratio(60, 100)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (Ratio(200, 200), "recovered"),
        (Ratio(198, 200), "recovered"),
        (Ratio(150, 200), "not recovered"),
        (Ratio(120, 200), "not recovered"),
        (Ratio(70, 200), "worse"),
        (Ratio(19, 19), "too few"),
        (Ratio(0, 0), "too few"),
    ],
)
def test_the_verdict_follows_from_the_intervals(after, verdict):
    assert judge_recovery(WELL, BAD, after, objective=0.99).verdict == verdict


def test_what_keeps_its_objective_for_certain_is_recovered_even_if_the_incident_was_slight():
    slight = Ratio(970, 1000)
    assert judge_recovery(WELL, slight, Ratio(9999, 10000), objective=0.99).verdict == "recovered"
    assert judge_recovery(WELL, slight, Ratio(98, 100), objective=0.99).verdict == "not recovered"


def test_an_indicator_that_stays_below_what_it_was_before_is_not_recovered():
    assert judge_recovery(Ratio(990, 1000), BAD, Ratio(860, 1000), objective=0.85).verdict == "not recovered"


def test_a_change_by_chance_is_seldom_called_worse():
    rng = np.random.default_rng(0)
    draws = [Ratio(int(rng.binomial(100, 0.6)), 100) for _ in range(500)]
    worse = [judge_recovery(WELL, BAD, after, objective=0.99).verdict == "worse" for after in draws]
    assert np.mean(worse) < 0.03


def test_the_intervals_are_told_with_the_verdict():
    judged = judge_recovery(WELL, BAD, Ratio(198, 200), objective=0.99)
    table = judged.table().set_index("period")
    assert table.loc["during", "low"] < 0.6 < table.loc["during", "high"]
    assert 0.25 < judged.gain[0] < 0.39 < judged.gain[1]
    assert judged.as_dict()["after"]["events"] == 200


@pytest.mark.parametrize(
    ("until", "after", "is_worse"),
    [
        (Ratio(300, 300), Ratio(240, 300), True),
        (Ratio(300, 300), Ratio(298, 300), False),  # the objective may be kept
        (Ratio(29990, 30000), Ratio(29800, 30000), False),  # worse for certain, and the objective is kept
        (Ratio(150, 300), Ratio(150, 300), False),  # a second fault: missed before, and as much since
        (Ratio(150, 300), Ratio(60, 300), True),
        (Ratio(300, 300), Ratio(2, 15), False),  # too few
        (Ratio(0, 0), Ratio(240, 300), False),  # nothing is known of the time before
    ],
)
def test_another_objective_is_worse_where_it_fell_and_is_missed_both_for_certain(until, after, is_worse):
    assert SideEffect(OBJECTIVES["latency"], WELL, until, after).is_worse == is_worse


def test_wrong_numbers_are_named():
    with pytest.raises(InputError, match="good = 3 of total = 2"):
        Ratio(3, 2)
    with pytest.raises(InputError, match=r"objective = 99"):
        judge_recovery(WELL, BAD, WELL, objective=99)


def test_errors_and_slow_requests_are_counted_from_the_requests_where_no_metrics_are():
    recording = replace(failing(), metrics=failing().metrics.head(0))
    onset, end = fault_time(recording.requests), pd.Timestamp(recording.incident.window.end)
    ratio = sli_ratio(recording, OBJECTIVES["availability"], onset, end)
    failed = recording.requests.loc[recording.requests["time"].between(onset, end, "left"), "status"].ge(500).sum()
    assert failed > 5
    assert ratio.total - ratio.good == failed
    late = sli_ratio(slow(), OBJECTIVES["latency"], onset, end)
    assert late.share < 0.1


def test_coverage_belongs_to_the_time_of_the_forecast(tmp_path):
    recording = wrong_model(tmp_path)
    onset = fault_time(recording.requests)
    middle = onset + (pd.Timestamp(recording.incident.window.end) - onset) / 2
    window = recording.incident.window
    times = (pd.Timestamp(window.start), onset, middle, pd.Timestamp(window.end))
    before, during, after = (sli_ratio(recording, OBJECTIVES["coverage"], *pair) for pair in pairwise(times))
    assert before.share > 0.9 > 0.7 > during.share
    assert before.total + during.total + after.total == recording.requests["actual"].notna().sum() - 1  # the end is out


def test_metrics_are_asked_by_the_objectives_own_queries():
    recording = read_recording(ROOT / "runbooks/recordings/stale-feed")
    window = recording.incident.window
    ratio = sli_ratio(recording, OBJECTIVES["errors"], pd.Timestamp(window.start), pd.Timestamp(window.end))
    invalid = recording.requests["status"].eq(422).sum()
    assert ratio.total - ratio.good == pytest.approx(invalid, abs=1.5)


def test_the_alerts_objective_is_the_one_judged_and_without_an_alert_the_one_that_burns_most():
    recording = failing()
    objectives = list(OBJECTIVES.values())
    alert = recording.incident.alerts[0].model_copy(update={"labels": {"slo": "goog-latency"}})
    alerted = replace(recording, incident=recording.incident.model_copy(update={"alerts": (alert,)}))
    silent = replace(recording, incident=recording.incident.model_copy(update={"alerts": ()}))
    assert objective_of(alerted, objectives).name == "goog-latency"
    assert objective_of(silent, objectives).name == "goog-availability"
    with pytest.raises(InputError, match="no objective"):
        objective_of(recording, [])


def test_of_an_incident_that_was_watched_long_after_its_requests_ended_all_of_the_window_says_which_objective_it_was():
    slowed = slow()
    incident = slowed.incident.model_copy(update={"alerts": ()})
    over = incident.window.end + 2 * (incident.window.end - incident.window.start)
    window = incident.window.model_copy(update={"end": over})
    quiet = replace(slowed, incident=incident.model_copy(update={"window": window}))
    assert objective_of(quiet, list(OBJECTIVES.values())).name == "goog-latency"  # and not the first of them


def test_an_indicator_over_time_is_that_of_its_periods_and_falls_where_the_incident_is():
    recording = read_recording(ROOT / "runbooks/recordings/missing-values")
    objective = OBJECTIVES["errors"]
    found = sli_over_time(recording, objective)
    window = recording.incident.window
    assert 20 < len(found) <= MOST_PERIODS and found["time"].is_monotonic_increasing
    assert found["share"].between(found["low"] - 1e-9, found["high"] + 1e-9).all()
    whole = sli_ratio(recording, objective, pd.Timestamp(window.start), pd.Timestamp(window.end))
    assert found["events"].sum() == pytest.approx(whole.total, rel=0.02)
    assert (found["share"] * found["events"]).sum() == pytest.approx(whole.good, rel=0.02)
    alert = pd.Timestamp(recording.incident.alerts[0].starts_at)
    assert found["share"][found["time"] < alert].median() > 0.99 > 0.9 > found["share"][found["time"] > alert].median()


def test_an_indicator_of_few_events_has_so_many_periods_as_can_be_judged():
    recording = read_recording(ROOT / "runbooks/recordings/volatility-2008")
    found = sli_over_time(recording, OBJECTIVES["coverage"])
    assert 2 < len(found) < 15 and found["events"].mean() >= OBJECTIVES["coverage"].minimum


def test_a_short_recording_has_more_periods_than_could_be_judged():
    recording = read_recording(ROOT / "runbooks/recordings/volatility-2008")
    objective = OBJECTIVES["coverage"]
    requests = recording.requests.head(90)
    window = recording.incident.window.model_copy(
        update={"end": requests["time"].iloc[-1].astimezone(recording.incident.window.start.tzinfo)}
    )
    incident = recording.incident.model_copy(update={"window": window})
    found = sli_over_time(replace(recording, incident=incident, requests=requests), objective)
    assert found["events"].sum() < 2 * objective.minimum and found["events"].mean() >= LEAST_DRAWN
    assert 2 < len(found) <= LEAST_PERIODS


def test_an_indicator_of_which_nothing_was_recorded_has_no_period():
    recording = read_recording(ROOT / "runbooks/recordings/volatility-2008")
    nothing = sli_over_time(recording, OBJECTIVES["freshness"])
    assert nothing.empty and nothing[["share", "low", "high", "events"]].dtypes.eq("float64").all()


def test_the_objective_of_another_service_is_never_the_one_judged():
    """However badly another service's objective stands, and though it is called like the alert."""
    own = OBJECTIVES["coverage"]
    recording = read_recording(ROOT / "runbooks/recordings/volatility-2008")
    other = replace(OBJECTIVES["latency"], service="scoring")
    alert = recording.incident.alerts[0].model_copy(update={"labels": {"slo": "goog-latency"}})
    alerted = replace(recording, incident=recording.incident.model_copy(update={"alerts": (alert,)}))
    assert objective_of(alerted, [other, own]) == own
    with pytest.raises(InputError, match=r"no objective of its service 'goog'.*there are some of: scoring"):
        objective_of(alerted, [other])
