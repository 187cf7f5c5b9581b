"""Alerts of objectives: the embedded evaluator, and the same through real Prometheus and Alertmanager servers."""

import json
import re
import threading
import time
from dataclasses import dataclass
from datetime import datetime

import httpx
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, copy_folders, lepton_here
from monitors import Target, alertmanager, metrics_target, needs_alertmanager, needs_prometheus, prometheus
from services import wait_for

from lepton_kit.errors import InputError
from lepton_kit.telemetry.alerts import (
    NOT_ENDED,
    AlertEvaluator,
    alert_labels,
    fingerprint_of,
    prometheus_rules,
    time_text,
)
from lepton_kit.telemetry.burn_rates import SEVERITIES, Memory, Unmeasured, evaluate, firing
from lepton_kit.telemetry.prometheus import Prometheus
from lepton_kit.telemetry.scrape import Scraper
from lepton_kit.telemetry.selectors import labels_text
from lepton_kit.telemetry.slo import read_objectives
from lepton_kit.telemetry.store import Sample, Store

START = 1_760_000_000.0
METRIC = "http_server_request_duration_seconds_count"
SCALE = 300.0  # the hour's window takes 12 s, the five minutes' one


def availability():
    return next(one for one in read_objectives(ROOT / "slo/goog") if one.name == "goog-availability")


def counted(minutes, per_minute=60.0, failing=()):
    """Two counters, one sample a minute; of the `failing` minutes three in ten requests fail."""
    bad = np.cumsum([per_minute * 0.3 if minute in failing else 0.0 for minute in range(minutes)])
    good = np.cumsum([per_minute] * minutes) - bad
    for status, values in (("200", good), ("503", bad)):
        labels = {"http_route": "/v1/predict", "http_response_status_code": status}
        yield from (Sample(METRIC, labels, START + 60 * i, float(value)) for i, value in enumerate(values))


@pytest.fixture
def burnt(tmp_path):
    """A store of ten hours in which half an hour was bad."""
    with Store(tmp_path / "telemetry") as store:
        store.append(counted(600, failing=range(200, 230)))
        store.flush()
        yield store


def test_an_alert_keeps_its_start_and_is_resolved_once(burnt):
    evaluator = AlertEvaluator([availability()], burnt)
    told = []
    for minute in range(190, 600):
        at = START + 60 * minute
        told += [(minute, alert) for alert in evaluator.evaluate(at) if alert["labels"]["severity"] == "page"]
    assert told[0][0] in range(200, 215)
    assert {alert["startsAt"] for _, alert in told} == {time_text(START + 60 * told[0][0])}
    resolved = [(minute, alert) for minute, alert in told if alert["status"] == "resolved"]
    assert resolved == told[-1:]
    assert resolved[0][1]["endsAt"] == time_text(START + 60 * resolved[0][0])
    assert {alert["endsAt"] for _, alert in told[:-1]} == {NOT_ENDED}
    assert len(told) == told[-1][0] - told[0][0] + 1


def test_an_alert_that_comes_back_starts_anew(tmp_path):
    with Store(tmp_path) as store:
        store.append(counted(1000, failing=[*range(100, 120), *range(700, 720)]))
        evaluator = AlertEvaluator([availability()], store)
        starts = {
            alert["startsAt"]
            for minute in range(90, 1000, 5)
            for alert in evaluator.evaluate(START + 60 * minute)
            if alert["labels"]["severity"] == "page"
        }
    assert len(starts) == 2


def test_what_is_evaluated_again_and_again_stands_as_if_it_were_read_at_once(burnt):
    memory = Memory(burnt)
    for minute in [*range(150, 400, 7), 100, 390, 395]:  # back in time, too
        at = START + 60 * minute + 0.5
        assert evaluate(availability(), burnt, at, memory=memory) == evaluate(availability(), burnt, at)


