from dataclasses import replace
from datetime import timedelta

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis import case as cases
from lepton_kit.diagnosis import evidence
from lepton_kit.diagnosis.evidence import compute, drift
from lepton_kit.diagnosis.evidence.base import NOT_APPLICABLE
from lepton_kit.diagnosis.onset import Criteria
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import read_recording


@pytest.fixture(scope="module")
def shipped():
    return cases.build_case(read_recording(variants.SHIPPED))


@pytest.fixture(scope="module")
def calm():
    return cases.build_case(variants.calm())


def test_the_onset_of_the_shipped_incident_is_the_change_point_of_the_misses(shipped):
    assert str(shipped.dated) == "change point of misses"
    assert pd.Timestamp("2007-10-01", tz="UTC") < shipped.onset < pd.Timestamp("2008-01-31", tz="UTC")
    assert len(shipped.before) + len(shipped.during) == len(shipped.requests)


def test_the_actuals_moved_before_the_inputs_that_are_made_of_them(shipped):
    since = cases.onset_table(shipped).set_index("symptom")["since"]
    assert since["size of the actuals"] < since["size of the inputs"]


def test_without_a_symptom_the_alert_is_the_onset_and_without_an_alert_the_middle(calm):
    assert str(calm.dated) == "start of the alert"
    incident = calm.recording.incident.model_copy(update={"alerts": ()})
    quiet = cases.build_case(replace(calm.recording, incident=incident))
    assert str(quiet.dated) == "middle of the window"
    assert incident.window.start < quiet.onset < incident.window.end


def test_coverage_is_the_share_of_actuals_inside(shipped):
    found = evidence.promise(shipped)
    during = shipped.during.dropna(subset=["actual"])
    by_hand = ((during["actual"] >= during["lower"]) & (during["actual"] <= during["upper"])).mean()
    assert f"{by_hand:.1%} since" in found.summary
    assert (found.finding, found.unit) == ("fell", "change of share")


def test_each_breach_of_the_contract_is_told_apart():
    assert cases.contract_breaches(variants.stuck_feed())["stale"].sum() == variants.ROWS - variants.FAULT_FROM - 1
    assert cases.contract_breaches(variants.nulls())["missing"].mean() > 0.1
    assert cases.contract_breaches(variants.repeated_requests())["duplicated"].mean() > 0.05
    assert cases.contract_breaches(variants.wrong_unit(100))["out_of_range"].mean() > 0.3


def test_the_year_2008_breaks_no_contract(shipped):
    assert not shipped.breaches.to_numpy().any()


@pytest.mark.parametrize("lacking", ["actual", "actual_time"])
def test_a_stuck_feed_is_seen_from_the_actuals_or_from_their_times(lacking):
    recording = variants.stuck_feed()
    requests = recording.requests.copy()
    requests[lacking] = 0.0 if lacking == "actual" else pd.NaT
    assert cases.contract_breaches(replace(recording, requests=requests))["stale"].mean() > 0.3


def test_without_known_actuals_the_unjudged_repeats_are_named():
    recording = variants.stuck_feed()
    case = cases.build_case(replace(recording, requests=recording.requests.assign(actual=np.nan, actual_time=pd.NaT)))
    assert not case.breaches["stale"].any()
    assert "repeats not judged" in evidence.contract(case).summary


def test_a_feature_that_seldom_changes_is_not_stale():
    recording = variants.calm()
    constant = {
        "requests": recording.requests.assign(feature_store=1.0),
        "reference": recording.reference.assign(store=1.0),
    }
    assert not cases.contract_breaches(replace(recording, **constant))["stale"].any()


def test_inputs_in_another_unit_moved_alone():
    found = evidence.inputs_and_actuals(cases.build_case(variants.wrong_unit(5)))
    assert found.finding == "inputs alone"


def test_inputs_of_the_requests_that_a_failing_model_leaves_over_are_no_drift():
    calm = variants.calm()
    size = calm.requests["feature_return_0"].abs()
    fails = (calm.requests.index >= variants.FAULT_FROM) & (size > size.quantile(0.4))
    answer = ["mean", "std", "lower", "upper", "prob_up", "actual"]
    requests = calm.requests.assign(status=calm.requests["status"].mask(fails, 500.0))
    requests[answer] = requests[answer].mask(fails)
    found = evidence.inputs_and_actuals(cases.build_case(replace(calm, requests=requests)))
    assert found.finding == "unmoved"


def test_actuals_that_move_without_the_inputs_moved_alone():
    recording = variants.calm()
    actual = recording.requests["actual"] * np.where(np.arange(variants.ROWS) < variants.FAULT_FROM, 1, 3)
    found = evidence.inputs_and_actuals(
        cases.build_case(replace(recording, requests=recording.requests.assign(actual=actual)))
    )
    assert found.finding == "actuals alone"


def test_the_replay_finds_the_answers_that_were_recorded(shipped):
    recorded = shipped.requests[["lower", "upper"]]
    np.testing.assert_allclose(shipped.replayed["current"][["lower", "upper"]], recorded, rtol=1e-6)
    assert evidence.served_version(shipped).finding == "matches"


def test_the_replay_leaves_out_rows_that_break_the_contract():
    case = cases.build_case(variants.nulls())
    assert len(case.replayed["current"]) == (~case.breaches.any(axis=1)).sum() < len(case.requests)


def test_the_difference_of_outputs_by_hand(shipped):
    current, last_good = (shipped.replayed[role].loc[shipped.during.index] for role in ("current", "last_good"))
    apart = ((current["lower"] - last_good["lower"]).abs() + (current["upper"] - last_good["upper"]).abs()) / 2
    by_hand = apart.mean() / (last_good["upper"] - last_good["lower"]).mean()
    assert float(shipped.task.distance(current, last_good).mean()) == pytest.approx(by_hand)


