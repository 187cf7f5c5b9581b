"""Each question by itself: a fault is planted, and found; without it, it is not."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import conclude
from lepton_kit.diagnosis.evidence import compute, drift, gather, inputs, model, timing
from lepton_kit.diagnosis.onset import Criteria
from lepton_kit.diagnosis.rows import following
from lepton_kit.models.forecasters import load_forecaster
from lepton_kit.telemetry.recordings import FORMAT, Incident, Recording

FROM, ROWS = variants.FAULT_FROM, variants.ROWS
SINCE = np.arange(ROWS) >= FROM


@pytest.fixture(scope="module")
def calm():
    return build_case(variants.calm())


def with_samples(recording: Recording, **series) -> Recording:
    """A recording whose service was scraped at each request: what each metric showed before the fault and since."""
    times = recording.requests["time"]
    parts = [
        pd.DataFrame(
            {"time": times, "metric": name.partition("__")[0], "labels": labels, "value": np.asarray(values, float)}
        )
        for name, (values, labels) in ((name, (v if isinstance(v, tuple) else (v, "{}"))) for name, v in series.items())
    ]
    return replace(recording, metrics=pd.concat(parts, ignore_index=True))


def sampled(**series):
    return build_case(with_samples(variants.calm(), **series))


def steps(before: float, since: float) -> np.ndarray:
    return np.where(SINCE, since, before)


def grown(before: float, since: float) -> np.ndarray:
    return np.cumsum(steps(before, since))


# --- the rows ---


@pytest.mark.parametrize(
    ("question", "make", "finding", "usual"),
    [
        (inputs.missing_values, variants.nulls, "more", "no more"),
        (inputs.stale_values, variants.stuck_feed, "more", "no more"),
        (inputs.duplicated_requests, variants.repeated_requests, "more", "no more"),
        (inputs.units, lambda: variants.wrong_unit(100), "another unit", "same unit"),
        (inputs.relations, variants.stuck_feed, "broken", "kept"),
        (inputs.relations, lambda: variants.wrong_unit(100), "broken", "kept"),
        (drift.drift, lambda: variants.wrong_unit(5), "drifted", "steady"),
        (drift.joint_drift, lambda: variants.wrong_unit(5), "told apart", "alike"),
    ],
)
def test_a_fault_of_the_rows_is_found_by_its_own_question(question, make, finding, usual, calm):
    assert question(build_case(make())).finding == finding
    assert question(calm).finding == usual


def test_a_unit_is_told_by_its_factor_even_where_only_some_rows_are_at_fault():
    def some(features):
        return features.mul(np.where(np.arange(len(features)) % 4 > 0, 1, 100), axis=0)

    found = inputs.units(build_case(variants.with_inputs(some)))
    assert found.finding == "another unit"
    assert found.effect == 100
    assert "× 100" in found.summary


def test_a_column_ten_times_as_large_is_found_though_other_columns_make_rows_leave_their_range():
    def ten_times(features):
        changed = features.assign(feature_return_0=10 * features["feature_return_0"])
        other = features["feature_return_5"].where(np.arange(len(features)) % 10 > 0, 100.0)
        return changed.assign(feature_return_5=other)

    found = inputs.units(build_case(variants.with_inputs(ten_times)))
    assert found.finding == "another unit" and "return_0 × 10" in found.summary


def test_categories_that_are_new_or_missing_break_the_contract_and_their_shares_drift():
    calm = variants.calm()
    is_late = np.arange(variants.ROWS) >= variants.FAULT_FROM
    region = pd.Series(np.where(np.arange(variants.ROWS) % 2, "north", "south"))
    learnt = calm.reference.assign(region=np.where(np.arange(len(calm.reference)) % 2, "north", "south"))

    def case(values):
        return build_case(replace(calm, reference=learnt, requests=calm.requests.assign(feature_region=values)))

    assert inputs.contract(case(region)).finding == "kept"
    assert inputs.contract(case(region.mask(is_late & (region == "north")))).finding == "broken"
    typo = case(region.where(~is_late, "nort"))
    assert inputs.contract(typo).finding == "broken" and "category" in inputs.contract(typo).summary
    assert "region (a category" in drift.drift(typo).summary


def test_constant_columns_are_no_relation_and_hundreds_cost_little():
    random = np.random.default_rng(0)
    table = pd.DataFrame({"lag_0": random.normal(size=400)})
    table = table.assign(lag_1=table["lag_0"].shift(), actual=table["lag_0"].shift(-1))
    wide = pd.concat(
        [table, pd.DataFrame({f"constant_{place}": [float(place % 3)] * 400 for place in range(300)})], axis=1
    )
    tracemalloc.start()
    found = following(wide)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6
    pd.testing.assert_series_equal(found, following(table))
    assert following(wide.filter(like="constant").assign(actual=1.0)).empty


def test_swapped_columns_break_the_relations_and_no_range():
    def swapped(features):
        return features.rename(columns={"feature_return_0": "feature_return_1", "feature_return_1": "feature_return_0"})

    case = build_case(variants.with_inputs(lambda features: swapped(features)[features.columns]))
    assert inputs.contract(case).finding == "kept"
    found = inputs.relations(case)
    assert found.finding == "broken"


def test_wrong_actuals_break_the_relations_to_the_inputs_of_the_next_day():
    recording = variants.calm()
    wrong = recording.requests["actual"] + np.where(SINCE, 0.02, 0.0)
    found = inputs.relations(build_case(replace(recording, requests=recording.requests.assign(actual=wrong))))
    assert found.finding == "broken"
    assert abs(found.onset - variants.fault_time(recording.requests)).days <= 3


def test_several_requests_for_one_day_break_no_relation():
    assert inputs.relations(build_case(variants.busier())).finding == "kept"


def test_actuals_of_another_kind_are_label_drift(calm):
    recording = variants.calm()
    wrong = recording.requests["actual"] * np.where(SINCE, 3.0, 1.0)
    case = build_case(replace(recording, requests=recording.requests.assign(actual=wrong)))
    assert drift.label_drift(case).finding == "drifted"
    assert drift.label_drift(calm).finding == "steady"


def test_data_whose_time_stands_still_is_stale():
    newest = 1e9 + np.minimum(np.arange(ROWS), FROM) * 86400.0
    assert inputs.freshness(sampled(lepton_newest_data_timestamp_seconds=newest)).finding == "stale"
    moving = 1e9 + np.arange(ROWS) * 86400.0
    assert inputs.freshness(sampled(lepton_newest_data_timestamp_seconds=moving)).finding == "fresh"


def test_values_that_the_service_counted_as_missing_are_found():
    labels = '{"problem":"missing"}'
    rows = grown(1, 1)
    faulty = sampled(lepton_input_problems_total=(grown(0, 0.3), labels), lepton_input_rows_total=rows)
    sound = sampled(lepton_input_problems_total=(grown(0, 0), labels), lepton_input_rows_total=rows)
    assert (inputs.input_problems(faulty).finding, inputs.input_problems(sound).finding) == ("missing", "no more")
    assert "missing" in inputs.input_problems(faulty).summary


def other_relation(recording: Recording) -> Recording:
    """The actuals come true as the model says they do; from the fault on, calm days are wild and wild ones calm."""
    answers = load_forecaster(recording.models["v2"]).predict(recording.features(recording.requests))
    width = (answers["upper"] - answers["lower"]).to_numpy() / 2
    noise = np.random.default_rng(0).normal(0, 0.6, ROWS)
    turned = np.median(width) ** 2 / width
    actual = answers["mean"].to_numpy() + noise * np.where(SINCE, 2 * turned, width)
    return replace(recording, requests=recording.requests.assign(actual=actual))


def test_actuals_that_relate_to_the_same_inputs_in_another_way_are_concept_drift_and_no_fault_of_the_model(calm):
    case = build_case(other_relation(variants.calm()))
    found = drift.concept_drift(case)
    assert (found.finding, drift.concept_drift(calm).finding) == ("changed", "held")
    assert found.effect > 1.5
    concluded = conclude(case, gather(case))
    assert concluded.cause == "none"
    assert "retrain on recent rows" in concluded.next_action
    assert next(one.probability for one in concluded.ranking if one.cause == "model") < 0.05


def test_errors_of_one_version_alone_are_no_concept_drift(tmp_path):
    found = drift.concept_drift(build_case(variants.wrong_model(tmp_path)))
    assert found.finding in ("held", "by one version")


def test_a_version_that_gives_no_numbers_leaves_the_relation_unjudged(calm):
    nothing = calm.replayed["current"] * np.nan
    found = drift.concept_drift(replace(calm, replayed={**calm.replayed, "current": nothing}))
    assert not found.checked
    assert "answer of the current version" in found.summary


def test_where_the_inputs_moved_too_the_relation_is_not_judged():
    from lepton_kit.telemetry.recordings import read_recording

    assert drift.concept_drift(build_case(read_recording(variants.SHIPPED))).finding in ("inputs moved", "held")


# --- the model ---


def stand_in(folder: Path, stands_in_for: str | None) -> Recording:
    """Version v3 goes into service, with an interval a little wider; its card may say that it was compressed."""
    recording = variants.wrong_model(folder, factor=1.08)
    versions = recording.incident.versions.model_copy(update={"stands_in_for": stands_in_for})
    return replace(recording, incident=recording.incident.model_copy(update={"versions": versions}))


def test_a_compressed_version_that_stands_in_is_no_changed_model(tmp_path):
    known, unknown = (build_case(stand_in(tmp_path / str(name), name)) for name in ("v2", None))
    assert (model.answering_version(known).finding, model.answering_version(unknown).finding) == ("stand-in", "changed")
    assert (model.deployment(known).finding, model.deployment(unknown).finding) == ("stand-in", "deployed")
    with_criteria = [replace(case, criteria=Criteria(output_difference=0.02)) for case in (known, unknown)]
    findings = [model.replay_of_last_good(case).finding for case in with_criteria]
    assert findings == ["differ as a stand-in", "differ"]
    odds = [next(r.probability for r in conclude(c, gather(c)).ranking if r.cause == "model") for c in with_criteria]
    assert odds[0] < odds[1] / 3


def test_a_stand_in_that_breaks_the_promise_is_a_fault_of_the_model(tmp_path):
    recording = variants.wrong_model(tmp_path)
    versions = recording.incident.versions.model_copy(update={"stands_in_for": "v2"})
    case = build_case(replace(recording, incident=recording.incident.model_copy(update={"versions": versions})))
    assert conclude(case, gather(case)).cause == "model"


def test_a_wrong_version_scores_worse_than_the_last_good_one_on_the_same_rows(tmp_path, calm):
    case = build_case(variants.wrong_model(tmp_path))
    assert model.error_decomposition(case).finding in ("model", "no rise")
    assert model.answering_version(case).finding == "changed"
    wide = build_case(variants.wrong_model(tmp_path, factor=10))
    assert model.replay_score(wide).finding == "last good better"
    assert model.error_decomposition(wide).finding == "model"
    assert model.replay_score(calm).finding == "alike"
    assert model.answering_version(calm).finding == "the same"


def test_a_change_of_the_world_is_no_rise_of_the_models_part():
    from lepton_kit.telemetry.recordings import read_recording

    found = model.error_decomposition(build_case(read_recording(variants.SHIPPED)))
    assert found.finding in ("inputs", "relation")


@pytest.mark.parametrize(("value", "finding"), [(np.nan, "not finite"), (0.0, "collapsed")])
def test_answers_that_are_no_numbers_or_always_the_same_are_found(value, finding, calm):
    recording = variants.calm()
    requests = recording.requests.copy()
    requests.loc[SINCE, ["mean", "lower", "upper"]] = value
    assert model.outputs(build_case(replace(recording, requests=requests))).finding == finding
    assert model.outputs(calm).finding == "sound"


def test_requests_that_the_model_failed_are_told_apart_from_those_refused_for_the_load(calm):
    recording = variants.calm()
    status = {
        code: recording.requests["status"].where(~SINCE | (np.arange(ROWS) % 4 > 0), code) for code in (500.0, 429.0)
    }
    failing, crowded = (
        build_case(replace(recording, requests=recording.requests.assign(status=status[code]))) for code in status
    )
    assert (model.model_errors(failing).finding, compute.refusals(failing).finding) == ("grew", "steady")
    assert (model.model_errors(crowded).finding, compute.refusals(crowded).finding) == ("steady", "grew")
    assert (model.model_errors(calm).finding, compute.refusals(calm).finding) == ("steady", "steady")


@pytest.mark.parametrize(
    ("checksums", "finding"),
    [({"v2": True, "v1": True}, "hold"), ({"v2": False, "v1": True}, "do not hold"), ({"v1": False}, "not checked")],
)
def test_checksums_are_those_that_capture_compared_of_the_current_version(checksums, finding, calm):
    incident = calm.recording.incident.model_copy(update={"checksums": checksums})
    assert model.checksums(replace(calm, recording=replace(calm.recording, incident=incident))).finding == finding


def test_of_the_former_format_checksums_are_what_its_notes_said():
    given = {"format": "lepton-recording/1", "id": "x", "service": "goog",
             "versions": {"current": "v2", "last_good": "v1"},
             "window": {"start": "2026-01-01T00:00Z", "end": "2026-01-02T00:00Z"}}  # fmt: skip
    hold = {"measured": ["models: v2, v1, copied from the registry; their checksums hold"]}
    broken = {"measured": ["models: v2, v1, copied"], "derived": ["models/v2: its checksums do not hold (x)"]}
    told = [Incident.model_validate(given | {"provenance": one}).checksums for one in (hold, broken, {})]
    assert told == [{"v2": True, "v1": True}, {"v2": False}, {}]


# --- the compute ---


def timed(waiting: tuple[float, float], computing: tuple[float, float]) -> dict[str, np.ndarray]:
    count = grown(1, 1)
    return {
        "lepton_queue_seconds_sum": grown(*waiting),
        "lepton_queue_seconds_count": count,
        "lepton_model_seconds_sum": grown(*computing),
        "lepton_model_seconds_count": count,
    }


@pytest.mark.parametrize(
    ("waiting", "computing", "finding"),
    [
        ((0.001, 0.2), (0.01, 0.01), "waiting"),
        ((0.001, 0.001), (0.01, 0.1), "computing"),
        ((0.001, 0.2), (0.01, 0.1), "both"),
        ((0.001, 0.001), (0.01, 0.011), "neither"),
    ],
)
def test_time_in_the_queue_is_told_apart_from_time_in_the_model(waiting, computing, finding):
    assert compute.queue_or_model(sampled(**timed(waiting, computing))).finding == finding


@pytest.mark.parametrize(("since", "finding"), [(0.9, "saturated"), (0.4, "rising"), (0.1, "idle")])
def test_workers_without_a_moment_left_are_saturated(since, finding):
    seconds = variants.calm().requests["time"].diff().dt.total_seconds().fillna(0.0).to_numpy()
    busy = np.cumsum(seconds * steps(0.1, since))
    case = sampled(lepton_model_seconds_sum=busy, lepton_model_workers=np.ones(ROWS))
    found = compute.saturation(case)
    assert found.finding == finding
    assert found.effect == pytest.approx(since, abs=0.02)


def test_memory_that_grows_step_by_step_is_a_leak_and_a_burst_is_none():
    leak = 100e6 * (1 + 0.01 * np.maximum(0, np.arange(ROWS) - FROM))
    burst = 100e6 * (1 + 0.4 * (np.arange(ROWS) % 2))
    assert compute.memory(sampled(lepton_worker_resident_memory_bytes=leak)).finding == "grew"
    assert compute.memory(sampled(lepton_worker_resident_memory_bytes=burst)).finding == "steady"


def test_workers_that_were_started_again_and_workers_that_are_gone_are_found():
    case = sampled(lepton_worker_starts_total=steps(2, 3), lepton_model_workers=steps(2, 1))
    assert (compute.restarts(case).finding, compute.workers(case).finding) == ("restarted", "fewer")
    well = sampled(lepton_worker_starts_total=steps(2, 2), lepton_model_workers=steps(2, 2))
    assert (compute.restarts(well).finding, compute.workers(well).finding) == ("none", "as many")


def test_workers_that_are_gone_date_the_incident_where_nothing_else_moved(calm):
    case = sampled(lepton_model_workers=(steps(4, 2), '{"role":"current"}'))
    assert (case.onset, str(case.dated)) == (variants.fault_time(case.requests), "change point of missing workers")
    assert timing.first_signal(case).finding == "compute first"
    assert str(calm.dated) == "start of the alert"


def test_workers_of_a_candidate_that_was_taken_back_are_not_missed():
    recording = with_samples(variants.calm(), lepton_model_workers=(steps(2, 2), '{"role":"current"}'))
    candidate = with_samples(variants.calm(), lepton_model_workers=(steps(2, 0), '{"role":"candidate"}'))
    both = replace(recording, metrics=pd.concat([recording.metrics, candidate.metrics], ignore_index=True))
    assert compute.workers(build_case(both)).finding == "as many"


def test_a_service_whose_scrapes_fail_has_lost_workers():
    assert compute.workers(sampled(up=steps(1, 0))).finding == "fewer"


def test_three_times_the_requests_are_a_surge(calm):
    assert compute.arrivals(build_case(variants.busier())).finding == "surged"
    assert compute.arrivals(calm).finding == "steady"


# --- the log, and time ---


def with_log(lines_since: list[str]) -> Recording:
    recording = variants.calm()
    times = recording.requests["time"]
    usual = [(time, "WARNING", "cache is cold") for time in times]
    new = [(times.iloc[FROM] + pd.Timedelta(hours=n + 1), "ERROR", text) for n, text in enumerate(lines_since)]
    table = pd.DataFrame(usual + new, columns=["time", "level", "message"]).assign(fields=json.dumps({}))
    return replace(recording, logs=table.sort_values("time", ignore_index=True))


def test_errors_of_a_new_kind_are_found_shown_and_harmless():
    found = timing.log_templates(build_case(with_log(["<script>worker died\x1b[2J"] * 5)))
    assert found.finding == "new"
    assert "died" in found.summary and "\x1b" not in found.summary
    assert timing.log_templates(build_case(with_log([]))).finding == "usual"


def test_the_signal_that_moved_first_is_named(tmp_path, calm):
    assert timing.first_signal(build_case(variants.stuck_feed())).finding == "inputs first"
    assert timing.first_signal(build_case(variants.wrong_model(tmp_path))).finding == "deployment first"
    assert timing.first_signal(build_case(variants.slow())).finding == "compute first"
    assert timing.first_signal(calm).finding == "nothing moved"


def test_a_crowd_that_asks_the_same_again_and_tells_no_actual_breaks_no_relation():
    recording = variants.calm()
    late = recording.requests.iloc[FROM:]
    crowd = late.assign(
        time=late["time"] + pd.Timedelta(minutes=1),
        request_id=[f"crowd-{n}" for n in range(len(late))],
        actual=np.nan,
        actual_time=pd.NaT,
        **{name: 0.01 for name in late if name.startswith("feature_")},
    )
    requests = pd.concat([recording.requests, crowd]).sort_values("time", ignore_index=True)
    assert inputs.relations(build_case(replace(recording, requests=requests))).finding == "kept"


def crowded() -> Recording:
    """Five more requests beside each, all of a crowd that asks about the same three days, and is answered slowly."""
    recording = variants.calm()
    before, late = recording.requests.iloc[:FROM], recording.requests.iloc[FROM:]
    late = late.assign(latency_ms=6 * late["latency_ms"])
    parts = [
        recording.requests.iloc[-3:]
        .iloc[(np.arange(len(late)) + number) % 3]
        .assign(
            time=pd.DatetimeIndex(late["time"] + pd.Timedelta(minutes=1 + number)),
            request_id=[f"crowd-{number}-{place}" for place in range(len(late))],
            latency_ms=late["latency_ms"].to_numpy(),
            actual=np.nan,
            actual_time=pd.NaT,
        )
        for number in range(5)
    ]
    requests = pd.concat([before, late, *parts]).sort_values("time", ignore_index=True)
    return replace(recording, requests=requests)


def test_a_crowd_that_asks_about_the_same_three_days_is_a_matter_of_the_load_alone():
    case = build_case(crowded())
    found = {item.name: item.finding for item in gather(case)}
    moved = ("drift", "joint_drift", "units", "relations", "inputs_and_actuals", "arrivals")
    assert [found[name] for name in moved] == ["steady", "alike", "same unit", "kept", "unmoved", "surged"]
    concluded = conclude(case, gather(case))
    assert (concluded.cause, concluded.also) == ("compute", ())


def test_a_flood_that_takes_every_second_day_breaks_no_relation_of_the_others():
    recording = variants.calm()
    actual = recording.requests["actual"].where(~SINCE | (np.arange(ROWS) % 2 == 0))
    flooded = build_case(replace(recording, requests=recording.requests.assign(actual=actual)))
    assert inputs.relations(flooded).finding == "kept"


def test_rows_that_a_busy_service_takes_out_of_order_among_those_of_a_crowd_break_no_relation():
    recording = variants.calm()
    rng = np.random.default_rng(5)
    before, late = recording.requests.iloc[:FROM], recording.requests.iloc[FROM:]
    mixed = late.iloc[np.argsort(np.arange(len(late)) + rng.uniform(0, 40, len(late)))].assign(
        time=late["time"].to_numpy()
    )
    days = rng.integers(0, FROM, 15 * len(late))
    crowd = recording.requests.iloc[days].assign(
        time=pd.DatetimeIndex(late["time"]).repeat(15) + pd.to_timedelta(np.tile(np.arange(1, 16), len(late)), "s"),
        request_id=[f"crowd-{number}" for number in range(len(days))],
        actual=np.nan,
        actual_time=pd.NaT,
    )
    requests = pd.concat([before, mixed, crowd]).sort_values("time", ignore_index=True)
    assert inputs.relations(build_case(replace(recording, requests=requests))).finding == "kept"


def table_of_rows(one_row: float, rate_since: float = 6.0) -> Recording:
    """A service whose rows do not follow on each other: from half of its time on one row has a share of them."""
    rng = np.random.default_rng(0)
    before = np.arange(0, 300, 1 / 6)
    since = 300 + np.arange(0, 300, 1 / rate_since)
    rows = pd.DataFrame({"feature_a": rng.normal(size=len(before) + len(since)), "feature_b": 0.0})
    is_one = (np.arange(len(rows)) >= len(before)) & (rng.random(len(rows)) < one_row)
    rows.loc[is_one, "feature_a"] = 0.5
    start = pd.Timestamp("2026-01-01T00:00Z")
    time = start + pd.to_timedelta(np.concatenate([before, since]), unit="s")
    requests = rows.assign(
        time=time, request_id=[f"r{place}" for place in range(len(rows))], version="v1", status=200.0
    )
    requests = requests.assign(latency_ms=10.0, rating=np.where(time >= start + pd.Timedelta(minutes=5), 1.0, 5.0))
    window = {"start": start, "end": start + pd.Timedelta(minutes=10)}
    declaration = {"columns": {"features": "inputs.*", "rating": "rating"}, "requests": {"path": "log.jsonl"}}
    incident = Incident(
        format=FORMAT, id="x", service="demo", versions={"current": "v1"}, window=window, declaration=declaration
    )
    return Recording(incident, requests=requests)


@pytest.mark.parametrize(
    ("one_row", "rate_since", "finding"), [(0.5, 6.0, "more"), (0.0, 6.0, "no more"), (0.5, 12.0, "no more")]
)
def test_where_rows_do_not_follow_on_each_other_one_row_that_takes_the_place_of_others_is_stale(
    one_row, rate_since, finding
):
    found = inputs.stale_values(build_case(table_of_rows(one_row, rate_since)))
    assert found.finding == finding, found.summary
