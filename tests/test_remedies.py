"""The plans of the remedies: what is planted in a recording is what they fix, and nothing else."""

import heapq
import math
import shutil
from dataclasses import replace
from pathlib import Path

import incident_variants as variants
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT

from lepton_kit.data.input_fixes import InputFixes
from lepton_kit.diagnosis.plans import State
from lepton_kit.diagnosis.queueing import Demand, bounded, erlang_c, mean_wait
from lepton_kit.diagnosis.repair_capacity import (
    Needs,
    Smaller,
    option_table,
    plan_capacity,
    smaller_of,
    tolerated_refusals,
)
from lepton_kit.diagnosis.repair_data import exchanged_columns, plan_data, rows_to_learn_from
from lepton_kit.diagnosis.repair_model import plan_model
from lepton_kit.diagnosis.rows import unit_factors
from lepton_kit.diagnosis.workload import Measured
from lepton_kit.errors import InputError
from lepton_kit.telemetry.recordings import feature_columns, read_recording
from lepton_kit.telemetry.slo import read_objectives
from subjects.prices.features import price_features
from subjects.prices.sources import read_prices

COLUMNS = feature_columns(variants.calm().requests)
EVERY_WAY = ("fix_inputs", "roll_back", "deploy", "scale", "restart", "restart_feed")
NAMES = [name.removeprefix("feature_") for name in COLUMNS]


class Held:
    """An operator that only remembers what it was told."""

    def __init__(self, *ways):
        self.held, self.ways, self.told = State("v2", 2, 64), ways or EVERY_WAY, []

    def state(self):
        return self.held

    def set_state(self, state, why):
        self.held = state
        self.told.append(("set_state", why))

    def restart_workers(self, why):
        self.told.append(("restart_workers", why))

    def act_on_feed(self, way, why):
        self.told.append((way, why))


@pytest.fixture(scope="module")
def days():
    """Features with ranges and volumes, as a feed with all columns gives them."""
    prices = read_prices("sample:goog").drop(columns=["open", "adj_close"])
    rows = price_features(prices, lookback=3).iloc[400:800].reset_index(drop=True)
    return rows.iloc[:200], rows.iloc[200:]


# --- data ---------------------------------------------------------------------------------------------------------


def test_nothing_is_fixed_where_nothing_is_wrong():
    plan = plan_data(variants.calm())
    assert (plan.input_fixes, plan.restart_feed, plan.retrain, len(plan.quarantined)) == (InputFixes(), False, False, 0)


@pytest.mark.parametrize("factor", [100, 0.01, 1000])
def test_another_unit_is_found_as_a_power_of_ten_and_the_model_then_holds_its_objective(factor):
    plan = plan_data(variants.wrong_unit(factor))
    assert plan.input_fixes.scale == pytest.approx(dict.fromkeys(NAMES, 1 / factor))
    assert plan.coverage > 0.85
    assert not plan.restart_feed


def test_where_the_version_in_service_cannot_be_loaded_the_plan_says_what_it_did_not_check(tmp_path):
    recording = variants.wrong_unit(100)
    version = recording.incident.versions.current
    damaged = Path(shutil.copytree(recording.models[version], tmp_path / version)) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:40])
    plan = plan_data(replace(recording, models={**recording.models, version: tmp_path / version}))
    assert plan.input_fixes.scale == pytest.approx(dict.fromkeys(NAMES, 1 / 100))
    assert np.isnan(plan.coverage) and not plan.retrain
    [unchecked] = [one for one in plan.reasons if "was not checked" in one]
    assert f"models/{version}" in unchecked and str(tmp_path) not in unchecked


