"""Backtests of objectives' alerts on past samples; against a real Prometheus' own alerts in test_alerts.py."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, copy_folders, lepton_here
from repairs import Everything
from watching import alert

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.queue import Queue
from lepton_kit.ops.watch.webhook import Alert
from lepton_kit.telemetry.alerts import AlertEvaluator, time_text
from lepton_kit.telemetry.backtest import Incident, Past, alternatives, backtest
from lepton_kit.telemetry.burn_rates import evaluate, firing
from lepton_kit.telemetry.health import RecordedMetrics
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.telemetry.store import Store

START = 1_760_000_000.0
METRIC = "http_server_request_duration_seconds_count"
AVAILABILITY = next(one for one in read_objectives(ROOT / "slo/goog") if one.name == "goog-availability")


def samples(bad_share, per_minute=60.0):
    """Return the counters of good and bad requests, one sample a minute, by the share of bad ones in each minute."""
    bad = np.cumsum(np.asarray(bad_share) * per_minute)
    good = np.cumsum(np.full(len(bad_share), per_minute)) - bad
    time = pd.to_datetime((START + 60 * np.arange(len(bad_share))) * 1000, unit="ms", utc=True)
    labels = '{"http_response_status_code":"%s","http_route":"/v1/predict","job":"goog"}'
    parts = [
        pd.DataFrame({"time": time, "metric": METRIC, "labels": labels % status, "value": values})
        for status, values in (("200", good), ("503", bad))
    ]
    return pd.concat(parts, ignore_index=True)


def past(bad_share, *incidents, table=None):
    table = samples(bad_share) if table is None else table
    return Past(RecordedMetrics(table), START, START + 60 * len(bad_share), incidents)


def failing(minutes, *spans):
    share = np.zeros(minutes)
    for first, last in spans:
        share[first:last] = 0.3
    return share


def test_alerts_fire_at_the_same_times_as_the_evaluator_raises_them():
    table = samples(failing(300, (60, 75), (200, 230)))
    restarted = table["time"] >= pd.Timestamp(START + 60 * 150, unit="s", tz="UTC")
    table.loc[restarted, "value"] -= table.groupby("labels")["value"].transform(lambda one: one.iloc[150])
    table = table[~table["time"].between(*pd.to_datetime([START + 60 * 205, START + 60 * 211], unit="s", utc=True))]
    source, times = RecordedMetrics(table), START + 60.0 * np.arange(0, 330)
    fires, is_measured = firing(AVAILABILITY, source, times)
    for number, at in enumerate(times):
        status = evaluate(AVAILABILITY, source, at)
        assert tuple(name for name, fired in fires.items() if fired[number]) == status.firing
        assert is_measured[number] == (status.unmeasured is None)
    assert 0 < fires["page"].sum() < len(times)


def test_an_alert_that_nobody_raised_is_false_and_one_before_the_incident_leads_it():
    share = failing(600, (100, 120), (400, 430))
    raised = Incident("slow", START + 60 * 415, START + 60 * 440)
    found = backtest(AVAILABILITY, [past(share, raised)])
    evaluator = AlertEvaluator([AVAILABILITY], RecordedMetrics(samples(share)))
    pages = [
        at
        for at in START + 30.0 * np.arange(2 * 400, 2 * 440)
        if any(one["labels"]["severity"] == "page" for one in evaluator.evaluate(at) if one["status"] == "firing")
    ]
    assert found.incidents["lead_s"].tolist() == [raised.alerted - pages[0]]
    assert found.incidents["lead_s"][0] > 300
    assert (found.fired, found.false_alerts) == (1, 1)
    assert found.healthy_s == pytest.approx(600 * 60 - (25 * 60 + 3600), abs=60)
    rate, low, high = found.false_per_week
    assert rate == pytest.approx(7 * 86400 / found.healthy_s)
    assert low == pytest.approx(0.0253 * rate, rel=1e-2)  # Garwood's interval of a count of 1: 0.0253 to 5.572
    assert high == pytest.approx(5.572 * rate, rel=1e-3)


def test_an_incident_of_which_nothing_was_measured_is_not_one_that_was_missed():
    quiet, unseen = past(failing(120), Incident("quiet", START + 3000, START + 4000)), samples([]).iloc[:0]
    unmeasured = past(failing(120), Incident("unseen", START + 3000, START + 4000), table=unseen)
    found = backtest(AVAILABILITY, [quiet, unmeasured])
    assert found.incidents["is_measured"].tolist() == [True, False]
    assert found.fired == 0
    assert np.isnan(found.lead)


def test_without_healthy_time_no_rate_is_given():
    found = backtest(AVAILABILITY, [past(failing(30), Incident("all of it", START, START + 3600))])
    assert found.healthy_s == 0
    assert np.isnan(found.false_per_week).all()


def test_of_windows_that_find_the_same_those_with_the_fewest_false_alerts_are_best():
    share = failing(1200, (800, 860))
    share[100:104] = 0.2  # a blip: only short windows and low rates page for it
    tried = alternatives(AVAILABILITY, [past(share, Incident("outage", START + 60 * 830, START + 60 * 880))], step=60)
    best = tried[tried["best"]]
    assert len(best) == 1
    assert best["fired"].item() == 1
    assert best["false_alerts"].item() == tried["false_alerts"].min() < tried["false_alerts"].max()
    same = tried[(tried["fired"] == 1) & (tried["false_alerts"] == best["false_alerts"].item())]
    assert best["lead_s"].item() == same["lead_s"].max()


def test_an_alert_belongs_to_an_incident_by_the_windows_in_force_whatever_windows_are_tried():
    share = failing(600, (100, 140))  # two hours and more before the incident
    incident = Incident("later", START + 60 * 315, START + 60 * 330)
    tried = alternatives(AVAILABILITY, [past(share, incident)], step=60)
    assert (tried["false_alerts"] == 1).all()
    assert (tried["fired"] == 0).all()


def test_nothing_is_best_where_no_incident_is_known():
    assert not alternatives(AVAILABILITY, [past(failing(120, (30, 60)))], step=60)["best"].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"severity": "panic"}, "severity 'panic': must be one of page, ticket"),
        ({"step": 1e-3}, "must be from 1 to 2,000,000"),
        ({"pasts": []}, "there is no past to replay"),
    ],
)
def test_what_cannot_be_replayed_is_refused(change, words):
    given = {"objective": AVAILABILITY, "pasts": [past(failing(120))], **change}
    with pytest.raises(InputError, match=words):
        backtest(**given)


def test_a_past_that_ends_before_it_begins_is_refused():
    with pytest.raises(InputError, match="evaluations"):
        backtest(AVAILABILITY, [replace(past(failing(5)), end=START - 60)])


def test_the_command_replays_recordings_and_says_what_each_would_have_raised(tmp_path):
    (tmp_path / "lepton.toml").write_text("")
    copy_folders(tmp_path, "slo", "runbooks")
    recordings = ["slo", "backtest", "goog-errors", "goog-latency", "--recordings", "runbooks/recordings"]
    done = lepton_here(*recordings, "--time-scale", "60", "--alternatives", project=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "goog-latency of goog: page: 1 of 3 measured incidents" in done.stdout
    assert "not measured" in done.stdout  # that of 2008 has no metrics
    assert done.stdout.count("best") == 2
    unknown = lepton_here("slo", "backtest", "goog-speed", project=tmp_path)
    assert unknown.returncode == 2
    assert "objective 'goog-speed': not declared; must be one of goog-availability" in unknown.stderr


def test_the_command_replays_the_store_with_the_incidents_of_the_ledger(tmp_path):
    copy_folders(tmp_path, "slo")
    (tmp_path / "lepton.toml").write_text("[services.goog]\naddress = 'http://127.0.0.1:1'\nobjectives = 'slo/goog'\n")
    with Store(tmp_path / "telemetry") as store:
        store.append(samples(failing(600, (100, 120), (400, 430))))
        store.flush()
    raised = {"startsAt": time_text(START + 60 * 415), "endsAt": time_text(START + 60 * 440), "status": "resolved"}
    posts = [alert(1, "firing") | {"startsAt": raised["startsAt"]}, alert(1, "firing") | raised]
    other = alert(2, "firing", service="another") | raised | {"status": "firing"}
    for one in (*posts, other):
        Queue(tmp_path).receive([Alert.model_validate(one)], "webhook", Everything())
    span = ["--from", time_text(START), "--to", time_text(START + 36000)]
    done = lepton_here("slo", "backtest", "goog-availability", *span, project=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "page: 1 of 1 measured incidents, 1 false alerts" in done.stdout
    with Store(tmp_path / "telemetry") as store:  # of another service, which fails all the time
        beside = samples(np.ones(600))
        store.append(beside.assign(labels=beside["labels"].str.replace('"job":"goog"', '"job":"other"')))
        store.flush()
    again = lepton_here("slo", "backtest", "goog-availability", *span, project=tmp_path)
    assert again.stdout == done.stdout
    nothing = lepton_here("slo", "backtest", "goog-availability", "--from", "1h", project=tmp_path)
    assert nothing.returncode == 2
    assert "the source holds no samples of http_server_request_duration_seconds_count" in nothing.stderr