def test_a_source_that_fails_ends_no_alert(burnt):
    class Failing:
        works = True

        def query(self, selector, start, end):
            if not self.works:
                raise InputError("no answer")
            return burnt.query(selector, start, end)

    source = Failing()
    evaluator = AlertEvaluator([availability()], source)
    before = evaluator.evaluate(START + 60 * 215)
    source.works = False
    assert evaluator.evaluate(START + 60 * 216) == before
    assert [one.unmeasured for one in evaluator.statuses] == [Unmeasured("refused", "no answer")]
    assert evaluator.unjudged() >= {one["fingerprint"] for one in before} > set()
    source.works = True
    assert evaluator.evaluate(START + 60 * 217) == before


def test_an_objective_whose_samples_are_refused_keeps_no_other_from_its_alert(burnt):
    class Refusing:
        def query(self, selector, start, end):
            if selector.startswith("lepton_"):
                raise InputError("too many samples")
            return burnt.query(selector, start, end)

    objectives = read_objectives(ROOT / "slo/goog")
    evaluator = AlertEvaluator(objectives, Refusing())
    fired = evaluator.evaluate(START + 60 * 215)
    assert {one["labels"]["slo"] for one in fired} == {"goog-availability"}
    told = {one.objective.name: one.unmeasured and one.unmeasured.reason for one in evaluator.statuses}
    assert told["goog-availability"] is None
    assert told["goog-coverage"] == told["goog-errors"] == "refused"
    assert told["goog-latency"] == "no samples"  # the store holds no histogram


def test_an_objective_without_recent_samples_is_not_measured_and_says_since_when(burnt):
    status = evaluate(availability(), burnt, START + 60 * 599 + 3601)
    assert status.unmeasured.reason == "no samples"
    assert "since 2025-10-09 18:52:20 UTC" in status.unmeasured.detail
    assert status.budget_left < 0
    assert evaluate(availability(), burnt, START + 60 * 599 + 3599).unmeasured is None


def test_five_objectives_over_days_of_samples_are_evaluated_well_within_a_second(tmp_path):
    objectives = read_objectives(ROOT / "slo/goog")
    with Store(tmp_path) as store:
        times = START + 15 * np.arange(4 * 5760)
        when = pd.to_datetime(times, unit="s", utc=True)
        for one in objectives:
            for number, selector in enumerate((one.selector, one.total)):
                labels = {m.label: m.value.split("|")[0].replace("5..", "503") for m in selector.matchers}
                values = np.arange(len(times)) * (1.0 + number)
                for part in "ab":
                    own = labels_text({**labels, "part": part})
                    held = {"time": when, "metric": selector.metric, "labels": own, "value": values}
                    store.append(pd.DataFrame(held))
        store.flush()
        evaluator = AlertEvaluator(objectives, store)
        end = float(times[-1])
        evaluator.evaluate(end)
        taken = []
        for second in range(1, 6):
            started = time.process_time()  # of the processor, which other tests use as well
            evaluator.evaluate(end + second)
            taken.append(time.process_time() - started)
    assert min(taken) < 0.3
    assert all(status.budget_left is not None for status in evaluator.statuses)


def test_the_command_shows_burn_rates_what_fires_and_the_budget_left(tmp_path):
    (tmp_path / "lepton.toml").write_text("")
    copy_folders(tmp_path, "slo")
    refused = lepton_here("slo", "status", project=tmp_path)
    assert refused.returncode == 2
    assert "neither a folder of a telemetry store" in refused.stderr
    with Store(tmp_path / "telemetry") as store:
        shift = time.time() - START - 60 * 229
        store.append(one._replace(time=one.time + shift) for one in counted(230, failing=range(200, 230)))
    shown = lepton_here("slo", "status", project=tmp_path)
    assert shown.returncode == 0, shown.stderr
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("goog-availability"))
    assert "page, ticket" in line
    assert re.search(r"1[345]\d / 300", line)  # half of the hour, and all of the five minutes, lost three in ten
    assert re.search(r"-\d{4}\.\d%", line)
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("goog-coverage"))
    assert line.split()[-2:] == ["no", "–"]
    for words, told in ((("--source", "http://127.0.0.1:1"), "does not answer"), (("--time-scale", "0"), "time scale")):
        refused = lepton_here("slo", "status", *words, project=tmp_path)
        assert refused.returncode == 2
        assert told in refused.stderr