@pytest.mark.parametrize("factor", [1 / 3, 3])
def test_a_factor_that_is_no_unit_is_not_guessed(factor):
    assert not plan_data(variants.wrong_unit(factor)).input_fixes.scale


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
def test_a_unit_is_found_where_only_some_rows_have_it_and_only_they_are_rescaled(days, share):
    sound, since = days
    hit = np.random.default_rng(0).random(len(since)) < share
    faulty = [name for name in since if not name.startswith("volume")]
    came = since.copy()
    came.loc[hit, faulty] *= 100
    factors, _ = unit_factors(sound, came)
    assert factors == dict.fromkeys(faulty, 100)
    used = InputFixes(scale=dict.fromkeys(faulty, 0.01)).applied(came, sound)
    assert np.isclose(used, since).all(axis=1).mean() > 0.99


@pytest.mark.parametrize("share", [0.6, 1.0])
def test_exchanged_columns_are_found_and_put_back_in_the_rows_that_have_them(days, share):
    sound, since = days
    hit = np.random.default_rng(0).random(len(since)) < share
    pairs = {f"return_{lag}": f"range_{lag}" for lag in range(3)}
    both = {**pairs, **{other: name for name, other in pairs.items()}}
    came = since.copy()
    came.loc[hit] = since.rename(columns=both)[list(since)].loc[hit]
    found = exchanged_columns(sound, came)
    assert {frozenset(pair) for pair in found.items()} == {frozenset(pair) for pair in pairs.items()}
    used = InputFixes(swap=found).applied(came, sound)
    assert np.isclose(used, since).all(axis=1).mean() > 0.9


def test_a_reversed_order_of_days_is_found_by_how_values_pass_from_row_to_row(days):
    sound, since = days
    reversed_days = {"return_0": "return_2", "return_2": "return_0"}
    assert exchanged_columns(sound, since.rename(columns=reversed_days)[list(since)]) == {"return_0": "return_2"}


def test_a_sound_feed_has_no_exchanged_columns_and_no_other_unit(days):
    sound, since = days
    assert exchanged_columns(sound, since) == {}
    assert unit_factors(sound, since)[0] == {}
    assert unit_factors(sound, 3 * since)[0] == {}  # a market three times as wild


def test_missing_values_are_filled_and_the_rows_that_lack_all_are_not_learnt_from():
    plan = plan_data(variants.nulls())
    assert set(plan.input_fixes.fill) == set(NAMES)
    assert all(abs(value) < 0.01 for value in plan.input_fixes.fill.values())
    assert len(plan.quarantined) == 23


def test_a_feed_that_stands_still_is_restarted_and_not_learnt_from():
    for recording in (variants.stuck_feed(), read_recording(ROOT / "runbooks/recordings/stale-feed")):
        plan = plan_data(recording)
        assert plan.restart_feed
        assert not plan.input_fixes
        assert not plan.retrain
        assert len(plan.quarantined) > 50


def test_requests_that_come_twice_are_kept_out_of_the_training_rows():
    recording = variants.repeated_requests()
    plan = plan_data(recording)
    assert plan.restart_feed
    assert plan.quarantined["request_id"].nunique() < len(recording.requests)
    rows, log = rows_to_learn_from(recording, plan)
    assert log["rows_out"].iloc[0] == len(recording.requests) - len(plan.quarantined)
    assert rows.target.index.is_monotonic_increasing
    assert rows.target.index.is_unique


def test_actuals_that_are_wrong_are_no_fault_of_the_inputs():
    recording = variants.calm()
    requests = recording.requests.copy()
    requests.loc[requests.index >= variants.FAULT_FROM, "actual"] *= 4
    plan = plan_data(replace(recording, requests=requests))
    assert plan.restart_feed
    assert not plan.input_fixes
    assert "actuals" in plan.reasons[0]


def test_only_a_changed_world_asks_for_training():
    plan = plan_data(variants.world(3, seed=0))
    assert plan.retrain
    assert not plan.restart_feed
    assert not plan.input_fixes.scale


def test_rows_that_no_fix_helps_are_refused():
    def broken(features):
        return np.where(np.arange(len(features))[:, None] % 4 == 0, 50.0, features)

    plan = plan_data(variants.with_inputs(broken))
    assert plan.input_fixes.quarantine
    assert len(plan.quarantined) >= 15


