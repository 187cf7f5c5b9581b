"""Objectives: read from OpenSLO, evaluated here, and by Prometheus' own rule engine on the same series."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import ROOT, lepton_here

from lepton_kit.errors import InputError
from lepton_kit.telemetry.alerts import prometheus_rules
from lepton_kit.telemetry.burn_rates import evaluate, increase, scaled, threshold
from lepton_kit.telemetry.selectors import labels_text, parse_selector
from lepton_kit.telemetry.slo import alert_name, read_objectives

STEP = 60
HOURS = 6


class Samples:
    """Series held in memory."""

    def __init__(self, series):
        self.series = series

    def query(self, selector, start, end):
        chosen = parse_selector(selector)
        found = [
            pd.DataFrame(
                {
                    "time": pd.to_datetime(np.arange(len(values)) * STEP, unit="s", utc=True).astype(
                        "datetime64[ms, UTC]"
                    ),
                    "metric": name,
                    "labels": labels_text(labels),
                    "value": values,
                }
            )
            for name, labels, values in self.series
            if chosen.matches(name, labels)
        ]
        table = pd.concat(found or [pd.DataFrame(columns=["time", "metric", "labels", "value"])])
        seconds = pd.to_datetime(table["time"], utc=True).astype("datetime64[ms, UTC]").astype("int64") / 1000
        return table[(seconds >= start) & (seconds <= end)]


def objective(name="goog-availability"):
    return next(one for one in read_objectives(ROOT / "slo/goog") if one.name == name)


def objective_of(case):
    """Return availability, or for the cases of a histogram latency that counts successes alone."""
    if case not in ("no answer in time", "a bound that the histogram lacks"):
        return objective()
    chosen = objective("goog-latency")
    return replace(chosen, selector=chosen.selector.within({"http_response_status_code": "200"}))


def requests(failing_from, share, per_minute=60, restart_at=None):
    """Two workers' counters, of which one fails a share of its requests from a minute on."""
    minutes = np.arange(HOURS * 60 + 1)
    good = minutes * per_minute * 1.0
    bad = np.clip(minutes - failing_from, 0, None) * per_minute * share
    if restart_at is not None:
        good[restart_at:] -= good[restart_at]
        bad[restart_at:] -= bad[restart_at]
    labels = {"http_route": "/v1/predict", "http_request_method": "POST"}
    name = "http_server_request_duration_seconds_count"
    return [
        (name, {**labels, "http_response_status_code": "200"}, good),
        (name, {**labels, "http_response_status_code": "503"}, bad),
    ]


def answers(status, bound):
    """All requests of a service answered with one status, counted up to one bound."""
    labels = {"http_route": "/v1/predict", "http_request_method": "POST", "http_response_status_code": str(status)}
    values = np.arange(HOURS * 60 + 1) * 60.0
    name = "http_server_request_duration_seconds"
    return [(f"{name}_bucket", {**labels, "le": bound}, values), (f"{name}_count", labels, values)]


CASES = {
    "healthy": requests(10**6, 0.0),
    "a short blip that ended": [
        (name, labels, np.minimum(values, values[200]) if "503" in str(labels) else values)
        for name, labels, values in requests(190, 0.2)
    ],
    "burning fast": requests(240, 0.3),
    "burning slowly": requests(60, 0.008),
    "burning fast over a restart": requests(240, 0.3, restart_at=320),
    "too few events": requests(240, 0.5, per_minute=0.02),
    "no answer in time": answers(503, "0.1"),
    "a bound that the histogram lacks": answers(200, "0.25"),
}
FIRING = {
    "healthy": (),
    "a short blip that ended": ("ticket",),  # nobody is woken, but more than a day's budget went
    "burning fast": ("page", "ticket"),
    "burning slowly": ("page", "ticket"),
    "burning fast over a restart": ("page", "ticket"),
    "too few events": (),
    "no answer in time": ("page", "ticket"),
    "a bound that the histogram lacks": (),  # nothing counts what came in time, which is not that nothing came in time
}


@pytest.mark.parametrize("case", CASES)
def test_an_alert_is_raised_when_the_budget_burns_and_only_then(case):
    assert evaluate(objective_of(case), Samples(CASES[case]), HOURS * 3600.0).firing == FIRING[case]