class Traffic:
    """A target whose counters rise with time, and of whose requests a share fails."""

    def __init__(self, target: Target) -> None:
        self.good = self.bad = 0.0
        self.share = 0.0
        self._target, self._last, self._lock = target, time.monotonic(), threading.Lock()
        target.answer = self._answer

    def _answer(self, request):
        with self._lock:
            now = time.monotonic()
            asked = 200 * (now - self._last)
            self._last = now
            self.good += asked * (1 - self.share)
            self.bad += asked * self.share
            lines = [
                f'{METRIC}{{http_route="/v1/predict",http_response_status_code="{status}"}} {value}\n'
                for status, value in (("200", self.good), ("503", self.bad))
            ]
            self._target.text = "".join(lines)
        self._target.metrics(request)


class Receiver:
    """Takes Alertmanager's webhooks."""

    def __init__(self, target: Target) -> None:
        self.bodies = []
        received = self.bodies

        def do_post(request):
            received.append(json.loads(request.rfile.read(int(request.headers["Content-Length"]))))
            request.send_response(202)
            request.end_headers()

        target.server.RequestHandlerClass.do_POST = do_post
        self.address = target.address

    def alerts(self, status):
        """Return the alerts of a status by severity, as they were last told."""
        told = [alert for body in self.bodies for alert in body["alerts"] if alert["status"] == status]
        return {alert["labels"]["severity"]: alert for alert in told}


def alerting(receiver):
    route = {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    webhook = {"url": receiver.address, "send_resolved": True}
    return {"route": route, "receivers": [{"name": "test", "webhook_configs": [webhook]}]}


def watched(target, rules, alertmanager_address):
    return {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"},
        "rule_files": [str(rules)],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [alertmanager_address.removeprefix("http://")]}]}]
        },
        "scrape_configs": [{"job_name": "goog", "static_configs": [{"targets": [target.instance]}]}],
    }


@needs_prometheus
@needs_alertmanager
def test_embedded_alerts_are_those_of_a_real_prometheus_and_alertmanager_on_the_same_live_series(tmp_path):
    objective = availability()
    rules = tmp_path / "rules.yml"
    rules.write_text(prometheus_rules([objective], time_scale=SCALE))
    ours, stop = [], threading.Event()
    with metrics_target() as target, metrics_target() as hook, Store(tmp_path / "telemetry") as store:
        traffic, receiver = Traffic(target), Receiver(hook)
        evaluator = AlertEvaluator([objective], store, SCALE)

        def watch():
            while not stop.wait(0.25):
                ours.extend(evaluator.evaluate(time.time()))

        def embedded(status):
            return {alert["labels"]["severity"]: alert for alert in list(ours) if alert["status"] == status}

        threads = [
            threading.Thread(
                target=Scraper(store, {"goog": target.address}, interval=0.25).run, args=(stop,), daemon=True
            ),
            threading.Thread(target=watch, daemon=True),
        ]
        with (
            alertmanager(tmp_path, alerting(receiver)) as manager,
            prometheus(tmp_path, watched(target, rules, manager)) as server,
        ):
            for thread in threads:
                thread.start()
            wait_for(lambda: len(Prometheus(server).query("slo:bad_events:ratio_1h", 0, 4e9)) >= 3)
            assert ours == []
            assert receiver.bodies == []
            traffic.share = 0.3
            wait_for(lambda: len(receiver.alerts("firing")) == 2 and len(embedded("firing")) == 2)
            traffic.share = 0.0
            wait_for(lambda: "page" in receiver.alerts("resolved") and "page" in embedded("resolved"))
            stop.set()
            for thread in threads:
                thread.join()
            compare_rounds(objective, server)
        for status, severities in (("firing", ("page", "ticket")), ("resolved", ("page",))):
            for severity in severities:
                compare_alerts(embedded(status)[severity], receiver.alerts(status)[severity])
    assert receiver.bodies[0]["version"] == "4"