def test_a_data_plan_is_carried_out_beside_the_input_fixes_in_force():
    operator = Held()
    operator.held = replace(operator.held, input_fixes=InputFixes(fill={"return_1": "last"}))
    done = plan_data(variants.wrong_unit(100)).carry_out(operator)
    assert operator.held.input_fixes.scale == pytest.approx(dict.fromkeys(NAMES, 0.01))
    assert operator.held.input_fixes.fill == {"return_1": "last"}
    assert len(done) == 1


def test_what_a_service_cannot_do_is_not_done_and_said(tmp_path):
    stuck, wrong = plan_data(variants.stuck_feed()), plan_data(variants.wrong_unit(100))
    bare = Held("fix_inputs")
    assert stuck.carry_out(bare) == ()
    assert bare.told == []
    [by_hand] = stuck.means(bare.ways).by_hand
    assert by_hand.startswith("no action restart_feed")
    assert by_hand.endswith("is declared; by hand: restart the feed")
    assert wrong.carry_out(other := Held("restart_feed", "stop_feed")) == ("the feed was restarted",)
    assert [way for way, _ in other.told] == ["restart_feed"]
    model = plan_model(variants.wrong_model(tmp_path))
    assert model.carry_out(Held("scale")) == ()
    assert model.means(["scale"]).by_hand == ("no action roll_back or deploy is declared; by hand: roll back to v2",)
    size = plan_capacity(measured(variants.slow()))
    assert size.means(["restart"]).by_hand == (f"no action scale is declared; by hand: {size.workers} workers",)
    size.carry_out(half := Held("restart"))
    assert [way for way, _ in half.told] == ["restart_workers"]


def test_a_feed_whose_rows_keep_their_contract_is_never_stopped():
    broken = plan_data(variants.wrong_unit(100))
    assert broken.is_broken
    assert broken.means(["stop_feed"]).ways == ("stop_feed",)
    assert replace(broken, is_broken=False).means(["stop_feed"]).ways == ()
    world = plan_data(variants.world(3, seed=0))
    assert "stop_feed" not in world.means(["stop_feed", "restart_feed"]).ways


def test_a_change_that_nothing_takes_back_is_named(tmp_path):
    plan = plan_model(variants.wrong_model(tmp_path))
    assert plan.means(["roll_back"]).lasting == ("roll_back",)
    assert plan.means(["roll_back", "deploy"]).lasting == ()


# --- model --------------------------------------------------------------------------------------------------------


def test_a_worse_version_is_rolled_back_at_once(tmp_path):
    plan, operator = plan_model(variants.wrong_model(tmp_path)), Held()
    assert (plan.version, plan.kind) == ("v2", "rollback")
    operator.held = State("v3", 2, 64)
    assert plan.carry_out(operator) == ("v3 → v2",)
    assert operator.held == State("v2", 2, 64)


def test_damaged_workers_load_the_same_version_anew(tmp_path):
    plan, operator = plan_model(variants.damaged_in_service(tmp_path)), Held()
    assert (plan.version, plan.kind) == ("v2", "reload")
    plan.carry_out(operator)
    assert [name for name, _ in operator.told] == ["restart_workers"]


def test_files_that_are_damaged_are_not_loaded_again(tmp_path):
    recording = variants.damaged_in_service(tmp_path)
    incident = recording.incident.model_copy(update={"checksums": {"v2": False}})
    plan = plan_model(replace(recording, incident=incident))
    assert (plan.version, plan.kind) == ("v1", "rollback")
    assert "the files of v2 do not have the checksums that the registry keeps" in plan.reasons


def test_without_a_good_version_nobody_is_sent_anywhere(tmp_path):
    recording = variants.wrong_model(tmp_path)
    versions = recording.incident.versions.model_copy(update={"last_good": None})
    incident = recording.incident.model_copy(update={"versions": versions})
    with pytest.raises(InputError, match="no good version before v3"):
        plan_model(replace(recording, incident=incident))


# --- capacity -----------------------------------------------------------------------------------------------------