def test_a_deployment_within_the_window_is_found(tmp_path):
    assert evidence.deployment(cases.build_case(variants.wrong_model(tmp_path))).finding == "deployed"


@pytest.mark.parametrize(("days", "finding"), [(3, "deployed"), (6, "no deployment")])
def test_a_deployment_shortly_after_the_estimated_onset_counts_too(days, finding, tmp_path):
    case = cases.build_case(variants.wrong_model(tmp_path))
    *others, last = case.recording.incident.deployments
    later = last.model_copy(update={"time": (case.onset + pd.Timedelta(days=days)).to_pydatetime()})
    incident = case.recording.incident.model_copy(update={"deployments": (*others, later)})
    found = evidence.deployment(replace(case, recording=replace(case.recording, incident=incident)))
    assert found.finding == finding
    assert f"{days} days after the onset" in found.summary


def test_the_first_start_of_a_service_is_no_deployment(tmp_path):
    case = cases.build_case(variants.wrong_model(tmp_path))
    *_, change = case.recording.incident.deployments
    first = change.model_copy(update={"time": case.requests["time"].min().to_pydatetime() - timedelta(seconds=1)})
    window = case.recording.incident.window.model_copy(update={"start": first.time - timedelta(days=1)})

    def with_deployments(*known):
        incident = case.recording.incident.model_copy(update={"deployments": known, "window": window})
        return replace(case, recording=replace(case.recording, incident=incident))

    started = with_deployments(first)
    assert evidence.deployment(started).finding == "no deployment"
    assert "deployment" not in set(evidence.signal_order(started)["of"])
    assert evidence.deployment(with_deployments(first, change)).finding == "deployed"
    assert evidence.deployment(with_deployments(change)).finding == "deployed"  # others had answered before it


def test_an_onset_chosen_from_the_misses_lends_its_p_value_to_the_coverage(shipped):
    onsets = cases.onset_table(shipped).set_index("symptom")
    assert evidence.promise(shipped).p_value == onsets.loc["misses", "p"]


def test_the_correlation_of_the_actuals_by_hand(shipped):
    actual = shipped.during["actual"].dropna().to_numpy()
    assert drift.actuals(shipped).effect == pytest.approx(np.corrcoef(actual[1:], actual[:-1])[0, 1])


def test_actuals_asked_for_several_times_a_day_count_once():
    once, thrice = (drift.actuals(cases.build_case(make())) for make in (variants.calm, variants.busier))
    assert thrice.effect == pytest.approx(once.effect)


def test_means_are_named_where_movement_judges_them(shipped):
    effects = evidence.movement(shipped).drop(index="actual")
    largest = effects["mean_shift"].abs().max()
    assert f"means moved by up to {largest:.2f}" in evidence.inputs_and_actuals(shipped).summary


def test_inputs_shifted_by_their_mean_moved_alone():
    found = evidence.inputs_and_actuals(cases.build_case(variants.with_inputs(lambda features: features + 0.03)))
    assert found.finding == "inputs alone"


def test_an_input_that_is_a_volatility_moves_together_with_the_actuals(shipped):
    # A rolling volatility of the market: its own spread and mean move far more than its size does.
    volatility = shipped.requests["feature_return_0"].abs().rolling(10, min_periods=1).mean()
    requests = shipped.requests.assign(feature_volatility=volatility)
    case = replace(shipped, recording=replace(shipped.recording, requests=requests), requests=requests)
    effects = evidence.movement(case)
    assert effects.loc["volatility", "mean_shift"] > 1 and effects.loc["volatility", "moved"]
    assert evidence.inputs_and_actuals(case).finding == "together"


def test_latency_ten_times_as_long_is_measured_as_such():
    found = compute.latency(cases.build_case(variants.slow()))
    assert found.finding == "grew"
    assert found.effect == pytest.approx(10, rel=0.5)
    assert abs(found.onset - variants.fault_time(variants.calm().requests)).days <= 3


def test_a_latency_that_nobody_waits_for_has_not_grown(calm):
    slow = variants.slow()
    quick = slow.requests.assign(latency_ms=slow.requests["latency_ms"] / 20)
    found = compute.latency(cases.build_case(replace(slow, requests=quick)))
    assert found.finding == "steady"
    assert found.effect == pytest.approx(10, rel=0.5)
    assert "nobody waits" in found.summary


def test_a_queue_that_is_steady_and_one_that_was_not_recorded_are_told_apart(calm):
    assert not compute.queue(calm).checked
    slow = variants.slow()
    flat = slow.metrics.assign(
        value=slow.metrics["value"].where(slow.metrics["metric"] != "lepton_queue_requests", 2.0)
    )
    assert compute.queue(cases.build_case(replace(slow, metrics=flat))).finding == "steady"


@pytest.mark.parametrize("question", evidence.QUESTIONS, ids=lambda question: question.__name__)
def test_every_question_is_answered_or_says_why_not(question, shipped, calm):
    empty = cases.build_case(replace(calm.recording, requests=calm.requests.iloc[:0]))
    for case in (shipped, calm, empty):
        found = question(case)
        assert found.name == question.__name__
        assert found.summary
        assert found.checked == (found.finding not in (evidence.NOT_CHECKED, NOT_APPLICABLE))


@pytest.mark.parametrize(
    "wrong",
    [
        {"promise": 90},
        {"alpha": 0},
        {"reverting": 2},
        {"spread_factor": 1},
        {"least_rows": 1},
        {"output_difference": -1},
    ],
)
def test_a_criterion_out_of_range_is_refused_and_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Criteria(**wrong)
