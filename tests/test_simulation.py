"""A simulated service: the same each time, nothing shared, and what a fault does is seen in its telemetry."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from lepton_kit.data.input_fixes import InputFixes
from lepton_kit.diagnosis.queueing import Demand, mean_wait
from lepton_kit.errors import InputError
from lepton_kit.ops.faults import find_fault
from lepton_kit.ops.simulation import EPOCH, inject
from lepton_kit.serving.metrics import ServiceMetrics
from lepton_kit.serving.replay import generated
from lepton_kit.telemetry.recordings import read_recording, write_recording
from lepton_kit.telemetry.slo import read_objectives
from subjects.prices.simulated.service import SimulatedService
from subjects.prices.simulated.setting import Setting
from subjects.prices.simulated.world import KINDS, world

SMALL = Setting(rate=10.0, workers=2, service=0.03)


@pytest.fixture(scope="module")
def objectives():
    return read_objectives(ROOT / "slo/goog")


@pytest.fixture
def service(tmp_path):
    return SimulatedService(3, tmp_path, SMALL)


def last(service, selector):
    held = service.query(selector, EPOCH.timestamp(), EPOCH.timestamp() + service.now)
    return held.groupby("labels")["value"].last().sum()


def injected(name, tmp_path, objectives, severity=None, seed=1):
    fault = find_fault(name, seed, severity)
    return inject(fault, seed, tmp_path, objectives, lambda _, seed, scratch: SimulatedService(seed, scratch, SMALL))


def test_the_same_seed_gives_the_same_recording_and_another_does_not(tmp_path, objectives):
    first, again, other = (injected("nulls", tmp_path, objectives, seed=seed) for seed in (1, 1, 2))
    one, two, three = (made.record() for made in (first, again, other))
    pd.testing.assert_frame_equal(one.requests, two.requests)
    pd.testing.assert_frame_equal(one.metrics, two.metrics)
    assert one.incident == two.incident
    assert not one.requests["time"].equals(three.requests["time"])


def test_drills_share_nothing_that_a_fault_changes(tmp_path):
    before = {kind: world(kind).versions["v2"].forecaster.network.mean.weight.clone() for kind in KINDS}
    for name in ("diverged-retrain", "nan-weights", "perturbed-weights"):
        bad = SimulatedService(1, tmp_path, SMALL)
        bad.inject(find_fault(name))
        bad.advance(5)
    healthy = SimulatedService(1, tmp_path, SMALL)
    healthy.advance(20)
    assert last(healthy, "lepton_errors_total") == 0
    assert all(world(kind).versions["v2"].forecaster.network.mean.weight.equal(was) for kind, was in before.items())


def test_a_recording_is_read_back_as_it_was_written_with_the_names_of_a_real_service(service, tmp_path):
    service.advance(60)
    written = service.record(0, service.now)
    held = read_recording(write_recording(written, tmp_path / "drill", {"cause": "none"}))
    assert not set(held.absent) - {"topology.csv"}
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    families = [one for one in ServiceMetrics().registry.collect() if not one.name.startswith("lepton_prediction_")]
    real = {family.name + ending for family in families for ending in endings[family.type]}
    assert set(held.metrics["metric"]) == {*real, "up"}
    assert len(held.requests) == len(written.requests) > 400
    assert set(held.models) == {"v1", "v2"}
    assert json.loads(held.metrics["labels"].iloc[0])["job"] == "goog"


def test_counters_never_fall_and_agree_with_the_requests(service):
    service.advance(120)
    held = service.record(0, service.now)
    for _, series in held.metrics[held.metrics["metric"].str.endswith("_total")].groupby(["metric", "labels"]):
        assert (series["value"].diff().dropna() >= 0).all()
    answered = last(service, 'lepton_predict_requests_total{outcome="answered"}')
    assert answered == (held.requests["status"] == 200).sum() > 1000
    assert last(service, 'http_server_request_duration_seconds_bucket{http_route="/v1/predict",le="+Inf"}') == answered


@pytest.mark.parametrize("utilisation", [0.5, 0.8])
def test_requests_wait_as_long_as_queueing_theory_says(utilisation, tmp_path):
    setting = Setting(rate=40.0, workers=2, service=0.05 * utilisation, service_cv=1.0, queue_limit=10_000)
    service = SimulatedService(7, tmp_path, setting)
    service.advance(3000)
    measured = last(service, "lepton_queue_seconds_sum") / last(service, "lepton_queue_seconds_count")
    expected = mean_wait(Demand(rate=40.0, service=0.05 * utilisation), workers=2)  # M/M/2: exact
    assert measured == pytest.approx(expected, rel=0.12)


def test_requests_beyond_the_queue_are_refused(tmp_path):
    service = SimulatedService(1, tmp_path, Setting(rate=50.0, workers=1, service=0.1, queue_limit=4))
    service.advance(30)
    requests = service.record(0, service.now).requests
    assert 0.7 < (requests["status"] == 429).mean() < 0.9
    assert last(service, 'lepton_errors_total{kind="overloaded"}') == (requests["status"] == 429).sum()
    assert requests.loc[requests["status"] == 200, "latency_ms"].max() < 1000


def test_a_trace_gives_the_times_of_the_requests(tmp_path):
    service = SimulatedService(1, tmp_path, SMALL, generated(5))
    service.advance(60)
    gaps = service.record(0, 60).requests["time"].diff().dropna().dt.total_seconds()
    expected = [next(g) for g in [generated(5).faster(10.0 / generated(5).rate).gaps] for _ in range(20)]
    assert gaps.iloc[:18].to_numpy() == pytest.approx(expected[:18], rel=1e-3)


def test_actuals_are_known_only_after_their_feedback(service):
    service.advance(60)
    requests = service.record(0, service.now).requests
    age = 60 - (requests["time"] - EPOCH).dt.total_seconds() - requests["latency_ms"] / 1000
    assert requests.loc[age > 5.01, "actual"].notna().all()
    assert requests.loc[age < 4.99, "actual"].isna().all()


def test_fixes_undo_a_wrong_unit_while_the_feed_stays_wrong(service):
    service.inject(find_fault("units"))
    service.advance(30)
    wide = service.record(0, 30).requests
    fixes = InputFixes(scale={name: 0.01 for name in world("ewma").columns if not name.startswith("volume")})
    state = service.state()
    service.set_state(type(state)(state.version, state.workers, state.queue_limit, fixes), "percent")
    service.advance(30)
    fixed = service.record(30, 60).requests
    width = [(side["upper"] - side["lower"]).median() for side in (wide, fixed)]
    assert width[0] > 50 * width[1]


def test_a_state_is_reached_whole_and_a_missing_version_changes_nothing(service):
    before = service.state()
    service.set_state(type(before)("v1", 4, 8), "more")
    assert (service.state().version, service.workers) == ("v1", 4)
    service.advance(10)
    assert set(service.record(4, 10).requests["version"]) == {"v1"}
    with pytest.raises(InputError, match="v7"):
        service.set_state(type(before)("v7", 1, 1), "no such version")
    assert service.state().workers == 4


def test_fresh_workers_answer_as_the_files_do(service):
    service.inject(find_fault("perturbed-weights"))
    service.advance(20)
    service.restart_workers("reload")
    service.advance(20)
    requests = service.record(0, 40).requests
    replayed = (
        world("ewma")
        .versions["v2"]
        .forecaster.predict(requests.filter(like="feature_").rename(columns=lambda name: name.removeprefix("feature_")))
    )
    apart = (requests["lower"] - replayed["lower"]).abs() > 1e-9
    is_late = (requests["time"] - EPOCH).dt.total_seconds() > 20
    assert apart[~is_late].all()
    assert not apart[is_late].any()


def test_a_leaking_worker_grows_slows_and_is_replaced(tmp_path):
    service = SimulatedService(1, tmp_path, SMALL)
    service.inject(find_fault("memory-leak"))
    service.advance(110)
    memory = service.query("lepton_worker_resident_memory_bytes", EPOCH.timestamp(), EPOCH.timestamp() + 110)
    first, final = memory["value"].iloc[0], memory["value"].max()
    assert final > 2 * first
    requests = service.record(0, 110).requests
    latency = requests["latency_ms"].to_numpy()
    assert np.median(latency[-100:]) > 3 * np.median(latency[:100])
    service.advance(60)
    assert last(service, "lepton_worker_starts_total") > SMALL.workers


def test_a_lost_worker_is_seen_in_the_workers_that_answer(service):
    service.advance(20)
    service.inject(find_fault("lost-worker"))
    service.advance(60)
    held = service.query('lepton_model_workers{role="current"}', EPOCH.timestamp(), EPOCH.timestamp() + 80)
    assert (held["value"].iloc[0], held["value"].iloc[-1]) == (2, 1)
    assert last(service, "lepton_worker_starts_total") > SMALL.workers


def test_copies_carry_the_id_of_their_original_and_their_actual_counts_once(service):
    service.inject(find_fault("duplicates"))
    service.advance(60)
    requests = service.record(0, 60).requests
    assert requests["request_id"].duplicated().mean() == pytest.approx(0.5, abs=0.01)
    assert last(service, "lepton_forecast_actuals_total") < 0.52 * len(requests)


@pytest.mark.parametrize(
    ("setting", "named"), [({"rate": 0.0}, "rate"), ({"workers": 0}, "workers"), ({"service": float("nan")}, "service")]
)
def test_a_setting_out_of_range_is_refused(setting, named):
    with pytest.raises(InputError, match=named):
        Setting(**{"rate": 10.0, "workers": 2, "service": 0.03, **setting})