def test_the_queue_model_agrees_with_a_simulated_queue():
    rng = np.random.default_rng(0)
    demand, workers, n = Demand(rate=25.0, service=0.06), 2, 60_000
    arrivals, services = np.cumsum(rng.exponential(1 / 25, n)), rng.exponential(0.06, n)
    free, waited = np.zeros(workers), np.zeros(n)
    for number, (at, takes) in enumerate(zip(arrivals, services, strict=True)):
        first = int(free.argmin())
        begins = max(at, free[first])
        waited[number], free[first] = begins - at, begins + takes
    assert mean_wait(demand, workers) == pytest.approx(waited.mean(), rel=0.1)
    assert erlang_c(demand.load, workers) == pytest.approx((waited > 0).mean(), rel=0.05)


def test_the_queue_model_agrees_with_known_values():
    assert erlang_c(1.0, 1) == 1.0  # as much as one worker can do
    assert mean_wait(Demand(rate=0.5, service=1.0), 1) == pytest.approx(1.0)  # M/M/1: rho / (mu - lambda)
    assert mean_wait(Demand(rate=0.5, service=1.0, service_scv=0.0), 1) == pytest.approx(0.5)  # M/D/1: half of it
    refused, _ = bounded(Demand(rate=1.0, service=1.0), workers=2, room=0)
    assert refused == pytest.approx(0.2)  # Erlang B of 1 erlang on 2 lines
    refused, wait = bounded(Demand(rate=25.0, service=0.06), workers=2, room=5000)
    assert refused < 1e-9
    assert wait == pytest.approx(mean_wait(Demand(rate=25.0, service=0.06), 2))


def overloaded(rate=40.0, service=0.05, workers=1, before=4.0, patience=0.6):
    """A recording of a service with so many workers, of which more is asked than before; it refuses who would wait."""
    recording = read_recording(ROOT / "runbooks/recordings/stale-feed")
    rng = np.random.default_rng(0)
    at = np.cumsum(np.concatenate([rng.exponential(1 / before, 400), rng.exponential(1 / rate, 1500)]))
    free, latency, worked = np.zeros(workers), np.full(len(at), 0.001), np.zeros(len(at))
    for number, (time, takes) in enumerate(zip(at, rng.exponential(service, len(at)), strict=True)):
        first = int(free.argmin())
        if free[first] - time < patience:
            free[first] = max(time, free[first]) + takes
            latency[number], worked[number] = free[first] - time, takes
    times = (pd.Timestamp("2026-11-25T05:00:00Z") + pd.to_timedelta(at, unit="s")).as_unit("us")
    source = recording.requests.dropna(subset=["mean"]).sample(len(at), replace=True, random_state=0)
    status = np.where(latency == 0.001, 429.0, 200.0)
    requests = source.assign(
        time=times, latency_ms=1000 * latency, status=status, request_id=[f"r{n}" for n in range(len(at))]
    )
    gauge = pd.DataFrame({"time": times[::50], "metric": "lepton_model_workers", "value": float(workers)})
    busy = gauge.assign(metric="lepton_model_seconds_sum", value=np.cumsum(worked)[::50])
    gauge = pd.concat([gauge, busy]).assign(labels='{"job":"goog","role":"current"}')
    window = {"start": times[0].to_pydatetime(), "end": times[-1].to_pydatetime()}
    incident = recording.incident.model_copy(update={"window": recording.incident.window.model_copy(update=window)})
    return replace(recording, incident=incident, requests=requests.reset_index(drop=True), metrics=gauge)


def test_more_workers_are_asked_for_where_more_is_asked_of_them():
    plan = plan_capacity(overloaded(), Needs(wait=0.05, most_workers=16))
    assert plan.measured.demand.rate == pytest.approx(40, rel=0.1)
    assert plan.workers > plan.measured.workers == 1
    assert plan.predicted_wait <= 0.05
    assert not plan.restart  # the demand grew, the workers are well
    fewer = plan.options.set_index("workers").loc[plan.workers - 1]
    assert not fewer["enough"]


