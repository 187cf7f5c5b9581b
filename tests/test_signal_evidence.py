"""Evidence from the signals of servers that the kit did not make: a text server with vLLM's metrics."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lepton_kit.diagnosis.case import build_case
from lepton_kit.diagnosis.causes import diagnose
from lepton_kit.diagnosis.evidence import compute
from lepton_kit.diagnosis.repair_capacity import plan_capacity
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import FORMAT, REQUEST_COLUMNS, Incident, Recording
from lepton_kit.telemetry.selectors import parse_selector
from lepton_kit.telemetry.signals import ROLES

SCRAPES, AT, STEP = 120, 60, 10.0
TIMES = pd.date_range("2026-11-29T10:00Z", periods=SCRAPES, freq=f"{STEP:.0f}s", unit="us")


def steps(before, since):
    """A level before the change and since, with a little noise."""
    return np.where(np.arange(SCRAPES) < AT, before, since) * np.random.default_rng(0).uniform(0.9, 1.1, SCRAPES)


def recording(signals="vllm", requests=None, **levels):
    """A recording whose signals have these levels: of counters the rate, of histograms the mean."""
    incident = Incident.model_validate(
        {
            "format": FORMAT, "id": "chat-1", "service": "chat", "versions": {"current": "m1"},
            "declaration": {"task": "text", "signals": signals},
            "window": {"start": TIMES[0], "end": TIMES[-1]},
            "alerts": [{"name": "SlowFirstToken", "starts_at": TIMES[AT + 6]}],
        }
    )  # fmt: skip
    made = Recording(incident)
    if requests is not None:
        made = replace(made, requests=requests.reindex(columns=[*dict.fromkeys([*REQUEST_COLUMNS, *requests])]))
    parts = [_series(made, role, values) for role, values in levels.items()]
    return replace(made, metrics=pd.concat(parts, ignore_index=True).sort_values("time", ignore_index=True))


LABELS = {
    "idle_seconds": '{"cpu":"0","mode":"idle"}',
    "requests_total": '{"http_response_code":"200"}',
    "errors": '{"http_response_code":"503"}',
    "refusals": '{"http_response_code":"429"}',
}


def _series(made, role, values):
    selectors = made.signals[role].parts(ROLES[role].kind)
    told = {"value": values}
    if ROLES[role].kind != "gauge":
        count = np.cumsum(np.full(SCRAPES, 20.0))
        told = {"value": np.cumsum(values * STEP), "sum": np.cumsum(20.0 * values), "count": count}
    rows = [
        pd.DataFrame(
            {
                "time": TIMES,
                "metric": parse_selector(text).metric,
                "labels": LABELS.get(role, "{}"),
                "value": told[part],
            }
        )
        for part, text in selectors.items()
        if part in told
    ]
    return pd.concat(rows)


QUEUED = {
    "queue_length": steps(0.5, 30), "running": steps(8, 16), "saturation": steps(0.3, 0.9),
    "time_to_first_token": steps(0.1, 4.0), "latency": steps(2.0, 9.0), "queue_time": steps(0.01, 3.5),
    "service_time": steps(1.9, 2.1), "requests_total": steps(2.0, 2.2), "up": np.ones(SCRAPES),
}  # fmt: skip


def test_a_queue_before_a_text_server_is_compute_though_no_request_was_logged():
    made = recording(**QUEUED)
    case = build_case(made)
    found = {one.__name__: one(case).finding for one in (
        compute.queue, compute.saturation, compute.time_to_first_token, compute.latency, compute.queue_or_model,
        compute.arrivals, compute.workers,
    )}  # fmt: skip
    assert found == {
        "queue": "grew", "saturation": "saturated", "time_to_first_token": "grew", "latency": "grew",
        "queue_or_model": "waiting", "arrivals": "steady", "workers": "as many",
    }  # fmt: skip
    assert abs(case.onset - TIMES[AT]) <= pd.Timedelta(minutes=1)
    assert diagnose(made).cause == "compute"


def test_ratings_that_fall_without_load_are_no_fault_of_the_compute():
    rng = np.random.default_rng(1)
    time = pd.date_range(TIMES[0], TIMES[-1], periods=400, unit="us")
    rating = np.where(np.arange(400) < 200, 5, 2) - rng.integers(0, 2, 400)
    rows = pd.DataFrame({"time": time, "request_id": [f"r{n}" for n in range(400)], "version": "m1", "status": 200.0})
    rows = rows.assign(latency_ms=rng.uniform(900, 1100, 400), rating=rating.astype(float), tokens=80.0)
    calm = {name: np.full(SCRAPES, values[:AT].mean()) * steps(1, 1) for name, values in QUEUED.items()}
    made = diagnose(recording(requests=rows, **calm))
    assert made.cause != "compute"
    assert {one.name: one.finding for one in made.evidence}["queue"] == "steady"


def test_what_a_service_has_no_signal_for_is_not_checked_and_says_so():
    case = build_case(recording("fastapi", latency=steps(0.1, 0.1)))
    assert compute.queue(case).summary == "no signal `queue_length` is declared"
    assert "no signal `saturation` is declared" in compute.saturation(case).summary
    assert compute.memory(case).summary == ("no sample of signal `memory` (process_resident_memory_bytes) was recorded")
    assert not any(one(case).checked for one in (compute.queue, compute.time_to_first_token, compute.errors))


def test_errors_and_refusals_are_counted_where_no_request_tells_its_status():
    levels = {"requests_total": steps(5, 5), "errors": steps(0.01, 1.5), "refusals": steps(0.01, 0.01)}
    case = build_case(recording("bentoml", **levels))
    assert (compute.errors(case).finding, compute.refusals(case).finding) == ("grew", "steady")
    assert compute.errors(case).effect == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(("signals", "role"), [("dcgm", "gpu_utilisation"), ("vllm", "saturation")])
def test_a_gauge_that_is_full_throughout_is_neither_saturated_since_nor_idle(signals, role):
    scale = 100 if signals == "dcgm" else 1
    assert compute.saturation(build_case(recording(signals, **{role: scale * steps(0.9, 0.9)}))).finding == "full"
    risen = compute.saturation(build_case(recording(signals, **{role: scale * steps(0.2, 0.9)})))
    assert (risen.finding, risen.effect) == ("saturated", pytest.approx(0.9, abs=0.05))


def test_processors_that_are_no_longer_idle_are_saturated():
    assert compute.saturation(build_case(recording("node", idle_seconds=steps(0.8, 0.05)))).finding == "saturated"


def test_a_process_that_was_started_again_is_seen_by_its_start_time():
    started = np.where(np.arange(SCRAPES) < AT, 1.7e9, 1.7e9 + 600)
    assert compute.restarts(build_case(recording("fastapi", start_time=started))).finding == "restarted"
    assert compute.restarts(build_case(recording("fastapi", start_time=np.full(SCRAPES, 1.7e9)))).finding == "none"


def test_no_capacity_plan_is_made_of_a_server_whose_workers_nobody_counted():
    time = pd.date_range(TIMES[0], TIMES[-1], periods=400, unit="us")
    rows = pd.DataFrame({"time": time, "request_id": "r", "version": "m1", "status": 200.0, "latency_ms": 900.0})
    with pytest.raises(InputError, match="no signal `workers` is declared"):
        plan_capacity(recording(requests=rows, **QUEUED))