def test_what_nothing_counts_is_not_measured_and_the_missing_series_are_named():
    case = "a bound that the histogram lacks"
    status = evaluate(objective_of(case), Samples(CASES[case]), HOURS * 3600.0)
    assert (status.budget_left, {burn.long_ratio for burn in status.burns}) == (None, {None})
    assert status.unmeasured.reason == "no samples"
    assert 'le="0.1"' in status.unmeasured.detail


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("case", CASES)
def test_prometheus_gives_the_same_alerts_and_ratios_on_the_same_series(case, tmp_path):
    chosen = objective_of(case)
    (tmp_path / "rules.yml").write_text(prometheus_rules([chosen], "http://runbooks.example/{alert}"))
    checked = subprocess.run(["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    at = HOURS * 3600
    status = evaluate(chosen, Samples(CASES[case]), float(at))
    labels = {"slo": chosen.name, "service": chosen.service}
    annotations = {
        "summary": f"{chosen.title} of goog: the error budget burns too fast",
        "description": f"{chosen.description} Objective: {chosen.target:g}.",
        "runbook_url": f"http://runbooks.example/{alert_name(chosen)}",
    }
    alerts = [
        {"exp_labels": {**labels, "severity": severity}, "exp_annotations": annotations} for severity in status.firing
    ]
    asked = "round(slo:bad_events:ratio_1h, 0.000001) or vector(-1)"
    ratio = status.burns[0].long_ratio
    named = f'{{service="goog", slo="{chosen.name}"}}'
    samples = [] if ratio is None else [{"labels": named, "value": round(ratio, 6)}]
    samples += [{"labels": "{}", "value": -1}]
    content = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": name + "{" + ",".join(f'{k}="{v}"' for k, v in held.items()) + "}",
                        "values": " ".join(map(repr, values.tolist())),
                    }
                    for name, held, values in CASES[case]
                ],
                "alert_rule_test": [{"eval_time": f"{HOURS}h", "alertname": alert_name(chosen), "exp_alerts": alerts}],
                "promql_expr_test": [{"expr": asked, "eval_time": f"{HOURS}h", "exp_samples": samples}],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(content))
    tested = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_shortened_window_sees_the_same_burn_sooner():
    status = evaluate(objective(), Samples(requests(350, 0.3)), HOURS * 3600.0, time_scale=10)
    assert "page" in status.firing
    assert evaluate(objective(), Samples(requests(359, 0.01)), HOURS * 3600.0).firing == ()
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="time scale"):
            scaled(60, wrong)


def test_the_budget_left_is_what_bad_events_have_not_spent():
    status = evaluate(objective(), Samples(requests(0, 0.0005)), HOURS * 3600.0)
    assert status.budget_left == pytest.approx(1 - 0.0005 / 1.0005 / 0.001, abs=1e-6)
    assert evaluate(objective(), Samples([]), 3600.0).budget_left is None


def test_a_wide_budget_can_page_too():
    wide = objective("goog-coverage")
    assert all(threshold(wide, burn.window) < 1 for burn in evaluate(wide, Samples([]), 0.0).burns)


def test_a_counter_with_one_sample_says_nothing():
    assert increase(np.array([5.0]), np.array([3.0]), 0.0, 10.0) is None


def test_every_objective_of_the_project_becomes_rules(own_project):
    made = lepton_here("slo", "rules", project=own_project)
    assert made.returncode == 0, made.stderr
    groups = yaml.safe_load(made.stdout)["groups"]
    assert {group["name"] for group in groups} == {f"slo-{one.name}" for one in read_objectives(ROOT / "slo/goog")}
    assert "goog-freshness" in lepton_here("slo", "list", project=own_project).stdout


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("openslo/v1", "openslo/v2", "apiVersion"),
        ("target: 0.999", "target: 1.5", "target"),
        ("duration: 28d", "duration: 28y", "duration"),
        ("        bad:", "        worse:", "worse"),
        ("query: 'http_server", "query: 'rate(http_server", "is not"),
        ('minimum-events: "20"', 'minimum-events: "few"', "minimum-events = 'few'"),
        ("kind: SLO", "kind: [", "not readable as YAML"),
    ],
)
def test_what_is_not_a_readable_objective_is_refused_with_its_place(tmp_path, old, new, told):
    text = (ROOT / "slo/goog/availability.yaml").read_text()
    assert old in text
    (tmp_path / "one.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=r"one\.yaml") as refused:
        read_objectives(tmp_path)
    assert told in str(refused.value)


def test_two_objectives_of_one_name_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no objectives"):
        read_objectives(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        shutil.copy(ROOT / "slo/goog/latency.yaml", tmp_path / name)
    with pytest.raises(InputError, match="another file"):
        read_objectives(tmp_path)