def test_several_machines_have_room_for_what_one_has_not_and_a_worker_that_has_a_price_says_what_it_costs():
    recording = overloaded()
    incident, needs = recording.incident, Needs(wait=0.05, most_workers=1)
    (single, wide) = (plan_capacity(recording, one) for one in (needs, replace(needs, most_machines=16)))
    assert single.workers == 1 and not single.options["enough"].any()
    assert wide.workers == wide.machines > 1 and wide.predicted_wait <= 0.05
    assert f"{wide.workers} workers on {wide.machines} machines" in wide.action
    assert wide.cost_per_hour is None and "cost_per_hour" not in wide.options
    priced = incident.declaration.model_copy(update={"cost_per_worker_hour": 0.5, "currency": "EUR"})
    paid = plan_capacity(
        replace(recording, incident=incident.model_copy(update={"declaration": priced})),
        replace(needs, most_machines=16),
    )
    assert paid.workers == wide.workers and paid.cost_per_hour == 0.5 * wide.workers
    assert f"cost {0.5 * wide.workers:g} EUR an hour; before it was 0.5 EUR" in paid.reasons[-1]
    assert (paid.options["cost_per_hour"] == 0.5 * paid.options["workers"]).all()


def test_the_workers_that_there_were_are_spread_over_the_machines_and_make_none_larger():
    crowded = overloaded(workers=20)
    plan = plan_capacity(crowded, Needs(wait=0.05, most_workers=8, most_machines=3))
    assert plan.measured.workers == 20 and plan.options["workers"].max() == 24
    assert plan.machines == 3 and plan.workers <= 24


@pytest.mark.parametrize("number", ["most_workers", "most_machines"])
def test_room_for_nothing_is_refused(number):
    with pytest.raises(InputError, match=f"{number}=0"):
        Needs(**{number: 0})


def test_a_service_whose_requests_were_refused_is_made_so_large_that_hardly_one_is():
    needs = Needs(wait=0.05, in_time=0.25, most_workers=16)
    plan = plan_capacity(overloaded(), needs)
    chosen, fewer = (plan.options.set_index("workers").loc[plan.workers - less] for less in (0, 1))
    assert plan.measured.refused > 0.3
    assert chosen["refused"] <= needs.refused < fewer["refused"]
    assert fewer["wait_s"] <= needs.wait  # the wait alone would have been content with less


def test_more_may_be_refused_where_the_objective_allows_more():
    strict, lax = (
        plan_capacity(overloaded(), Needs(in_time=0.25, most_workers=16, refused=share)) for share in (1e-4, 0.02)
    )
    assert lax.workers < strict.workers


def test_only_objectives_that_are_hurt_by_refusals_say_how_many_are_tolerated():
    objectives = {one.name: one for one in read_objectives(ROOT / "slo/goog")}
    assert tolerated_refusals(list(objectives.values())) == pytest.approx(0.0001)  # of the availability of 99.9 %
    others = [one for name, one in objectives.items() if name != "goog-availability"]
    assert tolerated_refusals(others) == Needs().refused
    laxer = replace(objectives["goog-availability"], target=0.9)
    assert tolerated_refusals([*others, laxer]) == pytest.approx(0.01)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_share_of_refusals_that_is_none_is_refused(share):
    with pytest.raises(InputError, match="must be between 0 and 1"):
        Needs(refused=share)


@pytest.mark.parametrize(("arrival_scv", "service_scv"), [(1.0, 0.1), (4.0, 1.0)])
def test_a_bounded_queue_refuses_what_a_simulated_one_does(arrival_scv, service_scv):
    rng, workers, room, count = np.random.default_rng(1), 3, 8, 60_000
    demand = Demand(rate=50.0, service=0.05, arrival_scv=arrival_scv, service_scv=service_scv)
    came = np.cumsum(rng.gamma(1 / arrival_scv, arrival_scv / demand.rate, count)).tolist()
    takes = rng.gamma(1 / service_scv, service_scv * demand.service, count).tolist()
    free, inside, refused, waits = [0.0] * workers, [], 0, []
    for time, service in zip(came, takes, strict=True):
        while inside and inside[0] <= time:
            heapq.heappop(inside)
        if len(inside) >= workers + room:
            refused += 1
            continue
        begins = max(heapq.heappop(free), time)
        waits.append(begins - time)
        heapq.heappush(free, begins + service)
        heapq.heappush(inside, begins + service)
    predicted, wait = bounded(demand, workers, room)
    assert predicted == pytest.approx(refused / count, rel=0.3)
    assert wait == pytest.approx(np.mean(waits), rel=0.3)