def compare_alerts(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key in ("status", "labels", "annotations", "fingerprint"):
        assert ours[key] == theirs[key], key
    for key in ("startsAt", "endsAt"):
        if theirs[key] == NOT_ENDED:
            assert ours[key] == NOT_ENDED
        else:
            apart = datetime.fromisoformat(ours[key]) - datetime.fromisoformat(theirs[key])
            assert abs(apart.total_seconds()) < 5


def compare_rounds(objective, server):
    """Compare, at each time at which Prometheus evaluated its rules, its ratios and alerts with ours on its samples.

    Each rule is a query of its own, which sees the newest scrape or, where that was on its way, all but it. Ours are
    good to the precision of a time in float seconds, 0.2 µs, which counts in windows of a second.
    """
    source = Prometheus(server)
    scrapes = source.query(str(objective.total), 0, 4e9)["time"].map(pd.Timestamp.timestamp).unique()

    @dataclass(frozen=True)
    class Without:
        """The same without the newest scrape."""

        def query(self, selector, start, end):
            return source.query(selector, start, scrapes[scrapes <= end][-1] - 0.001)

    rounds = {}
    for name in ("5m", "30m", "1h", "2h", "6h", "1D", "3D"):
        recorded = source.query(f"slo:bad_events:ratio_{name.lower()}", 0, 4e9)
        for when, ratio in zip(recorded["time"], recorded["value"], strict=True):
            rounds.setdefault(when, {})[pd.Timedelta(name).total_seconds()] = ratio
    alerts = source.query(f'ALERTS{{slo="{objective.name}",alertstate="firing"}}', 0, 4e9)
    assert len(rounds) >= 5
    for when, ratios in sorted(rounds.items()):
        seen = [evaluate(objective, one, when.timestamp(), SCALE) for one in (source, Without())]
        for window, ratio in ratios.items():
            found = [ratio_of(one, window) for one in seen]
            assert any(one == pytest.approx(ratio, rel=1e-6, abs=1e-9) for one in found), (when, window, ratio, found)
        theirs = {json.loads(text)["severity"] for text in alerts["labels"][alerts["time"] == when]}
        for severity in SEVERITIES:
            assert (severity in theirs) in {severity in one.firing for one in seen}, (when, severity, ratios)
    times = np.array([when.timestamp() for when in sorted(rounds)])
    severities = alerts["labels"].map(lambda text: json.loads(text)["severity"])
    for severity, fires in firing(objective, source, times, time_scale=SCALE)[0].items():  # a backtest on the same data
        fired = alerts["time"][severities == severity]
        assert abs(int(np.argmax(fires)) - int(np.searchsorted(times, fired.min().timestamp()))) <= 1, severity


def ratio_of(status, window):
    """Return the share of bad events that a status found in a window of so many seconds."""
    found = [(one.window.long, one.long_ratio) for one in status.burns]
    found += [(one.window.short, one.short_ratio) for one in status.burns]
    return dict(found)[window]


@needs_alertmanager
def test_alertmanager_gives_the_same_fingerprints(tmp_path):
    with metrics_target() as hook:
        receiver = Receiver(hook)
        given = [
            *(
                alert_labels(one, severity)
                for one in read_objectives(ROOT / "slo/goog")
                for severity in ("page", "ticket")
            ),
            {"alertname": "Ünd", "z": "ä=ö,\"'", "a": "ÿ\n日本", "A": " "},
            {"alertname": "x"},
        ]
        with alertmanager(tmp_path, alerting(receiver)) as address:
            sent = httpx.post(f"{address}/api/v2/alerts", json=[{"labels": labels} for labels in given])
            assert sent.status_code == 200, sent.text
            held = httpx.get(f"{address}/api/v2/alerts").json()
    assert len(held) == len(given)
    for alert in held:
        assert fingerprint_of(alert["labels"]) == alert["fingerprint"]