def test_where_there_is_no_room_the_queue_is_bounded_so_that_the_accepted_are_answered_in_time():
    plan = plan_capacity(overloaded(), Needs(wait=0.05, in_time=1.0, most_workers=1))
    assert plan.workers == 1
    assert plan.queue_limit == math.floor(1.0 / plan.measured.demand.service)
    assert "refuses" in plan.reasons[-1]


def test_a_smaller_version_is_taken_where_it_suffices_and_workers_do_not():
    smaller = Smaller("v9", 0.1)
    plan = plan_capacity(overloaded(), Needs(wait=0.5, most_workers=1), smaller)
    table = option_table(plan.measured.demand, Needs(wait=0.5, most_workers=1), smaller)
    assert plan.version == ("v9" if table["enough"].iloc[-1] else None)
    assert not table["enough"].iloc[0]


def test_a_smaller_version_shortens_only_the_models_part():
    measured = Measured(Demand(10, 0.1), 1, 1, 0.0, 0.5, 0.0, 1.0, 1.0, 1.0)
    card = {"compression": {"may_stand_in": True, "times_as_fast": {"us_per_row": 2.0}}}
    assert smaller_of("v3", card, measured).service_ratio == 0.75
    assert smaller_of("v3", {"compression": {**card["compression"], "may_stand_in": False}}, measured) is None
    assert smaller_of("v3", {}, measured) is None


def measured(recording, workers=1.0):
    """The same with a gauge of workers, and a counter of the time in which they were at work: the answers' latency."""
    requests = recording.requests
    gauge = pd.DataFrame({"time": requests["time"], "metric": "lepton_model_workers", "value": workers})
    busy = gauge.assign(metric="lepton_model_seconds_sum", value=requests["latency_ms"].fillna(0).cumsum() / 1000)
    return replace(recording, metrics=pd.concat([gauge, busy]).assign(labels="{}"))


def test_workers_that_became_slow_are_replaced():
    operator = Held()
    plan = plan_capacity(measured(variants.slow()))
    assert plan.restart
    plan.carry_out(operator)
    assert [name for name, _ in operator.told] == ["set_state", "restart_workers"]


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("lepton_model_workers", r"no sample of signal `workers` \(lepton_model_workers"),
        ("lepton_model_seconds_sum", "no sample of signal `queue_time` .*`service_time` .*`busy_seconds`"),
    ],
)
def test_workers_that_nobody_counted_and_time_that_nobody_measured_give_no_plan(metric, said):
    recording = measured(variants.slow())
    with pytest.raises(InputError, match=said):
        plan_capacity(replace(recording, metrics=recording.metrics[recording.metrics["metric"] != metric]))


def test_lost_workers_are_added():
    recording = overloaded(rate=8.0, workers=2)
    late = recording.metrics["time"] > recording.metrics["time"].iloc[10]
    late &= recording.metrics["metric"] == "lepton_model_workers"
    lost = recording.metrics.assign(value=recording.metrics["value"].where(~late, 1.0))
    plan = plan_capacity(replace(recording, metrics=lost), Needs(in_time=1.0))
    assert plan.measured.left == 1
    assert plan.workers == 3
    assert plan.restart


def test_too_few_requests_measure_nothing():
    recording = variants.calm()
    with pytest.raises(InputError, match="are needed to measure"):
        plan_capacity(replace(recording, requests=recording.requests.head(5)))
